//! An item as one warp leaves it for all others, who need not read global memory then.
use crate::abi::WorkItem;
use crate::attention::mask::Edges;
use crate::attention::visible::{Interval, Seen};
use crate::attention::work::{Tiles, Work};
use crate::memory::Shared;
use crate::ptx::memory::{ld_shared_b32, ld_shared_v4_b32, st_shared_b32, st_shared_v4_b32};
use crate::ptx::sync::uniform;

/// Leaves `work` at `to`; of the item what [`load`] says.
///
/// # Safety
/// `to` is a multiple of 16 with 52 bytes that nobody else uses.
#[inline(always)]
pub unsafe fn store(to: Shared<u32>, work: &Work) {
    let Work { item, length, seen, tiles, edges } = *work;
    // SAFETY: the caller's.
    unsafe {
        st_shared_v4_b32(to, [tiles.first, tiles.end, edges.first_whole, edges.end_whole]);
        st_shared_v4_b32(to.at(4), [seen.any.begin, seen.any.end, length, item.partial]);
        st_shared_v4_b32(to.at(8), [item.kv_head, item.first_row, item.q_start, item.q_len]);
        st_shared_b32(to.at(12), [item.sequence]);
    }
}

/// The keys of an item: all that the loop needs of it.
#[derive(Clone, Copy)]
pub struct Span {
    /// Its tiles.
    pub tiles: Tiles,
    /// Which of them are masked key by key.
    pub edges: Edges,
}

/// The keys of the item at `from`.
///
/// # Safety
/// [`store`]d, and observed.
#[inline(always)]
pub unsafe fn span(from: Shared<u32>) -> Span {
    // SAFETY: the caller's.
    let [first, end, first_whole, end_whole] = unsafe { ld_shared_v4_b32(from) }.map(uniform);
    Span { tiles: Tiles { first, end }, edges: Edges { first_whole, end_whole } }
}

/// What the rows of the item at `from` see together.
///
/// # Safety
/// As for [`span`].
#[inline(always)]
pub unsafe fn seen(from: Shared<u32>) -> Interval {
    // SAFETY: the caller's.
    let [begin, end, _, _] = unsafe { ld_shared_v4_b32(from.at(4)) }.map(uniform);
    Interval { begin, end }
}

/// The sequence and KV head of the item at `from`; lanes may call it that are not all of their warp.
///
/// # Safety
/// As for [`span`].
#[inline(always)]
pub unsafe fn place(from: Shared<u32>) -> [u32; 2] {
    // SAFETY: the caller's.
    unsafe { [ld_shared_b32(from.at(12)), ld_shared_b32(from.at(8))].map(|[word]| word) }
}

/// The work at `from`. Of the item the sequence, KV head, rows, query tokens and slot are there; what all of its rows see is
/// nothing.
///
/// # Safety
/// As for [`span`].
#[inline(always)]
pub unsafe fn work(from: Shared<u32>) -> Work {
    // SAFETY: the caller's.
    unsafe {
        let Span { tiles, edges } = span(from);
        let [_, _, length, _] = ld_shared_v4_b32(from.at(4)).map(uniform);
        let item = WorkItem { sequence: place(from)[0], ..load(from) };
        let seen = Seen { any: seen(from), all: Interval { begin: 0, end: 0 } };
        Work { item, length, seen, tiles, edges }
    }
}

/// The item at `from`: its KV head, rows, query tokens and slot.
///
/// # Safety
/// As for [`span`].
#[inline(always)]
pub unsafe fn load(from: Shared<u32>) -> WorkItem {
    // SAFETY: the caller's.
    let [[_, _, _, partial], rows] = [4, 8].map(|word| unsafe { ld_shared_v4_b32(from.at(word)) }.map(uniform));
    let [kv_head, first_row, q_start, q_len] = rows;
    WorkItem { kv_head, first_row, q_start, q_len, partial, ..WorkItem::NOTHING }
}
