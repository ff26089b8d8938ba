//! Probes of what Hopper adds: mbarriers, bulk and tensor copies, clusters. They have parameters of their own, with tensor
//! maps, a cluster size, and are not in PTX for sm_80.
use super::order::{self, exchange};
use super::{Trial, clusters};
use crate::layout::tensor_map::{TensorMap, TileSwizzle, TiledLayout};
use crate::memory::{Global, Mbarrier, Shared, TensorMapAddress};
use crate::ptx::bulk::{tensor_maps, *};
use crate::ptx::math::renewed;
use crate::ptx::mbarrier::*;
use crate::ptx::memory::{dynamic_shared, ld_shared_b32, st_shared_b32};
use crate::ptx::registers::{setmaxnreg_dec, setmaxnreg_inc};
use crate::ptx::sync::{bar_arrive, bar_sync, elect_sync, fence_proxy_async_shared};
#[allow(unused_imports)] // `kernel` is used by the entries' expansion for the device alone
use cuda_std::prelude::*;

/// What these probes are launched with.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HopperParams {
    /// Of the operands of all blocks as one tensor, and of their results.
    pub maps: [TensorMap; 2],
    /// Operands, `[blocks, input_words]`, aligned to 16 bytes.
    pub input: Global<u32>,
    /// Results, `[blocks, output_words]`, aligned to 16 bytes.
    pub output: Global<u32>,
}

/// One of these probes.
#[derive(Clone, Copy, Debug)]
pub struct HopperProbe {
    /// Its name in the PTX.
    pub name: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Blocks of a cluster.
    pub cluster: u32,
    /// Words of operands a block.
    pub input_words: u32,
    /// Words of results a block.
    pub output_words: u32,
    /// The operands of all blocks, at least [`BLOCKS`], as a tensor.
    pub input_map: Option<TiledLayout>,
    /// The results of [`BLOCKS`] blocks as a tensor.
    pub output_map: Option<TiledLayout>,
}

impl HopperProbe {
    /// Whether the PTX for `arch` has it: what it tries came with Hopper, and stayed.
    pub fn is_for(&self, arch: &str) -> bool {
        arch != "sm_80"
    }
}

/// Blocks that the tensors are of.
pub const BLOCKS: u32 = 32;
/// Where tiles begin: mbarriers are before them.
const TILES: u32 = 1024;

/// A thread's view of a trial, with the maps.
pub struct HopperTrial {
    pub(super) trial: Trial,
    pub(super) maps: TensorMapAddress,
}

impl HopperTrial {
    /// Mbarrier `index` of the block.
    #[inline(always)]
    pub(super) fn barrier(&self, index: u32) -> Shared<Mbarrier> {
        Shared::new(dynamic_shared().address + 8 * index)
    }

    /// Word `index` of the tile.
    #[inline(always)]
    pub(super) fn word(&self, index: u32) -> Shared<u32> {
        Shared::new(dynamic_shared().address + TILES + 4 * index)
    }

    #[inline(always)]
    pub(super) fn tile(&self) -> Shared<u8> {
        Shared::new(dynamic_shared().address + TILES)
    }

    /// Initialises mbarrier 0, in a way that copies and all threads of the block see.
    ///
    /// # Safety
    /// Nothing is there yet.
    #[inline(always)]
    pub(super) unsafe fn begin(&self, arrivals: u32) {
        // Not seen to be the same question as the one that follows in most probes, or the assembler puts both into one branch, the
        // block's barrier between them too, where lane 0 is alone.
        if renewed(self.trial.thread) == 0 {
            // SAFETY: the caller's promise.
            unsafe { mbarrier_init(self.barrier(0), arrivals) }
            fence_mbarrier_init();
        }
        thread::sync_threads();
    }

    /// Leaves `words` words of the tile as results from `first` on.
    ///
    /// # Safety
    /// They are there, and observed.
    #[inline(always)]
    pub(super) unsafe fn leave(&self, first: u32, words: u32) {
        let mut word = self.trial.thread;
        while word < words {
            // SAFETY: the caller's promise; a word is one thread's.
            unsafe { self.trial.store(first + word, ld_shared_b32(self.word(word))[0]) };
            word += thread::block_dim_x();
        }
    }
}

/// A tensor of 16-bit elements in rows of 256 bytes, of which the last and 48 bytes of each row are not the tensor's.
const fn rows(box_sizes: [u32; 2], swizzle: TileSwizzle, rows: u32) -> Option<TiledLayout> {
    Some(TiledLayout {
        rank: 2,
        element_bytes: 2,
        sizes: [104, rows as u64 - 1, 0, 0, 0],
        strides: [256, 0, 0, 0],
        box_sizes: [box_sizes[0], box_sizes[1], 0, 0, 0],
        swizzle,
    })
}

