//! A device's answer to a case against the oracle, by the tolerance of `qkv::testing`.
use super::reference::{Answer as Right, Row, Sight, attention};
use qkv::testing::case::Case;
use qkv::testing::reference;
use qkv::testing::run::Answer;
use qkv::testing::tolerance::{self, Tolerance};
use qkv::testing::variant::{CaseOutput, CaseQuery};

/// The distance of the smallest numbers of f16.
const F16_STEP: f64 = 1.0 / (1 << 24) as f64;

/// What a case's answer is, and how far from it a device's may be.
pub struct Exact {
    tokens: Vec<Token>,
}

/// The answer for one query token. Each has a tolerance of its own: outputs shrink as keys are averaged, and by the largest
/// output of a batch a token of a long sequence beside one of a short one would hardly be checked.
struct Token {
    /// Its sequence and place in it.
    place: (usize, usize),
    /// `[q_heads, D]`.
    out: Vec<f64>,
    /// `[q_heads]`, each with how far off it may be.
    lse: Vec<(f64, f64)>,
    /// For `out`.
    tolerance: Tolerance,
}

/// Bound of a log-sum-exp, of head dimension, keys, the scores' magnitude and the exact answer.
type LseBound = fn(usize, usize, f64, f64) -> f64;

impl Token {
    fn new(case: &Case, sequence: usize, index: usize, lse_bound: LseBound) -> Self {
        let (mut out, mut lse, mut rounded) = (Vec::new(), Vec::new(), Vec::new());
        let (mut magnitude, mut spread) = (0.0f64, 0.0f64);
        let narrow = case.variants.query != CaseQuery::Own;
        for head in 0..case.q_heads {
            let answer = oracle(case, sequence, index, head);
            rounded.extend(reference::row(case, sequence, index, head).rounded);
            magnitude = answer.magnitude.iter().copied().fold(magnitude, f64::max);
            spread = answer.spread.iter().copied().fold(spread, f64::max);
            let bound = lse_bound(case.head_dim, answer.keys, answer.score_magnitude, answer.lse);
            lse.push((answer.lse, bound));
            out.extend(answer.out);
        }
        let (output, largest) = (case.variants.output, tolerance::largest(&out));
        let error = tolerance::error(&rounded, &out).expect("the references agree on what is finite");
        let tolerance = if narrow {
            Tolerance::narrow(case.format, output, error, spread, largest)
        } else {
            Tolerance::new(case.format, output, error, magnitude, largest)
        };
        // What the reference rounds costs no more: they agree, or a wrong reference would widen the bound. (e4m3 saturates.)
        let weights = case.variants.query.weights(case.format);
        let roundoff = weights.unit_roundoff().max(output.unit_roundoff(case.format));
        let cost = 2.0 * roundoff * magnitude + F16_STEP;
        let agree = largest == 0.0 || error * largest <= cost || matches!(output, CaseOutput::Fp8E4M3 { .. });
        assert!(agree, "oracle and reference are {error:.1e} apart at sequence {sequence}, query token {index}");
        Self { place: (sequence, index), out, lse, tolerance }
    }

    /// The error of this token's outputs and LSEs, or what is wrong with them.
    fn judge(&self, out: &[f32], lse: &[f32]) -> Result<f64, String> {
        let error = tolerance::error(out, &self.out).map_err(|mismatch| mismatch.to_string())?;
        if !self.tolerance.admits(error) {
            return Err(format!("error {error:.2e} is above the bound {}", self.tolerance));
        }
        for (head, (&actual, &(exact, bound))) in lse.iter().zip(&self.lse).enumerate() {
            let actual = f64::from(actual);
            let right = if exact.is_finite() { (actual - exact).abs() <= bound } else { actual == exact };
            if !right {
                return Err(format!("lse of head {head} is {actual}, not {exact} within {bound:.1e}"));
            }
        }
        Ok(error)
    }
}

