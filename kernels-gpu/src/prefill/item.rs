//! An item as the copying warps leave it for those that multiply, who need not read global memory then.
use crate::abi::WorkItem;
use crate::attention::mask::Edges;
use crate::attention::visible::{Interval, Seen};
use crate::attention::work::{Tiles, Work};
use crate::memory::Shared;
use crate::ptx::memory::{ld_shared_v4_b32, st_shared_v4_b32};
use crate::ptx::sync::uniform;

/// Leaves `work` at `to`; of the item what [`load`] says.
///
/// # Safety
/// `to` is a multiple of 16 with 48 bytes that nobody else uses.
#[inline(always)]
pub unsafe fn store(to: Shared<u32>, work: &Work) {
    let Work { item, length, seen, tiles, edges } = *work;
    // SAFETY: the caller's.
    unsafe {
        st_shared_v4_b32(to, [tiles.first, tiles.end, edges.first_whole, edges.end_whole]);
        st_shared_v4_b32(to.at(4), [seen.any.begin, seen.any.end, length, item.partial]);
        st_shared_v4_b32(to.at(8), [item.kv_head, item.first_row, item.q_start, item.q_len]);
    }
}

/// What is at `from`. Of the item the KV head, rows, query tokens and slot are there; what all of its rows see is nothing.
///
/// # Safety
/// [`store`]d, and observed.
#[inline(always)]
pub unsafe fn load(from: Shared<u32>) -> Work {
    // SAFETY: the caller's.
    let [tiles, seen, rows] = [0, 4, 8].map(|word| unsafe { ld_shared_v4_b32(from.at(word)) }.map(uniform));
    let ([first, end, first_whole, end_whole], [any_begin, any_end, length, partial]) = (tiles, seen);
    let [kv_head, first_row, q_start, q_len] = rows;
    let item = WorkItem { kv_head, first_row, q_start, q_len, partial, ..WorkItem::NOTHING };
    let any = Interval { begin: any_begin, end: any_end };
    Work {
        item,
        length,
        seen: Seen { any, all: Interval { begin: 0, end: 0 } },
        tiles: Tiles { first, end },
        edges: Edges { first_whole, end_whole },
    }
}
