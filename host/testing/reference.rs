//! Attention on the CPU at the kernels' precision: what any honest kernel's rounding costs, and nothing else.
//!
//! S and the exponentials in f32, P rounded to the cache's format before it multiplies V, O accumulated in f32 and
//! rounded once at the end: the same roundings as the kernels', in the plainest order (all keys at once, no tiles, no
//! splits). Beside it the same sums without rounding P and O, in f32. It is *not* the oracle of the tests (that is f64
//! and shares no code with this): its error is the unit in which a kernel's error is measured, see [`super::tolerance`].
use super::format;
use crate::DType;

/// One row of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The output `[D]` with P and O rounded to the format; zeros where there are no keys.
    pub rounded: Vec<f32>,
    /// The output `[D]` in f32 throughout.
    pub exact: Vec<f32>,
    /// Natural logarithm of the softmax's denominator; -inf where there are no keys.
    pub lse: f32,
    /// The largest, over the row, sum of p * |v|: what rounding P can cost, in units of its roundoff.
    pub magnitude: f32,
}

/// Attention of one query row over `keys`, pairs of a key and its value, each of q's length. Numbers are expected to be
/// exact in `format`.
pub fn attend<'a>(
    format: DType,
    q: &[f32],
    keys: impl Iterator<Item = (&'a [f32], &'a [f32])> + Clone,
    scale: f32,
) -> Row {
    let mut p: Vec<f32> = keys.clone().map(|(k, _)| dot(q, k) * scale).collect();
    let d = q.len();
    if p.is_empty() {
        return Row { rounded: vec![0.0; d], exact: vec![0.0; d], lse: f32::NEG_INFINITY, magnitude: 0.0 };
    }
    let m = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for p in &mut p {
        *p = (*p - m).exp();
    }
    let l: f32 = p.iter().sum();
    let (mut rounded, mut exact, mut magnitude) = (vec![0.0f32; d], vec![0.0f32; d], vec![0.0f32; d]);
    for (p, (_, v)) in p.into_iter().zip(keys) {
        let p_rounded = format::round(format, p);
        for (i, v) in v.iter().enumerate() {
            rounded[i] += p_rounded * v;
            exact[i] += p * v;
            magnitude[i] += p * v.abs();
        }
    }
    for (rounded, exact) in rounded.iter_mut().zip(&mut exact) {
        *rounded = format::round(format, *rounded / l);
        *exact /= l;
    }
    let magnitude = magnitude.into_iter().fold(0.0, f32::max) / l;
    Row { rounded, exact, lse: m + l.ln(), magnitude }
}

/// Eight partial sums: the compiler vectorises them, and the order is fixed.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    rest + sums.iter().sum::<f32>()
}
