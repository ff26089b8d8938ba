//! What is done to the logits of edge tiles: [`crate::attention::mask`], for a warpgroup's accumulators.
use super::block::Block;
use super::shape::PrefillShape;
use crate::abi::DecodeParams;
use crate::attention::mask::{Row, capped};
use crate::attention::softmax::reciprocal;
use crate::attention::work::Work;

/// Scales the logits of tile `tile`, an edge, and does to them what is to be done; `row` is the thread's first row of the item.
///
/// # Safety
/// As for the entry; the item's records are there.
#[inline(always)]
pub unsafe fn apply(
    params: &DecodeParams,
    work: &Work,
    block: &Block,
    s: &mut [f32],
    tile: u32,
    [row, column]: [u32; 2],
    shape: &PrefillShape,
) {
    let (scale, cap) = (params.scale_log2, params.softcap_log2);
    for score in s.iter_mut() {
        *score *= scale;
    }
    if cap > 0.0 {
        let inverse = reciprocal(cap);
        for score in s.iter_mut() {
            *score = capped(*score, cap, inverse);
        }
    }
    let end = work.seen.any.end;
    for of_thread in 0..2 {
        let number = row + 8 * of_thread as u32;
        // SAFETY: handed on to the caller.
        let row = unsafe { Row::load(params, number, end, block.records(shape), || work.item) };
        for pair in 0..s.len() / 4 {
            for of_pair in 0..2 {
                let key = tile * shape.tile_keys + 8 * pair as u32 + column + of_pair as u32;
                let score = &mut s[4 * pair + 2 * of_thread + of_pair];
                // SAFETY: handed on to the caller.
                *score = if unsafe { row.sees(key, end) } { row.biased(*score, key) } else { f32::NEG_INFINITY };
            }
        }
    }
}
