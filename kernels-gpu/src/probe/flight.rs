//! A probe of what `wgmma` is for: S of the next step and O of this one under way together, the loop of attention without
//! its softmax. Whether the compiler leaves registers in flight alone shows here: a move between a fence and its wait, and
//! ptxas says that it waits after each product.
//!
//! Operand words are [`SHARED_BYTES`] of shared memory: Q, then K and V of each of [`STEPS`] steps, tiles of 64 rows of 128
//! bytes, swizzled. Results: 32 words a thread of O = (Q K^T, as bf16) V, summed over the steps.
use super::Trial;
use crate::element::{Bf16, Element};
use crate::layout::descriptor::{Descriptor, KMajor, MnMajor};
use crate::memory::Shared;
use crate::ptx::memory::{dynamic_shared, ld_global_v4_b32, st_shared_v4_b32};
use crate::ptx::sync::fence_proxy_async_shared;
use crate::ptx::wgmma::{
    Accumulator, Columns, Fenced, InFlight, Tile, wgmma_bf16_rs, wgmma_bf16_ss, wgmma_commit_group, wgmma_fence,
    wgmma_wait_group,
};
use cuda_std::thread;

/// Steps of [`TILE_ROWS`] keys.
pub const STEPS: u32 = 3;
/// Rows and columns of a tile.
pub const TILE_ROWS: u32 = 64;
/// Bytes of a tile.
pub const TILE_BYTES: u32 = TILE_ROWS * 128;
/// Of all tiles.
pub const SHARED_BYTES: u32 = (1 + 2 * STEPS) * TILE_BYTES;

type Scores = <Columns<64> as Tile>::Accumulator;
type Output = <Columns<64> as Tile>::Accumulator;
type Weights = <Columns<64> as Tile>::Fragments;
const DEPTH: usize = 4;

/// S = Q K^T, a group of its own.
#[inline(always)]
unsafe fn scores(mut s: InFlight<Scores>, q: Shared<u8>, k: Shared<u8>) -> InFlight<Scores> {
    let (q, k) = (Descriptor::<KMajor>::of_rows(q), Descriptor::<KMajor>::of_rows(k));
    for step in 0..DEPTH as u32 {
        // SAFETY: the caller's.
        s = unsafe { wgmma_bf16_ss(s, q.step(step, TILE_ROWS), k.step(step, TILE_ROWS), step > 0) };
    }
    wgmma_commit_group();
    s
}

/// O += P V, a group of its own.
#[inline(always)]
unsafe fn output(o: InFlight<Output>, p: Fenced<DEPTH>, v: Shared<u8>) -> InFlight<Output, Fenced<DEPTH>> {
    let mut o = o.fed_by(p);
    let v = Descriptor::<MnMajor>::of_columns(v, TILE_ROWS);
    for step in 0..DEPTH as u32 {
        // SAFETY: the caller's.
        o = unsafe { wgmma_bf16_rs(o, step as usize, v.step(step), true) };
    }
    wgmma_commit_group();
    o
}

/// S as fragments of A.
#[inline(always)]
fn weights(s: &Scores) -> Weights {
    let mut p = [[0; 4]; DEPTH];
    for step in 0..DEPTH {
        for word in 0..4 {
            p[step][word] = Bf16::pack(s[8 * step + 2 * word], s[8 * step + 2 * word + 1]);
        }
    }
    p
}

/// See above.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn two_in_flight(trial: &Trial) {
    let q = dynamic_shared();
    let k = |step: u32| q.byte_offset((1 + 2 * step) * TILE_BYTES);
    let v = |step: u32| q.byte_offset((2 + 2 * step) * TILE_BYTES);
    // SAFETY: operands and results are this thread's; shared memory is written before it is fenced, and not again.
    unsafe {
        let mut word = 4 * trial.thread;
        while word < SHARED_BYTES / 4 {
            st_shared_v4_b32(q.cast::<u32>().at(word), ld_global_v4_b32(trial.input(word)));
            word += 512;
        }
        fence_proxy_async_shared();
        thread::sync_threads();

        let s = scores(wgmma_fence(Scores::ZERO), q, k(0));
        let mut s = wgmma_wait_group::<0, _>(s);
        let mut p = weights(&s);
        let mut o = Output::ZERO;
        let mut step = 0;
        while step + 1 < STEPS {
            let (next, sum, fenced) = wgmma_fence((s, o, p));
            let next = scores(next, q, k(step + 1));
            let sum = output(sum, fenced, v(step));
            s = wgmma_wait_group::<1, _>(next);
            p = weights(&s); // the softmax of the next step, while O is still in flight
            o = wgmma_wait_group::<0, _>(sum);
            step += 1;
        }
        let (sum, fenced) = wgmma_fence((o, p));
        let o = wgmma_wait_group::<0, _>(output(sum, fenced, v(STEPS - 1)));
        for (index, value) in (0..).zip(o) {
            trial.store(32 * trial.thread + index, value.to_bits());
        }
    }
}
