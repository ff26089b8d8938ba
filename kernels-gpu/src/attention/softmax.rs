//! The online softmax of a warp's rows: running maximum and sum, in base 2 (scores are scaled by log2(e) as well, so that
//! an exponential is one `ex2`).
//!
//! What exponentials are relative to is not quite the maximum: it stands until a logit exceeds it by [`SLACK`], so that after
//! a few tiles O is no more rescaled and lanes no more compare their maxima. Every sum is of the same relative precision; exponentials are at most 2^8.
//!
//! A row that has seen no key has maximum -inf and sum 0; its output is 0 and its log-sum-exp -inf.
use crate::config::Shape;
use crate::ptx::math::{ex2_approx_ftz, lg2_approx_ftz};
use crate::ptx::sync::{shfl_bfly, vote_any};
use crate::tile::scales::value_scales;
use crate::tile::{self, Accumulator, OfRows, RingTile, Scores, key_tiles};

/// Of a lane's rows.
#[derive(Clone, Copy, Debug)]
pub struct OnlineSoftmax {
    /// The largest scaled score so far, or what it exceeds by at most [`SLACK`]; the same in the eight lanes of a row.
    pub maximum: OfRows<f32>,
    /// The sum of exponentials; until [`OnlineSoftmax::finish`], of this lane's keys alone.
    pub sum: OfRows<f32>,
}

/// How far, in base 2, a logit may exceed what exponentials are relative to: 2^8 is a number of f16 with room for what V is
/// scaled by, and of bf16 with as many digits as any other.
pub const SLACK: f32 = 8.0;

/// Lanes that have the same rows.
const LANES_OF_A_ROW: [u32; 3] = [4, 8, 16];

/// A maximum that can be subtracted: -inf - -inf would be NaN, and a row without keys has weight 2^(-inf - 0) = 0.
#[inline(always)]
pub fn finite(maximum: f32) -> f32 {
    if maximum == f32::NEG_INFINITY { 0.0 } else { maximum }
}

impl OnlineSoftmax {
    /// Before any key.
    #[inline(always)]
    pub const fn new() -> Self {
        Self { maximum: [f32::NEG_INFINITY; 4], sum: [0.0; 4] }
    }

    /// Takes a tile's logits in base 2 and makes them P; where what P is relative to has to rise, O is rescaled. Where each key
    /// of `value` has a scale, P has it too, and the sum has not.
    #[inline(always)]
    pub fn update(&mut self, s: &mut Scores, o: &mut Accumulator, value: RingTile, lane: u32, shape: &Shape) {
        let row_tiles = shape.row_tiles as usize;
        let tokens = if shape.block_scales() { None } else { value.scales };
        let mut maximum = [f32::NEG_INFINITY; 4];
        for (tile, keys) in s.iter_mut().take(key_tiles(shape)).enumerate() {
            // SAFETY: the tile is whole and visible, as its reader was promised.
            let log2 = tokens.map(|scales| unsafe { value_scales(scales, tile, lane) }[0]);
            for (rows, fragment) in keys.iter_mut().take(row_tiles).enumerate() {
                for (element, score) in fragment.iter_mut().enumerate() {
                    let row = 2 * rows + element % 2;
                    if let Some(log2) = log2 {
                        *score += log2[element / 2];
                    }
                    maximum[row] = maximum[row].max(*score);
                }
            }
        }
        let mut exceeds = false;
        for row in 0..2 * row_tiles {
            // Not so where both are -inf, whose difference is NaN.
            exceeds |= maximum[row] - self.maximum[row] > SLACK;
        }
        // The rows' lanes need not tell each other their maxima, and O stays, unless one of them asks for it.
        if vote_any(exceeds) {
            tile::scale_rows(o, &self.raise(&mut maximum, shape), shape);
        }
        let subtrahend = self.maximum.map(finite);
        for (tile, keys) in s.iter_mut().take(key_tiles(shape)).enumerate() {
            // SAFETY: as above.
            let inverse = tokens.map(|scales| unsafe { value_scales(scales, tile, lane) }[1]);
            for (rows, fragment) in keys.iter_mut().take(row_tiles).enumerate() {
                for (element, score) in fragment.iter_mut().enumerate() {
                    let row = 2 * rows + element % 2;
                    *score = ex2_approx_ftz(*score - subtrahend[row]);
                    self.sum[row] += inverse.map_or(*score, |inverse| *score * inverse[element / 2]);
                }
            }
        }
    }

    /// Raises what exponentials are relative to, in rows that need it, to the largest of `maximum` of their lanes; gives the
    /// factors of what was summed so far.
    #[inline(always)]
    fn raise(&mut self, maximum: &mut OfRows<f32>, shape: &Shape) -> OfRows<f32> {
        let mut factor = [1.0; 4];
        for row in 0..2 * shape.row_tiles as usize {
            for lane_mask in LANES_OF_A_ROW {
                maximum[row] = maximum[row].max(f32::from_bits(shfl_bfly(maximum[row].to_bits(), lane_mask)));
            }
            if maximum[row] - self.maximum[row] > SLACK {
                factor[row] = ex2_approx_ftz(self.maximum[row] - maximum[row]);
                self.maximum[row] = maximum[row];
                self.sum[row] *= factor[row];
            }
        }
        factor
    }

    /// Adds up the lanes of a row.
    #[inline(always)]
    pub fn finish(&mut self, shape: &Shape) {
        for sum in self.sum.iter_mut().take(2 * shape.row_tiles as usize) {
            for lane_mask in LANES_OF_A_ROW {
                *sum += f32::from_bits(shfl_bfly(sum.to_bits(), lane_mask));
            }
        }
    }
}

impl Default for OnlineSoftmax {
    fn default() -> Self {
        Self::new()
    }
}

/// 1 / sum, and 0 where nothing was summed.
#[inline(always)]
pub fn reciprocal(sum: f32) -> f32 {
    if sum == 0.0 { 0.0 } else { 1.0 / sum }
}

/// log2 of the sum of exponentials; -inf where there were none.
#[inline(always)]
pub fn lse_log2(maximum: f32, sum: f32) -> f32 {
    finite(maximum) + lg2_approx_ftz(sum)
}
