//! A device's answer to a case against the oracle, by the tolerance of `qkv::testing`.
use super::reference::attention;
use qkv::testing::case::Case;
use qkv::testing::reference::attend;
use qkv::testing::run::Answer;
use qkv::testing::tolerance::{self, Tolerance};

/// What a case's answer is, and how far from it a device's may be.
pub struct Exact {
    sequences: Vec<Sequence>,
}

/// The answer for one sequence. Each has a tolerance of its own: outputs shrink as keys are averaged, and by the largest
/// output of a batch a long sequence beside a short one would hardly be checked.
struct Sequence {
    /// `[q_heads, D]`.
    out: Vec<f64>,
    /// `[q_heads]`, each with how far off it may be.
    lse: Vec<(f64, f64)>,
    /// For `out`.
    tolerance: Tolerance,
}

impl Sequence {
    fn new(case: &Case, index: usize) -> Self {
        let length = case.sequences[index].length;
        let (mut out, mut lse, mut rounded, mut magnitude) = (Vec::new(), Vec::new(), Vec::new(), 0.0f64);
        for head in 0..case.q_heads {
            let (k, v) = (|token| case.key(index, head, token), |token| case.value(index, head, token));
            let answer = attention(case.query(index, head), length, k, v, case.scale);
            let keys = (0..length).map(|token| (k(token), v(token)));
            rounded.extend(attend(case.format, case.query(index, head), keys, case.scale).rounded);
            magnitude = answer.magnitude.iter().copied().fold(magnitude, f64::max);
            lse.push((answer.lse, tolerance::lse_bound(case.head_dim, length, answer.score_magnitude, answer.lse)));
            out.extend(answer.out);
        }
        let error = tolerance::error(&rounded, &out).expect("the references agree on what is finite");
        let tolerance = Tolerance::new(case.format, error, magnitude, tolerance::largest(&out));
        Self { out, lse, tolerance }
    }

    /// The error of this sequence's outputs and LSEs, or what is wrong with them.
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

impl Exact {
    /// The oracle's answer to `case`.
    pub fn new(case: &Case) -> Self {
        Self { sequences: (0..case.sequences.len()).map(|index| Sequence::new(case, index)).collect() }
    }

    /// The largest error of a sequence, relative to its largest |output|; or what is wrong with the answer.
    pub fn judge(&self, answer: &Answer) -> Result<f64, String> {
        if answer.strayed {
            return Err("bytes outside the output were written".into());
        }
        let expected = self.sequences.iter().fold((0, 0), |(out, lse), s| (out + s.out.len(), lse + s.lse.len()));
        let actual = (answer.out.len(), answer.lse.len());
        if actual != expected {
            return Err(format!("{actual:?} outputs and LSEs where {expected:?} were expected"));
        }
        let (mut out, mut lse, mut largest) = (answer.out.as_slice(), answer.lse.as_slice(), 0.0f64);
        for (index, sequence) in self.sequences.iter().enumerate() {
            let (of_out, rest_of_out) = out.split_at(sequence.out.len());
            let (of_lse, rest_of_lse) = lse.split_at(sequence.lse.len());
            let error = sequence.judge(of_out, of_lse).map_err(|what| format!("sequence {index}: {what}"))?;
            (out, lse, largest) = (rest_of_out, rest_of_lse, largest.max(error));
        }
        Ok(largest)
    }

    /// The widest of the sequences' tolerances.
    pub fn tolerance(&self) -> Option<Tolerance> {
        self.sequences.iter().map(|sequence| sequence.tolerance).max_by(|a, b| a.bound().total_cmp(&b.bound()))
    }
}

/// The answer's bits: what must not change from run to run.
pub fn bits(answer: &Answer) -> Vec<u32> {
    answer.out.iter().chain(&answer.lse).map(|v| v.to_bits()).collect()
}
