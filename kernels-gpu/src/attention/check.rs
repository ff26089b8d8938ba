//! The range check of page ids: what a checked launch runs first. One block; the answer does not depend on timing.
use crate::abi::{CheckPagesParams, PageReport};
use crate::config::CHECK_THREADS;
use crate::fault::{Fault, planted};
use crate::memory::Shared;
use crate::ptx::memory::{dynamic_shared, ld_global_b32, ld_shared_v4_b32, st_global_b32, st_shared_v4_b32};
use cuda_std::thread;

/// What each thread found, 16 bytes.
pub const SHARED_BYTES: u32 = CHECK_THREADS * 16;

/// Reports the first page id that is out of range, in the order (sequence, page).
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn check_pages(params: &CheckPagesParams) {
    let thread = thread::thread_idx_x();
    let found = dynamic_shared();
    let slot = |thread: u32| Shared::<u32>::new(found.address + thread * 16);
    // SAFETY: sequences are below the batch and pages below the planned length's; each thread has its own slot.
    unsafe {
        let mine = first_of_thread(params, thread);
        st_shared_v4_b32(slot(thread), [mine.sequence, mine.page, mine.id as u32, 0]);
        if !planted(Fault::CheckDone) {
            thread::sync_threads();
        }
        if thread == 0 {
            let mut first = mine;
            for other in 1..CHECK_THREADS {
                let [sequence, page, id, _] = ld_shared_v4_b32(slot(other));
                if (sequence, page) < (first.sequence, first.page) {
                    first = PageReport { sequence, page, id: id as i32 };
                }
            }
            let report = params.report.cast::<u32>();
            st_global_b32(report, [first.sequence]);
            st_global_b32(report.at(1), [first.page]);
            st_global_b32(report.at(2), [first.id as u32]);
        }
    }
}

/// The first of every 256th page of each sequence.
#[inline(always)]
unsafe fn first_of_thread(params: &CheckPagesParams, thread: u32) -> PageReport {
    for sequence in 0..params.batch {
        // SAFETY: as for the entry.
        let length = unsafe {
            let [bound] = ld_global_b32(params.length_bounds.at(sequence));
            let [length] = ld_global_b32(params.seq_lens.at(sequence).cast());
            ((length as i32).max(0) as u32).min(bound).min(params.table_tokens)
        };
        let pages = length.div_ceil(1 << params.page_shift);
        let first = length.saturating_sub(params.seen) >> params.page_shift;
        let table = params.block_table.byte_offset(sequence as i64 * params.block_table_stride * 4);
        let mut page = first + thread;
        while page < pages {
            // SAFETY: as for the entry.
            let [id] = unsafe { ld_global_b32(table.at(page).cast()) };
            if id >= params.pages {
                return PageReport { sequence, page, id: id as i32 };
            }
            page += CHECK_THREADS;
        }
    }
    PageReport { sequence: PageReport::NONE, page: u32::MAX, id: 0 }
}
