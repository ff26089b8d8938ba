//! Probes of clusters: copies to several blocks, and each other's shared memory.
use super::hopper::HopperTrial;
use crate::memory::{Peer, Shared};
use crate::ptx::bulk::cp_async_bulk_tensor_2d_multicast;
use crate::ptx::cluster::*;
use crate::ptx::mbarrier::*;
use crate::ptx::memory::{ld_shared_b32, st_shared_b32};

/// [`cp_async_bulk_tensor_2d_multicast`] in clusters of 2: each block copies the box of 8 rows at its own coordinates to
/// both, in the order of ranks; both tiles.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn multicast(trial: &HopperTrial) {
    // SAFETY: both blocks are there from the first meeting to the second.
    unsafe {
        trial.begin(1);
        cluster_arrive();
        cluster_wait();
        if trial.trial.thread == 0 {
            mbarrier_arrive_expect_tx(trial.barrier(0), 2048);
            let at = [trial.trial.load(0) as i32, trial.trial.load(1) as i32];
            let tile = trial.tile().byte_offset(1024 * cluster_ctarank());
            cp_async_bulk_tensor_2d_multicast(tile, trial.maps, at, trial.barrier(0), 3);
        }
        mbarrier_wait_parity(trial.barrier(0), 0);
        trial.leave(0, 512);
        cluster_arrive();
        cluster_wait();
    }
}

/// Distributed shared memory in clusters of 4, 32 operands a block: each thread stores its word to the next block and
/// arrives at its mbarrier; results are what the block before stored, what the block opposite has, ranks.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn distributed(trial: &HopperTrial) {
    let (rank, lane) = (cluster_ctarank(), trial.trial.thread);
    let peer = |address: Shared<u32>, rank: u32| -> Peer<u32> { mapa(address, rank % 4) };
    // SAFETY: all blocks are there from the first meeting to the last.
    unsafe {
        trial.begin(32);
        let word = trial.trial.load(lane);
        st_shared_b32(trial.word(32 + lane), [word]);
        fence_release_shared();
        cluster_arrive_relaxed();
        cluster_wait();
        st_shared_cluster_b32(peer(trial.word(lane), rank + 1), [word]);
        mbarrier_arrive_cluster(mapa(trial.barrier(0), (rank + 1) % 4));
        while !mbarrier_try_wait_parity_cluster(trial.barrier(0), 0) {}
        trial.trial.store(lane, ld_shared_b32(trial.word(lane))[0]);
        trial.trial.store(32 + lane, ld_shared_cluster_b32(peer(trial.word(32 + lane), rank + 2))[0]);
        trial.trial.store(64 + lane, cluster_nctarank() << 8 | rank);
        cluster_arrive();
        cluster_wait();
    }
}

/// [`st_async_v4_b32`] and [`st_async_v2_b32`] in clusters of 4, 192 operands a block: each thread gives 4 words to the next block
/// and 2 to the one after, which wait for the bytes of both; the 192 that came.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn told(trial: &HopperTrial) {
    let (rank, lane) = (cluster_ctarank(), trial.trial.thread);
    let of = |steps: u32| (rank + steps) % 4;
    // SAFETY: all blocks are there from the first meeting to the last.
    unsafe {
        trial.begin(1);
        if lane == 0 {
            mbarrier_arrive_expect_tx(trial.barrier(0), 32 * (16 + 8));
        }
        cluster_arrive();
        cluster_wait();
        let four = [0, 1, 2, 3].map(|word| trial.trial.load(4 * lane + word));
        let two = [0, 1].map(|word| trial.trial.load(128 + 2 * lane + word));
        st_async_v4_b32(mapa(trial.word(4 * lane), of(1)), four, mapa(trial.barrier(0), of(1)));
        st_async_v2_b32(mapa(trial.word(128 + 2 * lane), of(2)), two, mapa(trial.barrier(0), of(2)));
        mbarrier_wait_parity(trial.barrier(0), 0);
        trial.leave(0, 192);
        cluster_arrive();
        cluster_wait();
    }
}
