//! The merge of a split sequence's partial results: one block has 64 columns of one query row, 16 lanes of 4 columns by
//! 8 shares at a time, so that many blocks read at once (a batch of one may have more than a hundred shares).
//!
//! With shares `i` of output `o_i` and base-2 log-sum-exp `e_i`: `o = sum(2^(e_i - m) o_i) / sum(2^(e_i - m))`, m the
//! largest `e_i`; the log-sum-exp of all is `m + log2(sum(2^(e_i - m)))`.
use super::softmax::{finite, lse_log2, reciprocal};
use crate::abi::{CombineParams, MergeItem};
use crate::config::{COMBINE_COLUMNS, COMBINE_THREADS};
use crate::element::Element;
use crate::fault::{Fault, planted};
use crate::memory::Shared;
use crate::ptx::math::ex2_approx_ftz;
use crate::ptx::memory::{
    dynamic_shared, ld_global_b32, ld_global_v4_b32, ld_shared_v4_b32, st_global_b32, st_global_v2_b32,
    st_shared_v4_b32,
};
use crate::ptx::sync::{griddepcontrol_wait, shfl_bfly, uniform};
use cuda_std::thread;

/// Lanes across the columns, 4 columns each.
const COLUMN_LANES: u32 = COMBINE_COLUMNS / 4;
/// Shares that a block reads at a time.
const SHARE_LANES: u32 = COMBINE_THREADS / COLUMN_LANES;
/// Loads that a thread has under way: 16 bytes each.
const UNROLL: u32 = 4;

/// The sums of every thread, 16 bytes each.
pub const SHARED_BYTES: u32 = COMBINE_THREADS * 16;

/// Merges 64 columns of a row, and of every row that is a whole grid further on.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn combine<Q: Element>(params: &CombineParams) {
    // Never 0; said to the compiler, which would call for help at a division by 0 otherwise.
    let (slices, slot_rows) = ((params.head_dim / COMBINE_COLUMNS).max(1), params.slot_rows.max(1));
    let end = if params.counts.is_null() {
        thread::grid_dim_x()
    } else {
        // SAFETY: the plan's counts; the second is the merges'.
        let [merges] = unsafe { ld_global_b32(params.counts.cast::<u32>().at(1)) };
        uniform(merges) * slot_rows * slices
    };
    if !planted(Fault::CombineWait) {
        griddepcontrol_wait();
    }
    let mut block = thread::block_idx_x();
    while block < end {
        // SAFETY: the plan has a merge for every `slot_rows * slices` blocks.
        unsafe {
            let merge = load_merge(params, block / slices / slot_rows);
            let row = block / slices % slot_rows;
            if row < merge.rows {
                merge_row::<Q>(params, &merge, row, block % slices);
            }
        }
        block += thread::grid_dim_x();
    }
}

