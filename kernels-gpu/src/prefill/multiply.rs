//! The loop: S of a tile under way while O of the tile before is, and the softmax of the one while the other still is.
use super::block::{Block, Side, Turn, release};
use super::fragments::Fragments;
use super::item::{self, Span};
use super::product::{Product, output, scores};
use super::shape::{GROUP_ROWS, PrefillShape};
use super::softmax::{RowSoftmax, scale_rows};
use super::{mask, sharp, store};
use crate::abi::PrefillParams;
use crate::fault::{Fault, planted};
use crate::memory::Shared;
use crate::ptx::math::renewed;
use crate::ptx::mbarrier::mbarrier_wait_parity;
use crate::ptx::wgmma::{Accumulator, wgmma_commit_group, wgmma_fence, wgmma_wait_group};
use cuda_std::thread;

/// Multiplies the block's items for the block's rows of warpgroup `warpgroup`.
///
/// # Safety
/// As for the entry; the warpgroup's threads call it together.
#[inline(always)]
pub unsafe fn multiply<
    const D: u32,
    const HELD: usize,
    const STEPS: usize,
    Q: Product,
    S: Accumulator,
    O: Accumulator,
>(
    params: &PrefillParams,
    block: &Block,
    warpgroup: u32,
    shape: &PrefillShape,
) {
    let (mut keys, mut values, mut turn) = (Turn::FIRST, Turn::FIRST, 0);
    while block.has(turn, shape) {
        // SAFETY: handed on to the caller.
        unsafe {
            if !planted(Fault::QueryFull) {
                mbarrier_wait_parity(block.query_full(shape), turn & 1);
            }
            let item = block.item(turn, shape);
            let rows = Rows { params, block, item, span: item::span(item), warpgroup };
            if planted(Fault::QueryEarly) {
                release(block.query_empty(shape));
            }
            let (o, softmax) = rows.attend::<D, HELD, STEPS, Q, S, O>(&mut keys, &mut values, shape);
            let item = item::load(item);
            store::store::<Q>(&params.decode, &item, &softmax, o.as_ref(), rows.place(), shape);
        }
        turn += 1;
    }
}

/// A warpgroup's rows of an item.
struct Rows<'a> {
    params: &'a PrefillParams,
    block: &'a Block,
    item: Shared<u32>,
    span: Span,
    warpgroup: u32,
}

