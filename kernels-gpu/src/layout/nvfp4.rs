//! Where NVFP4's block scales lie: a token and head has D / 2 bytes of e2m1 and D / 16 of scales, one e4m3 for 16
//! consecutive elements. K's are in the order of tokens. V's are too, or four tokens at a time, the order that vLLM and
//! FlashInfer have for Blackwell's kernels; read in the other order they are wrong numbers, not errors.

/// Elements that share a block scale.
pub const BLOCK: u32 = 16;

/// Tokens that the interleaved order has together.
pub const INTERLEAVED_TOKENS: u32 = 4;

/// Bytes of elements of a token and head.
#[inline(always)]
pub const fn data_bytes(head_dim: u32) -> u32 {
    head_dim / 2
}

/// Block scales of a token and head, a byte each.
#[inline(always)]
pub const fn scales(head_dim: u32) -> u32 {
    head_dim / BLOCK
}

/// Byte of the scale of block `block` of token `token` of a page, in the linear order: `[page_size, D / 16]`.
#[inline(always)]
pub const fn linear(token: u32, block: u32, head_dim: u32) -> u32 {
    token * scales(head_dim) + block
}

/// The same in the interleaved order: `[page_size / 4, D / 16, 4]`, token `t % 4` innermost. Page sizes are multiples of
/// 4 there.
#[inline(always)]
pub const fn interleaved(token: u32, block: u32, head_dim: u32) -> u32 {
    let four = token / INTERLEAVED_TOKENS * INTERLEAVED_TOKENS;
    four * scales(head_dim) + block * INTERLEAVED_TOKENS + token % INTERLEAVED_TOKENS
}
