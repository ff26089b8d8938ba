//! What prefill takes.
use super::DecodeParams;
use crate::layout::tensor_map::TensorMap;
use static_assertions::const_assert_eq;

/// What a prefill entry is launched with: items as in [`DecodeParams`], of which block (or cluster) `b` of `n` does `b`, `b + n`,
/// `b + 2 n` and so on.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PrefillParams {
    /// K and V in boxes of tokens and all columns, then both in boxes of one token and 64 columns ([`PrefillParams::box_shift`]).
    ///
    /// Tensors of 5 dimensions, the innermost first: 64 columns; `t` tokens; D / 64 times 64 columns; page_size / t times `t`
    /// tokens; and places that a page and a KV head are together ([`PrefillParams::steps`]); with `t` the smaller of 8 and
    /// page_size, and a swizzle of 128 bytes. Boxes are `[64, 8, D / 64, tokens / 8, 1]` and `[64, 1, 1, 1, 1]`.
    pub maps: [TensorMap; 4],
    /// Queries, where a group divides an item's rows: 5 dimensions of 64 columns; the query heads of a KV head; tokens; D / 64
    /// times 64 columns; KV heads; in boxes `[64, group, rows of a block / group, D / 64, 1]`. Else, [`PrefillParams::query_boxes`]
    /// being 0, none.
    pub query_map: TensorMap,
    /// The rest.
    pub decode: DecodeParams,
    /// Of K and of V: places from a page to the next, and from a KV head to the next.
    pub steps: [[u32; 2]; 2],
    /// Of K and of V: a place that is outside of the tensor, and reads as zeros.
    pub outside: [u32; 2],
    /// log2 of the tokens of the first two maps' boxes, which divide a page and a tile of keys; below 3, in pages of less than
    /// 8 tokens, there are no such boxes.
    pub box_shift: u32,
    /// Items, where [`DecodeParams::counts`] is NULL.
    pub items: u32,
    /// Whether there is a [`PrefillParams::query_map`]: 0 or 1.
    pub query_boxes: u32,
    /// Zero.
    pub reserved: u32,
}

const_assert_eq!(size_of::<PrefillParams>(), 1056);
