//! A device's answer to a case against the oracle, by the tolerance of `qkv::testing`.
use super::reference::attention;
use qkv::testing::case::Case;
use qkv::testing::reference::attend;
use qkv::testing::run::Answer;
use qkv::testing::tolerance::{self, Tolerance};

/// What a case's answer is, and how far from it a device's may be.
pub struct Exact {
    /// `[batch, q_heads, D]`.
    out: Vec<f64>,
    /// `[batch, q_heads]`, each with how far off it may be.
    lse: Vec<(f64, f64)>,
    /// For `out`.
    pub tolerance: Tolerance,
}

impl Exact {
    /// The oracle's answer to `case`.
    pub fn new(case: &Case) -> Self {
        let (mut out, mut lse, mut rounded, mut magnitude) = (Vec::new(), Vec::new(), Vec::new(), 0.0f64);
        for (i, sequence) in case.sequences.iter().enumerate() {
            for head in 0..case.q_heads {
                let (k, v) = (|token| case.key(i, head, token), |token| case.value(i, head, token));
                let answer = attention(case.query(i, head), sequence.length, k, v, case.scale);
                let keys = (0..sequence.length).map(|token| (k(token), v(token)));
                rounded.extend(attend(case.format, case.query(i, head), keys, case.scale).rounded);
                magnitude = answer.magnitude.iter().copied().fold(magnitude, f64::max);
                let bound = tolerance::lse_bound(case.head_dim, sequence.length, answer.score_magnitude, answer.lse);
                lse.push((answer.lse, bound));
                out.extend(answer.out);
            }
        }
        let error = tolerance::error(&rounded, &out).expect("the references agree on what is finite");
        let tolerance = Tolerance::new(case.format, error, magnitude, tolerance::largest(&out));
        Self { out, lse, tolerance }
    }

    /// The answer's error, or what is wrong with it.
    pub fn judge(&self, answer: &Answer) -> Result<f64, String> {
        if answer.strayed {
            return Err("bytes outside the output were written".into());
        }
        let error = tolerance::error(&answer.out, &self.out).map_err(|mismatch| mismatch.to_string())?;
        if !self.tolerance.admits(error) {
            return Err(format!("error {error:.2e} is above the bound {}", self.tolerance));
        }
        for (index, (&actual, &(exact, bound))) in answer.lse.iter().zip(&self.lse).enumerate() {
            let actual = f64::from(actual);
            let right = if exact.is_finite() { (actual - exact).abs() <= bound } else { actual == exact };
            if !right {
                return Err(format!("lse {index} is {actual}, not {exact} within {bound:.1e}"));
            }
        }
        Ok(error)
    }
}

/// The answer's bits: what must not change from run to run.
pub fn bits(answer: &Answer) -> Vec<u32> {
    answer.out.iter().chain(&answer.lse).map(|v| v.to_bits()).collect()
}
