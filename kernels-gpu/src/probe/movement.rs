//! Probes of what moves words: between lanes, and between registers, shared and global memory.
use super::Trial;
use crate::memory::{Global, Shared};
use crate::ptx::copy::{cp_async_4, cp_async_16, cp_async_commit_group, cp_async_wait_group};
use crate::ptx::memory::{
    dynamic_shared, ld_global_b32, ld_global_v2_b32, ld_global_v4_b32, ld_shared_b32, ld_shared_v2_b32,
    ld_shared_v4_b32, st_global_b8, st_global_b32, st_global_v2_b32, st_global_v4_b32, st_shared_b32, st_shared_v2_b32,
    st_shared_v4_b32,
};
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
use crate::ptx::mma::stmatrix_x4;
use crate::ptx::mma::{ldmatrix_x4, ldmatrix_x4_trans};
use crate::ptx::sync::{bar_warp_sync, shfl_bfly, shfl_idx, vote_any};
use cuda_std::thread;

/// What shared memory holds before a copy that may not reach it.
pub const UNTOUCHED: u32 = 0xDEAD_BEEF;

/// The 16 bytes `index` of shared memory.
#[inline(always)]
fn chunk(index: u32) -> Shared<u8> {
    dynamic_shared().byte_offset(16 * index)
}

#[inline(always)]
fn words(chunk: Shared<u8>) -> Shared<u32> {
    Shared::new(chunk.address)
}

/// [`vote_any`]: 32 values, of which a lane says whether its own is odd; 32 results.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn any(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { trial.store(trial.thread, vote_any(trial.load(trial.thread) % 2 == 1) as u32) }
}

/// [`shfl_bfly`]: 32 values, 32 lane masks; 32 results.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn bfly(trial: &Trial) {
    // SAFETY: this lane's words.
    unsafe { trial.store(trial.thread, shfl_bfly(trial.load(trial.thread), trial.load(32 + trial.thread))) }
}

/// [`shfl_idx`]: 32 values, 32 lanes; 32 results.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn idx(trial: &Trial) {
    // SAFETY: this lane's words.
    unsafe { trial.store(trial.thread, shfl_idx(trial.load(trial.thread), trial.load(32 + trial.thread))) }
}

/// Loads and stores of global memory, 8 words a lane: word 0 by `b32`, word 1 not at all, 2 and 3 by `v2`, 4 to 7 by `v4`.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn global(trial: &Trial) {
    let first = 8 * trial.thread;
    // SAFETY: this lane's words; a lane's are aligned to 32 bytes.
    unsafe {
        st_global_b32(trial.output(first), ld_global_b32(trial.input(first)));
        st_global_v2_b32(trial.output(first + 2), ld_global_v2_b32(trial.input(first + 2)));
        st_global_v4_b32(trial.output(first + 4), ld_global_v4_b32(trial.input(first + 4)));
    }
}

/// [`st_global_b8`]: 1 word a lane; 2 results, of which the lane's word is stored byte by byte to the bytes 1, 2, 4 and 7.
/// Neighbours of a byte stay as they were, and no byte of a word need be at a multiple of 4.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn global_bytes(trial: &Trial) {
    // SAFETY: this lane's words.
    unsafe {
        let word = trial.load(trial.thread);
        let at = trial.output(2 * trial.thread).cast::<u8>();
        for (byte, place) in [1, 2, 4, 7].into_iter().enumerate() {
            // The bytes above the one that is stored are not zero: they must not matter.
            st_global_b8(at.at(place), word >> (8 * byte));
        }
    }
}

/// Loads and stores of shared memory, 8 words a lane: 0 to 3 go in by `b32` and out by `v4` of the lane `own ^ 5`, 4 to 7
/// in by `v4` and out by `v2`, in again by `v2`, and out by `b32` of that lane. Result word 256: the address of shared memory modulo 1024.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn shared(trial: &Trial) {
    let first = 8 * trial.thread;
    let (own, other) = (2 * trial.thread, 2 * (trial.thread ^ 5));
    // SAFETY: each lane writes its own 32 bytes, and reads another's behind the barrier.
    unsafe {
        for word in 0..4 {
            st_shared_b32(words(chunk(own).byte_offset(4 * word)), [trial.load(first + word)]);
        }
        st_shared_v4_b32(words(chunk(own + 1)), ld_global_v4_b32(trial.input(first + 4)));
        let halves = [0, 8].map(|byte| words(chunk(own + 1).byte_offset(byte)));
        for half in halves {
            st_shared_v2_b32(half, ld_shared_v2_b32(half));
        }
        bar_warp_sync();
        st_global_v4_b32(trial.output(first), ld_shared_v4_b32(words(chunk(other))));
        for word in 0..4 {
            trial.store(first + 4 + word, ld_shared_b32(words(chunk(other + 1).byte_offset(4 * word)))[0]);
        }
        if trial.thread == 0 {
            trial.store(256, dynamic_shared().address % 1024);
        }
    }
}