/// The same bytes in more dimensions: 64 bytes, then 4, 3 and the rest by 2 dimensions that skip and overlap.
const fn dimensions(rank: u32, box_sizes: [u32; 5], swizzle: TileSwizzle) -> Option<TiledLayout> {
    let (sizes, strides) = ([64, 4, 3, 2, 6], [64, 256, 512, 1024]);
    Some(TiledLayout { rank, element_bytes: 1, sizes, strides, box_sizes, swizzle })
}

/// The mbarrier in place of a block's barrier: as [`order::block`].
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn phases(trial: &HopperTrial) {
    let barrier = Shared::new(dynamic_shared().address + 1024);
    // SAFETY: behind the exchange's words.
    unsafe {
        if trial.trial.thread == 0 {
            mbarrier_init(barrier, 128);
        }
        thread::sync_threads();
        let warp = trial.trial.thread / 32;
        let (steps, partner) =
            (|round: u32| order::CHAIN + warp * order::ROUNDS + round, |_: u32| (trial.trial.thread + 32) % 128);
        exchange(&trial.trial, 128, order::CHAIN + 32 + trial.trial.thread, steps, partner, |round| {
            mbarrier_arrive(barrier);
            mbarrier_wait_parity(barrier, round % 2);
        });
    }
}

/// [`cp_async_bulk`]: 128 words, which arrive in two copies, the second one first; 128 results.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn bulk(trial: &HopperTrial) {
    // SAFETY: the block's operands, and its tile.
    unsafe {
        trial.begin(1);
        if trial.trial.thread == 0 {
            mbarrier_expect_tx(trial.barrier(0), 64);
            let (near, far) = (trial.trial.input(0).cast(), trial.trial.input(16).cast());
            cp_async_bulk(trial.tile().byte_offset(64), far, 448, trial.barrier(0));
            cp_async_bulk(trial.tile(), near, 64, trial.barrier(0));
            mbarrier_arrive_expect_tx(trial.barrier(0), 448);
        }
        mbarrier_wait_parity(trial.barrier(0), 0);
        trial.leave(0, 128);
    }
}

/// A box of `words` words whose coordinates are the first operands, copied by `load`.
#[inline(always)]
unsafe fn boxed<const N: usize>(
    trial: &HopperTrial,
    words: u32,
    load: impl Fn(Shared<u8>, TensorMapAddress, [i32; N], Shared<Mbarrier>),
) {
    // SAFETY: the block's operands, and its tile.
    unsafe {
        trial.begin(1);
        if elect_sync() && trial.trial.thread < 32 {
            prefetch_tensormap(trial.maps);
            let mut coordinates = [0; N];
            for dimension in 0..N {
                coordinates[dimension] = trial.trial.load(dimension as u32) as i32;
            }
            mbarrier_arrive_expect_tx(trial.barrier(0), 4 * words);
            load(trial.tile(), trial.maps, coordinates, trial.barrier(0));
        }
        mbarrier_wait_parity(trial.barrier(0), 0);
        trial.leave(0, words);
    }
}

macro_rules! boxes {
    ($($name:ident, $n:literal, $load:ident;)*) => {$(
        #[doc = concat!("[`", stringify!($load), "`] of `WORDS` words: ", $n, " coordinates; the tile.")]
        ///
        /// # Safety
        /// As for the probe.
        #[inline(always)]
        pub unsafe fn $name<const WORDS: u32>(trial: &HopperTrial) {
            // SAFETY: handed on.
            unsafe { boxed::<$n>(trial, WORDS, |to, map, at, barrier| $load(to, map, at, barrier)) }
        }
    )*};
}

boxes! {
    two, 2, cp_async_bulk_tensor_2d;
    three, 3, cp_async_bulk_tensor_3d;
    four, 4, cp_async_bulk_tensor_4d;
    five, 5, cp_async_bulk_tensor_5d;
}

/// [`cp_async_bulk_tensor_2d_store`]: 256 words, stored as a box of 8 rows at column 64 of the results' row `8 block`.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn store(trial: &HopperTrial) {
    // SAFETY: a block's rows are its own.
    unsafe {
        let mut word = trial.trial.thread;
        while word < 256 {
            st_shared_b32(trial.word(word), [trial.trial.load(word)]);
            word += 32;
        }
        fence_proxy_async_shared();
        thread::sync_threads();
        if trial.trial.thread == 0 {
            let row = 8 * thread::block_idx_x();
            cp_async_bulk_tensor_2d_store(trial.maps.at(1), [64, row as i32], trial.tile());
            cp_async_bulk_commit_group();
            cp_async_bulk_wait_group_read::<0>();
            cp_async_bulk_wait_group::<0>();
        }
    }
}

