//! Attention on the CPU at the kernels' precision: what any honest kernel's rounding costs, and nothing else.
//!
//! S and the exponentials in f32, P rounded to what is multiplied before it multiplies V, O accumulated in f32 and
//! rounded once at the end: the same roundings as the kernels', in the plainest order (all keys at once, no tiles, no
//! splits). Beside it the same sums without rounding P and O, in f32. It is *not* the oracle of the tests (that is f64
//! and shares no code with this): its error is the unit in which a kernel's error is measured, see [`super::tolerance`].
use super::case::{Case, Sequence};
use super::format;
use super::quantise::Codes;
use super::variant::CaseOutput;
use crate::DType;
use core::ops::Range;
use std::sync::LazyLock;

/// One row of attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The output `[D]` with P rounded to q's format and O to the output's; zeros where there are no keys.
    pub rounded: Vec<f32>,
    /// The output `[D]` in f32 throughout.
    pub exact: Vec<f32>,
    /// Natural logarithm of the softmax's denominator; -inf where there are no keys.
    pub lse: f32,
    /// The largest, over the row, sum of p * |v|: what rounding P can cost, in units of its roundoff.
    pub magnitude: f32,
    /// The largest, over the row, root of the sum of (p * v)^2: what it costs where errors of either sign add up.
    pub spread: f32,
}

/// The numbers of e4m3.
pub(super) static E4M3: LazyLock<Codes> = LazyLock::new(Codes::e4m3);

/// What P is rounded to before it multiplies V, relative to the row's largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// A 16-bit format.
    Sixteen(DType),
    /// e4m3 of 2^8 times P: normal down to 2^-14, and 0 below 2^-18.
    Fp8E4M3,
}

impl Weights {
    /// P (at most 1) as it is multiplied.
    fn round(self, p: f32) -> f32 {
        match self {
            Self::Sixteen(format) => format::round(format, p),
            Self::Fp8E4M3 => E4M3.decode(E4M3.encode(p * 256.0)) / 256.0,
        }
    }

    /// The largest relative error of rounding a P that is not too small.
    pub fn unit_roundoff(self) -> f64 {
        match self {
            Self::Sixteen(format) => format::unit_roundoff(format),
            Self::Fp8E4M3 => 1.0 / 16.0,
        }
    }
}

/// How a row's logits become weights, and what its output is rounded to.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Format of the case, which the output has where it is given no other.
    pub format: DType,
    /// What P is rounded to.
    pub weights: Weights,
    /// Softmax scale.
    pub scale: f32,
    /// Scaled logits become `c * tanh(logit / c)`.
    pub softcap: Option<f32>,
    /// ALiBi: what a key's distance is multiplied by and added.
    pub slope: f32,
    /// One more logit in the denominator.
    pub sink: Option<f32>,
    /// What O is rounded to.
    pub output: CaseOutput,
}

impl Rule {
    /// Plain attention, the output in q's format.
    pub const fn plain(format: DType, scale: f32) -> Self {
        Self {
            format,
            weights: Weights::Sixteen(format),
            scale,
            softcap: None,
            slope: 0.0,
            sink: None,
            output: CaseOutput::Own,
        }
    }
}

/// A key that a row sees.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// Its row of K.
    pub k: &'a [f32],
    /// Its row of V.
    pub v: &'a [f32],
    /// How far behind the query's position it is.
    pub distance: i64,
}

/// Attention of one query row over the `keys` that it sees, each of q's length. Numbers are expected to be exact in the
/// rule's format.
pub fn attend<'a>(rule: &Rule, q: &[f32], keys: impl Iterator<Item = Key<'a>> + Clone) -> Row {
    let logit = |key: Key<'_>| {
        let scaled = dot(q, key.k) * rule.scale;
        let capped = rule.softcap.map_or(scaled, |c| c * (scaled / c).tanh());
        if rule.slope == 0.0 { capped } else { capped + rule.slope * key.distance as f32 }
    };
    let mut p: Vec<f32> = keys.clone().map(logit).collect();
    let d = q.len();
    if p.is_empty() {
        return Row { rounded: vec![0.0; d], exact: vec![0.0; d], lse: f32::NEG_INFINITY, magnitude: 0.0, spread: 0.0 };
    }
    let m = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for p in &mut p {
        *p = (*p - m).exp();
    }
    let l: f32 = p.iter().sum();
    let denominator = l + rule.sink.map_or(0.0, |sink| (sink - m).exp());
    let (mut rounded, mut exact, mut magnitude) = (vec![0.0f32; d], vec![0.0f32; d], vec![0.0f32; d]);
    let mut squares = vec![0.0f32; d];
    for (p, Key { v, .. }) in p.into_iter().zip(keys) {
        let p_rounded = rule.weights.round(p);
        for (i, v) in v.iter().enumerate() {
            rounded[i] += p_rounded * v;
            exact[i] += p * v;
            magnitude[i] += p * v.abs();
            squares[i] += (p * v) * (p * v);
        }
    }
    for (rounded, exact) in rounded.iter_mut().zip(&mut exact) {
        *rounded /= denominator;
        *exact /= denominator;
    }
    let rounded = rule.output.round(rule.format, &rounded);
    let magnitude = magnitude.into_iter().fold(0.0, f32::max) / denominator;
    let spread = squares.into_iter().fold(0.0, f32::max).sqrt() / denominator;
    Row { rounded, exact, lse: m + l.ln(), magnitude, spread }
}