/// 32 chunk numbers below 256, one a lane, then the 256 chunks; results: 4 words a lane.
#[inline(always)]
unsafe fn matrix(trial: &Trial, load: impl Fn(Shared<u8>) -> [u32; 4]) {
    // SAFETY: every lane fills 8 chunks; all are read behind the barrier.
    unsafe {
        for index in 0..8 {
            let at = 8 * trial.thread + index;
            st_shared_v4_b32(words(chunk(at)), ld_global_v4_b32(trial.input(32 + 4 * at)));
        }
        bar_warp_sync();
        st_global_v4_b32(trial.output(4 * trial.thread), load(chunk(trial.load(trial.thread))));
    }
}

/// [`ldmatrix_x4`]: 32 chunk numbers, 256 chunks of 16 bytes; 4 results a lane.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn ldmatrix(trial: &Trial) {
    // SAFETY: rows are written before.
    unsafe { matrix(trial, |row| ldmatrix_x4(row)) }
}

/// [`ldmatrix_x4_trans`]: as [`ldmatrix`].
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn ldmatrix_trans(trial: &Trial) {
    // SAFETY: rows are written before.
    unsafe { matrix(trial, |row| ldmatrix_x4_trans(row)) }
}

/// [`stmatrix_x4`]: 128 chunk numbers below 128, all different, 4 words a lane; results: the 128 chunks of shared memory.
///
/// # Safety
/// As for the probe.
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
#[inline(always)]
pub unsafe fn stmatrix(trial: &Trial) {
    // SAFETY: each lane names a chunk of its own; all are read behind the barrier.
    unsafe {
        stmatrix_x4(chunk(trial.load(trial.thread)), ld_global_v4_b32(trial.input(128 + 4 * trial.thread)));
        thread::sync_threads();
        st_global_v4_b32(trial.output(4 * trial.thread), ld_shared_v4_b32(words(chunk(trial.thread))));
    }
}

/// See [`copy`]; `start` is the instruction.
#[inline(always)]
unsafe fn copied(trial: &Trial, start: impl Fn(Shared<u8>, Global<u8>, u32)) {
    let lane = trial.thread;
    // SAFETY: each lane fills one chunk and copies to one; in between, and before all are read, all have met.
    unsafe {
        st_shared_v4_b32(words(chunk(lane)), [UNTOUCHED; 4]);
        bar_warp_sync();
        let (bytes, to) = (trial.load(lane), trial.load(32 + lane));
        start(chunk(to), trial.input(64 + 4 * lane).cast(), bytes);
        cp_async_commit_group();
        cp_async_wait_group::<0>();
        bar_warp_sync();
        st_global_v4_b32(trial.output(4 * lane), ld_shared_v4_b32(words(chunk(lane))));
    }
}

/// [`cp_async_16`]: 32 sizes from 0 to the copy's width, 32 chunk numbers below 32, all different, 32 sources of 16 bytes;
/// results: the 32 chunks of shared memory, [`UNTOUCHED`] before.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn copy(trial: &Trial) {
    // SAFETY: chunks are the block's, and aligned to 16.
    unsafe { copied(trial, |to, from, bytes| cp_async_16(to, from, bytes)) }
}

/// [`cp_async_4`]: as [`copy`].
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn copy_4(trial: &Trial) {
    // SAFETY: chunks are the block's, and aligned to 16.
    unsafe { copied(trial, |to, from, bytes| cp_async_4(to, from, bytes)) }
}

/// Groups of [`copy_groups`].
const GROUPS: u32 = 12;

/// Whether a group has a copy.
#[inline(always)]
pub const fn has_copy(group: u32) -> bool {
    group != 5 && group != 8
}

/// [`cp_async_commit_group`] and [`cp_async_wait_group`]: 12 groups of a chunk a lane, two of them empty, waited for as
/// the rings of the kernels do: all but 10, all but 6, all but 2, all. What each wait promises is read behind it.
/// Results of the empty groups are [`UNTOUCHED`].
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn copy_groups(trial: &Trial) {
    let at = |group: u32| 32 * group + trial.thread;
    // SAFETY: a lane copies to and reads chunks of its own alone.
    unsafe {
        for group in 0..GROUPS {
            if has_copy(group) {
                cp_async_16(chunk(at(group)), trial.input(4 * at(group)).cast(), 16);
            } else {
                st_shared_v4_b32(words(chunk(at(group))), [UNTOUCHED; 4]);
            }
            cp_async_commit_group();
        }
        let read = |groups: core::ops::Range<u32>| {
            for group in groups {
                st_global_v4_b32(trial.output(4 * at(group)), ld_shared_v4_b32(words(chunk(at(group)))));
            }
        };
        cp_async_wait_group::<10>();
        read(0..2);
        cp_async_wait_group::<6>();
        read(2..6);
        cp_async_wait_group::<2>();
        read(6..10);
        cp_async_wait_group::<0>();
        read(10..12);
    }
}

/// Where a thread is: 4 results a thread (its index, the block's, threads a block, blocks).
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn indices(trial: &Trial) {
    let values = [thread::thread_idx_x(), thread::block_idx_x(), thread::block_dim_x(), thread::grid_dim_x()];
    // SAFETY: this thread's words.
    unsafe { st_global_v4_b32(trial.output(4 * trial.thread), values) }
}
