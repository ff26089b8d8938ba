//! The loop at D = 512, where a warpgroup's registers hold half of O's columns: two warpgroups have the same 64 rows. Each takes the
//! products of Q with half of a tile's keys, tells the other its rows' maxima, so that both make P relative to the same, and
//! adds P V to its half of the columns: its own P from registers, the other's from shared memory. (FlashMLA's "seesaw".)
use super::block::{Block, Side, Turn};
use super::chunks::{GROUP_KEYS, SLOTS};
use super::item::{self, Span};
use super::product::WideProduct;
use super::queries::rank;
use super::shape::{COLUMNS_BYTES, GROUP_ROWS, KEY_PARTS, PATTERN_ROWS, PrefillShape, VALUE_PARTS, WARPGROUP};
use super::softmax::{RowSoftmax, scale_rows};
use super::{mask, store};
use crate::abi::PrefillParams;
use crate::fault::{Fault, planted};
use crate::layout::descriptor::{Descriptor, KMajor, MnMajor};
use crate::layout::swizzle::chunk_offset;
use crate::memory::{Mbarrier, Shared};
use crate::ptx::cluster::mapa;
use crate::ptx::math::renewed;
use crate::ptx::mbarrier::{mbarrier_arrive, mbarrier_arrive_remote, mbarrier_wait_parity};
use crate::ptx::memory::{ld_shared_b32, st_shared_b32};
use crate::ptx::sync::{bar_sync, bar_warp_sync, fence_proxy_async_shared};
use crate::ptx::wgmma::{wgmma_commit_group, wgmma_fence, wgmma_wait_group};
use cuda_std::thread;

/// S of a warpgroup's 64 keys.
type Scores = [f32; 32];
/// O of its 256 columns.
type Output = [f32; 128];
/// Steps of 16 keys.
const STEPS: usize = 4;
/// Products of 16 columns of K, and of 16 keys of V, in a slot.
const KEY_STEPS: u32 = KEY_PARTS * 4;
const VALUE_STEPS: usize = 2;
/// Columns of a slot of K, and of V.
const KEY_COLUMNS: u32 = KEY_PARTS * 64;
const VALUE_COLUMNS: u32 = VALUE_PARTS * 64;
/// The named barriers of the two warpgroups: of their maxima, and of P.
const MAXIMA: u32 = 1;
const WEIGHTS: u32 = 2;

/// Multiplies the block's items for the block's rows, and the columns of warpgroup `warpgroup`.
///
/// # Safety
/// As for the entry; the warpgroup's threads call it together.
#[inline(always)]
pub unsafe fn multiply<Q: WideProduct>(params: &PrefillParams, block: &Block, warpgroup: u32, shape: &PrefillShape) {
    let (mut slot, mut turn) = (Turn::FIRST, 0);
    while block.has(turn, shape) {
        // SAFETY: handed on to the caller.
        unsafe {
            if !planted(Fault::QueryFull) {
                mbarrier_wait_parity(block.query_full(shape), turn & 1);
            }
            let item = block.item(turn, shape);
            let half = Half { params, block, item, span: item::span(item), warpgroup, shape };
            if planted(Fault::QueryEarly) {
                half.release(block.query_empty(shape));
            }
            let (o, softmax) = half.attend::<Q>(&mut slot);
            let item = item::load(item);
            let [row, column] = half.place();
            let place = [rank(shape) * GROUP_ROWS + row, warpgroup * VALUE_COLUMNS + column];
            store::store::<Q>(&params.decode, &item, &softmax, &o, place, shape);
        }
        turn += 1;
    }
}

/// A warpgroup's half of an item.
struct Half<'a> {
    params: &'a PrefillParams,
    block: &'a Block,
    item: Shared<u32>,
    span: Span,
    warpgroup: u32,
    shape: &'a PrefillShape,
}

