//! The online softmax of a warp's rows: running maximum and sum, in base 2 (scores are scaled by log2(e) as well, so that
//! an exponential is one `ex2`).
//!
//! What exponentials are relative to is not quite the maximum: it stands until a logit exceeds it by [`SLACK`], so that after
//! a few tiles O is no more rescaled and lanes no more compare their maxima. Every sum is of the same relative precision; exponentials are at most 2^8.
//!
//! A row that has seen no key has sum 0, and maximum -inf once it is finished; its output is 0 and its log-sum-exp -inf.
use crate::config::Shape;
use crate::memory::Shared;
use crate::ptx::math::{ex2_approx_ftz, lg2_approx_ftz};
use crate::ptx::sync::shfl_bfly;
use crate::tile::scales::value_scales;
use crate::tile::{OfRows, Scores, key_tiles};

/// Of a lane's rows.
#[derive(Clone, Copy, Debug)]
pub struct OnlineSoftmax {
    /// The largest scaled score so far, or what it exceeds by at most [`SLACK`]; the same in the eight lanes of a row. Of rows without keys -inf once
    /// [`OnlineSoftmax::finish`] has been called, and the least number there is before and where several were merged: weights and log-sum-exps
    /// are the same of both, as the sum is 0.
    pub maximum: OfRows<f32>,
    /// The sum of exponentials; until [`OnlineSoftmax::finish`], of this lane's keys alone.
    pub sum: OfRows<f32>,
}

/// What exponentials are relative to before there is a key: below every logit, and a number, so that it can be subtracted from those that are -inf.
const LEAST: f32 = f32::MIN;

/// How far, in base 2, a logit may exceed what exponentials are relative to: 2^8 is a number of f16 with room for what V is
/// scaled by, and of bf16 with as many digits as any other.
pub const SLACK: f32 = 8.0;

/// Lanes that have the same rows.
const LANES_OF_A_ROW: [u32; 3] = [4, 8, 16];

/// The largest logits of a lane's rows; where keys have scales of V, logits get them first.
///
/// # Safety
/// Scales are those of the warp's keys, complete and visible to it.
#[inline(always)]
pub unsafe fn largest(s: &mut Scores, scales: Option<Shared<u8>>, lane: u32, shape: &Shape) -> OfRows<f32> {
    if let Some(scales) = scales {
        for (tile, keys) in s.iter_mut().take(key_tiles(shape)).enumerate() {
            // SAFETY: handed on to the caller.
            let [log2, _] = unsafe { value_scales(scales, tile, lane) };
            for fragment in keys.iter_mut().take(shape.row_tiles as usize) {
                for (element, score) in fragment.iter_mut().enumerate() {
                    *score += log2[element / 2];
                }
            }
        }
    }
    of_keys(s, |_, score| score, f32::max, shape)
}

/// A lane's keys of each row, each as `of` has it, put together by `join`; `of` is told the key's tile, and which of the lane's two of it.
#[inline(always)]
fn of_keys(
    s: &Scores,
    of: impl Fn([usize; 2], f32) -> f32,
    join: impl Fn(f32, f32) -> f32,
    shape: &Shape,
) -> OfRows<f32> {
    let mut joined = [0.0; 4];
    for (tile, keys) in s.iter().take(key_tiles(shape)).enumerate() {
        for (rows, fragment) in keys.iter().take(shape.row_tiles as usize).enumerate() {
            for (element, &score) in fragment.iter().enumerate() {
                let (row, value) = (2 * rows + element % 2, of([tile, element / 2], score));
                joined[row] = if tile == 0 && element < 2 { value } else { join(joined[row], value) };
            }
        }
    }
    joined
}

/// The largest that any of a row's lanes has.
#[inline(always)]
pub fn of_lanes(mut maximum: OfRows<f32>, shape: &Shape) -> OfRows<f32> {
    for maximum in maximum.iter_mut().take(2 * shape.row_tiles as usize) {
        for lane_mask in LANES_OF_A_ROW {
            *maximum = maximum.max(f32::from_bits(shfl_bfly(maximum.to_bits(), lane_mask)));
        }
    }
    maximum
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
        Self { maximum: [LEAST; 4], sum: [0.0; 4] }
    }

    /// Whether, of the largest logits of a lane's rows, one asks for what exponentials are relative to to rise.
    #[inline(always)]
    pub fn exceeded(&self, maximum: &OfRows<f32>, shape: &Shape) -> bool {
        (0..2 * shape.row_tiles as usize).any(|row| maximum[row] - self.maximum[row] > SLACK)
    }

    /// Raises what exponentials are relative to to the rows' largest logits, in rows that need it; gives the factors of what was
    /// summed so far.
    #[inline(always)]
    pub fn raise(&mut self, maximum: &OfRows<f32>, shape: &Shape) -> OfRows<f32> {
        let mut factor = [1.0; 4];
        for row in 0..2 * shape.row_tiles as usize {
            if maximum[row] - self.maximum[row] > SLACK {
                factor[row] = ex2_approx_ftz(self.maximum[row] - maximum[row]);
                self.maximum[row] = maximum[row];
                self.sum[row] *= factor[row];
            }
        }
        factor
    }

    /// P of a warp's logits, and its sums of the lane's keys. Where keys have scales of V, P has them too, and the sums have not.
    #[inline(always)]
    pub fn exponentials(
        &self,
        s: &Scores,
        scales: Option<Shared<u8>>,
        lane: u32,
        shape: &Shape,
    ) -> (Scores, OfRows<f32>) {
        let mut p = *s;
        for keys in p.iter_mut().take(key_tiles(shape)) {
            for (rows, fragment) in keys.iter_mut().take(shape.row_tiles as usize).enumerate() {
                for (element, score) in fragment.iter_mut().enumerate() {
                    *score = ex2_approx_ftz(*score - self.maximum[2 * rows + element % 2]);
                }
            }
        }
        let add = |sum, p| sum + p;
        let sum = if let Some(scales) = scales {
            let mut inverse = [[1.0; 2]; 2];
            for (tile, inverse) in inverse.iter_mut().take(key_tiles(shape)).enumerate() {
                // SAFETY: as for the logits, which have them.
                [_, *inverse] = unsafe { value_scales(scales, tile, lane) };
            }
            of_keys(&p, |[tile, key], p| p * inverse[tile][key], add, shape)
        } else {
            of_keys(&p, |_, p| p, add, shape)
        };
        (p, sum)
    }

    /// Takes the sums of more keys.
    #[inline(always)]
    pub fn add(&mut self, sum: &OfRows<f32>, shape: &Shape) {
        for row in 0..2 * shape.row_tiles as usize {
            self.sum[row] += sum[row];
        }
    }

    /// Adds up the lanes of a row, and calls the maximum of one without keys what it is.
    #[inline(always)]
    pub fn finish(&mut self, shape: &Shape) {
        for maximum in self.maximum.iter_mut().take(2 * shape.row_tiles as usize) {
            if *maximum == LEAST {
                *maximum = f32::NEG_INFINITY;
            }
        }
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
