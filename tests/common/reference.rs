//! The oracle: attention as the textbook writes it, one plain loop in f64.
//!
//! It shares no code with the kernels nor with the same-precision reference that tolerances are made of; its inputs are
//! the 16-bit numbers that the kernel reads, its outputs are not rounded. A row without keys gives zeros and an LSE of -inf.

/// One row's answer.
pub struct Answer {
    /// Output `[D]`.
    pub out: Vec<f64>,
    /// Log of the sum of exponentials, natural.
    pub lse: f64,
    /// `[D]`: sum of p * |v|, what rounding p can cost at most in units of its roundoff.
    pub magnitude: Vec<f64>,
    /// Largest `scale * sum |q| |k|` of a key: what rounding scores can cost in units of f32's roundoff.
    pub score_magnitude: f64,
}

/// Attention of the query row `q` over keys `0 .. length`; `k(i)` and `v(i)` give the rows of key i.
pub fn attention<'a>(
    q: &[f32],
    length: usize,
    k: impl Fn(usize) -> &'a [f32],
    v: impl Fn(usize) -> &'a [f32],
    scale: f32,
) -> Answer {
    let d = q.len();
    let mut scores = Vec::with_capacity(length);
    let mut score_magnitude = 0.0f64;
    for i in 0..length {
        let key = k(i);
        let (mut sum, mut magnitude) = (0.0f64, 0.0f64);
        for c in 0..d {
            sum += f64::from(q[c]) * f64::from(key[c]);
            magnitude += (f64::from(q[c]) * f64::from(key[c])).abs();
        }
        scores.push(sum * f64::from(scale));
        score_magnitude = score_magnitude.max(magnitude * f64::from(scale).abs());
    }
    let (mut out, mut magnitude) = (vec![0.0f64; d], vec![0.0f64; d]);
    if length == 0 {
        return Answer { out, lse: f64::NEG_INFINITY, magnitude, score_magnitude };
    }
    let mut largest = f64::NEG_INFINITY;
    for &s in &scores {
        if s > largest {
            largest = s;
        }
    }
    let denominator: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
    for (i, s) in scores.iter().enumerate() {
        let p = (s - largest).exp() / denominator;
        let value = v(i);
        for c in 0..d {
            out[c] += p * f64::from(value[c]);
            magnitude[c] += p * f64::from(value[c]).abs();
        }
    }
    Answer { out, lse: largest + denominator.ln(), magnitude, score_magnitude }
}
