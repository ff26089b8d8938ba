//! What a block of Blackwell has besides: accumulators in tensor memory, and the mbarriers by which products, softmax and correction
//! tell each other what is there.
//!
//! A *unit* is what is multiplied at a time: 128 rows (of a pair of blocks) and a tile of keys. Units of a block are numbered through
//! its items; those of one tile, of each softmax one, follow one another. S of unit `u` is in buffer `u % 2`, where P takes its place, and
//! O belongs to the softmax.
use crate::fault::{Fault, planted};
use crate::memory::{Mbarrier, Shared, TensorMemory};
use crate::prefill::block::{Block, Side};
use crate::prefill::shape::{PrefillShape, WARPGROUP};
use crate::ptx::cluster::{cluster_ctarank, mapa};
use crate::ptx::mbarrier::{
    mbarrier_arrive_cluster, mbarrier_init, mbarrier_wait_parity, mbarrier_wait_parity_cluster,
};
use crate::ptx::memory::ld_shared_b32;
use crate::ptx::sync::{bar_warp_sync, uniform};
use crate::ptx::tcgen05::{tcgen05_commit, tcgen05_commit_multicast};
use cuda_std::thread;

/// Buffers of S.
pub const BUFFERS: u32 = 2;

/// Bytes of a number of each thread of a warpgroup.
const NUMBERS: u32 = WARPGROUP * 4;

/// A block, and what its shape and rank say.
#[derive(Clone, Copy)]
pub struct TensorBlock<'a> {
    /// Its rings, items and queries.
    pub block: Block,
    /// Its rank in the pair; 0 where it is alone. The pair's products are issued by rank 0.
    pub rank: u32,
    /// Its tensor memory, once it is allocated.
    pub tensor: TensorMemory,
    /// Its shape.
    pub shape: &'a PrefillShape,
}

/// Of a unit, which phase of its buffer it is.
#[derive(Clone, Copy)]
pub struct Phase {
    /// The buffer.
    pub buffer: u32,
    /// The parity.
    pub parity: u32,
}

impl Phase {
    /// That of unit `number`.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        Self { buffer: number % BUFFERS, parity: (number / BUFFERS) & 1 }
    }
}

impl<'a> TensorBlock<'a> {
    /// This one, without tensor memory.
    #[inline(always)]
    pub fn here(shape: &'a PrefillShape) -> Self {
        let rank = if shape.pair() { cluster_ctarank() } else { 0 };
        Self { block: Block::here(shape), rank, tensor: TensorMemory::from_bits(0), shape }
    }

    /// The same with what was [`allocated`](Self::allocated).
    ///
    /// # Safety
    /// The address is there, and observed.
    #[inline(always)]
    pub unsafe fn with_tensor_memory(self) -> Self {
        // SAFETY: the caller's.
        let [bits] = unsafe { ld_shared_b32(self.allocated()) };
        Self { tensor: TensorMemory::from_bits(uniform(bits)), ..self }
    }

    #[inline(always)]
    fn barrier(&self, index: u32) -> Shared<Mbarrier> {
        self.block.barrier(self.shape.own_barriers() + index, self.shape)
    }

    /// Completes when S of a unit is there.
    #[inline(always)]
    pub fn scores_full(&self, buffer: u32) -> Shared<Mbarrier> {
        self.barrier(buffer)
    }

    /// Completes when P is there, and O is corrected: rank 0's, of both blocks.
    #[inline(always)]
    pub fn weights_full(&self, buffer: u32) -> Shared<Mbarrier> {
        self.barrier(BUFFERS + buffer)
    }

    /// Completes when the factors of O are there.
    #[inline(always)]
    pub fn factors_full(&self, buffer: u32) -> Shared<Mbarrier> {
        self.barrier(2 * BUFFERS + buffer)
    }

    /// Completes when O of softmax `softmax` is there, after each unit.
    #[inline(always)]
    pub fn output_full(&self, softmax: u32) -> Shared<Mbarrier> {
        self.barrier(3 * BUFFERS + softmax)
    }

    /// Completes when maxima and sums of an item are there.
    #[inline(always)]
    pub fn sums_full(&self, softmax: u32) -> Shared<Mbarrier> {
        self.barrier(4 * BUFFERS + softmax)
    }

    /// Completes when they have been read.
    #[inline(always)]
    pub fn sums_empty(&self, softmax: u32) -> Shared<Mbarrier> {
        self.barrier(4 * BUFFERS + self.shape.consumers + softmax)
    }

    /// Completes when the other block has the tile that is in this one's slot: rank 0's.
    #[inline(always)]
    pub fn peer_full(&self, side: Side, slot: u32) -> Shared<Mbarrier> {
        self.barrier(4 * BUFFERS + 2 * self.shape.consumers + side as u32 * self.shape.stages + slot)
    }

    /// Completes when the other block has its query rows: rank 0's.
    #[inline(always)]
    pub fn peer_query_full(&self) -> Shared<Mbarrier> {
        self.barrier(4 * BUFFERS + 2 * self.shape.consumers + 2 * self.shape.stages)
    }

