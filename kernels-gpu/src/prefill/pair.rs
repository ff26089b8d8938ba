//! The loop at D = 512, where all of O's columns would be 256 registers a thread: the two blocks of a cluster have the same 128
//! rows, 64 a warpgroup, and divide the rest. Each takes the products of Q with half of a tile's keys and tells the other its
//! rows' maxima, so that both make P relative to the same; gives it its P; and adds both P V to its half of O's columns. So a block
//! reads half of K and half of V, and what crosses, its P, is an eighth of that.
//!
//! Both are in registers: of the same rows threads at the same place of their blocks have the same fragments.
use super::block::{Block, MAXIMA, SUMS, Side, Turn, WEIGHTS, release};
use super::item::{self, Span};
use super::product::WideProduct;
use super::shape::{GROUP_ROWS, KEY_PARTS, PATTERN_ROWS, PEER_BYTES, PrefillShape, STAT_BYTES, VALUE_PARTS, WARPGROUP};
use super::slots::{GROUP_KEYS, SLOTS};
use super::softmax::{RowSoftmax, scale_rows};
use super::{mask, store};
use crate::abi::PrefillParams;
use crate::fault::{Fault, planted};
use crate::layout::descriptor::{Descriptor, KMajor, MnMajor};
use crate::memory::{Mbarrier, Shared};
use crate::ptx::cluster::{cluster_ctarank, mapa, st_async_v2_b32, st_async_v4_b32};
use crate::ptx::math::renewed;
use crate::ptx::mbarrier::{mbarrier_arrive, mbarrier_arrive_expect_tx, mbarrier_wait_parity_unbounded};
use crate::ptx::memory::{ld_shared_b32, ld_shared_v4_b32};
use crate::ptx::wgmma::{Fragments, InFlight, wgmma_commit_group, wgmma_fence, wgmma_wait_group};
use cuda_std::thread;

/// S of a block's 64 keys.
type Scores = [f32; 32];
/// O of its 256 columns.
type Output = [f32; 128];
/// Steps of 16 keys of its P, and of the other's.
const STEPS: usize = 4;
/// P of a block's keys.
type Weights = [[u32; 4]; STEPS];
/// Slots of V with them.
const HALF: u32 = SLOTS / 2;
/// Products of 16 columns of K, and of 16 keys of V, in a slot.
const KEY_STEPS: u32 = KEY_PARTS * 4;
const VALUE_STEPS: u32 = STEPS as u32 / HALF;
/// Columns of a slot of K, and of V.
const KEY_COLUMNS: u32 = KEY_PARTS * 64;
const VALUE_COLUMNS: u32 = VALUE_PARTS * 64;
/// Groups that are left under way while slots of those before are given back.
const AHEAD: u32 = 1;
/// The parities of the phases in which a warpgroup is told maxima and sums, and given P, a bit each: in one register.
struct Received(u32);

impl Received {
    /// The parity of the phase of `what` that comes next, and on to the one after it.
    #[inline(always)]
    const fn parity(&mut self, what: u32) -> u32 {
        let parity = self.0 >> what & 1;
        self.0 ^= 1 << what;
        parity
    }
}

impl Block {
    /// What thread `thread` of a warpgroup is given of step `step` of P: 16 bytes.
    #[inline(always)]
    pub fn weights(&self, warpgroup: u32, step: u32, thread: u32, shape: &PrefillShape) -> Shared<u32> {
        let of_thread = (step * WARPGROUP + thread) * 16;
        self.shared.byte_offset(shape.exchange_offset() + warpgroup * PEER_BYTES + of_thread).cast()
    }

    /// Where a warpgroup is told maxima or sums, of the two rows that threads of place `place` have: 8 bytes.
    #[inline(always)]
    pub fn stat(&self, what: u32, warpgroup: u32, place: u32, shape: &PrefillShape) -> Shared<u32> {
        let of_warpgroup = (what * shape.consumers + warpgroup) * STAT_BYTES;
        self.shared.byte_offset(shape.stats_offset() + of_warpgroup + 8 * place).cast()
    }
}

