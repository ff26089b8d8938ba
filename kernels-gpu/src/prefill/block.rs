//! A block's shared memory, and the mbarriers by which its warpgroups tell each other what is there and what may be
//! overwritten.
use super::element::PrefillElement;
use super::shape::{COLUMNS_BYTES, ITEM_BYTES, ITEM_SLOTS, PrefillShape};
use crate::abi::PrefillParams;
use crate::fault::{Fault, planted};
use crate::memory::{Mbarrier, Shared};
use crate::ptx::cluster::{cluster_arrive, cluster_wait};
use crate::ptx::math::renewed;
use crate::ptx::mbarrier::{
    fence_mbarrier_init, mbarrier_arrive, mbarrier_arrive_expect_tx, mbarrier_init, mbarrier_wait_parity,
};
use crate::ptx::memory::{dynamic_shared, ld_global_b32, ld_shared_b32, st_shared_b32};
use crate::ptx::sync::{bar_warp_sync, uniform};
use cuda_std::thread;

/// What a slot has, and so which of a block's rings it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// K.
    Key,
    /// V.
    Value,
    /// Of V transposed.
    Transposed,
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
            Self::Value | Self::Transposed => value,
        }
    }

    /// The first of three for K, the second for V, the third for V transposed.
    #[inline(always)]
    pub const fn one_of(self, key: Fault, value: Fault, transposed: Fault) -> Fault {
        match self {
            Self::Transposed => transposed,
            _ => self.either(key, value),
        }
    }
}

impl PrefillShape {
    /// The ring that V is multiplied from.
    #[inline(always)]
    pub const fn values(&self) -> Side {
        if self.transposed > 0 { Side::Transposed } else { Side::Value }
    }

    /// Slots of a ring.
    #[inline(always)]
    pub const fn slots(&self, side: Side) -> u32 {
        match side {
            Side::Key | Side::Value => self.stages,
            Side::Transposed => self.transposed,
        }
    }
}

/// What the blocks of a pair send each other, each with a barrier of its own: asynchronous stores are not ordered, so what comes next on
/// a barrier may be sent when the other block has shown that it has what came before, and the sums of an item are behind all else.
pub const MAXIMA: u32 = 0;
/// As [`MAXIMA`].
pub const SUMS: u32 = 1;
/// As [`MAXIMA`]: P.
pub const WEIGHTS: u32 = 2;

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
    /// Where it begins.
    pub shared: Shared<u8>,
}

impl Block {
    /// This block's.
    #[inline(always)]
    pub fn here(_: &PrefillShape) -> Self {
        Self { shared: dynamic_shared() }
    }

    /// Initialises the barriers, those of one kernel alone by `more`, and reads how many items there are and what logits are multiplied
    /// by; all threads of the block take part.
    ///
    /// # Safety
    /// As for the entry; nobody has used the shared memory yet.
    #[inline(always)]
    pub unsafe fn begin<Q: PrefillElement>(
        &self,
        params: &PrefillParams,
        thread: u32,
        more: impl FnOnce(&Self),
        shape: &PrefillShape,
    ) {
        if thread == 0 {
            let mut items = params.items;
            // SAFETY: the plan's counts; the words are nobody else's.
            unsafe {
                if !params.decode.counts.is_null() {
                    [items] = ld_global_b32(params.decode.counts.cast());
                }
                // Whole clusters are launched; without it there is a division by zero to panic at.
                let (first, step) = (self.number(0, shape), (thread::grid_dim_x() / shape.cluster).max(1));
                st_shared_b32(self.count(shape), [items.saturating_sub(first).div_ceil(step)]);
                Q::tell_scale(&params.decode, self.scale(shape));
            }
            // SAFETY: behind the tiles, and no other thread uses them before the barrier below.
            unsafe {
                for slot in 0..shape.stages {
                    for side in &[Side::Key, Side::Value][..shape.rings() as usize] {
                        mbarrier_init(self.full(*side, slot, shape), 1);
                        mbarrier_init(self.empty(*side, slot, shape), shape.slot_readers(*side == Side::Value));
                    }
                }
                if shape.exchanges() {
                    for warpgroup in 0..shape.consumers {
                        for what in [MAXIMA, SUMS, WEIGHTS] {
                            mbarrier_init(self.sent(what, warpgroup, shape), 1);
                        }
                    }
                }
                for slot in 0..shape.transposed {
                    mbarrier_init(self.full(Side::Transposed, slot, shape), shape.transposers());
                    mbarrier_init(self.empty(Side::Transposed, slot, shape), shape.warps());
                }
                mbarrier_init(self.query_full(shape), shape.query_threads());
                mbarrier_init(self.query_empty(shape), shape.query_readers());
                for turn in 0..ITEM_SLOTS {
                    mbarrier_init(self.item_full(turn, shape), 1);
                    mbarrier_init(self.item_empty(turn, shape), shape.item_readers());
                }
                more(self);
            }
            if !planted(Fault::BarriersFence) {
                fence_mbarrier_init();
            }
        }
        if !planted(Fault::BarriersFull) {
            if shape.cluster > 1 && !planted(Fault::ClusterBegin) {
                cluster_arrive();
                cluster_wait();
            } else {
                thread::sync_threads();
            }
        }
    }

    /// The launch's item that is the block's of turn `turn`: every so manieth, as many as there are blocks or clusters.
    #[inline(always)]
    pub fn number(&self, turn: u32, shape: &PrefillShape) -> u32 {
        // As a value of this place: a register less through the loop of who tells of items.
        (thread::block_idx_x() + turn * renewed(thread::grid_dim_x())) / shape.cluster
    }