    /// Initialises these barriers.
    ///
    /// # Safety
    /// One thread calls it, before all of the cluster meet.
    #[inline(always)]
    pub unsafe fn init(&self) {
        let (warps, softmaxes) = (WARPGROUP / 32, self.shape.consumers);
        // SAFETY: behind the block's own, and nobody uses them yet.
        unsafe {
            for buffer in 0..BUFFERS {
                mbarrier_init(self.scores_full(buffer), 1);
                // Of softmax and of correction.
                mbarrier_init(self.weights_full(buffer), 2 * warps * self.shape.cluster);
                mbarrier_init(self.factors_full(buffer), warps);
                mbarrier_init(self.output_full(buffer), 1);
            }
            for softmax in 0..softmaxes {
                mbarrier_init(self.sums_full(softmax), warps);
                mbarrier_init(self.sums_empty(softmax), warps);
            }
            if self.shape.pair() {
                for slot in 0..self.shape.stages {
                    mbarrier_init(self.peer_full(Side::Key, slot), 1);
                    mbarrier_init(self.peer_full(Side::Value, slot), 1);
                }
                mbarrier_init(self.peer_query_full(), 1);
            }
        }
    }

    #[inline(always)]
    fn numbers(&self, index: u32) -> Shared<u32> {
        let weights = self.shape.tensor_places().weights;
        self.block.behind_rings(self.shape).byte_offset(weights + index * NUMBERS).cast()
    }

    /// P of a pair's block, `[keys * bytes / 128][64][128]`, swizzled.
    #[inline(always)]
    pub fn weights(&self) -> Shared<u8> {
        self.block.behind_rings(self.shape)
    }

    /// Factors of O, of each lane of tensor memory.
    #[inline(always)]
    pub fn factors(&self, buffer: u32) -> Shared<u32> {
        self.numbers(buffer)
    }

    /// Maxima, and behind them sums, of each lane of tensor memory.
    #[inline(always)]
    pub fn sums(&self, softmax: u32) -> Shared<u32> {
        self.numbers(BUFFERS + 2 * softmax)
    }

    /// Largest logits of a tile, of each thread of softmax: a pair's, of two threads that have a row.
    #[inline(always)]
    pub fn maxima(&self, buffer: u32) -> Shared<u32> {
        self.numbers(BUFFERS + 2 * self.shape.consumers + buffer)
    }

    /// Where tensor memory was allocated.
    #[inline(always)]
    pub fn allocated(&self) -> Shared<u32> {
        let places = self.shape.tensor_places();
        self.block.behind_rings(self.shape).byte_offset(places.bytes - 16).cast()
    }

    /// Columns of S of a unit in tensor memory: of half of the keys where a row is two lanes.
    #[inline(always)]
    const fn score_columns(&self) -> u32 {
        self.shape.tile_keys / self.shape.cluster
    }

    /// S of a buffer, and P.
    #[inline(always)]
    pub fn scores(&self, buffer: u32) -> TensorMemory {
        self.tensor.at_column(buffer * self.score_columns())
    }

    /// O of a softmax.
    #[inline(always)]
    pub fn output(&self, softmax: u32) -> TensorMemory {
        self.tensor.at_column(BUFFERS * self.score_columns() + softmax * self.shape.part_columns())
    }

    /// Waits for a phase that warps of both blocks arrive for.
    ///
    /// # Safety
    /// Initialised at the block's begin.
    #[inline(always)]
    pub unsafe fn wait_for_both(&self, barrier: Shared<Mbarrier>, parity: u32) {
        // SAFETY: handed on to the caller.
        unsafe {
            if self.shape.pair() {
                mbarrier_wait_parity_cluster(barrier, parity);
            } else {
                mbarrier_wait_parity(barrier, parity);
            }
        }
    }

    /// An arrival of the warp at rank 0's barrier.
    ///
    /// # Safety
    /// As for [`crate::prefill::block::release`].
    #[inline(always)]
    pub unsafe fn release_at_first(&self, barrier: Shared<Mbarrier>) {
        if !self.shape.pair() {
            // SAFETY: handed on to the caller.
            return unsafe { crate::prefill::block::release(barrier) };
        }
        if !planted(Fault::ReleaseWarp) {
            bar_warp_sync();
        }
        if thread::thread_idx_x().is_multiple_of(32) {
            // SAFETY: handed on to the caller.
            unsafe { mbarrier_arrive_cluster(mapa(barrier, 0)) };
        }
    }

    /// Lets both blocks' barrier complete when the products issued so far are done.
    ///
    /// # Safety
    /// The thread that issued them calls it.
    #[inline(always)]
    pub unsafe fn commit_to_both<const GROUP: u32>(&self, barrier: Shared<Mbarrier>) {
        // SAFETY: initialised at the block's begin, in both.
        unsafe {
            if GROUP == 2 {
                tcgen05_commit_multicast::<GROUP>(barrier, 0b11);
            } else {
                tcgen05_commit::<GROUP>(barrier);
            }
        }
    }
}
