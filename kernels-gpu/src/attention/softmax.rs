//! The online softmax of a warp's rows: running maximum and sum, in base 2 (scores are scaled by log2(e) as well, so that
//! an exponential is one `ex2`).
//!
//! A row that has seen no key has maximum -inf and sum 0; its output is 0 and its log-sum-exp -inf.
use crate::config::Shape;
use crate::ptx::math::{ex2_approx_ftz, lg2_approx_ftz};
use crate::ptx::sync::shfl_bfly;
use crate::tile::scales::value_scales;
use crate::tile::{RingTile, Scores, key_tiles};

/// Of a lane's two rows.
#[derive(Clone, Copy, Debug)]
pub struct OnlineSoftmax {
    /// The largest scaled score so far, the same in the four lanes of a row.
    pub maximum: [f32; 2],
    /// The sum of exponentials; until [`OnlineSoftmax::finish`], of this lane's columns alone.
    pub sum: [f32; 2],
}

/// A maximum that can be subtracted: -inf - -inf would be NaN, and a row without keys has weight 2^(-inf - 0) = 0.
#[inline(always)]
pub fn finite(maximum: f32) -> f32 {
    if maximum == f32::NEG_INFINITY { 0.0 } else { maximum }
}

impl OnlineSoftmax {
    /// Before any key.
    #[inline(always)]
    pub const fn new() -> Self {
        Self { maximum: [f32::NEG_INFINITY; 2], sum: [0.0; 2] }
    }

    /// Takes a tile's scores, makes them P, and gives the factors that O so far is to be scaled by. Scores of a row are
    /// multiplied by its `scale`; where each key of `value` has a scale, P has it too, and the sum has not.
    #[inline(always)]
    pub fn update(&mut self, s: &mut Scores, scale: [f32; 2], value: RingTile, lane: u32, shape: &Shape) -> [f32; 2] {
        let tokens = if shape.block_scales() { None } else { value.scales };
        for (tile, scores) in s.iter_mut().take(key_tiles(shape)).enumerate() {
            // SAFETY: the tile is whole and visible, as its reader was promised.
            let log2 = tokens.map_or([0.0; 2], |scales| unsafe { value_scales(scales, tile, lane) }[0]);
            for (element, score) in scores.iter_mut().enumerate() {
                *score *= scale[element / 2];
                if tokens.is_some() {
                    *score += log2[element % 2];
                }
            }
        }
        let (mut factor, mut subtrahend) = ([0.0; 2], [0.0; 2]);
        for row in 0..2 {
            let mut maximum = self.maximum[row];
            for tile in s.iter().take(key_tiles(shape)) {
                maximum = maximum.max(tile[2 * row]).max(tile[2 * row + 1]);
            }
            maximum = maximum.max(f32::from_bits(shfl_bfly(maximum.to_bits(), 1)));
            maximum = maximum.max(f32::from_bits(shfl_bfly(maximum.to_bits(), 2)));
            subtrahend[row] = finite(maximum);
            factor[row] = ex2_approx_ftz(self.maximum[row] - subtrahend[row]);
            self.maximum[row] = maximum;
            self.sum[row] *= factor[row];
        }
        for (tile, scores) in s.iter_mut().take(key_tiles(shape)).enumerate() {
            // SAFETY: as above.
            let inverse = tokens.map_or([1.0; 2], |scales| unsafe { value_scales(scales, tile, lane) }[1]);
            for (element, score) in scores.iter_mut().enumerate() {
                *score = ex2_approx_ftz(*score - subtrahend[element / 2]);
                self.sum[element / 2] += if tokens.is_some() { *score * inverse[element % 2] } else { *score };
            }
        }
        factor
    }

    /// Adds up the four lanes of a row.
    #[inline(always)]
    pub fn finish(&mut self) {
        for sum in &mut self.sum {
            *sum += f32::from_bits(shfl_bfly(sum.to_bits(), 1));
            *sum += f32::from_bits(shfl_bfly(sum.to_bits(), 2));
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
