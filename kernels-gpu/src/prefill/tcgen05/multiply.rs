//! The products, all issued by one thread: S of the units to come before O of those whose softmax is under way, so that the tensor
//! cores have work while there is none of P.
//!
//! They are carried out in the order in which they are issued, so that S of unit `u + 2` takes the place of P of unit `u` behind the
//! product that reads it, without a wait.
use super::block::{Phase, TensorBlock};
use super::product::TensorProduct;
use crate::fault::{Fault, planted};
use crate::layout::descriptor::{KMajor, MnMajor};
use crate::layout::tcgen05::SmemDescriptor;
use crate::memory::{Mbarrier, Shared};
use crate::prefill::block::{Side, Turn, release_item};
use crate::prefill::item;
use crate::prefill::shape::{COLUMNS_BYTES, ITEM_SLOTS, PATTERN_ROWS, TENSOR_ROWS};
use crate::ptx::cluster::mapa;
use crate::ptx::math::renewed;
use crate::ptx::mbarrier::{mbarrier_arrive, mbarrier_arrive_cluster, mbarrier_wait_parity};
use crate::ptx::sync::bar_warp_sync;
use crate::ptx::tcgen05::tcgen05_fence_after_thread_sync;

/// Bytes of K of an instruction.
const STEP_BYTES: u32 = 32;

/// Columns of O of an instruction, at most.
const MOST_COLUMNS: u32 = 256;

/// A unit whose S is on its way.
#[derive(Clone, Copy)]
struct Unit {
    /// The turn of its item.
    turn: u32,
    number: u32,
    /// Which of its tile: the softmax.
    softmax: u32,
    /// Whether it is of the item's first tile.
    first: bool,
}

/// Where the order of units stands.
struct Units {
    turn: u32,
    tile: u32,
    end: u32,
    number: u32,
    softmax: u32,
    first: bool,
}

/// Who issues.
struct Issuer<'a> {
    block: &'a TensorBlock<'a>,
    /// Whether this lane does.
    leads: bool,
    keys: Turn,
    values: Turn,
}

/// Multiplies the block's items.
///
/// # Safety
/// As for the entry; one warp of the block calls it.
#[inline(always)]
pub unsafe fn multiply<const GROUP: u32, Q: TensorProduct>(block: &TensorBlock<'_>, leads: bool) {
    let mut issuer = Issuer { block, leads, keys: Turn::FIRST, values: Turn::FIRST };
    let mut units = Units { turn: 0, tile: 0, end: 0, number: 0, softmax: 0, first: true };
    // Those whose S has been issued, and whose P is waited for.
    let (mut this, mut then) = (None, None);
    // SAFETY: handed on to the caller.
    unsafe {
        loop {
            if then.is_none() {
                // An item's slot is free when all are done with it, for which those before need their products.
                let turns = this.map_or(u32::MAX, |unit: Unit| unit.turn + ITEM_SLOTS);
                if let Some(next) = issuer.next::<GROUP>(&mut units, turns) {
                    issuer.scores::<GROUP, Q>(&next, &mut units);
                    if this.is_none() {
                        this = Some(next);
                        continue;
                    }
                    then = Some(next);
                }
            }
            let Some(unit) = this else { break };
            issuer.output::<GROUP, Q>(&unit);
            (this, then) = (then, None);
        }
    }
}

