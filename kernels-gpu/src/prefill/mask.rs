//! What is done to the logits of edge tiles: [`crate::attention::mask`], for a warpgroup's accumulators.
use super::item;
use crate::abi::DecodeParams;
use crate::attention::mask::{Row, capped};
use crate::attention::visible::Interval;
use crate::attention::work::Work;
use crate::memory::Shared;
use crate::ptx::math::renewed;

/// Multiplies the logits of an edge tile by `scale`, of which the thread's begin with key `first` and are of rows `row` and that + 8 of the
/// item, and does to them what is to be done.
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
        in_turn(s, |score, _, _| *score = capped(*score, cap, params.softcap_inverse));
    }
    // What rows see is found anew for each property: kept for all, it would be more registers than the products leave.
    if !params.slopes.is_null() {
        // SAFETY: handed on to the caller.
        let (rows, _) = unsafe { rows(params, item, row) };
        in_turn(s, |score, row, offset| *score = rows[row].biased(*score, first + offset));
    }
    if !params.tree.is_null() {
        // SAFETY: handed on to the caller.
        let (rows, end) = unsafe { rows(params, item, row) };
        in_turn(s, |score, row, offset| {
            // SAFETY: handed on to the caller.
            if unsafe { !rows[row].sees(first + offset, end) } {
                *score = f32::NEG_INFINITY;
            }
        });
        return;
    }
    // SAFETY: handed on to the caller.
    let (rows, _) = unsafe { rows(params, item, row) };
    for row in 0..2 {
        let Interval { begin, end } = rows[row].keys;
        let (begin, keys) = (begin.wrapping_sub(first), end.saturating_sub(begin));
        for index in (2 * row..s.len()).step_by(4) {
            for of_pair in 0..2 {
                let offset = 2 * index as u32 - 4 * row as u32 + of_pair as u32;
                if offset.wrapping_sub(begin) >= keys {
                    s[index + of_pair] = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// What the thread's rows see, and behind the last key that a row of the item sees.
///
/// # Safety
/// As for [`apply`].
#[inline(always)]
unsafe fn rows(params: &DecodeParams, item: Shared<u32>, row: u32) -> ([Row; 2], u32) {
    // SAFETY: handed on to the caller.
    unsafe {
        let Work { item, length, seen, .. } = &item::work(item);
        let end = seen.any.end;
        ([row, row + 8].map(|row| Row::find(params, item, *length, row, end)), end)
    }
}

/// Elements of an accumulator that are changed at a time: of 16 keys.
const AT_A_TIME: usize = 8;

/// Changes each logit, given which of the thread's rows it is in and its key's offset from the thread's first: eight at a time,
/// the first ones, and then the next are moved there. Unrolled, as many of the long changes as there are logits would
/// want more registers than the products leave.
#[inline(always)]
fn in_turn(s: &mut [f32], mut change: impl FnMut(&mut f32, usize, u32)) {
    let (mut offset, keys) = (0, renewed(2 * s.len() as u32));
    while offset < keys {
        for index in 0..AT_A_TIME {
            let of_group = index / 4 * 8 + index % 2;
            change(&mut s[index], index / 2 % 2, offset + of_group as u32);
        }
        move_on(s);
        offset += 2 * AT_A_TIME as u32;
    }
}

/// Moves the first eight elements behind the others, the next eight to their place.
#[inline(always)]
pub fn move_on(s: &mut [f32]) {
    for index in 0..AT_A_TIME {
        let changed = s[index];
        let mut at = index;
        while at + AT_A_TIME < s.len() {
            s[at] = s[at + AT_A_TIME];
            at += AT_A_TIME;
        }
        s[at] = changed;
    }
}
