//! Probes of what makes threads wait: rounds of an exchange through shared memory, in which each thread first runs along a
//! chain of loads as long as its operands say. A barrier that let anybody pass early would show them an old value.
//!
//! Two buffers are used in turn, so that a round needs one barrier: who writes one has passed the barrier of the other,
//! and so has everybody who read it.
use super::Trial;
use crate::memory::Shared;
use crate::ptx::memory::{dynamic_shared, ld_shared_b32, st_shared_b32};
use crate::ptx::sync::{bar_sync, bar_warp_sync};
use cuda_std::thread;

/// Words of the chain: each is the number of the next one.
pub const CHAIN: u32 = 64;
/// Rounds of an exchange.
pub const ROUNDS: u32 = 8;

/// What a thread has after a round, from what it and its partner had, and where its walk along the chain has come to.
#[inline(always)]
pub const fn mixed(own: u32, partner: u32, place: u32) -> u32 {
    own.wrapping_mul(5).wrapping_add(partner).wrapping_add(place)
}

/// The rounds: `steps(round)` is the index of the thread's number of steps, its value is at `value`, `partner(round)` is
/// the thread whose value it takes, and `meet(round)` the barrier.
#[inline(always)]
pub(super) unsafe fn exchange(
    trial: &Trial,
    threads: u32,
    value: u32,
    steps: impl Fn(u32) -> u32,
    partner: impl Fn(u32) -> u32,
    meet: impl Fn(u32),
) {
    let slot = |round: u32, thread: u32| Shared::new(dynamic_shared().address + 4 * (round % 2 * threads + thread));
    // SAFETY: operands are the block's; slots are each thread's own, and read behind the barrier.
    unsafe {
        let mut value = trial.load(value);
        let mut place = trial.thread % CHAIN;
        for round in 0..ROUNDS {
            for _ in 0..trial.load(steps(round)) {
                place = trial.load(place);
            }
            st_shared_b32(slot(round, trial.thread), [value]);
            meet(round);
            let [other] = ld_shared_b32(slot(round, partner(round)));
            value = mixed(value, other, place);
        }
        trial.store(trial.thread, value);
    }
}

/// [`bar_sync`] of barriers 1 and 2, two warps each: the chain, 8 numbers of steps a warp, 128 values; 128 results.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn pairs_of_warps(trial: &Trial) {
    let warp = trial.thread / 32;
    let (steps, partner) = (|round: u32| CHAIN + warp * ROUNDS + round, |_: u32| trial.thread ^ 32);
    // SAFETY: the caller's.
    unsafe { exchange(trial, 128, CHAIN + 32 + trial.thread, steps, partner, |_| bar_sync(1 + warp / 2, 64)) }
}

/// [`thread::sync_threads`]: as [`pairs_of_warps`], with the value of the next warp.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn block(trial: &Trial) {
    let warp = trial.thread / 32;
    let (steps, partner) = (|round: u32| CHAIN + warp * ROUNDS + round, |_: u32| (trial.thread + 32) % 128);
    // SAFETY: the caller's.
    unsafe { exchange(trial, 128, CHAIN + 32 + trial.thread, steps, partner, |_| thread::sync_threads()) }
}

/// [`bar_warp_sync`]: the chain, 8 numbers of steps a lane, 32 values; 32 results. Lanes take steps of their own, so that
/// they come apart before each barrier; the partner is another in each round.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn warp(trial: &Trial) {
    let lane = trial.thread;
    let (steps, partner) = (|round: u32| CHAIN + lane * ROUNDS + round, |round: u32| lane ^ (1u32 << (round % 5)));
    // SAFETY: the caller's.
    unsafe { exchange(trial, 32, CHAIN + 32 * ROUNDS + lane, steps, partner, |_| bar_warp_sync()) }
}
