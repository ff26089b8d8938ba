//! A golden file put to the kernels: K and V in shuffled pages, some of its queries decoded three ways, judged by the
//! answer that came with it.
//!
//! A query of the file's last tokens is a decode of the sequence as it was then: the tokens up to its own. The chosen
//! queries are one batch whose sequences share pages.
use super::case::{Arrangement, Case, Context, Sequence};
use super::golden::Golden;
use super::paged::Paged;
use super::reference;
use super::run::{Answer, DeviceCase};
use super::stored::{CaseCache, Stored};
use super::tolerance::{self, Mismatch, Tolerance};
use crate::{Device, Error, KernelId, Splits};
use std::time::Duration;

/// Queries of a file that are decoded, at most.
pub const QUERIES: usize = 16;

/// Ways that the batch is decoded.
pub const WAYS: [(&str, Splits); 3] =
    [("unsplit", Splits::Never), ("auto", Splits::Auto), ("most splits", Splits::Most)];

/// A file ready to be decoded. Its parts are public so that a test can spoil one.
pub struct Trial {
    /// The batch.
    pub case: Case,
    /// Its cache.
    pub paged: Paged,
    /// The file's answer `[batch, q_heads, D]`.
    pub expected: Vec<f32>,
    /// What the kernels' error may be.
    pub tolerance: Tolerance,
}

/// How a file's trial went.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The decode kernel.
    pub kernel: KernelId,
    /// The largest error of the three ways, relative to the largest |expected|; infinite where one is not comparable.
    pub error: f64,
    /// Time on the device, all ways together.
    pub elapsed: Duration,
    /// What is wrong, the way it was seen in first; `None`: ok.
    pub failure: Option<String>,
}

impl Trial {
    /// Lays `golden` out in pages of `page_size` tokens whose order is drawn from `seed`, and computes the tolerance.
    pub fn new(golden: &Golden, page_size: usize, seed: u64) -> Self {
        let d = golden.head_dim;
        let queries = positions(golden.queries);
        let row = |head: usize, query: usize| (head * golden.queries + query) * d;
        let heads = 0..golden.q_heads;
        let q = queries
            .iter()
            .flat_map(|&query| heads.clone().flat_map(move |head| row(head, query)..row(head, query) + d));
        let case = Case {
            format: golden.format,
            cache: CaseCache::Own,
            factors: [1.0; 2],
            head_dim: d,
            q_heads: golden.q_heads,
            kv_heads: golden.kv_heads,
            scale: golden.scale,
            contexts: vec![Context {
                tokens: golden.tokens,
                k: Stored::own(golden.format, &golden.k),
                v: Stored::own(golden.format, &golden.v),
            }],
            sequences: queries.iter().map(|&i| Sequence { context: 0, length: golden.length(i) }).collect(),
            q: q.map(|at| golden.q[at]).collect(),
        };
        let token = golden.q_heads * d;
        let expected: Vec<f32> =
            queries.iter().flat_map(|&query| golden.out[query * token..][..token].iter().copied()).collect();
        let tolerance = tolerance_of(&case);
        let paged = Paged::new(&case, page_size, Arrangement::Nhd, seed);
        Self { case, paged, expected, tolerance }
    }

    /// Decodes on `device` unsplit, as planned and with the most splits, `step` called after each.
    ///
    /// # Errors
    /// What keeps the kernels from running; a wrong answer is no error but a [`Verdict`].
    pub fn judge(&self, device: &Device, step: impl Fn()) -> Result<Verdict, Error> {
        let on_device = DeviceCase::new(device, &self.case, &self.paged)?;
        let one = |(way, splits): (&str, Splits)| {
            let answer = on_device.run(splits)?;
            step();
            let (error, failure) = self.compare(&answer);
            let failure = failure.map(|what| format!("{way}: {what}"));
            Ok::<_, Error>(Verdict { kernel: answer.kernel, error, elapsed: answer.elapsed, failure })
        };
        let [first, others @ ..] = WAYS;
        let mut verdict = one(first)?;
        for way in others {
            let next = one(way)?;
            verdict.error = verdict.error.max(next.error);
            verdict.elapsed += next.elapsed;
            verdict.failure = verdict.failure.or(next.failure);
        }
        Ok(verdict)
    }

    fn compare(&self, answer: &Answer) -> (f64, Option<String>) {
        if answer.strayed {
            return (f64::INFINITY, Some("bytes outside the output were written".into()));
        }
        match tolerance::error(&answer.out, &self.expected) {
            Err(mismatch) => (f64::INFINITY, Some(self.describe(mismatch))),
            Ok(error) if self.tolerance.admits(error) => (error, None),
            Ok(error) => (error, Some(format!("error {error:.2e} is above the bound"))),
        }
    }

    fn describe(&self, mismatch: Mismatch) -> String {
        match mismatch {
            Mismatch::NotFinite { index, actual, expected } => {
                let (row, column) = (index / self.case.head_dim, index % self.case.head_dim);
                let (sequence, head) = (row / self.case.q_heads, row % self.case.q_heads);
                format!("out[{sequence}][{head}][{column}] is {actual} where {expected} was expected")
            }
            other => other.to_string(),
        }
    }
}

/// Up to [`QUERIES`] of `queries` indices, evenly spread, the first and the last among them.
fn positions(queries: usize) -> Vec<usize> {
    let count = queries.min(QUERIES);
    (0..count).map(|i| if count > 1 { i * (queries - 1) / (count - 1) } else { 0 }).collect()
}

/// The tolerance: made of the inputs alone, or a wrong answer in the file would widen it.
fn tolerance_of(case: &Case) -> Tolerance {
    let (mut rounded, mut exact, mut magnitude) = (Vec::new(), Vec::new(), 0.0f32);
    for (i, sequence) in case.sequences.iter().enumerate() {
        for head in 0..case.q_heads {
            let keys = (0..sequence.length).map(|token| (case.key(i, head, token), case.value(i, head, token)));
            let row = reference::attend(case.format, case.query(i, head), keys, case.scale);
            rounded.extend(row.rounded);
            exact.extend(row.exact);
            magnitude = magnitude.max(row.magnitude);
        }
    }
    // Inputs whose attention overflows have no tolerance: NaN admits nothing.
    let error = tolerance::error(&rounded, &exact).unwrap_or(f64::NAN);
    Tolerance::new(case.format, error, f64::from(magnitude), tolerance::largest(&exact))
}
