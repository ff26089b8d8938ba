//! An item's query rows, and what the multiplying warpgroups are to know of it, by three warps, while they are still at the
//! item before.
use super::block::{Block, Items, QUERY_THREADS};
use super::item;
use super::shape::{COLUMNS_BYTES, PrefillShape};
use crate::abi::{DecodeParams, MaskFlags};
use crate::attention::work::{QueryRow, Work, rows};
use crate::layout::swizzle::{CHUNK_BYTES, chunk_offset};
use crate::ptx::copy::{cp_async_16, cp_async_commit_group, cp_async_wait_group};
use crate::ptx::mbarrier::{mbarrier_arrive, mbarrier_wait_parity};
use crate::ptx::sync::fence_proxy_async_shared;

/// Copies the rows of `items`.
///
/// # Safety
/// As for the entry; [`QUERY_THREADS`] threads of the block call it, of which `thread` is one.
#[inline(always)]
pub unsafe fn copy(
    params: &crate::abi::PrefillParams,
    block: &Block,
    mut items: Items,
    thread: u32,
    shape: &PrefillShape,
) {
    let (decode, mut turn) = (&params.decode, 0);
    while items.next < items.end {
        // SAFETY: handed on to the caller; what is written is free from the wait to the arrival.
        unsafe {
            let work = Work::load(decode, items.next, thread % 32, &shape.tiling());
            mbarrier_wait_parity(block.query_empty(shape), (turn & 1) ^ 1);
            if let Some(work) = work {
                if thread == 0 {
                    item::store(block.item(turn, shape), &work);
                }
                if decode.flags & MaskFlags::ROWS != 0 {
                    let mut row = thread;
                    while row < shape.block_rows() {
                        block.records(shape).write(decode, &work, row);
                        row += QUERY_THREADS;
                    }
                }
                copy_rows(decode, &work, block, thread, shape);
            }
            cp_async_commit_group();
            cp_async_wait_group::<0>();
            fence_proxy_async_shared();
            mbarrier_arrive(block.query_full(shape));
        }
        turn += 1;
        items.next += items.step;
    }
}

/// Copies this thread's part of the item's rows; those past its last are zeros.
#[inline(always)]
unsafe fn copy_rows(params: &DecodeParams, work: &Work, block: &Block, thread: u32, shape: &PrefillShape) {
    let chunks = shape.head_dim * 2 / CHUNK_BYTES;
    let in_part = COLUMNS_BYTES / CHUNK_BYTES;
    let first_head = work.item.kv_head * params.group;
    let rows_there = rows(params, &work.item) - work.item.first_row;
    let mut index = thread;
    while index < chunks * shape.block_rows() {
        let (row, chunk) = (index / chunks, index % chunks);
        let QueryRow { token, head } = QueryRow::of(params, &work.item, row);
        let at = (work.item.q_start + token) as i64 * params.q.token_stride
            + (first_head + head) as i64 * params.q.head_stride
            + (chunk * CHUNK_BYTES) as i64;
        let part = block.queries(chunk / in_part * shape.block_rows());
        let to = part.byte_offset(chunk_offset(row, chunk % in_part, COLUMNS_BYTES));
        // SAFETY: the row is one of the sequence's, or nothing of it is read.
        unsafe { cp_async_16(to, params.q.base.byte_offset(at), if row < rows_there { CHUNK_BYTES } else { 0 }) };
        index += QUERY_THREADS;
    }
}
