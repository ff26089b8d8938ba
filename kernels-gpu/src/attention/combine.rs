//! The merge of a split sequence's partial results. A *task* is 64 columns of one query row: 16 lanes of 4 columns by 2, 4
//! or 8 shares at a time; a block does 4, 2 or 1 tasks together. A batch of one may have more than a hundred shares and
//! wants many readers for each; a batch of 64 cut in two has thousands of rows, and blocks for each would be all start
//! and no work (8192 of them took some 12 µs on an H100).
//!
//! With shares `i` of output `o_i` and base-2 log-sum-exp `e_i`: `o = sum(2^(e_i - m) o_i) / sum(2^(e_i - m))`, m the
//! largest `e_i`; the log-sum-exp of all is `m + log2(sum(2^(e_i - m)))`. A sink is one more term of the denominator, after
//! the log-sum-exp. Results of disjoint keys that come from elsewhere (a shared prefix, other devices) are shares like any.
use super::output;
use super::softmax::{finite, lse_log2, reciprocal};
use crate::abi::{CombineParams, MergeItem, quotient};
use crate::config::{COMBINE_COLUMNS, COMBINE_THREADS};
use crate::fault::{Fault, planted};
use crate::memory::Shared;
use crate::ptx::math::{ex2_approx_ftz, renewed};
use crate::ptx::memory::{
    dynamic_shared, ld_global_b32, ld_global_v2_b32, ld_global_v4_b32, ld_shared_v4_b32, st_shared_v4_b32,
};
use crate::ptx::sync::{griddepcontrol_wait, shfl_bfly, uniform};
use cuda_std::thread;

/// Lanes across the columns of a task, 4 columns each.
const COLUMN_LANES: u32 = COMBINE_COLUMNS / 4;
/// Loads that a thread has under way: 16 bytes each.
const UNROLL: u32 = 4;

/// The sums of every thread, 16 bytes each.
pub const SHARED_BYTES: u32 = COMBINE_THREADS * 16;

/// 64 columns of one row, and the thread's part in them.
struct Task {
    merge: MergeItem,
    /// Row of the merge.
    row: u32,
    column: u32,
    share_lane: u32,
    share_lanes: u32,
}

/// Merges this block's tasks, and those that are a whole grid further on.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn combine(params: &CombineParams) {
    // What the host promises anyway; said to the compiler, which would call for help at a division by 0 otherwise.
    let (slices, rows) = ((params.head_dim / COMBINE_COLUMNS).max(1), params.rows.max(1));
    let share_lanes = params.share_lanes.clamp(2, 8);
    let task_lanes = share_lanes * COLUMN_LANES;
    let tasks_a_block = COMBINE_THREADS / task_lanes;
    let end = if params.counts.is_null() {
        thread::grid_dim_x() * tasks_a_block
    } else {
        // SAFETY: the plan's counts; the second is the merges'.
        let [merges] = unsafe { ld_global_b32(params.counts.cast::<u32>().at(1)) };
        uniform(merges) * rows * slices
    };
    let end = end.min(params.tasks);
    let thread = thread::thread_idx_x();
    // Whole warps: a task has 32 lanes at least.
    let own = uniform(thread / task_lanes);
    let (share_lane, column_lane) = (thread / COLUMN_LANES % share_lanes, thread % COLUMN_LANES);
    let sums = Shared::<u32>::new(dynamic_shared().address);
    // SAFETY: the plan has a merge for every `rows * slices` tasks.
    let merge_of = |index: u32| (index < end).then(|| unsafe { load_merge(params, index / slices / rows) });
    let mut first = thread::block_idx_x() * tasks_a_block;
    // The plan is there before the kernel that this one waits for has begun.
    let mut merge = merge_of(first + own);
    if !planted(Fault::CombineWait) {
        griddepcontrol_wait();
    }
    // SAFETY: handed on to the caller.
    let factor = unsafe { output::factor(&params.out) };
    while first < end {
        let index = first + own;
        let (row, column) = (index / slices % rows, index % slices * COMBINE_COLUMNS + 4 * column_lane);
        let mut task = None;
        // SAFETY: a task's shares are its merge's; each thread has 16 bytes of its own in shared memory, which are read
        // behind the barrier and written again behind the next.
        unsafe {
            if let Some(merge) = merge.filter(|merge| row < merge.rows) {
                let task = task.insert(Task { merge, row, column, share_lane, share_lanes });
                let (token, head) = task.place(params);
                let (weights, maximum, total) = weighted_sum(params, task, thread % 32);
                if share_lane == 0 && column == 0 {
                    output::store_lse(params.lse, params.q_heads, token, head, lse_log2(maximum, total));
                }
                let sink = output::sink(params.sinks, head);
                let inverse = reciprocal(total + output::weight_of_sink(sink, maximum));
                st_shared_v4_b32(sums.at(4 * thread), weights.map(|x| (x * inverse).to_bits()));
            }
            if !planted(Fault::CombineSums) {
                thread::sync_threads();
            }
            if let Some(task) = task.filter(|task| task.share_lane == 0) {
                let mut o = [0.0f32; 4];
                for lane in 0..share_lanes {
                    let part = ld_shared_v4_b32(sums.at(4 * (thread + lane * COLUMN_LANES)));
                    for element in 0..4 {
                        o[element] += f32::from_bits(part[element]);
                    }
                }
                let ((token, head), [a, b, c, d]) = (task.place(params), o.map(|x| x * factor));
                let row = output::Row::of_output(&params.out, token, head);
                row.store_pair(column, [a, b]);
                row.store_pair(column + 2, [c, d]);
            }
            if !planted(Fault::CombineDone) {
                thread::sync_threads();
            }
        }
        first += thread::grid_dim_x() * tasks_a_block;
        merge = merge_of(first + own);
    }
}

