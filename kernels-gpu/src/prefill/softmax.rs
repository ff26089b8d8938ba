//! The online softmax of a thread's two rows, in base 2, as [`crate::attention::softmax`] has it: what exponentials are relative to
//! stands until a logit exceeds it by [`SLACK`].
use crate::attention::softmax::{SLACK, finite};
use crate::ptx::math::{ex2_approx_ftz, fma_rn};
use crate::ptx::sync::{shfl_bfly, vote_any};

/// Lanes that have the same rows.
const LANES_OF_A_ROW: [u32; 2] = [1, 2];

/// Of a thread's rows, `l / 4` and that + 8 of its warp's 16.
#[derive(Clone, Copy, Debug)]
pub struct RowSoftmax {
    /// The largest scaled logit so far, or what it exceeds by at most [`SLACK`]; the same in the four lanes of a row.
    pub maximum: [f32; 2],
    /// The sum of exponentials; until [`RowSoftmax::finish`], of this thread's keys alone.
    pub sum: [f32; 2],
}

/// Of element `index` of an accumulator, which of the thread's rows it is in.
#[inline(always)]
const fn row_of(index: usize) -> usize {
    index / 2 % 2
}

impl RowSoftmax {
    /// Before any key.
    pub const NONE: Self = Self { maximum: [f32::NEG_INFINITY; 2], sum: [0.0; 2] };

    /// Raises what exponentials are relative to where a tile's logits, which are still to be multiplied by `scale`, ask for it, so that that
    /// of the maximum is `2^top`. Gives what O is to be multiplied by where that is not 1 for all rows of the warp. With `bounded` the
    /// largest logits are found only where their [`bound`] does not tell that nothing rises: of the same result.
    #[inline(always)]
    pub fn rise(&mut self, s: &[f32], scale: f32, top: f32, bounded: bool) -> Option<[f32; 2]> {
        if bounded && !vote_any(!self.holds(bound(s, scale))) {
            return None;
        }
        let maximum = largest(s, scale);
        let to = || of_rows(maximum).map(|maximum| maximum - top);
        vote_any(self.exceeded(maximum)).then(|| self.raise(to(), SLACK - top))
    }

    /// Makes a tile's logits, which are still to be multiplied by `scale`, P, where the rows have more logits elsewhere: `joint` gives the
    /// largest of all, the same to all who have the row, from the largest here. Gives what [`RowSoftmax::rise`] does.
    #[inline(always)]
    pub fn update_joint(
        &mut self,
        s: &mut [f32],
        scale: f32,
        joint: impl FnOnce([f32; 2]) -> [f32; 2],
    ) -> Option<[f32; 2]> {
        let maximum = joint(of_rows(largest(s, scale)));
        let factor = vote_any(self.exceeded(maximum)).then(|| self.raise(maximum, SLACK));
        self.exponentials(s, scale);
        factor
    }

    /// Whether what exponentials are relative to is to rise. Not so where both are -inf, whose difference is NaN.
    #[inline(always)]
    fn exceeded(&self, maximum: [f32; 2]) -> bool {
        maximum[0] - self.maximum[0] > SLACK || maximum[1] - self.maximum[1] > SLACK
    }

    /// Whether no logit up to `bound` exceeds what exponentials are relative to; of NaN, which tells of none, not so.
    #[inline(always)]
    fn holds(&self, bound: [f32; 2]) -> bool {
        bound[0] - self.maximum[0] <= SLACK && bound[1] - self.maximum[1] <= SLACK
    }

    /// Makes logits, which are still to be multiplied by `scale`, P.
    #[inline(always)]
    pub fn exponentials(&mut self, s: &mut [f32], scale: f32) {
        let subtrahend = self.maximum.map(|maximum| -finite(maximum));
        for index in 0..s.len() {
            let row = row_of(index);
            s[index] = ex2_approx_ftz(fma_rn(s[index], scale, subtrahend[row]));
            self.sum[row] += s[index];
        }
    }

