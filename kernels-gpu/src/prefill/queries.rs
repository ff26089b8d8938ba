//! What there is to do, and the query rows for it, by two warps: an item's rows while the warpgroups that multiply are still at
//! the item before, and where the next item's keys are.
use super::block::Block;
use super::item;
use super::shape::{COLUMNS_BYTES, ITEM_SLOTS, PrefillShape};
use crate::abi::{DecodeParams, PrefillParams, WorkItem, quotient};
use crate::attention::work::{QueryRow, Work, rows};
use crate::fault::{Fault, planted};
use crate::layout::swizzle::{CHUNK_BYTES, chunk_offset};
use crate::memory::{Mbarrier, Shared, TensorMapAddress};
use crate::ptx::bulk::cp_async_bulk_tensor_5d;
use crate::ptx::cluster::cluster_ctarank;
use crate::ptx::copy::{cp_async_16, cp_async_commit_group, cp_async_wait_group};
use crate::ptx::math::renewed;
use crate::ptx::mbarrier::{mbarrier_arrive, mbarrier_arrive_expect_tx, mbarrier_wait_parity};
use crate::ptx::sync::fence_proxy_async_shared;

/// Lanes that copy a row together, 64 bytes at a time: each has few chunks, and few rows to find.
const LANES_OF_A_ROW: u32 = 4;

/// Copies the rows of the block's items.
///
/// # Safety
/// As for the entry; [`PrefillShape::query_threads`] threads of the block call it, of which `thread` is one.
#[inline(always)]
pub unsafe fn copy(params: &PrefillParams, maps: TensorMapAddress, block: &Block, thread: u32, shape: &PrefillShape) {
    let (decode, mut turn) = (&params.decode, 0);
    // SAFETY: handed on to the caller; what is written is free from the wait to the arrival, a slot of an item since its
    // rows were stored, before the query rows of the item after it had been read.
    unsafe {
        while block.has(turn, shape) {
            // As a value of this item: what depends on it, made ahead, would be kept through the loop.
            let thread = renewed(thread);
            tell(decode, block, thread, turn, shape);
            let (at, full) = (block.wait_for_item(turn, shape), block.query_full(shape));
            if !planted(Fault::QueryEmpty) {
                mbarrier_wait_parity(block.query_empty(shape), (turn & 1) ^ 1);
            }
            let mut item = item::load(at);
            if !shape.exchanges() && shape.pair() {
                // The block's half of the rows.
                item.first_row += cluster_ctarank() * shape.block_rows();
            }
            let item = &item;
            if params.query_boxes == 0 {
                copy_rows(decode, item, block, thread, shape);
                cp_async_commit_group();
                if !planted(Fault::QueryCopies) {
                    cp_async_wait_group::<0>();
                }
                if !planted(Fault::QueryFence) {
                    fence_proxy_async_shared();
                }
                arrive(full, 0);
            } else if thread == 0 {
                arrive(full, shape.query_bytes());
                let token = item.q_start + quotient(item.first_row, decode.group_reciprocal);
                let coordinates = [0, 0, token as i32, 0, item.kv_head as i32];
                cp_async_bulk_tensor_5d(block.queries(0), maps.at(4), coordinates, full);
            } else {
                arrive(full, 0);
            }
            turn += 1;
        }
        if shape.tensor_memory() && shape.pair() && !planted(Fault::LastQueries) {
            // The other block's products tell of them, and must not when this one has ended.
            mbarrier_wait_parity(block.query_empty(shape), (turn & 1) ^ 1);
        }
    }
}

/// A thread's arrival for an item's rows, with the bytes that come where a tensor copy brings them.
#[inline(always)]
unsafe fn arrive(full: Shared<Mbarrier>, bytes: u32) {
    // SAFETY: initialised at the block's begin.
    unsafe {
        if bytes > 0 && !planted(Fault::QueryBytes) && !planted(Fault::QueryArrival) {
            mbarrier_arrive_expect_tx(full, bytes);
        } else if !planted(Fault::QueryArrival) {
            mbarrier_arrive(full);
        }
    }
}

/// Tells all what the item of turn `turn` is; the first warp does.
#[inline(always)]
unsafe fn tell(params: &DecodeParams, block: &Block, thread: u32, turn: u32, shape: &PrefillShape) {
    if thread >= 32 {
        return;
    }
    // SAFETY: handed on to the caller.
    unsafe {
        let work = Work::of(params, Work::item(params, block.number(turn, shape)), None, thread, &shape.tiling());
        // What others here read of the slot, they read before their arrivals for an item's rows.
        if thread == 0 {
            // As a value of this place: its parity, made ahead, would be kept while the work is found.
            let turn = renewed(turn);
            if !planted(Fault::ItemEmpty) {
                mbarrier_wait_parity(block.item_empty(turn, shape), ((turn / ITEM_SLOTS) & 1) ^ 1);
            }
            item::store(block.item(turn, shape), &work);
            if !planted(Fault::ItemArrival) {
                mbarrier_arrive(block.item_full(turn, shape));
            }
        }
    }
}

/// Copies this thread's part of the item's rows; those past its last are zeros.
#[inline(always)]
unsafe fn copy_rows(params: &DecodeParams, item: &WorkItem, block: &Block, thread: u32, shape: &PrefillShape) {
    let in_part = COLUMNS_BYTES / CHUNK_BYTES;
    let first_head = item.kv_head * params.group;
    let rows_there = rows(params, item).saturating_sub(item.first_row);
    let first_chunk = thread % LANES_OF_A_ROW;
    let mut row = thread / LANES_OF_A_ROW;
    while row < shape.block_rows() {
        let QueryRow { token, head } = QueryRow::of(params, item, row);
        let at =
            (item.q_start + token) as i64 * params.q.token_stride + (first_head + head) as i64 * params.q.head_stride;
        let from = params.q.base.byte_offset(at + (first_chunk * CHUNK_BYTES) as i64);
        let bytes = if row < rows_there { CHUNK_BYTES } else { 0 };
        for turn in 0..shape.head_dim * shape.element_bytes / (CHUNK_BYTES * LANES_OF_A_ROW) {
            let chunk = first_chunk + turn * LANES_OF_A_ROW;
            let part = block.queries(turn * LANES_OF_A_ROW / in_part * shape.block_rows());
            let to = part.byte_offset(chunk_offset(row, chunk % in_part, COLUMNS_BYTES));
            // SAFETY: the row is one of the sequence's, or nothing of it is read.
            unsafe { cp_async_16(to, from.byte_offset((turn * LANES_OF_A_ROW * CHUNK_BYTES) as i64), bytes) };
        }
        row += shape.query_threads() / LANES_OF_A_ROW;
    }
}
