//! A block's shared memory, and the mbarriers by which its warpgroups tell each other what is there and what may be
//! overwritten.
use super::shape::{COLUMNS_BYTES, ITEM_BYTES, ITEM_SLOTS, PrefillShape, WARPGROUP};
use crate::abi::PrefillParams;
use crate::fault::{Fault, planted};
use crate::memory::{Mbarrier, Shared};
use crate::ptx::mbarrier::{fence_mbarrier_init, mbarrier_init, mbarrier_wait_parity};
use crate::ptx::memory::{dynamic_shared, ld_global_b32};
use crate::ptx::sync::uniform;
use cuda_std::thread;

/// Threads that copy query rows where no tensor copy can: the copying warpgroup without the warps that copy keys and values.
pub const QUERY_THREADS: u32 = WARPGROUP - 64;

/// Which of a block's tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Of K.
    Key,
    /// Of V.
    Value,
}

impl Side {
    /// 0: K, 1: V.
    #[inline(always)]
    pub const fn of(index: u32) -> Self {
        if index == 0 { Self::Key } else { Self::Value }
    }

    /// The first of two for K, the second for V.
    #[inline(always)]
    pub const fn either(self, key: Fault, value: Fault) -> Fault {
        match self {
            Self::Key => key,
            Self::Value => value,
        }
    }
}

/// A ring's slot, and the parity of the phase that its barriers are in.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Of the ring.
    pub slot: u32,
    /// Of who waits for what is to come: 0, 1, 0, …
    pub parity: u32,
}

impl Turn {
    /// The first.
    pub const FIRST: Self = Self { slot: 0, parity: 0 };

    /// On to the next of `slots`.
    #[inline(always)]
    pub const fn advance(&mut self, slots: u32) {
        self.slot += 1;
        if self.slot == slots {
            (self.slot, self.parity) = (0, self.parity ^ 1);
        }
    }
}

/// Where things are in a block's shared memory.
#[derive(Clone, Copy)]
pub struct Block {
    shared: Shared<u8>,
}

/// Items that a block does: every `step`th from `first` below `end`.
#[derive(Clone, Copy, Debug)]
pub struct Items {
    /// The next.
    pub next: u32,
    /// From one to the next.
    pub step: u32,
    /// Behind the last.
    pub end: u32,
}

impl Block {
    /// This block's.
    #[inline(always)]
    pub fn here(_: &PrefillShape) -> Self {
        Self { shared: dynamic_shared() }
    }

    /// Initialises the barriers; all threads of the block take part.
    ///
    /// # Safety
    /// Nobody has used the shared memory yet.
    #[inline(always)]
    pub unsafe fn begin(&self, thread: u32, shape: &PrefillShape) {
        if thread == 0 {
            let warps = shape.consumers * WARPGROUP / 32;
            // SAFETY: behind the tiles, and no other thread uses them before the barrier below.
            unsafe {
                for slot in 0..shape.stages {
                    for side in [Side::Key, Side::Value] {
                        mbarrier_init(self.full(side, slot, shape), 1);
                        mbarrier_init(self.empty(side, slot, shape), warps);
                    }
                }
                mbarrier_init(self.query_full(shape), QUERY_THREADS);
                mbarrier_init(self.query_empty(shape), warps);
                for turn in 0..ITEM_SLOTS {
                    mbarrier_init(self.item_full(turn, shape), 1);
                    mbarrier_init(self.item_empty(turn, shape), 2);
                }
            }
            if !planted(Fault::BarriersFence) {
                fence_mbarrier_init();
            }
        }
        if !planted(Fault::BarriersFull) {
            thread::sync_threads();
        }
    }

    /// The block's items.
    ///
    /// # Safety
    /// As for the entry.
    #[inline(always)]
    pub unsafe fn items(&self, params: &PrefillParams, shape: &PrefillShape) -> Items {
        let mut end = params.items;
        if !params.decode.counts.is_null() {
            // SAFETY: the plan's counts.
            let [items] = unsafe { ld_global_b32(params.decode.counts.cast()) };
            end = uniform(items);
        }
        Items { next: thread::block_idx_x() / shape.cluster, step: thread::grid_dim_x() / shape.cluster, end }
    }

    #[inline(always)]
    fn barrier(&self, index: u32, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.shared.byte_offset(shape.barriers_offset() + 8 * index).cast()
    }

    /// Completes when a tile is there.
    #[inline(always)]
    pub fn full(&self, side: Side, slot: u32, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier(2 * side as u32 * shape.stages + slot, shape)
    }

    /// Completes when a tile has been read.
    #[inline(always)]
    pub fn empty(&self, side: Side, slot: u32, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier((2 * side as u32 + 1) * shape.stages + slot, shape)
    }

    /// Completes when an item's query rows are there.
    #[inline(always)]
    pub fn query_full(&self, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier(4 * shape.stages, shape)
    }

    /// Completes when the query rows have been read.
    #[inline(always)]
    pub fn query_empty(&self, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier(4 * shape.stages + 1, shape)
    }

    /// Completes when the item of turn `turn` is known.
    #[inline(always)]
    pub fn item_full(&self, turn: u32, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier(4 * shape.stages + 2 + turn % ITEM_SLOTS, shape)
    }

    /// Completes when the warps that copy keys have read the item of turn `turn`. They wait for nobody where items have no
    /// keys, and nobody for them, so nothing else keeps the items behind from its slot.
    #[inline(always)]
    pub fn item_empty(&self, turn: u32, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier(4 * shape.stages + 2 + ITEM_SLOTS + turn % ITEM_SLOTS, shape)
    }

    /// The item of turn `turn`, once it is known.
    ///
    /// # Safety
    /// The block has so many items, and the turn is not [`ITEM_SLOTS`] behind.
    #[inline(always)]
    pub unsafe fn wait_for_item(&self, turn: u32, shape: &PrefillShape) -> Shared<u32> {
        if !planted(Fault::ItemFull) {
            // SAFETY: initialised at the block's begin.
            unsafe { mbarrier_wait_parity(self.item_full(turn, shape), (turn / ITEM_SLOTS) & 1) };
        }
        self.item(turn, shape)
    }

    /// A tile of K or V: `[keys / 8][D / 64][8][64]`, swizzled.
    #[inline(always)]
    pub fn tile(&self, side: Side, slot: u32, shape: &PrefillShape) -> Shared<u8> {
        let first = match side {
            Side::Key => shape.keys_offset(),
            Side::Value => shape.values_offset(),
        };
        self.shared.byte_offset(first + slot * shape.tile_bytes())
    }

    /// The query rows, `[D / 64][rows][64]`, swizzled, from row `row` on.
    #[inline(always)]
    pub fn queries(&self, row: u32) -> Shared<u8> {
        self.shared.byte_offset(row * COLUMNS_BYTES)
    }

    /// The block's item of turn `turn`.
    #[inline(always)]
    pub fn item(&self, turn: u32, shape: &PrefillShape) -> Shared<u32> {
        self.shared.byte_offset(shape.items_offset() + turn % ITEM_SLOTS * ITEM_BYTES).cast()
    }
}