impl Issuer<'_> {
    /// The next unit, of an item of a turn below `turns`. Query rows of items without keys are given back.
    #[inline(always)]
    unsafe fn next<const GROUP: u32>(&self, units: &mut Units, turns: u32) -> Option<Unit> {
        let TensorBlock { block, shape, .. } = self.block;
        while units.tile == units.end {
            if units.turn >= turns || !block.has(units.turn, shape) {
                return None;
            }
            // SAFETY: handed on to the caller.
            unsafe {
                let tiles = item::span(block.wait_for_item(units.turn, shape)).tiles;
                (units.tile, units.end, units.first) = (tiles.first, tiles.end, true);
                release_item(block, units.turn, self.leads, shape);
                self.queries_full(units.turn);
                units.turn += 1;
                if tiles.first >= tiles.end {
                    units.tile = units.end;
                    if !planted(Fault::QueryRelease) {
                        self.return_unread::<GROUP>(block.query_empty(shape));
                    }
                }
            }
        }
        Some(Unit { turn: units.turn - 1, number: units.number, softmax: units.softmax, first: units.first })
    }

    /// S of a unit, and on to the one after it.
    #[inline(always)]
    unsafe fn scores<const GROUP: u32, Q: TensorProduct>(&mut self, unit: &Unit, units: &mut Units) {
        let TensorBlock { block, shape, .. } = self.block;
        let (cut, last_of_tile) = (shape.cut(false), unit.softmax + 1 == shape.consumers);
        let instruction = Q::instruction::<GROUP, KMajor>(TENSOR_ROWS, shape.tile_keys);
        let queries = SmemDescriptor::<KMajor>::of_rows(block.queries(TENSOR_ROWS * unit.softmax));
        let to = self.block.scores(Phase::of(unit.number).buffer);
        let steps = (cut.parts * COLUMNS_BYTES).min(shape.head_dim * Q::BYTES) / STEP_BYTES;
        let last_of_item = last_of_tile && units.tile + 1 == units.end;
        // SAFETY: tiles are waited for, and released behind the products; the buffer is free when the products before are done.
        unsafe {
            if last_of_item && planted(Fault::QueryEarly) {
                self.commit::<GROUP>(block.query_empty(shape));
            }
            // Not unrolled: descriptors are in uniform registers, of which there are 63.
            let (mut part, slots) = (0, renewed(cut.slots));
            while part < slots {
                let slot = self.keys;
                if unit.softmax == 0 {
                    self.tile_full(Side::Key, slot);
                }
                let keys = block.tile(Side::Key, slot.slot, shape);
                let keys = SmemDescriptor::<KMajor>::of_grouped_rows(keys, cut.parts);
                if last_of_tile && planted(Fault::KeyTileEarly) {
                    self.tile_empty::<GROUP>(Side::Key, slot);
                }
                if self.issues() {
                    for step in 0..steps {
                        let (q, k) =
                            (queries.step(part * steps + step, shape.block_rows()), keys.step(step, PATTERN_ROWS));
                        Q::ss::<GROUP, KMajor>(to, q, k, instruction, part + step > 0);
                    }
                }
                if last_of_tile {
                    if !planted(Fault::KeyTileEarly) {
                        self.tile_empty::<GROUP>(Side::Key, slot);
                    }
                    self.keys.advance(shape.stages);
                }
                part += 1;
            }
            if !planted(Fault::ScoresCommit) {
                self.commit::<GROUP>(self.block.scores_full(Phase::of(unit.number).buffer));
            }
            (units.number, units.softmax) = (unit.number + 1, unit.softmax + 1);
            if last_of_tile {
                (units.softmax, units.tile, units.first) = (0, units.tile + 1, false);
            }
            if last_of_item && !planted(Fault::QueryEarly) && !planted(Fault::QueryRelease) {
                self.commit::<GROUP>(block.query_empty(shape));
            }
        }
    }

    /// O of a unit.
    #[inline(always)]
    unsafe fn output<const GROUP: u32, Q: TensorProduct>(&mut self, unit: &Unit) {
        let TensorBlock { block, shape, rank, .. } = *self.block;
        let (cut, last_of_tile) = (shape.cut(true), unit.softmax + 1 == shape.consumers);
        let Phase { buffer, parity } = Phase::of(unit.number);
        // Whole parts, maybe with columns of zeros: of half a row of a swizzle's pattern the ISA does not speak, MN-major.
        let columns = shape.part_columns().min(MOST_COLUMNS);
        let instruction = Q::instruction::<GROUP, MnMajor>(TENSOR_ROWS, columns);
        let steps = cut.keys * Q::BYTES / STEP_BYTES;
        // SAFETY: as for S; P is waited for.
        unsafe {
            if rank == 0 && !planted(Fault::WeightsFull) {
                self.block.wait_for_both(self.block.weights_full(buffer), parity);
            }
            if !planted(Fault::WeightsAfter) {
                tcgen05_fence_after_thread_sync();
            }
            let (mut part, slots) = (0, renewed(cut.slots));
            while part < slots {
                let slot = self.values;
                if unit.softmax == 0 {
                    self.tile_full(Side::Value, slot);
                }
                let values = block.tile(Side::Value, slot.slot, shape);
                let values = SmemDescriptor::<MnMajor>::of_grouped_columns(values, cut.parts);
                if last_of_tile && planted(Fault::ValueTileEarly) {
                    self.tile_empty::<GROUP>(Side::Value, slot);
                }
                for step in 0..if self.issues() { steps } else { 0 } {
                    let add = !unit.first || part + step > 0;
                    let of_tile = part * steps + step;
                    let v = values.rows_on(step * (STEP_BYTES / Q::BYTES), cut.parts);
                    if GROUP == 2 {
                        let p = SmemDescriptor::<KMajor>::of_rows(self.block.weights());
                        let p = p.step(of_tile, TENSOR_ROWS / 2);
                        for half in 0..2 {
                            // Of the columns of this block's V half, and as many of the other's.
                            let to = self.block.output(0).at_column(half * MOST_COLUMNS / 2);
                            let v = v.byte_offset(half * (MOST_COLUMNS / 2 * Q::BYTES * PATTERN_ROWS));
                            Q::ss::<GROUP, MnMajor>(to, p, v, instruction, add);
                        }
                    } else {
                        let p = self.block.scores(buffer).at_column(of_tile * STEP_BYTES / 4);
                        Q::ts::<GROUP>(self.block.output(unit.softmax), p, v, instruction, add);
                    }
                }
                if last_of_tile {
                    if !planted(Fault::ValueTileEarly) {
                        self.tile_empty::<GROUP>(Side::Value, slot);
                    }
                    self.values.advance(shape.stages);
                }
                part += 1;
            }
            if !planted(Fault::OutputCommit) {
                self.commit::<GROUP>(self.block.output_full(unit.softmax));
            }
        }
    }

    /// Whether this lane issues products.
    #[inline(always)]
    const fn issues(&self) -> bool {
        self.leads && self.block.rank == 0
    }

    /// Waits for a tile, in both blocks of a pair: the one that does not issue tells the other.
    #[inline(always)]
    unsafe fn tile_full(&self, side: Side, slot: Turn) {
        let TensorBlock { block, shape, .. } = self.block;
        // SAFETY: initialised at the block's begin.
        unsafe {
            if !planted(side.either(Fault::KeyTileFull, Fault::ValueTileFull)) {
                mbarrier_wait_parity(block.full(side, slot.slot, shape), slot.parity);
            }
            self.of_both(self.block.peer_full(side, slot.slot), slot.parity);
        }
    }

    /// Waits for the query rows, likewise.
    #[inline(always)]
    unsafe fn queries_full(&self, turn: u32) {
        let TensorBlock { block, shape, .. } = self.block;
        // SAFETY: initialised at the block's begin.
        unsafe {
            if !planted(Fault::QueryFull) {
                mbarrier_wait_parity(block.query_full(shape), turn & 1);
            }
            self.of_both(self.block.peer_query_full(), turn & 1);
        }
    }

    /// Tells rank 0 of a pair, at its barrier `peer`, what this block has, or waits there for the other.
    #[inline(always)]
    unsafe fn of_both(&self, peer: Shared<Mbarrier>, parity: u32) {
        if !self.block.shape.pair() {
            return;
        }
        // SAFETY: initialised at the blocks' begin.
        unsafe {
            if self.block.rank != 0 {
                // As before a commit.
                if !planted(Fault::PeerWarp) {
                    bar_warp_sync();
                }
                if self.leads && !planted(Fault::PeerArrival) {
                    mbarrier_arrive_cluster(mapa(peer, 0));
                }
            } else if !planted(Fault::PeerFull) {
                self.block.wait_for_both(peer, parity);
            }
        }
    }

    /// Gives a slot back, in both blocks of a pair.
    #[inline(always)]
    unsafe fn tile_empty<const GROUP: u32>(&self, side: Side, slot: Turn) {
        let TensorBlock { block, shape, .. } = self.block;
        if !planted(side.either(Fault::KeyTileRelease, Fault::ValueTileRelease)) {
            // SAFETY: handed on to the caller.
            unsafe { self.commit::<GROUP>(block.empty(side, slot.slot, shape)) };
        }
    }

    /// Gives back what no product reads: by an arrival, as nothing waits for a commit where it is the block's last item.
    #[inline(always)]
    unsafe fn return_unread<const GROUP: u32>(&self, barrier: Shared<Mbarrier>) {
        // All lanes have waited for what comes before: the next phase of it may begin now.
        if !planted(Fault::CommitWarp) {
            bar_warp_sync();
        }
        if self.issues() {
            // SAFETY: initialised at the block's begin, in both of a pair.
            unsafe {
                if GROUP == 2 {
                    mbarrier_arrive_cluster(mapa(barrier, 0));
                    mbarrier_arrive_cluster(mapa(barrier, 1));
                } else {
                    mbarrier_arrive(barrier);
                }
            }
        }
    }

    /// Lets a barrier complete when the products issued so far are done.
    #[inline(always)]
    unsafe fn commit<const GROUP: u32>(&self, barrier: Shared<Mbarrier>) {
        // All lanes have waited for what comes before: the next phase of it may begin now.
        if !planted(Fault::CommitWarp) {
            bar_warp_sync();
        }
        if self.issues() {
            // SAFETY: handed on to the caller.
            unsafe { self.block.commit_to_both::<GROUP>(barrier) };
        }
    }
}
