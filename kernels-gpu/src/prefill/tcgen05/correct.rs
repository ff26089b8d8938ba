//! O: multiplied where what exponentials are relative to has risen, and stored when an item has all its keys. A thread has a row, as
//! many columns as tensor memory has of it.
use super::block::{Phase, TensorBlock};
use super::product::TensorProduct;
use crate::abi::{DecodeParams, PrefillParams, WorkItem};
use crate::attention::epilogue;
use crate::attention::output;
use crate::fault::{Fault, planted};
use crate::memory::{Shared, TensorMemory};
use crate::prefill::block::release;
use crate::prefill::item;
use crate::prefill::shape::{TENSOR_ROWS, WARPGROUP};
use crate::ptx::math::renewed;
use crate::ptx::mbarrier::mbarrier_wait_parity;
use crate::ptx::memory::ld_shared_b32;
use crate::ptx::sync::vote_any;
use crate::ptx::tcgen05::{
    tcgen05_fence_after_thread_sync, tcgen05_fence_before_thread_sync, tcgen05_ld_32x32b, tcgen05_st_32x32b,
    tcgen05_wait_ld, tcgen05_wait_st,
};
use cuda_std::thread;

/// Columns at a time; the assembler has two times as many under way.
const COLUMNS: usize = 16;

/// Corrects and stores the block's items.
///
/// # Safety
/// As for the entry; one warpgroup of the block calls it, a multiple of 128 threads from its first.
#[inline(always)]
pub unsafe fn correct<Q: TensorProduct>(params: &PrefillParams, block: &TensorBlock<'_>) {
    let TensorBlock { block: shared, shape, .. } = *block;
    let thread = thread::thread_idx_x() % WARPGROUP;
    // Units, and tiles: after each O of every softmax is there once.
    let (mut number, mut done, mut turn) = (0, 0, 0);
    while shared.has(turn, shape) {
        // SAFETY: factors and sums are waited for, and O for the products before.
        unsafe {
            let item = shared.wait_for_item(turn, shape);
            let tiles = item::span(item).tiles;
            for tile in tiles.first..tiles.end {
                for softmax in 0..renewed(shape.consumers) {
                    let Phase { buffer, parity } = Phase::of(number);
                    if !planted(Fault::FactorsFull) {
                        mbarrier_wait_parity(block.factors_full(buffer), parity);
                    }
                    let [factor] = ld_shared_b32(block.factors(buffer).at(thread));
                    // The first product of an item does not add to O.
                    if tile > tiles.first {
                        rescale(block, softmax, f32::from_bits(factor), done);
                    }
                    if !planted(Fault::Corrected) {
                        block.release_at_first(block.weights_full(buffer));
                    }
                    number += 1;
                }
                done += 1;
            }
            for softmax in 0..renewed(shape.consumers) {
                if tiles.first < tiles.end && !planted(Fault::OutputFull) {
                    mbarrier_wait_parity(block.output_full(softmax), (done - 1) & 1);
                }
                if !planted(Fault::OutputAfter) {
                    tcgen05_fence_after_thread_sync();
                }
                store::<Q>(&params.decode, block, item, softmax, turn, tiles.first < tiles.end);
            }
            if !planted(Fault::ItemDone) {
                release(shared.item_empty(turn, shape));
            }
        }
        turn += 1;
    }
}

/// Multiplies a row of O by `factor`, after `done` tiles.
#[inline(always)]
unsafe fn rescale(block: &TensorBlock<'_>, softmax: u32, factor: f32, done: u32) {
    // SAFETY: handed on to the caller.
    unsafe {
        // Where there are two, S of this unit was issued behind the product, and is there.
        if block.shape.consumers == 1 && !planted(Fault::OutputWait) {
            mbarrier_wait_parity(block.output_full(softmax), (done - 1) & 1);
        }
        if vote_any(factor != 1.0) {
            if !planted(Fault::OutputAfter) {
                tcgen05_fence_after_thread_sync();
            }
            let o = of_warp(block, softmax);
            // Not unrolled: more loads under way would be more registers than there are.
            let (mut column, end) = (0, renewed(columns(block)));
            while column < end {
                let part = tcgen05_wait_ld(tcgen05_ld_32x32b::<COLUMNS>(o.at_column(column)));
                tcgen05_st_32x32b::<COLUMNS>(
                    o.at_column(column),
                    part.map(|bits| (f32::from_bits(bits) * factor).to_bits()),
                );
                column += COLUMNS as u32;
            }
            if !planted(Fault::CorrectedStore) {
                tcgen05_wait_st();
            }
        }
        if !planted(Fault::CorrectedBefore) {
            tcgen05_fence_before_thread_sync();
        }
    }
}

/// Stores a row of O, which has columns in tensor memory if the item has keys.
#[inline(always)]
unsafe fn store<Q: TensorProduct>(
    params: &DecodeParams,
    block: &TensorBlock<'_>,
    item: Shared<u32>,
    softmax: u32,
    turn: u32,
    has_keys: bool,
) {
    let TensorBlock { shape, rank, .. } = *block;
    let thread = thread::thread_idx_x() % WARPGROUP;
    let (half, half_rows) = (thread / (TENSOR_ROWS / 2), TENSOR_ROWS / 2);
    // SAFETY: handed on to the caller.
    unsafe {
        if !planted(Fault::SumsFull) {
            mbarrier_wait_parity(block.sums_full(softmax), turn & 1);
        }
        let sums = block.sums(softmax);
        let read = |at: u32| f32::from_bits(ld_shared_b32(sums.at(at))[0]);
        let (maximum, mut sum) = (read(thread), read(WARPGROUP + thread));
        let (row, first_column) = if shape.pair() {
            sum += read(WARPGROUP + (thread ^ half_rows));
            (half_rows * rank + thread % half_rows, half * columns(block))
        } else {
            (TENSOR_ROWS * softmax + thread, 0)
        };
        if !planted(Fault::SumsRelease) {
            release(block.sums_empty(softmax));
        }
        let item = item::load(item);
        let factor = if item.partial == WorkItem::WHOLE { output::factor(&params.out) } else { 1.0 };
        if first_column == 0 {
            epilogue::store_lse(params, &item, row, [maximum, sum], &shape.tiling());
        }
        let row = epilogue::Row::finish(params, &item, row, [maximum, sum], &shape.tiling());
        let factor = if has_keys { row.inverse * Q::output_scale(params) * factor } else { 0.0 };
        let o = of_warp(block, softmax);
        let (mut column, end) = (0, renewed(columns(block)));
        while column < end {
            let mut part = [0.0; COLUMNS];
            if has_keys {
                part = tcgen05_wait_ld(tcgen05_ld_32x32b::<COLUMNS>(o.at_column(column)))
                    .map(|bits| f32::from_bits(bits) * factor);
            }
            if row.exists {
                row.to.from_column(first_column + column).store_run(&part);
            }
            column += COLUMNS as u32;
        }
        // The next product here does not add to what was read.
        if !planted(Fault::OutputBefore) {
            tcgen05_fence_before_thread_sync();
        }
    }
}

/// O of a softmax, from the warp's first lane on.
#[inline(always)]
fn of_warp(block: &TensorBlock<'_>, softmax: u32) -> TensorMemory {
    block.output(softmax).at_lane(thread::thread_idx_x() % WARPGROUP / 32 * 32)
}

/// Columns of a lane: of a pair, whose lanes have half of a row, half.
#[inline(always)]
const fn columns(block: &TensorBlock<'_>) -> u32 {
    block.shape.head_dim / block.shape.cluster
}