/// Multiplies the block's items for the rows of warpgroup `warpgroup`.
///
/// # Safety
/// As for the entry; the warpgroup's threads call it together.
#[inline(always)]
pub unsafe fn multiply<Q: WideProduct>(params: &PrefillParams, block: &Block, warpgroup: u32, shape: &PrefillShape) {
    let (mut slots, mut turn, mut received) = (Turn::FIRST, 0, Received(0));
    while block.has(turn, shape) {
        // SAFETY: handed on to the caller.
        unsafe {
            if !planted(Fault::QueryFull) {
                mbarrier_wait_parity_unbounded(block.query_full(shape), turn & 1);
            }
            let item = block.item(turn, shape);
            let half = Half { params, block, item, span: item::span(item), warpgroup, shape };
            if planted(Fault::QueryEarly) {
                release(block.query_empty(shape));
            }
            let (o, softmax) = half.attend::<Q>(&mut slots, &mut received);
            let item = item::load(item);
            let [row, column] = half.place();
            let place = [row, cluster_ctarank() * VALUE_COLUMNS + column];
            store::store::<Q>(&params.decode, &item, &softmax, &o, place, shape);
        }
        turn += 1;
    }
}

/// A block's half of a warpgroup's rows of an item.
struct Half<'a> {
    params: &'a PrefillParams,
    block: &'a Block,
    item: Shared<u32>,
    span: Span,
    warpgroup: u32,
    shape: &'a PrefillShape,
}

