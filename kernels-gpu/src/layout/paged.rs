//! From a token of a sequence to its page and the byte offset of its row in the cache.
use crate::abi::CacheSide;

/// Index in the sequence's row of the block table.
#[inline(always)]
pub const fn page_index(key: u32, page_shift: u32) -> u32 {
    key >> page_shift
}

/// Bytes from the side's base to the row of the token `key` of head 0, where the block table gave `page` for it.
#[inline(always)]
pub const fn key_offset(side: &CacheSide, page: i32, key: u32, page_shift: u32) -> i64 {
    let slot = key & ((1 << page_shift) - 1);
    // Without its sign, which no page of a cache has, the product is two instructions in place of four.
    page as u32 as i64 * side.page_stride + slot as i64 * side.token_stride
}