/// [`elect_sync`], and [`bar_arrive`] by one warp for another; [`setmaxnreg_dec`] and [`setmaxnreg_inc`] by warpgroups of 3:
/// 384 operands; 384 results, those of the first warpgroup by the second.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn warpgroups(trial: &HopperTrial) {
    let me = trial.trial.thread;
    // SAFETY: a word is one thread's, or read behind the barrier that its writer arrived at.
    unsafe {
        let word = trial.trial.load(me);
        if me < 128 {
            setmaxnreg_dec::<24>();
            st_shared_b32(trial.word(me), [word]);
            bar_arrive(1, 256);
        } else {
            setmaxnreg_inc::<240>();
            if me < 256 {
                bar_sync(1, 256);
                trial.trial.store(me - 128, ld_shared_b32(trial.word(me - 128))[0]);
            }
            trial.trial.store(me, word.wrapping_add(u32::from(elect_sync())));
        }
    }
}

macro_rules! hopper_probes {
    ($($name:ident = $body:path, $threads:literal threads, $shared:literal shared, $cluster:literal cluster, $input:literal => $output:literal, $from:expr => $to:expr;)*) => {
        /// Every one of these probes, in the order of this list.
        pub const HOPPER_PROBES: &[HopperProbe] = &[$(HopperProbe {
            name: stringify!($name),
            threads: $threads,
            shared_bytes: $shared,
            cluster: $cluster,
            input_words: $input,
            output_words: $output,
            input_map: $from,
            output_map: $to,
        },)*];

        /// The probes as one simulated thread runs them.
        ///
        /// # Panics
        /// Where no probe has that name.
        ///
        /// # Safety
        /// As for the probes. (The simulator reports it where it is not so.)
        #[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
        pub unsafe fn run(name: &str, params: &HopperParams) {
            match name {
                // SAFETY: handed on to the caller.
                $(stringify!($name) => unsafe { $name(*params) },)*
                _ => panic!("{name} is no probe"),
            }
        }

        $(
            #[doc = concat!("Probe: see [`", stringify!($body), "`].")]
            ///
            /// # Safety
            /// The buffers are live and as long as [`HopperProbe`] says, for all blocks, and the maps are theirs.
            #[cfg_attr(target_arch = "nvptx64", kernel)]
            pub unsafe fn $name(params: HopperParams) {
                let maps = tensor_maps!($name, params);
                let block = thread::block_idx_x();
                let trial = Trial {
                    thread: thread::thread_idx_x(),
                    input: params.input.at(block * $input),
                    output: params.output.at(block * $output),
                };
                // SAFETY: handed on to the caller.
                unsafe { $body(&HopperTrial { trial, maps }) }
            }
        )*
    };
}

hopper_probes! {
    probe_mbarrier = phases, 128 threads, 1032 shared, 1 cluster, 224 => 128, None => None;
    probe_bulk = bulk, 64 threads, 1536 shared, 1 cluster, 128 => 128, None => None;
    probe_tensor_2d = two::<192>, 64 threads, 2048 shared, 1 cluster, 128 => 192, rows([24, 16], TileSwizzle::None, 64) => None;
    probe_tensor_2d_32 = two::<128>, 64 threads, 2048 shared, 1 cluster, 128 => 128, rows([16, 16], TileSwizzle::Bytes32, 64) => None;
    probe_tensor_2d_64 = two::<256>, 64 threads, 2048 shared, 1 cluster, 128 => 256, rows([32, 16], TileSwizzle::Bytes64, 64) => None;
    probe_tensor_2d_128 = two::<512>, 64 threads, 3072 shared, 1 cluster, 128 => 512, rows([64, 16], TileSwizzle::Bytes128, 64) => None;
    probe_tensor_3d = three::<144>, 64 threads, 2048 shared, 1 cluster, 128 => 144, dimensions(3, [64, 3, 3, 0, 0], TileSwizzle::Bytes64) => None;
    probe_tensor_4d = four::<144>, 64 threads, 2048 shared, 1 cluster, 128 => 144, dimensions(4, [32, 3, 3, 2, 0], TileSwizzle::Bytes32) => None;
    probe_tensor_5d = five::<192>, 64 threads, 2048 shared, 1 cluster, 128 => 192, dimensions(5, [16, 3, 2, 2, 4], TileSwizzle::None) => None;
    probe_tensor_store = store, 32 threads, 2048 shared, 1 cluster, 256 => 512, None => rows([64, 8], TileSwizzle::Bytes128, 256);
    probe_multicast = clusters::multicast, 64 threads, 3072 shared, 2 cluster, 128 => 512, rows([64, 8], TileSwizzle::Bytes128, 64) => None;
    probe_distributed = clusters::distributed, 32 threads, 2048 shared, 4 cluster, 32 => 96, None => None;
    probe_st_async = clusters::told, 32 threads, 2048 shared, 4 cluster, 192 => 192, None => None;
    probe_warpgroups = warpgroups, 384 threads, 1536 shared, 1 cluster, 384 => 384, None => None;
}
