//! What is done to the logits of edge tiles: [`crate::attention::mask`], for a thread's row.
use crate::abi::DecodeParams;
use crate::attention::mask::{Row, capped};
use crate::attention::softmax::reciprocal;
use crate::attention::visible::Interval;
use crate::attention::work::Work;
use crate::memory::Shared;
use crate::prefill::item;
use crate::ptx::math::renewed;

/// Multiplies the logits of an edge tile by `scale`, of keys from `first` on and row `row` of the item, and does to them what is to be
/// done.
///
/// # Safety
/// As for the entry; the item at `item` is there.
#[inline(always)]
pub unsafe fn apply(params: &DecodeParams, scale: f32, item: Shared<u32>, s: &mut [f32], first: u32, row: u32) {
    let cap = params.softcap_log2;
    for score in s.iter_mut() {
        *score *= scale;
    }
    if cap > 0.0 {
        let inverse = reciprocal(cap);
        in_turn(s, |score, _| *score = capped(*score, cap, inverse));
    }
    // What the row sees is found anew for each property: kept for all, it would be more registers than there are beside S.
    if !params.slopes.is_null() {
        // SAFETY: handed on to the caller.
        let (row, _) = unsafe { find(params, item, row) };
        in_turn(s, |score, offset| *score = row.biased(*score, first + offset));
    }
    if !params.tree.is_null() {
        // SAFETY: handed on to the caller.
        let (row, end) = unsafe { find(params, item, row) };
        in_turn(s, |score, offset| {
            // SAFETY: handed on to the caller.
            if unsafe { !row.sees(first + offset, end) } {
                *score = f32::NEG_INFINITY;
            }
        });
        return;
    }
    // SAFETY: handed on to the caller.
    let Interval { begin, end } = unsafe { find(params, item, row) }.0.keys;
    let (begin, keys) = (begin.wrapping_sub(first), end.saturating_sub(begin));
    for (offset, score) in s.iter_mut().enumerate() {
        if (offset as u32).wrapping_sub(begin) >= keys {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// What the row sees, and behind the last key that a row of the item sees.
///
/// # Safety
/// As for [`apply`].
#[inline(always)]
unsafe fn find(params: &DecodeParams, item: Shared<u32>, row: u32) -> (Row, u32) {
    // As a value of this place: whether it is above 0, asked ahead, would be kept through all loops, in memory.
    let params = &DecodeParams { keys_before: renewed(params.keys_before), ..*params };
    // SAFETY: handed on to the caller.
    unsafe {
        let Work { item, length, seen, .. } = &item::work(item);
        (Row::find(params, item, *length, renewed(row), seen.any.end), seen.any.end)
    }
}

/// Logits that [`in_turn`] changes at a time.
const AT_A_TIME: usize = 8;

/// Changes each logit, given its key's offset from the first: eight at a time, the first ones, and then the next are moved there.
/// Unrolled, the long changes would be 128 times the code.
#[inline(always)]
fn in_turn(s: &mut [f32], mut change: impl FnMut(&mut f32, u32)) {
    let (mut offset, keys) = (0, renewed(s.len() as u32));
    while offset < keys {
        for index in 0..AT_A_TIME {
            change(&mut s[index], offset + index as u32);
        }
        for index in 0..AT_A_TIME {
            let changed = s[index];
            let mut at = index;
            while at + AT_A_TIME < s.len() {
                s[at] = s[at + AT_A_TIME];
                at += AT_A_TIME;
            }
            s[at] = changed;
        }
        offset += AT_A_TIME as u32;
    }
}