/// The oracle's answer for a row of `case`.
pub fn oracle(case: &Case, sequence: usize, index: usize, head: usize) -> Right {
    let (of, variants) = (case.sequences[sequence], &case.variants);
    let token = case.query_start(sequence) + index;
    let (length, queries) = (of.length as i64, of.queries as i64);
    let position = match &variants.positions {
        Some(positions) => i64::from(positions[token]),
        None => length - queries + index as i64,
    };
    let row = Row {
        q: case.query(token, head),
        scale: case.scale,
        softcap: variants.softcap,
        slope: variants.slopes.as_ref().map_or(0.0, |slopes| slopes[head]),
        sink: variants.sinks.as_ref().map(|sinks| sinks[head]),
        sight: Sight {
            length,
            queries,
            position,
            left: variants.left,
            right: variants.right,
            span: variants.spans.as_ref().map(|spans| (spans.ranges[token], spans.in_window)),
            tree: variants.tree.as_ref().map(|tree| &tree.words[token * tree.width..][..tree.width]),
        },
    };
    attention(&row, |key| case.key(sequence, head, key), |key| case.value(sequence, head, key))
}

impl Exact {
    /// The oracle's answer to `case`, where sums are f32's, as the simulator's are.
    pub fn new(case: &Case) -> Self {
        Self::bounded(case, tolerance::lse_bound)
    }

    /// The oracle's answer to `case`, where FP8 products are a chip's.
    #[allow(dead_code, reason = "of the tests with a GPU alone")]
    pub fn on_chip(case: &Case) -> Self {
        let narrow = case.variants.query != CaseQuery::Own;
        Self::bounded(case, if narrow { tolerance::narrow_lse_bound } else { tolerance::lse_bound })
    }

    fn bounded(case: &Case, lse_bound: LseBound) -> Self {
        let places = case.sequences.iter().enumerate().flat_map(|(s, of)| (0..of.queries).map(move |i| (s, i)));
        Self { tokens: places.map(|(sequence, index)| Token::new(case, sequence, index, lse_bound)).collect() }
    }

    /// The largest error of a token, relative to its largest |output|; or what is wrong with the answer.
    pub fn judge(&self, answer: &Answer) -> Result<f64, String> {
        if answer.strayed {
            return Err("bytes outside the output were written".into());
        }
        let expected = self.tokens.iter().fold((0, 0), |(out, lse), t| (out + t.out.len(), lse + t.lse.len()));
        let actual = (answer.out.len(), answer.lse.len());
        if actual != expected {
            return Err(format!("{actual:?} outputs and LSEs where {expected:?} were expected"));
        }
        let (mut out, mut lse, mut largest) = (answer.out.as_slice(), answer.lse.as_slice(), 0.0f64);
        for token in &self.tokens {
            let (of_out, rest_of_out) = out.split_at(token.out.len());
            let (of_lse, rest_of_lse) = lse.split_at(token.lse.len());
            let (sequence, index) = token.place;
            let wrong = |what| format!("sequence {sequence}, query token {index}: {what}");
            let error = token.judge(of_out, of_lse).map_err(wrong)?;
            (out, lse, largest) = (rest_of_out, rest_of_lse, largest.max(error));
        }
        Ok(largest)
    }

    /// The widest of the tokens' tolerances.
    pub fn tolerance(&self) -> Option<Tolerance> {
        self.tokens.iter().map(|token| token.tolerance).max_by(|a, b| a.bound().total_cmp(&b.bound()))
    }

    /// The oracle's outputs `[tokens, q_heads, D]`.
    pub fn out(&self) -> Vec<f64> {
        self.tokens.iter().flat_map(|token| token.out.iter().copied()).collect()
    }
}

/// The answer's bits: what must not change from run to run.
pub fn bits(answer: &Answer) -> Vec<u32> {
    answer.out.iter().chain(&answer.lse).map(|v| v.to_bits()).collect()
}
