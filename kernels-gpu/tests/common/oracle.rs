//! The right answer for one query row by plain loops in f64, and how far from it a kernel may be.
//!
//! A bound is made of the inputs alone: twice the error of the same row at the kernels' precision (P and O rounded, sums in f32, in
//! the plainest order), plus what rounding P once can cost: of bf16 all of it, at most 2e-3 of the largest |output|; of e4m3, where
//! that would be a sixteenth, what errors of either sign come to.
use half::bf16;

/// No floor of bf16 is above this share of the largest |output|.
const LARGEST_FLOOR: f64 = 2e-3;

/// How the kernels round P.
#[derive(Clone, Copy)]
pub struct Weights {
    round: fn(f64) -> f64,
    unit_roundoff: f64,
    wide: bool,
}

impl Weights {
    /// 8 bits of a significand.
    pub const BF16: Self = Self { round: |p| bf16::from_f64(p).to_f64(), unit_roundoff: 1.0 / 256.0, wide: true };
    /// 4 bits of a significand, down to 2^-14; P is multiplied by 2^8 before.
    pub const E4M3: Self = Self { round: |p| nearest_e4m3(p * 256.0) / 256.0, unit_roundoff: 1.0 / 16.0, wide: false };
}

/// The number of a code of e4m3: a sign, 4 bits of exponent (of 2, minus 7), 3 of fraction.
pub fn number_of_e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let magnitude = if exponent == 0 { fraction / 64.0 } else { (1.0 + fraction) * 2.0f32.powi(exponent - 7) };
    if code & 0x7F == 0x7F {
        f32::NAN
    } else if code & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// The number of e4m3 next to `x` (0 to 448), the one with an even code of two.
fn nearest_e4m3(x: f64) -> f64 {
    let number = |code: u8| f64::from(number_of_e4m3(code));
    let above = (0..0x7E).find(|&code| number(code) >= x).unwrap_or(0x7E);
    let below = above.max(1) - 1;
    let (up, down) = (number(above) - x, x - number(below));
    number(if up < down || up == down && above % 2 == 0 { above } else { below })
}

/// One query row's answer.
pub struct Row {
    /// `[D]`.
    pub o: Vec<f64>,
    /// How far off an element of `o` may be.
    pub o_bound: f64,
    /// Natural logarithm of the sum of exponentials; -inf without keys.
    pub lse: f64,
    /// How far off `lse` may be.
    pub lse_bound: f64,
}

/// Attention of the row `q` over `keys`, pairs of a key and its value.
pub fn attend(q: &[f32], keys: &[(Vec<f32>, Vec<f32>)], scale: f32, weights: Weights) -> Row {
    let d = q.len();
    if keys.is_empty() {
        return Row { o: vec![0.0; d], o_bound: 0.0, lse: f64::NEG_INFINITY, lse_bound: 0.0 };
    }
    let products = |k: &[f32]| -> Vec<f64> { q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).collect() };
    let scores: Vec<f64> = keys.iter().map(|(k, _)| products(k).iter().sum::<f64>() * f64::from(scale)).collect();
    let sizes = keys.iter().map(|(k, _)| products(k).iter().map(|x| x.abs()).sum::<f64>() * f64::from(scale));
    let largest_score = sizes.fold(0.0, f64::max);
    let m = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let l: f64 = scores.iter().map(|s| (s - m).exp()).sum();

    let (mut o, mut magnitude, mut rounded) = (vec![0.0f64; d], vec![0.0f64; d], vec![0.0f32; d]);
    let mut squares = vec![0.0f64; d];
    let mut rounded_l = 0.0f32;
    for (s, (_, v)) in scores.iter().zip(keys) {
        let p = (s - m).exp();
        let p_rounded = (weights.round)(p) as f32;
        rounded_l += p as f32;
        for c in 0..d {
            o[c] += p / l * f64::from(v[c]);
            magnitude[c] += p / l * f64::from(v[c]).abs();
            squares[c] += (p / l * f64::from(v[c])).powi(2);
            rounded[c] += p_rounded * v[c];
        }
    }
    let error = rounded.iter().zip(&o).map(|(sum, o)| (bf16::from_f32(sum / rounded_l).to_f64() - o).abs());
    let error = error.fold(0.0, f64::max);
    let largest = |values: &[f64]| values.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let floor = if weights.wide {
        (weights.unit_roundoff * largest(&magnitude)).min(LARGEST_FLOOR * largest(&o))
    } else {
        weights.unit_roundoff * largest(&squares).sqrt()
    };

    // One rounding of f32 a term of a score, twice over for the exponentials' approximation and the change of base.
    let lse = m + l.ln();
    let roundings = 2.0 * d as f64 * largest_score + keys.len() as f64 + 8.0 * (1.0 + lse.abs());
    Row { o, o_bound: 2.0 * error + floor, lse, lse_bound: f64::from(f32::EPSILON) / 2.0 * roundings }
}
