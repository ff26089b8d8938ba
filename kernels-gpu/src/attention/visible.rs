//! Which keys a query token sees: always an interval, of the window before and behind its position and of its span, and with
//! a tree some of the sequence's query tokens besides.
use super::work::{QueryRow, rows};
use crate::abi::{DecodeParams, MaskFlags, WorkItem};
use crate::ptx::math::renewed;
use crate::ptx::memory::{ld_global_b32, ld_global_v2_b32};
use crate::ptx::sync::{shfl_bfly, uniform};

/// Keys `begin .. end`; none where `begin >= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The first.
    pub begin: u32,
    /// Behind the last.
    pub end: u32,
}

impl Interval {
    /// Whether key `key` is one of them.
    #[inline(always)]
    pub const fn has(&self, key: u32) -> bool {
        key >= self.begin && key < self.end
    }
}

/// What the rows of an item see together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// From the first key that any of them sees to behind the last.
    pub any: Interval,
    /// What all of them see.
    pub all: Interval,
}

/// One query token's keys, and where it stands among them.
#[derive(Clone, Copy, Debug)]
pub struct Visible {
    /// Its keys; with a tree those before the sequence's query tokens.
    pub keys: Interval,
    /// Its position, which may lie outside of the sequence.
    pub position: i32,
}

/// Keys before the sequence's query tokens. (Negative where there are fewer keys than query tokens.)
#[inline(always)]
pub const fn before_queries(item: &WorkItem, length: u32) -> i32 {
    length as i32 - item.q_len as i32
}

impl Visible {
    /// Of query token `token` of the item's sequence, which has `length` keys.
    ///
    /// # Safety
    /// As for the entry; the token is one of the sequence's.
    #[inline(always)]
    pub unsafe fn of(params: &DecodeParams, item: &WorkItem, length: u32, token: u32) -> Self {
        let [left, right] = params.window.map(|keys| keys as i32);
        let before = before_queries(item, length);
        let mut position = before + token as i32;
        let row = item.q_start + token;
        if !params.positions.is_null() {
            // SAFETY: there is one for every query token.
            let [at] = unsafe { ld_global_b32(params.positions.at(row).cast()) };
            position = (at as i32).saturating_sub(params.keys_before as i32);
        }
        let behind = |position: i32, keys: i32| position.saturating_add(keys).saturating_add(1);
        let (mut begin, mut end) = (position.saturating_sub(left), behind(position, right));
        if !params.spans.is_null() {
            // SAFETY: there is one for every query token, of 8 bytes.
            let span = unsafe { ld_global_v2_b32(params.spans.at(2 * row).cast()) };
            let [mut first, mut last] = span.map(|key| (key as i32).saturating_sub(params.keys_before as i32));
            if params.flags & MaskFlags::SPANS_IN_WINDOW != 0 {
                (first, last) = (first.max(begin), last.min(behind(position, left)));
            }
            if first < last {
                (begin, end) = (begin.min(first), end.max(last));
            }
        }
        if !params.tree.is_null() {
            end = before;
        }
        // Not `clamp`, which panics where its bounds are the wrong way round.
        let inside = |key: i32| (key.max(0) as u32).min(length);
        Self { keys: Interval { begin: inside(begin), end: inside(end) }, position }
    }
}

/// What the item's rows, at most `item_rows`, see of a sequence of `length` keys; the same in all lanes.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn seen(params: &DecodeParams, item: &WorkItem, length: u32, lane: u32, item_rows: u32) -> Seen {
    if params.flags & MaskFlags::ROWS == 0 {
        // What follows asks for parameters of another line, which a short call would wait for.
        let all = Interval { begin: 0, end: length };
        return Seen { any: all, all };
    }
    let last_row = (rows(params, item) - item.first_row).min(item_rows) - 1;
    let token = |row: u32| QueryRow::of(params, item, row).token;
    // SAFETY: handed on to the caller; the rows exist.
    let of = |row: u32| unsafe { Visible::of(params, item, length, token(row)) }.keys;
    let (mut any, mut all) = if params.positions.is_null() && params.spans.is_null() {
        // Later tokens see later keys.
        let (first, last) = (of(0), of(last_row));
        (Interval { begin: first.begin, end: last.end }, Interval { begin: last.begin, end: first.end })
    } else {
        // Of the lane's rows, every 32nd.
        let own = of(lane.min(last_row));
        let (mut any, mut all) = (own, own);
        // More than the decode kernels have are not unrolled: what they want together would not fit a copying warp's registers.
        let turns = item_rows.div_ceil(32);
        for turn in 1..if turns > 2 { renewed(turns) } else { turns } {
            let row = of((lane + 32 * turn).min(last_row));
            any = Interval { begin: any.begin.min(row.begin), end: any.end.max(row.end) };
            all = Interval { begin: all.begin.max(row.begin), end: all.end.min(row.end) };
        }
        (
            Interval { begin: warp(any.begin, u32::min), end: warp(any.end, u32::max) },
            Interval { begin: warp(all.begin, u32::max), end: warp(all.end, u32::min) },
        )
    };
    if !params.tree.is_null() {
        let before = before_queries(item, length).max(0) as u32;
        (any.begin, any.end) = (any.begin.min(before), length);
        all.end = all.end.min(before);
    }
    Seen { any, all }
}

/// The warp's least or largest.
#[inline(always)]
fn warp(value: u32, choose: impl Fn(u32, u32) -> u32) -> u32 {
    let mut chosen = value;
    for lane_mask in [16, 8, 4, 2, 1] {
        chosen = choose(chosen, shfl_bfly(chosen, lane_mask));
    }
    uniform(chosen)
}