impl Task {
    /// Its query token and head, of all.
    #[inline(always)]
    const fn place(&self, params: &CombineParams) -> (u32, u32) {
        let row = self.merge.first_row + self.row;
        let token = quotient(row, params.group_reciprocal);
        (self.merge.q_start + token, self.merge.first_head + row - token * params.group)
    }
}

/// This thread's part of the sum, each share with its weight relative to the largest log-sum-exp; that one, and the sum of
/// all weights.
///
/// # Safety
/// As for the entry.
#[inline(always)]
unsafe fn weighted_sum(params: &CombineParams, task: &Task, lane: u32) -> ([f32; 4], f32, f32) {
    let merge = &task.merge;
    // Rows of partial results from one share to the next, and where the merge's first one is.
    let (rows, first_row) = (params.slot_rows as u64, merge.first_partial as u64 * params.slot_rows as u64);
    let row_of = |index: u32| first_row + task.row as u64 + index as u64 * rows;
    let lse_of = |index: u32| {
        // SAFETY: shares are below `merge.partials`, and their slots hold this plan's results.
        let [lse] = unsafe { ld_global_b32(params.partial_lse.byte_offset(4 * row_of(index) as i64).cast()) };
        f32::from_bits(lse) * params.lse_factor
    };
    let (mut maximum, mut total, mut sum) = (0.0, 0.0, [0.0f32; 4]);
    let columns = params.partial_o.byte_offset(4 * task.column as i64);
    let mut first = 0;
    while first < merge.partials {
        let mut parts = [[0u32; 4]; UNROLL as usize];
        let mut lse = [f32::NEG_INFINITY; UNROLL as usize];
        for step in 0..UNROLL {
            let index = first + task.share_lane + step * task.share_lanes;
            if index < merge.partials {
                let at = columns.byte_offset((4 * row_of(index) * params.head_dim as u64) as i64);
                // SAFETY: as above.
                parts[step as usize] = unsafe { ld_global_v4_b32(at.cast()) };
                lse[step as usize] = lse_of(index);
            }
        }
        // In the trip of the first shares.
        if first == 0 {
            (maximum, total) = warp_totals(merge.partials, lane, lse_of);
        }
        for step in 0..UNROLL as usize {
            let weight = ex2_approx_ftz(lse[step] - maximum);
            for element in 0..4 {
                sum[element] += weight * f32::from_bits(parts[step][element]);
            }
        }
        first = renewed(first + UNROLL * task.share_lanes);
    }
    (sum, maximum, total)
}

#[inline(always)]
unsafe fn load_merge(params: &CombineParams, index: u32) -> MergeItem {
    if params.merges.is_null() {
        let (rows, partials) = (params.rows, params.partials);
        return MergeItem { q_start: 0, first_head: 0, first_row: 0, rows, first_partial: 0, partials };
    }
    let at = params.merges.at(index).cast::<u32>();
    // SAFETY: the plan has this merge, of 24 bytes, aligned to 8.
    unsafe {
        let pair = |word: u32| ld_global_v2_b32(at.at(word)).map(uniform);
        let ([q_start, first_head], [first_row, rows], [first_partial, partials]) = (pair(0), pair(2), pair(4));
        MergeItem { q_start, first_head, first_row, rows, first_partial, partials }
    }
}

/// The largest log-sum-exp (0 where all are -inf) and the sum of weights; every warp works them out for itself, which
/// needs no barrier.
#[inline(always)]
fn warp_totals(partials: u32, lane: u32, lse_of: impl Fn(u32) -> f32) -> (f32, f32) {
    // Of up to 128 shares all in one trip, and kept.
    let mut kept = [f32::NEG_INFINITY; 4];
    for step in 0..4 {
        let index = lane + 32 * step;
        if index < partials {
            kept[step as usize] = lse_of(index);
        }
    }
    // The others one after another; renewed, as the compiler would make four loops of it, for one, 4, 8 and 16 shares a turn.
    let rest = |mut value: f32, add: &dyn Fn(f32, f32) -> f32| {
        let mut index = lane + 128;
        while index < partials {
            value = add(value, lse_of(index));
            index = renewed(index + 32);
        }
        value
    };
    let mut maximum = rest(kept.into_iter().fold(f32::NEG_INFINITY, f32::max), &f32::max);
    for lane_mask in [16, 8, 4, 2, 1] {
        maximum = maximum.max(f32::from_bits(shfl_bfly(maximum.to_bits(), lane_mask)));
    }
    let maximum = finite(maximum);
    let add = |total: f32, lse: f32| total + ex2_approx_ftz(lse - maximum);
    let mut total = rest(kept.into_iter().fold(0.0, add), &add);
    for lane_mask in [16, 8, 4, 2, 1] {
        total += f32::from_bits(shfl_bfly(total.to_bits(), lane_mask));
    }
    (maximum, total)
}
