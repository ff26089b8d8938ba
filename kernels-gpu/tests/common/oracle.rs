//! The right answer for one query row by plain loops in f64, and how far from it a kernel may be.
//!
//! A bound is made of the inputs alone: twice the error of the same row at the kernels' precision (P and O rounded to
//! bf16, sums in f32, in the plainest order), plus what rounding P once can cost, at most 2e-3 of the largest |output|.
use half::bf16;

/// bf16 keeps 8 bits of a significand.
const UNIT_ROUNDOFF: f64 = 1.0 / 512.0;

/// No floor is above this share of the largest |output|.
const LARGEST_FLOOR: f64 = 2e-3;

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
pub fn attend(q: &[f32], keys: &[(Vec<f32>, Vec<f32>)], scale: f32) -> Row {
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
    let mut rounded_l = 0.0f32;
    for (s, (_, v)) in scores.iter().zip(keys) {
        let p = (s - m).exp();
        let p_rounded = bf16::from_f64(p).to_f32();
        rounded_l += p as f32;
        for c in 0..d {
            o[c] += p / l * f64::from(v[c]);
            magnitude[c] += p / l * f64::from(v[c]).abs();
            rounded[c] += p_rounded * v[c];
        }
    }
    let error = rounded.iter().zip(&o).map(|(sum, o)| (bf16::from_f32(sum / rounded_l).to_f64() - o).abs());
    let error = error.fold(0.0, f64::max);
    let largest = |values: &[f64]| values.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let floor = (UNIT_ROUNDOFF * largest(&magnitude)).min(LARGEST_FLOOR * largest(&o));

    // One rounding of f32 a term of a score, twice over for the exponentials' approximation and the change of base.
    let lse = m + l.ln();
    let roundings = 2.0 * d as f64 * largest_score + keys.len() as f64 + 8.0 * (1.0 + lse.abs());
    Row { o, o_bound: 2.0 * error + floor, lse, lse_bound: f64::from(f32::EPSILON) / 2.0 * roundings }
}