impl Half<'_> {
    /// O of its columns, not normalised, and the rows' softmax.
    #[inline(always)]
    unsafe fn attend<Q: WideProduct>(&self, slot: &mut Turn) -> (Output, RowSoftmax) {
        let (mut o, mut softmax, mut s) = ([0.0; 128], RowSoftmax::NONE, [0.0; 32]);
        let mut tile = self.span.tiles.first;
        // SAFETY: what a product reads is waited for, and released behind the product's wait.
        unsafe {
            while tile < self.span.tiles.end {
                s = self.scores::<Q>(s, slot);
                if let Some(factor) = self.softmax(&mut softmax, &mut s, tile) {
                    scale_rows(&mut o, factor);
                }
                let p = Q::fragments::<STEPS>(&s);
                self.give(&p);
                o = self.output::<Q>(o, p, slot);
                tile += 1;
            }
            softmax.finish();
            softmax.sum = self.exchange(softmax.sum, |own, other| own + other);
            // The next item's rows come when both have, so that then both have read the sums.
            if !planted(Fault::QueryEarly) && !planted(Fault::QueryRelease) {
                self.release(self.block.query_empty(self.shape));
            }
        }
        (o, softmax)
    }

    /// S = Q K^T of the warpgroup's keys.
    #[inline(always)]
    unsafe fn scores<Q: WideProduct>(&self, s: Scores, slot: &mut Turn) -> Scores {
        let q = Descriptor::<KMajor>::of_rows(self.block.queries(renewed(0)));
        let mut s = wgmma_fence(s);
        // SAFETY: handed on to the caller.
        unsafe {
            for turn in 0..SLOTS {
                let k = Descriptor::<KMajor>::of_grouped_rows(self.full(*slot), KEY_COLUMNS);
                for step in 0..KEY_STEPS {
                    let (q, k) = (q.step(turn * KEY_STEPS + step, GROUP_ROWS), k.step(step, PATTERN_ROWS));
                    s = Q::ss(s, q, k, turn + step > 0);
                }
                self.next(turn, slot);
            }
            let s = wgmma_wait_group::<0, _>(s);
            self.empty(*slot);
            s
        }
    }

    /// O += P V, of the warpgroup's own keys and then of the other's.
    #[inline(always)]
    unsafe fn output<Q: WideProduct>(&self, o: Output, p: [[u32; 4]; STEPS], slot: &mut Turn) -> Output {
        let (o, p) = wgmma_fence((o, p));
        let mut o = o.fed_by(p);
        let others = Descriptor::<KMajor>::of_rows(self.block.weights(1 - renewed(self.warpgroup), self.shape));
        // SAFETY: handed on to the caller.
        unsafe {
            for turn in 0..SLOTS {
                if turn == SLOTS / 2 {
                    // The other's P is there.
                    if !planted(Fault::Weights) {
                        bar_sync(WEIGHTS, 2 * WARPGROUP);
                    }
                }
                let v = Descriptor::<MnMajor>::of_grouped_columns(self.full(*slot), VALUE_COLUMNS);
                for step in 0..VALUE_STEPS {
                    let (of_keys, v) =
                        (turn as usize % 2 * VALUE_STEPS + step, v.grouped_step(step as u32, VALUE_COLUMNS));
                    o = if turn < SLOTS / 2 {
                        Q::rs(o, of_keys, v, true)
                    } else {
                        Q::ss(o, others.step(of_keys as u32, GROUP_ROWS), v, true)
                    };
                }
                self.next(turn, slot);
            }
            let o = wgmma_wait_group::<0, _>(o);
            self.empty(*slot);
            o
        }
    }

    /// Ends a slot's group of products: the slot before has been read when at most this one is under way.
    #[inline(always)]
    unsafe fn next(&self, turn: u32, slot: &mut Turn) {
        wgmma_commit_group();
        if turn > 0 {
            wgmma_wait_group::<1, _>(());
            // SAFETY: handed on to the caller.
            unsafe { self.empty(*slot) };
        }
        slot.advance(self.shape.stages);
    }

    /// Waits for a slot, and gives it.
    #[inline(always)]
    unsafe fn full(&self, slot: Turn) -> Shared<u8> {
        let ring = Side::of(self.warpgroup);
        // SAFETY: initialised at the block's begin.
        unsafe {
            if !planted(ring.either(Fault::KeyTileFull, Fault::ValueTileFull)) {
                mbarrier_wait_parity(self.block.full(ring, slot.slot, self.shape), slot.parity);
            }
            if planted(ring.either(Fault::KeyTileEarly, Fault::ValueTileEarly)) {
                self.release_slot(slot.slot);
            }
        }
        // As a value of this step: slots are the same in each, and all their descriptors, made ahead, would be kept (34 registers).
        Shared::new(renewed(self.block.tile(ring, slot.slot, self.shape).address))
    }

    /// Gives the slot before `slot` back.
    #[inline(always)]
    unsafe fn empty(&self, slot: Turn) {
        let ring = Side::of(self.warpgroup);
        let early = planted(ring.either(Fault::KeyTileEarly, Fault::ValueTileEarly));
        if !early && !planted(ring.either(Fault::KeyTileRelease, Fault::ValueTileRelease)) {
            // SAFETY: handed on to the caller.
            unsafe { self.release_slot((slot.slot + self.shape.stages - 1) % self.shape.stages) };
        }
    }

    /// An arrival of the warp for slot `slot`, at all blocks that copy to it.
    #[inline(always)]
    unsafe fn release_slot(&self, slot: u32) {
        let barrier = self.block.empty(Side::of(self.warpgroup), slot, self.shape);
        if self.shape.cluster == 1 {
            // SAFETY: handed on to the caller.
            return unsafe { self.release(barrier) };
        }
        if !planted(Fault::ReleaseWarp) {
            bar_warp_sync();
        }
        let lane = thread::thread_idx_x() % 32;
        if lane < self.shape.cluster {
            // SAFETY: as above; the blocks of the cluster are there until all are done.
            unsafe { mbarrier_arrive_remote(mapa(barrier, lane)) };
        }
    }

    /// An arrival of the warp.
    #[inline(always)]
    unsafe fn release(&self, barrier: Shared<Mbarrier>) {
        if !planted(Fault::ReleaseWarp) {
            bar_warp_sync();
        }
        if thread::thread_idx_x().is_multiple_of(32) {
            // SAFETY: as above.
            unsafe { mbarrier_arrive(barrier) };
        }
    }

    /// The thread's first row and column of the accumulators.
    #[inline(always)]
    fn place(&self) -> [u32; 2] {
        let thread = renewed(thread::thread_idx_x());
        [thread / 32 % 4 * 16 + thread % 32 / 4, thread % 4 * 2]
    }

    /// Makes the logits of the warpgroup's keys of `tile` P.
    #[inline(always)]
    unsafe fn softmax(&self, softmax: &mut RowSoftmax, s: &mut Scores, tile: u32) -> Option<[f32; 2]> {
        let params = &self.params.decode;
        let mut scale = params.scale_log2;
        if self.span.edges.cover(tile) {
            let [row, column] = self.place();
            let first = tile * self.shape.tile_keys + self.warpgroup * GROUP_KEYS + column;
            // SAFETY: handed on to the caller.
            unsafe { mask::apply(params, scale, self.item, s, first, rank(self.shape) * GROUP_ROWS + row) };
            scale = 1.0;
        }
        // SAFETY: the other warpgroup makes its P of the tile too, and they meet once more when both are there.
        softmax.update_joint(s, scale, |own| unsafe { self.exchange(own, f32::max) })
    }

    /// A number of each of the thread's rows, of this warpgroup and of the other.
    ///
    /// # Safety
    /// Both warpgroups call it, and between two calls meet once more.
    #[inline(always)]
    unsafe fn exchange(&self, own: [f32; 2], both: impl Fn(f32, f32) -> f32) -> [f32; 2] {
        let [row, column] = self.place();
        let at = |warpgroup: u32, of_thread: usize| self.block.stat(warpgroup, row + 8 * of_thread as u32, self.shape);
        // SAFETY: one lane of four writes a row, and others read behind the barrier.
        unsafe {
            if column == 0 {
                for of_thread in 0..2 {
                    st_shared_b32(at(self.warpgroup, of_thread), [own[of_thread].to_bits()]);
                }
            }
            if !planted(Fault::Maxima) {
                bar_sync(MAXIMA, 2 * WARPGROUP);
            }
            let others = [0, 1].map(|of_thread| f32::from_bits(ld_shared_b32(at(1 - self.warpgroup, of_thread))[0]));
            [both(own[0], others[0]), both(own[1], others[1])]
        }
    }

    /// Gives P to the other warpgroup.
    #[inline(always)]
    unsafe fn give(&self, p: &[[u32; 4]; STEPS]) {
        let [row, column] = self.place();
        let to = self.block.weights(self.warpgroup, self.shape);
        for step in 0..STEPS {
            for word in 0..4 {
                let (row, chunk) = (row + 8 * (word as u32 % 2), 2 * step as u32 + word as u32 / 2);
                let at = to.byte_offset(chunk_offset(row, chunk, COLUMNS_BYTES) + 2 * column);
                // SAFETY: the other has read what was there before, as it has told its maxima since.
                unsafe { st_shared_b32(at.cast(), [p[step][word]]) };
            }
        }
        if !planted(Fault::WeightsFence) {
            fence_proxy_async_shared();
        }
    }
}