    /// Whether there is an item of turn `turn`, behind [`Block::begin`].
    #[inline(always)]
    pub fn has(&self, turn: u32, shape: &PrefillShape) -> bool {
        // From shared memory: three registers less through each role's loop, of which D = 512 has none to spare.
        // SAFETY: written before all threads met.
        let [turns] = unsafe { ld_shared_b32(self.count(shape)) };
        turn < uniform(turns)
    }

    /// Where the number of the block's items is.
    #[inline(always)]
    fn count(&self, shape: &PrefillShape) -> Shared<u32> {
        self.shared.byte_offset(shape.items_offset() + ITEM_SLOTS * ITEM_BYTES).cast()
    }

    /// Where what logits are multiplied by is, where it is not among the parameters.
    #[inline(always)]
    pub fn scale(&self, shape: &PrefillShape) -> Shared<u32> {
        self.count(shape).at(1)
    }

    /// Barrier `index` of the block's.
    #[inline(always)]
    pub fn barrier(&self, index: u32, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.shared.byte_offset(shape.barriers_offset() + 8 * index).cast()
    }

    /// The number of a side's ring.
    #[inline(always)]
    const fn ring(side: Side, shape: &PrefillShape) -> u32 {
        if shape.rings() == 1 { 0 } else { side as u32 }
    }

    /// Completes when a tile is there.
    #[inline(always)]
    pub fn full(&self, side: Side, slot: u32, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier(2 * Self::ring(side, shape) * shape.stages + slot, shape)
    }

    /// Completes when a tile has been read.
    #[inline(always)]
    pub fn empty(&self, side: Side, slot: u32, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier(2 * Self::ring(side, shape) * shape.stages + shape.slots(side) + slot, shape)
    }

    /// Completes when an item's query rows are there.
    #[inline(always)]
    pub fn query_full(&self, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier(shape.ring_barriers(), shape)
    }

    /// Completes when the query rows have been read.
    #[inline(always)]
    pub fn query_empty(&self, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier(shape.ring_barriers() + 1, shape)
    }

    /// Completes when the item of turn `turn` is known.
    #[inline(always)]
    pub fn item_full(&self, turn: u32, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier(shape.ring_barriers() + 2 + turn % ITEM_SLOTS, shape)
    }

    /// Completes when the warps that copy keys, or transpose V, have read the item of turn `turn`. They wait for nobody where items have no
    /// keys, and nobody for them, so nothing else keeps the items behind from its slot.
    #[inline(always)]
    pub fn item_empty(&self, turn: u32, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier(shape.ring_barriers() + 2 + ITEM_SLOTS + turn % ITEM_SLOTS, shape)
    }

    /// Completes when warpgroup `warpgroup` has got from the other block's what it sends ([`MAXIMA`], [`SUMS`] or [`WEIGHTS`]).
    #[inline(always)]
    pub fn sent(&self, what: u32, warpgroup: u32, shape: &PrefillShape) -> Shared<Mbarrier> {
        self.barrier(shape.ring_barriers() + 2 + 2 * ITEM_SLOTS + what * shape.consumers + warpgroup, shape)
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

    /// A slot of a ring ([`PrefillShape::slot_bytes`], or of V transposed [`PrefillShape::transposed_bytes`]).
    #[inline(always)]
    pub fn tile(&self, side: Side, slot: u32, shape: &PrefillShape) -> Shared<u8> {
        if side == Side::Transposed {
            return self.shared.byte_offset(shape.transposed_offset() + slot * shape.transposed_bytes());
        }
        let slots = Self::ring(side, shape) * shape.stages + slot;
        self.shared.byte_offset(shape.query_bytes() + slots * shape.slot_bytes())
    }

    /// What is behind the rings ([`PrefillShape::stats_offset`]).
    #[inline(always)]
    pub fn behind_rings(&self, shape: &PrefillShape) -> Shared<u8> {
        self.shared.byte_offset(shape.stats_offset())
    }

    /// The query rows, `[D / 64][rows][64]` (of 8 bits `[D / 128][rows][128]`), swizzled, from row `row` on.
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

/// An arrival of the warp.
///
/// # Safety
/// As for the entry; the barrier was initialised at the block's begin, and the warp's lanes call it together.
#[inline(always)]
pub unsafe fn release(barrier: Shared<Mbarrier>) {
    if !planted(Fault::ReleaseWarp) {
        bar_warp_sync();
    }
    if thread::thread_idx_x().is_multiple_of(32) {
        // SAFETY: the caller's promise.
        unsafe { mbarrier_arrive(barrier) };
    }
}

/// Gives the item of turn `turn` back, of which the warp reads nothing more.
///
/// # Safety
/// As for the entry; the warp's lanes call it together, one of which `leads`.
#[inline(always)]
pub unsafe fn release_item(block: &Block, turn: u32, leads: bool, shape: &PrefillShape) {
    if !planted(Fault::ItemWarp) {
        bar_warp_sync();
    }
    if leads && !planted(Fault::ItemRelease) {
        // SAFETY: initialised at the block's begin.
        unsafe { mbarrier_arrive(block.item_empty(turn, shape)) };
    }
}

/// The arrival at the barrier of a ring's slot, with the bytes that come.
///
/// # Safety
/// As for the entry; the slot is free, and one lane calls it.
#[inline(always)]
pub unsafe fn expect(full: Shared<Mbarrier>, shape: &PrefillShape) {
    // SAFETY: initialised at the block's begin.
    unsafe {
        if planted(Fault::TileBytes) {
            mbarrier_arrive(full);
        } else if !planted(Fault::TileArrival) {
            mbarrier_arrive_expect_tx(full, shape.slot_bytes());
        }
    }
}
