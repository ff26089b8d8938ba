//! From logits to P as operands. Warps that share a head have S of their own keys each: they raise together what exponentials are relative
//! to, and multiply each other's P by their own columns of V. P goes through shared memory as operands, lane for lane.
use super::exchange::{put, stats_of};
use super::softmax::{OnlineSoftmax, largest, of_lanes};
use crate::config::Shape;
use crate::element::Element;
use crate::fault::{Fault, planted};
use crate::layout::place::Place;
use crate::memory::Shared;
use crate::ptx::memory::{ld_shared_v2_b32, ld_shared_v4_b32, st_shared_b32, st_shared_v2_b32, st_shared_v4_b32};
use crate::ptx::sync::{bar_sync, vote_any};
use crate::tile::operand::KvElement;
use crate::tile::{self, Accumulator, OfRows, Scores, Weights, product};

/// P between warps that share a head, or of one that has it alone.
pub struct WeightExchange {
    shared: Shared<u8>,
    /// Two buffers, used in turn: a warp that writes one has passed the barrier of the other, and so has every reader.
    buffer: u32,
    /// Whether there was a tile, so that exponentials are relative to something.
    begun: bool,
    /// Of a warp that has the head alone.
    own: Weights,
}

impl WeightExchange {
    /// Before the first tile; `shared` is the block's.
    #[inline(always)]
    pub fn new(shared: Shared<u8>) -> Self {
        Self { shared, buffer: 0, begun: false, own: Weights::default() }
    }

    /// Takes the logits of the warp's keys of a tile, in base 2, and makes them P; where what P is relative to has to rise, O is rescaled.
    ///
    /// # Safety
    /// As for the entry; `scales` are V's of the warp's keys, where keys have them.
    #[inline(always)]
    pub unsafe fn give<Q: Element, K: KvElement<Q>>(
        &mut self,
        softmax: &mut OnlineSoftmax,
        s: &mut Scores,
        o: &mut Accumulator,
        scales: Option<Shared<u8>>,
        place: &Place,
        shape: &Shape,
    ) {
        // SAFETY: handed on to the caller.
        let maximum = unsafe { largest(s, scales, place.lane, shape) };
        // The rows' lanes and warps need not tell each other their maxima, and O stays, unless one of them asks for it.
        let mut exceeds = vote_any(softmax.exceeded(&maximum, shape));
        let begun = shape.column_warps == 1 || self.begun;
        let mut raise = if shape.column_warps == 1 { exceeds } else { !begun };
        self.begun = true;
        loop {
            if raise {
                let maximum = self.of_warps(of_lanes(maximum, shape), place, shape);
                let factor = softmax.raise(&maximum, shape);
                if begun {
                    // Before the first tile O is nothing.
                    tile::scale_rows(o, &factor, shape);
                }
                exceeds = false;
            }
            let (p, sum) = softmax.exponentials(s, scales, place.lane, shape);
            let weights = product::weights::<Q, K>(&p, shape);
            if shape.column_warps == 1 {
                self.own = weights;
            } else {
                // SAFETY: handed on to the caller.
                unsafe { self.put(&weights, exceeds, place, shape) };
                if !planted(Fault::SharedWeights) {
                    bar_sync(place.row_barrier(shape), 32 * shape.column_warps);
                }
                // SAFETY: handed on to the caller.
                if unsafe { self.any_exceeds(place, shape) } {
                    raise = true;
                    continue;
                }
            }
            softmax.add(&sum, shape);
            break;
        }
        self.buffer ^= 1;
    }

    /// P of part `part` of the tile's keys.
    ///
    /// # Safety
    /// As for the entry, behind [`WeightExchange::give`].
    #[inline(always)]
    pub unsafe fn part(&self, part: u32, place: &Place, shape: &Shape) -> Weights {
        if shape.column_warps == 1 {
            return self.own;
        }
        let at = self.place_of(self.buffer ^ 1, place.warp - place.column_warp + part, place.lane, shape);
        let mut weights = Weights::default();
        // SAFETY: written before the barrier.
        unsafe {
            if shape.row_tiles == 1 {
                weights[0][0] = ld_shared_v2_b32(at);
            } else {
                let [a, b, c, d] = ld_shared_v4_b32(at);
                weights[0] = [[a, b], [c, d]];
            }
        }
        weights
    }

    /// A lane's words of a warp's P.
    #[inline(always)]
    const fn place_of(&self, buffer: u32, warp: u32, lane: u32, shape: &Shape) -> Shared<u32> {
        let of_warp = (buffer * shape.warps() + warp) * shape.weight_bytes();
        self.shared.byte_offset(shape.weights_offset() + of_warp + lane * (shape.weight_bytes() / 32)).cast()
    }

    /// Where a warp says whether it has a logit that exceeds.
    #[inline(always)]
    const fn excess_of(&self, warp: u32, shape: &Shape) -> Shared<u32> {
        self.shared.byte_offset(shape.excess_offset() + 4 * (self.buffer * shape.warps() + warp)).cast()
    }

    /// Writes this warp's P, and whether a logit exceeds.
    #[inline(always)]
    unsafe fn put(&self, weights: &Weights, exceeds: bool, place: &Place, shape: &Shape) {
        let at = self.place_of(self.buffer, place.warp, place.lane, shape);
        // SAFETY: this warp's places, which others read only behind the barrier.
        unsafe {
            if shape.row_tiles == 1 {
                st_shared_v2_b32(at, weights[0][0]);
            } else {
                let [[a, b], [c, d]] = weights[0];
                st_shared_v4_b32(at, [a, b, c, d]);
            }
            if place.lane == 0 {
                st_shared_b32(self.excess_of(place.warp, shape), [exceeds.into()]);
            }
        }
    }

    /// Whether any of the warps has one; the same in all of them.
    #[inline(always)]
    unsafe fn any_exceeds(&self, place: &Place, shape: &Shape) -> bool {
        let first = self.excess_of(place.warp - place.column_warp, shape);
        // SAFETY: written before the barrier, a word a warp, and two or four of them.
        let any = unsafe {
            if shape.column_warps == 2 {
                let [a, b] = ld_shared_v2_b32(first);
                a | b
            } else {
                let [a, b, c, d] = ld_shared_v4_b32(first);
                a | b | c | d
            }
        };
        vote_any(any != 0)
    }

    /// The largest that any of the warps has.
    #[inline(always)]
    fn of_warps(&self, mut maximum: OfRows<f32>, place: &Place, shape: &Shape) -> OfRows<f32> {
        if shape.column_warps == 1 {
            return maximum;
        }
        let at = |warp: u32, rows: usize| stats_of(self.shared, warp, rows, place.lane, shape);
        for rows in 0..shape.row_tiles as usize {
            if place.lane < 4 {
                // SAFETY: this warp's place; who reads it has read it before its last barrier.
                unsafe { put(at(place.warp, rows), [maximum[2 * rows], maximum[2 * rows + 1], 0.0, 0.0]) };
            }
        }
        if !planted(Fault::LogitsFull) {
            bar_sync(place.row_barrier(shape), 32 * shape.column_warps);
        }
        for column in 0..shape.column_warps {
            for rows in 0..shape.row_tiles as usize {
                // SAFETY: written before the barrier.
                let [first, second, ..] =
                    unsafe { ld_shared_v4_b32(at(place.warp - place.column_warp + column, rows)) }.map(f32::from_bits);
                maximum[2 * rows] = maximum[2 * rows].max(first);
                maximum[2 * rows + 1] = maximum[2 * rows + 1].max(second);
            }
        }
        maximum
    }
}