/// Merges 64 columns of one row.
///
/// # Safety
/// As for the entry; all threads of the block take part.
#[inline(always)]
unsafe fn merge_row<Q: Element>(params: &CombineParams, merge: &MergeItem, row: u32, slice: u32) {
    let thread = thread::thread_idx_x();
    let share = |index: u32| (merge.first_partial + index) as u64 * params.slot_rows as u64 + row as u64;
    let lse_of = |index: u32| {
        // SAFETY: shares are below `merge.partials`, and their slots hold this plan's results.
        f32::from_bits(unsafe { ld_global_b32(params.partial_lse.byte_offset(4 * share(index) as i64).cast()) }[0])
    };
    let (maximum, total) = warp_totals(merge.partials, thread % 32, lse_of);

    let (column_lane, share_lane) = (thread % COLUMN_LANES, thread / COLUMN_LANES);
    let column = slice * COMBINE_COLUMNS + 4 * column_lane;
    let mut sum = [0.0f32; 4];
    let mut first = share_lane;
    while first < merge.partials {
        let mut parts = [[0u32; 4]; UNROLL as usize];
        let mut weights = [0.0f32; UNROLL as usize];
        for step in 0..UNROLL {
            let index = first + step * SHARE_LANES;
            if index < merge.partials {
                let at = (share(index) * params.head_dim as u64 + column as u64) * 4;
                // SAFETY: as above.
                parts[step as usize] = unsafe { ld_global_v4_b32(params.partial_o.byte_offset(at as i64).cast()) };
                weights[step as usize] = lse_of(index);
            } else {
                weights[step as usize] = f32::NEG_INFINITY;
            }
        }
        for step in 0..UNROLL as usize {
            let weight = ex2_approx_ftz(weights[step] - maximum);
            for element in 0..4 {
                sum[element] += weight * f32::from_bits(parts[step][element]);
            }
        }
        first += UNROLL * SHARE_LANES;
    }

    let sums = dynamic_shared();
    let slot = |lane: u32| Shared::<u32>::new(sums.address + (lane * COLUMN_LANES + column_lane) * 16);
    // SAFETY: each thread has 16 bytes of its own; they are read behind the barrier.
    unsafe {
        st_shared_v4_b32(slot(share_lane), sum.map(f32::to_bits));
        if !planted(Fault::CombineSums) {
            thread::sync_threads();
        }
        if share_lane == 0 {
            let mut o = [0.0f32; 4];
            for lane in 0..SHARE_LANES {
                let part = ld_shared_v4_b32(slot(lane));
                for element in 0..4 {
                    o[element] += f32::from_bits(part[element]);
                }
            }
            let o = o.map(|x| x * reciprocal(total));
            let head = merge.first_q_head + row;
            let at = params.out.base.byte_offset(
                merge.sequence as i64 * params.out.token_stride
                    + head as i64 * params.out.head_stride
                    + 2 * column as i64,
            );
            st_global_v2_b32(at.cast(), [Q::pack(o[0], o[1]), Q::pack(o[2], o[3])]);
            if !params.lse.is_null() && slice == 0 && column_lane == 0 {
                let natural = lse_log2(maximum, total) * core::f32::consts::LN_2;
                let at = merge.sequence as i64 * params.q_heads as i64 + head as i64;
                st_global_b32(params.lse.byte_offset(4 * at).cast(), [natural.to_bits()]);
            }
        }
    }
    if !planted(Fault::CombineDone) {
        thread::sync_threads();
    }
}

#[inline(always)]
unsafe fn load_merge(params: &CombineParams, index: u32) -> MergeItem {
    let at = params.merges.at(index).cast::<u32>();
    // SAFETY: the plan has this merge; its five fields are words.
    unsafe {
        let word = |field: u32| uniform(ld_global_b32(at.at(field))[0]);
        MergeItem { sequence: word(0), first_q_head: word(1), rows: word(2), first_partial: word(3), partials: word(4) }
    }
}

/// The largest log-sum-exp (0 where all are -inf) and the sum of weights; every warp works them out for itself.
#[inline(always)]
fn warp_totals(partials: u32, lane: u32, lse_of: impl Fn(u32) -> f32) -> (f32, f32) {
    let mut maximum = f32::NEG_INFINITY;
    let mut index = lane;
    while index < partials {
        maximum = maximum.max(lse_of(index));
        index += 32;
    }
    for lane_mask in [16, 8, 4, 2, 1] {
        maximum = maximum.max(f32::from_bits(shfl_bfly(maximum.to_bits(), lane_mask)));
    }
    let maximum = finite(maximum);
    let mut total = 0.0;
    let mut index = lane;
    while index < partials {
        total += ex2_approx_ftz(lse_of(index) - maximum);
        index += 32;
    }
    for lane_mask in [16, 8, 4, 2, 1] {
        total += f32::from_bits(shfl_bfly(total.to_bits(), lane_mask));
    }
    (maximum, total)
}
