//! How far from the exact answer a kernel may be: twice what its precision costs, plus a floor.
//!
//! `bound = 2 * reference_error + floor`, all relative to the largest |exact output|:
//! * `reference_error`: the error of the same-precision CPU reference ([`super::reference`]) on the same inputs, against
//!   an exact computation (not against an answer under test: a wrong one would widen its own bound);
//! * `floor = min(u * A / M, 2e-3)`: u is the unit roundoff of the queries' 16-bit format (2^-8 for bf16, 2^-11 for f16), or
//!   of a coarser output, A the
//!   largest sum of p * |v| over all output elements, M the largest |exact output|. It is what rounding P once can
//!   cost, and covers the luck of a small case whose reference happens to round to the exact answer. It follows from
//!   the inputs alone, never from what a kernel returned. Where M is 0 (no keys, or values of 0) there is nothing to
//!   round, and the floor is 0.
//!
//! Queries of FP8 round P to 4 bits of a significand: u = 2^-4, and what that costs at most is no bound to speak of. Their floor
//! is u * R / M, R the largest root of a sum of (p v)^2: errors of either sign, which add up as those do. There is no upper
//! limit to it, as where one key has all the weight nothing averages.
//!
//! Infinities and NaN are not errors of a size: they must be where the exact answer has them, and nowhere else.
use super::format;
use super::reference::Weights;
use super::variant::CaseOutput;
use crate::DType;
use kernels_gpu::prefill::shape::LARGE_LOGIT;

/// No floor is above this share of the largest |exact output|.
pub const LARGEST_FLOOR: f64 = 2e-3;

/// The largest error allowed, relative to the largest |exact output|, and what it was made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Error of the same-precision reference.
    pub reference_error: f64,
    /// The floor.
    pub floor: f64,
}

impl Tolerance {
    /// The tolerance of a case of `format` whose queries are FP8, with `spread` the R of the module's formula.
    pub fn narrow(format: DType, output: CaseOutput, reference_error: f64, spread: f64, largest: f64) -> Self {
        let roundoff = Weights::Fp8E4M3.unit_roundoff().max(output.unit_roundoff(format));
        Self { reference_error, floor: if largest > 0.0 { roundoff * spread / largest } else { 0.0 } }
    }

    /// The tolerance for queries of `format`, with `magnitude` the A and `largest` the M of the module's formula.
    pub fn new(format: DType, output: CaseOutput, reference_error: f64, magnitude: f64, largest: f64) -> Self {
        let roundoff = format::unit_roundoff(format).max(output.unit_roundoff(format));
        let floor = if largest > 0.0 { roundoff * magnitude / largest } else { 0.0 };
        Self { reference_error, floor: floor.min(LARGEST_FLOOR) }
    }

    /// Twice the reference's error and the floor.
    pub fn bound(&self) -> f64 {
        2.0 * self.reference_error + self.floor
    }

    /// Whether `error` is within the bound (a NaN is not).
    pub fn admits(&self, error: f64) -> bool {
        error <= self.bound()
    }
}

impl core::fmt::Display for Tolerance {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:.2e} (2 x {:.2e} + {:.2e})", self.bound(), self.reference_error, self.floor)
    }
}

/// The largest bound on an error of the log-sum-exp, absolute: rounding in f32 of scores whose products add up to
/// `score_magnitude` (scale * sum |q||k|) over `head_dim` terms, and of a sum of `keys` exponentials.
pub fn lse_bound(head_dim: usize, keys: usize, score_magnitude: f64, exact: f64) -> f64 {
    // One rounding of f32 a term, twice over for the exponentials' approximation and the change of base.
    let roundoff = f64::from(f32::EPSILON) / 2.0;
    roundoff * (2.0 * head_dim as f64 * score_magnitude + keys as f64 + 8.0 * (1.0 + exact.abs()))
}

/// As [`lse_bound`], of scores that Hopper's tensor cores made of FP8 products: of the sum after each instruction, of 32 columns, they
/// cut off what is below 2^-13 of it (14 bits), and it is at most `score_magnitude`. (On an H100 up to 1.9 such cuts were seen of
/// the 4 at D = 128, 1.3 of the 8 at 256.) Scores above [`LARGE_LOGIT`] are worked out without cuts, so that all that have some together weigh
/// at most `keys` times 2 to that power. (Biases that are added to scores are none here, or negative.)
pub fn narrow_lse_bound(head_dim: usize, keys: usize, score_magnitude: f64, exact: f64) -> f64 {
    let cut = (head_dim / 32) as f64 * score_magnitude / f64::from(1 << 13);
    let weight = keys as f64 * (f64::from(LARGE_LOGIT) - exact * core::f64::consts::LOG2_E).exp2();
    lse_bound(head_dim, keys, score_magnitude, exact) + cut * weight.min(1.0)
}

/// Why outputs cannot be compared by size.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// Another number of elements.
    #[error("{actual} elements where {expected} were expected")]
    Length {
        /// Elements returned.
        actual: usize,
        /// Elements expected.
        expected: usize,
    },
    /// An infinity or a NaN where the exact answer has none, or the reverse.
    #[error("element {index} is {actual} where {expected} was expected")]
    NotFinite {
        /// Where, counted from 0.
        index: usize,
        /// What was returned.
        actual: f64,
        /// What was expected.
        expected: f64,
    },
}

/// The largest |actual - exact| over the largest |exact|; where all of `exact` is 0, the largest |actual|.
///
/// # Errors
/// Where the lengths differ, or an infinity or NaN is not where `exact` has it.
pub fn error<A: Copy + Into<f64>, E: Copy + Into<f64>>(actual: &[A], exact: &[E]) -> Result<f64, Mismatch> {
    if actual.len() != exact.len() {
        return Err(Mismatch::Length { actual: actual.len(), expected: exact.len() });
    }
    let mut largest_error = 0.0f64;
    for (index, (&a, &e)) in actual.iter().zip(exact).enumerate() {
        let (actual, expected): (f64, f64) = (a.into(), e.into());
        if actual.is_finite() && expected.is_finite() {
            largest_error = largest_error.max((actual - expected).abs());
        } else if actual != expected && !(actual.is_nan() && expected.is_nan()) {
            return Err(Mismatch::NotFinite { index, actual, expected });
        }
    }
    let scale = largest(exact);
    Ok(if scale > 0.0 { largest_error / scale } else { largest_error })
}

/// The largest finite magnitude of `values`.
pub fn largest<T: Copy + Into<f64>>(values: &[T]) -> f64 {
    values.iter().map(|&v| v.into().abs()).filter(|v| v.is_finite()).fold(0.0, f64::max)
}