impl Half<'_> {
    /// O of the block's columns, not normalised, and the rows' softmax.
    #[inline(always)]
    unsafe fn attend<Q: WideProduct>(&self, slots: &mut Turn, received: &mut Received) -> (Output, RowSoftmax) {
        let (mut o, mut softmax, mut s) = ([0.0; 128], RowSoftmax::NONE, [0.0; 32]);
        let (mut tile, end) = (self.span.tiles.first, self.span.tiles.end);
        // SAFETY: what a product reads is waited for, and released behind the product's wait.
        unsafe {
            if tile >= end {
                self.release_queries();
                return (o, softmax);
            }
            s = wgmma_wait_group::<0, _>(self.scores::<Q>(wgmma_fence(s), None, slots));
            self.give_back([AHEAD, AHEAD], Side::Key, slots);
            let _nothing_to_scale = self.softmax(&mut softmax, &mut s, tile, received);
            let mut p = Q::fragments::<STEPS>(&s);
            self.give(&p);
            // S of the next tile stands between the products of the block's own keys and those of the other's, whose P has come
            // meanwhile, and which are under way during the softmax.
            o = loop {
                tile += 1;
                let (fenced, weights) = wgmma_fence((o, p));
                let sum = self.output::<Q, _>(fenced.fed_by(weights), true, slots);
                if tile >= end {
                    self.release_queries();
                    let others = wgmma_fence(self.received(received));
                    let sum = self.output::<Q, _>(sum.then_fed_by(others), false, slots);
                    softmax.finish();
                    softmax.sum = self.exchange::<SUMS>(softmax.sum, |own, other| own + other, received);
                    let o = wgmma_wait_group::<0, _>(sum);
                    self.give_back([AHEAD + HALF; 2], Side::Value, slots);
                    break o;
                }
                let next = self.scores::<Q>(wgmma_fence(s), Some(Side::Value), slots);
                let others = wgmma_fence(self.received(received));
                let sum = self.output::<Q, _>(sum.then_fed_by(others), false, slots);
                s = wgmma_wait_group::<HALF, _>(next);
                self.give_back([AHEAD + HALF, AHEAD], Side::Key, slots);
                let factor = self.softmax(&mut softmax, &mut s, tile, received);
                o = wgmma_wait_group::<0, _>(sum);
                self.give_back([HALF; 2], Side::Value, slots);
                if let Some(factor) = factor {
                    scale_rows(&mut o, factor);
                }
                p = Q::fragments::<STEPS>(&s);
                self.give(&p);
            };
        }
        (o, softmax)
    }

    /// S = Q K^T, a group a slot. Of these [`AHEAD`] are under way then; slots of `before` that were, are given back.
    #[inline(always)]
    unsafe fn scores<Q: WideProduct>(
        &self,
        mut s: InFlight<Scores>,
        before: Option<Side>,
        slots: &mut Turn,
    ) -> InFlight<Scores> {
        // SAFETY: handed on to the caller.
        unsafe {
            for part in 0..SLOTS {
                s = self.scores_of_slot::<Q>(s, part, slots);
                let oldest = if part < AHEAD { before } else { Some(Side::Key) };
                if let Some(side) = oldest {
                    wgmma_wait_group::<AHEAD, _>(());
                    self.give_back([AHEAD + 1, 1], side, slots);
                }
            }
        }
        s
    }

    /// O += P V over the keys of one block, a group a slot: of the block's `own` [`AHEAD`] are under way then, of the other's all.
    #[inline(always)]
    unsafe fn output<Q: WideProduct, P: Fragments>(
        &self,
        mut o: InFlight<Output, P>,
        own: bool,
        slots: &mut Turn,
    ) -> InFlight<Output, P> {
        // SAFETY: handed on to the caller.
        unsafe {
            for part in 0..HALF {
                o = self.output_of_slot::<Q, P>(o, part, slots);
                if own && part >= AHEAD {
                    wgmma_wait_group::<AHEAD, _>(());
                    self.give_back([AHEAD + 1, 1], Side::Value, slots);
                }
            }
        }
        o
    }

    /// S += Q K^T over the columns of the next slot, the `part`th of its tile; a group of its own.
    #[inline(always)]
    unsafe fn scores_of_slot<Q: WideProduct>(
        &self,
        mut s: InFlight<Scores>,
        part: u32,
        slots: &mut Turn,
    ) -> InFlight<Scores> {
        let rows = self.shape.block_rows();
        let q = Descriptor::<KMajor>::of_rows(self.block.queries(GROUP_ROWS * renewed(self.warpgroup)));
        // SAFETY: handed on to the caller.
        unsafe {
            let k = Descriptor::<KMajor>::of_grouped_rows(self.next(Side::Key, slots), KEY_COLUMNS);
            for step in 0..KEY_STEPS {
                let (q, k) = (q.step(part * KEY_STEPS + step, rows), k.step(step, PATTERN_ROWS));
                s = Q::ss(s, q, k, part + step > 0);
            }
        }
        wgmma_commit_group();
        s
    }

    /// O += P V over the keys of the next slot, the `part`th of its block's; a group of its own.
    #[inline(always)]
    unsafe fn output_of_slot<Q: WideProduct, P: Fragments>(
        &self,
        mut o: InFlight<Output, P>,
        part: u32,
        slots: &mut Turn,
    ) -> InFlight<Output, P> {
        // SAFETY: handed on to the caller.
        unsafe {
            let v = Descriptor::<MnMajor>::of_grouped_columns(self.next(Side::Value, slots), VALUE_COLUMNS);
            for step in 0..VALUE_STEPS {
                o = Q::rs(o, (part * VALUE_STEPS + step) as usize, v.grouped_step(step, VALUE_COLUMNS), true);
            }
        }
        wgmma_commit_group();
        o
    }

    /// Waits for the next slot, and goes on to the one after it.
    #[inline(always)]
    unsafe fn next(&self, side: Side, slots: &mut Turn) -> Shared<u8> {
        let Turn { slot, parity } = *slots;
        slots.advance(self.shape.stages);
        // SAFETY: initialised at the block's begin.
        unsafe {
            if !planted(side.either(Fault::KeyTileFull, Fault::ValueTileFull)) {
                mbarrier_wait_parity_unbounded(self.block.full(side, slot, self.shape), parity);
            }
            if planted(side.either(Fault::KeyTileEarly, Fault::ValueTileEarly)) {
                release(self.block.empty(side, slot, self.shape));
            }
        }
        self.block.tile(side, slot, self.shape)
    }

    /// Of the last `held` slots gives the `count` oldest back.
    #[inline(always)]
    unsafe fn give_back(&self, [held, count]: [u32; 2], side: Side, slots: &Turn) {
        let early = planted(side.either(Fault::KeyTileEarly, Fault::ValueTileEarly));
        let stages = self.shape.stages;
        for age in (held - count..held).rev() {
            let slot = (slots.slot + stages - 1 - age) % stages;
            if !early && !planted(side.either(Fault::KeyTileRelease, Fault::ValueTileRelease)) {
                // SAFETY: handed on to the caller.
                unsafe { release(self.block.empty(side, slot, self.shape)) };
            }
        }
    }

    /// Gives the query rows back.
    #[inline(always)]
    unsafe fn release_queries(&self) {
        if !planted(Fault::QueryEarly) && !planted(Fault::QueryRelease) {
            // SAFETY: handed on to the caller.
            unsafe { release(self.block.query_empty(self.shape)) };
        }
    }

    /// The thread's first row and column of the accumulators.
    #[inline(always)]
    fn place(&self) -> [u32; 2] {
        let thread = renewed(thread::thread_idx_x());
        [GROUP_ROWS * self.warpgroup + thread / 32 % 4 * 16 + thread % 32 / 4, thread % 4 * 2]
    }

    /// Makes the logits of the block's keys of `tile` P.
    #[inline(always)]
    unsafe fn softmax(
        &self,
        softmax: &mut RowSoftmax,
        s: &mut Scores,
        tile: u32,
        received: &mut Received,
    ) -> Option<[f32; 2]> {
        let params = &self.params.decode;
        let mut scale = params.scale_log2;
        if self.span.edges.cover(tile) {
            let [row, column] = self.place();
            let first = tile * self.shape.tile_keys + cluster_ctarank() * GROUP_KEYS + column;
            // SAFETY: handed on to the caller.
            unsafe { mask::apply(params, scale, self.item, s, first, row) };
            scale = 1.0;
        }
        // SAFETY: the other block makes its P of the tile too.
        softmax.update_joint(s, scale, |own| unsafe { self.exchange::<MAXIMA>(own, f32::max, received) })
    }

    /// A number of each of the thread's rows, of this block and of the other.
    ///
    /// # Safety
    /// Both blocks call it as often, and between two calls with the same `WHAT` each is given the other's P, which it gives when
    /// it has been told.
    #[inline(always)]
    unsafe fn exchange<const WHAT: u32>(
        &self,
        own: [f32; 2],
        both: impl Fn(f32, f32) -> f32,
        received: &mut Received,
    ) -> [f32; 2] {
        let thread = renewed(thread::thread_idx_x()) % WARPGROUP;
        let (told, peer) = (self.block.sent(WHAT, self.warpgroup, self.shape), cluster_ctarank() ^ 1);
        let at = self.block.stat(WHAT, self.warpgroup, thread / 4, self.shape);
        let parity = received.parity(WHAT);
        // SAFETY: one lane of the four that have two rows tells of them. What the other block then overwrites, the P that it gave
        // before, all lanes have read: they have issued products with it together.
        unsafe {
            self.arm(told, STAT_BYTES, thread, WHAT);
            if thread.is_multiple_of(4) {
                st_async_v2_b32(mapa(at, peer), own.map(f32::to_bits), mapa(told, peer));
            }
            if !planted(Fault::Told) {
                mbarrier_wait_parity_unbounded(told, parity);
            }
            let others = [at, at.at(1)].map(|at| f32::from_bits(ld_shared_b32(at)[0]));
            [both(own[0], others[0]), both(own[1], others[1])]
        }
    }

    /// The arrival for what the other block sends, numbers of rows or P, by one thread of the warpgroup.
    #[inline(always)]
    unsafe fn arm(&self, barrier: Shared<Mbarrier>, bytes: u32, thread: u32, what: u32) {
        let either = |told: Fault, given: Fault| if what == WEIGHTS { given } else { told };
        if thread == 0 {
            // SAFETY: initialised at the block's begin.
            unsafe {
                if planted(either(Fault::ToldBytes, Fault::GivenBytes)) {
                    mbarrier_arrive(barrier);
                } else if !planted(either(Fault::ToldArrival, Fault::GivenArrival)) {
                    mbarrier_arrive_expect_tx(barrier, bytes);
                }
            }
        }
    }

    /// Gives P to the other block's thread at this one's place.
    #[inline(always)]
    unsafe fn give(&self, p: &Weights) {
        let thread = renewed(thread::thread_idx_x()) % WARPGROUP;
        let peer = cluster_ctarank() ^ 1;
        let given = mapa(self.block.sent(WEIGHTS, self.warpgroup, self.shape), peer);
        let to = mapa(self.block.weights(self.warpgroup, 0, thread, self.shape), peer);
        for step in 0..STEPS {
            // SAFETY: the other has read what was there before, as it has told its maxima since.
            unsafe { st_async_v4_b32(to.at(step as u32 * WARPGROUP * 4), p[step], given) };
        }
    }

    /// The other block's P, when it is there.
    #[inline(always)]
    unsafe fn received(&self, received: &mut Received) -> Weights {
        let thread = renewed(thread::thread_idx_x()) % WARPGROUP;
        let given = self.block.sent(WEIGHTS, self.warpgroup, self.shape);
        let parity = received.parity(WEIGHTS);
        // SAFETY: what is read is there when the barrier completes.
        unsafe {
            self.arm(given, PEER_BYTES, thread, WEIGHTS);
            if !planted(Fault::Given) {
                mbarrier_wait_parity_unbounded(given, parity);
            }
            [0, 1, 2, 3].map(|step| ld_shared_v4_b32(self.block.weights(self.warpgroup, step, thread, self.shape)))
        }
    }
}