impl Rows<'_> {
    /// Their O, not normalised, and its softmax.
    #[inline(always)]
    unsafe fn attend<
        const D: u32,
        const HELD: usize,
        const STEPS: usize,
        Q: Product,
        S: Accumulator,
        O: Accumulator,
    >(
        &self,
        keys: &mut Turn,
        values: &mut Turn,
        shape: &PrefillShape,
    ) -> (O, RowSoftmax) {
        let (block, mut tile, end) = (self.block, self.span.tiles.first, self.span.tiles.end);
        let rows = shape.block_rows();
        let (mut o, mut softmax, mut sharp) = (O::ZERO, RowSoftmax::NONE, false);
        // SAFETY: what a product reads is waited for, and released behind the product's wait.
        unsafe {
            if tile >= end {
                self.release_queries(shape);
                return (o, softmax);
            }
            let held = self.held_queries::<HELD>(shape);
            self.full(Side::Key, *keys, shape);
            let (next, sum, fenced, held) = wgmma_fence((S::ZERO, o, [[0; 4]; STEPS], held));
            let tiles = |keys: &Turn| [self.queries(), block.tile(Side::Key, keys.slot, shape)];
            let mut next = scores::<D, HELD, Q, S>(next, held, tiles(keys), rows);
            // O is not under way yet: a group of nothing.
            let mut sum = sum.fed_by(fenced);
            wgmma_commit_group();
            let p = loop {
                let mut s = wgmma_wait_group::<1, _>(next);
                if Q::BYTES > 1 {
                    self.empty(Side::Key, keys, shape);
                }
                let (scale, factor) =
                    self.prepare::<D, Q>(&mut softmax, &mut sharp, s.as_mut(), [tile, keys.slot], shape);
                // Of 8 bits keys may have been read again.
                if Q::BYTES == 1 {
                    self.empty(Side::Key, keys, shape);
                }
                softmax.exponentials(s.as_mut(), scale);
                let first = tile == self.span.tiles.first;
                tile += 1;
                // Between the exponentials and the wait for O: a loop that the assembler moves nothing across. Without one it has the
                // wait first, and the exponentials where no product of this warpgroup is under way, but the other's are.
                if shape.exponentials_first() && tile < end {
                    self.full(Side::Key, *keys, shape);
                }
                o = wgmma_wait_group::<0, _>(sum);
                if !first {
                    self.empty(shape.values(), values, shape);
                }
                if let Some(factor) = factor {
                    scale_rows(o.as_mut(), factor);
                }
                let p = Q::fragments::<STEPS>(s.as_ref());
                if tile >= end {
                    break p;
                }
                if !shape.exponentials_first() {
                    self.full(Side::Key, *keys, shape);
                }
                let (fenced_s, fenced_o, fenced_p) = wgmma_fence((s, o, p));
                next = scores::<D, HELD, Q, S>(fenced_s, held, tiles(keys), rows);
                self.full(shape.values(), *values, shape);
                sum = output::<D, STEPS, Q, O>(fenced_o, fenced_p, block.tile(shape.values(), values.slot, shape));
            };
            if HELD == 0 {
                self.release_queries(shape);
            }
            self.full(shape.values(), *values, shape);
            let (sum, fenced) = wgmma_fence((o, p));
            o = wgmma_wait_group::<0, _>(output::<D, STEPS, Q, O>(
                sum,
                fenced,
                block.tile(shape.values(), values.slot, shape),
            ));
            self.empty(shape.values(), values, shape);
        }
        softmax.finish();
        (o, softmax)
    }

    /// The warpgroup's query rows.
    #[inline(always)]
    fn queries(&self) -> Shared<u8> {
        // As a value of this step: descriptors of all of D, made ahead, would be kept through the loop (32 registers at D = 256).
        self.block.queries(GROUP_ROWS * renewed(self.warpgroup))
    }

    /// The thread's first row and column of the accumulators.
    #[inline(always)]
    fn place(&self) -> [u32; 2] {
        let thread = renewed(thread::thread_idx_x());
        [GROUP_ROWS * self.warpgroup + thread / 32 % 4 * 16 + thread % 32 / 4, thread % 4 * 2]
    }

    /// The warp's query rows as fragments, where they are held in registers: then they are given back.
    #[inline(always)]
    unsafe fn held_queries<const HELD: usize>(&self, shape: &PrefillShape) -> [[u32; 4]; HELD] {
        let mut held = [[0; 4]; HELD];
        if HELD > 0 {
            let fragments = self.query_fragments(shape);
            for (step, words) in (0..).zip(&mut held) {
                // SAFETY: the rows are there.
                *words = unsafe { fragments.step(step) };
            }
            // SAFETY: handed on to the caller.
            unsafe { self.release_queries(shape) };
        }
        held
    }

    /// The warp's query rows.
    #[inline(always)]
    fn query_fragments(&self, shape: &PrefillShape) -> Fragments {
        let thread = renewed(thread::thread_idx_x());
        let row = GROUP_ROWS * renewed(self.warpgroup) + thread / 32 % 4 * 16;
        Fragments::of_rows(self.block.queries(row), shape.block_rows(), thread % 32)
    }

    /// Does what there is to be done to the logits `s` of a tile, whose keys are in `slot`, before they are P: gives what they are still to be
    /// multiplied by, and O where it is. Of 8 bits large ones are worked out again; `sharp` is whether the warp's rows have had some.
    ///
    /// That is told where maxima rise, as nearly all of the first tiles' do, and not of each tile by a vote, which took 5 % at D = 128.
    #[inline(always)]
    unsafe fn prepare<const D: u32, Q: Product>(
        &self,
        softmax: &mut RowSoftmax,
        sharp: &mut bool,
        s: &mut [f32],
        [tile, slot]: [u32; 2],
        shape: &PrefillShape,
    ) -> (f32, Option<[f32; 2]>) {
        let params = &self.params.decode;
        // SAFETY: told at the block's begin.
        let mut scale = unsafe { Q::score_scale(params, self.block.scale(shape)) };
        let (edge, narrow) = (self.span.edges.cover(tile), Q::BYTES == 1);
        if edge || *sharp {
            // Before a soft cap or biases hide it.
            if narrow && (*sharp || sharp::any(s, scale)) {
                // SAFETY: the tile is given back behind this.
                unsafe { self.sharpen::<D>(s, slot, shape) };
            }
            if edge {
                let [row, column] = self.place();
                // SAFETY: handed on to the caller.
                unsafe { mask::apply(params, scale, self.item, s, tile * shape.tile_keys + column, row) };
                scale = 1.0;
            }
        }
        let mut factor = softmax.rise(s, scale, Q::TOP, shape.bounds_maxima());
        if let Some([a, b]) = factor
            && narrow
            && !*sharp
            && sharp::any_so_far(softmax, Q::TOP)
        {
            *sharp = true;
            if !edge {
                // SAFETY: as above.
                unsafe { self.sharpen::<D>(s, slot, shape) };
                factor = softmax.rise(s, scale, Q::TOP, false).map(|more| [a * more[0], b * more[1]]).or(factor);
            }
        }
        (scale, factor)
    }

    /// Works the warp's logits out again, from the keys in `slot`.
    #[inline(always)]
    unsafe fn sharpen<const D: u32>(&self, s: &mut [f32], slot: u32, shape: &PrefillShape) {
        let keys = self.block.tile(Side::Key, slot, shape);
        // SAFETY: both tiles are there until they are given back.
        unsafe { sharp::scores::<D>(s, &self.query_fragments(shape), keys, shape) };
    }

    /// Waits for a tile.
    #[inline(always)]
    unsafe fn full(&self, side: Side, turn: Turn, shape: &PrefillShape) {
        // SAFETY: initialised at the block's begin.
        unsafe {
            if !planted(side.one_of(Fault::KeyTileFull, Fault::ValueTileFull, Fault::TransposedFull)) {
                mbarrier_wait_parity(self.block.full(side, turn.slot, shape), turn.parity);
            }
            if planted(side.one_of(Fault::KeyTileEarly, Fault::ValueTileEarly, Fault::TransposedEarly)) {
                release(self.block.empty(side, turn.slot, shape));
            }
        }
    }

    /// Gives a tile back, and goes on to the next.
    #[inline(always)]
    unsafe fn empty(&self, side: Side, turn: &mut Turn, shape: &PrefillShape) {
        let early = planted(side.one_of(Fault::KeyTileEarly, Fault::ValueTileEarly, Fault::TransposedEarly));
        if !early && !planted(side.one_of(Fault::KeyTileRelease, Fault::ValueTileRelease, Fault::TransposedRelease)) {
            // SAFETY: as above.
            unsafe { release(self.block.empty(side, turn.slot, shape)) };
        }
        turn.advance(shape.slots(side));
    }

    /// Gives the query rows back.
    #[inline(always)]
    unsafe fn release_queries(&self, shape: &PrefillShape) {
        if !planted(Fault::QueryEarly) && !planted(Fault::QueryRelease) {
            // SAFETY: as above.
            unsafe { release(self.block.query_empty(shape)) };
        }
    }
}