    /// Raises what exponentials are relative to to `to`, in rows where that is more than `slack` above; gives the factors of what was
    /// summed so far.
    #[inline(always)]
    fn raise(&mut self, to: [f32; 2], slack: f32) -> [f32; 2] {
        let mut factor = [1.0; 2];
        for row in 0..2 {
            if to[row] - self.maximum[row] > slack {
                factor[row] = ex2_approx_ftz(self.maximum[row] - to[row]);
                self.maximum[row] = to[row];
                self.sum[row] *= factor[row];
            }
        }
        factor
    }

    /// Adds up the lanes of a row.
    #[inline(always)]
    pub fn finish(&mut self) {
        for sum in &mut self.sum {
            for lane_mask in LANES_OF_A_ROW {
                *sum += f32::from_bits(shfl_bfly(sum.to_bits(), lane_mask));
            }
        }
    }
}

/// What none of a thread's logits in each of its rows exceeds: the largest, 0 where all are negative, NaN where one is a NaN without a
/// sign. Floats from 0 on have the order of their bits as integers, negative ones are negative as integers too; and of integers the
/// assembler has the largest of three in one instruction, of floats of two.
#[inline(always)]
fn bound(s: &[f32], scale: f32) -> [f32; 2] {
    let mut largest = [0; 2];
    for index in 0..s.len() {
        let row = row_of(index);
        largest[row] = largest[row].max(s[index].to_bits().cast_signed());
    }
    largest.map(|largest| f32::from_bits(largest.cast_unsigned()) * scale)
}

/// The largest of a thread's logits in each of its rows; NaN is not compared.
#[inline(always)]
pub fn largest(s: &[f32], scale: f32) -> [f32; 2] {
    let mut maximum = [f32::NEG_INFINITY; 2];
    for index in 0..s.len() {
        let row = row_of(index);
        maximum[row] = maximum[row].max(s[index]);
    }
    maximum.map(|largest| largest * scale)
}

/// The largest of the rows' lanes.
#[inline(always)]
fn of_rows(mut maximum: [f32; 2]) -> [f32; 2] {
    for row in 0..2 {
        for lane_mask in LANES_OF_A_ROW {
            maximum[row] = maximum[row].max(f32::from_bits(shfl_bfly(maximum[row].to_bits(), lane_mask)));
        }
    }
    maximum
}

/// Multiplies a thread's rows of O.
#[inline(always)]
pub fn scale_rows(o: &mut [f32], factor: [f32; 2]) {
    for index in 0..o.len() {
        o[index] *= factor[row_of(index)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_for_the_bound_is_not_exceeded() {
        let infinity = f32::INFINITY;
        let logits =
            [f32::NAN, -f32::NAN, infinity, -infinity, 1e38, -1e38, 90.0, -90.0, 8.1, -8.1, 1e-45, -1e-45, 0.0, -0.0];
        let maxima = [-infinity, -1e38, -100.0, -8.0, 0.0, 0.2, 8.0, 82.0, 1e38, infinity];
        let mut held = 0;
        for (a, b) in logits.into_iter().flat_map(|a| logits.map(|b| (a, b))) {
            let s = [-infinity, a, -1.0, 3.0, b, -infinity, -2.0, 1.0];
            for (maximum, scale) in maxima.into_iter().flat_map(|maximum| [0.125, 1.0].map(|scale| (maximum, scale))) {
                let softmax = RowSoftmax { maximum: [maximum, 0.0], ..RowSoftmax::NONE };
                let [bound, largest] = [bound(&s, scale), largest(&s, scale)];
                let holds = softmax.holds(bound);
                held += u32::from(holds);
                assert!(!(holds && softmax.exceeded(largest)), "{a}, {b}: {bound:?}, {largest:?} over {maximum}");
                if largest[0] >= 0.0 && !a.is_nan() && !b.is_nan() {
                    assert_eq!(bound, largest);
                }
            }
        }
        assert!(held > 1000, "{held}");
    }
}