/// The row of a sequence's query token and head, by the case's variants.
pub fn row(case: &Case, sequence: usize, index: usize, q_head: usize) -> Row {
    let token = case.query_start(sequence) + index;
    let variants = &case.variants;
    let rule = Rule {
        format: case.format,
        weights: variants.query.weights(case.format),
        scale: case.scale,
        softcap: variants.softcap,
        slope: variants.slopes.as_ref().map_or(0.0, |slopes| slopes[q_head]),
        sink: variants.sinks.as_ref().map(|sinks| sinks[q_head]),
        output: variants.output,
    };
    let sight = Sight::new(case, sequence, index);
    let keys = sight.keys().map(|key| Key {
        k: case.key(sequence, q_head, key),
        v: case.value(sequence, q_head, key),
        distance: key as i64 - sight.position,
    });
    attend(&rule, case.query(token, q_head), keys)
}

/// The keys that a query token sees: an interval, and of the tokens of its own tree those that its bits say.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    /// The query's position.
    pub position: i64,
    interval: Range<usize>,
    /// Bits, and the key that the first of them is for.
    tree: Option<(&'a [u32], i64)>,
    /// Keys of the sequence.
    length: usize,
}

impl<'a> Sight<'a> {
    /// Of a sequence's query token.
    pub fn new(case: &'a Case, sequence: usize, index: usize) -> Self {
        let Sequence { length, queries, .. } = case.sequences[sequence];
        let variants = &case.variants;
        let token = case.query_start(sequence) + index;
        let aligned = length as i64 - queries as i64 + index as i64;
        let position = variants.positions.as_ref().map_or(aligned, |positions| i64::from(positions[token]));
        let before = variants.left.map_or(i64::MIN, |left| position - i64::from(left));
        let behind = variants.right.map_or(i64::MAX, |right| position + i64::from(right) + 1);
        let (mut begin, mut end) = (before, behind);
        if let Some(spans) = &variants.spans {
            let [mut a, mut b] = spans.ranges[token].map(i64::from);
            if let (true, Some(left)) = (spans.in_window, variants.left) {
                (a, b) = (a.max(position - i64::from(left)), b.min(position + i64::from(left) + 1));
            }
            if a < b {
                (begin, end) = (begin.min(a), end.max(b));
            }
        }
        let mut tree = None;
        if let Some(bits) = &variants.tree {
            let first = length as i64 - queries as i64;
            (begin, end) = (before, first);
            tree = Some((&bits.words[token * bits.width..][..bits.width], first));
        }
        let inside = |key: i64| key.clamp(0, length as i64) as usize;
        Self { position, interval: inside(begin)..inside(end), tree, length }
    }

    /// The keys, ascending.
    pub fn keys(&self) -> impl Iterator<Item = usize> + Clone {
        let tree = self.tree.into_iter().flat_map(|(bits, first)| {
            let queries = self.length as i64 - first;
            let seen = move |j: &i64| bits[*j as usize / 32] >> (*j % 32) & 1 == 1;
            (0..queries).filter(seen).map(move |j| first + j).filter(|&key| key >= 0).map(|key| key as usize)
        });
        self.interval.clone().chain(tree)
    }

    /// Keys before the first that its window, span or tree begins with: what a server may have given away.
    pub fn unseen(&self) -> usize {
        let tree = self.tree.map_or(self.length, |(_, first)| first.max(0) as usize);
        self.interval.start.min(tree)
    }
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
