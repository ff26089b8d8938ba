//! A golden file put to the kernels: K and V in shuffled pages, its queries computed three ways, judged by the answer that
//! came with it.
//!
//! A query of the file's last tokens is a decode of the sequence as it was then: the tokens up to its own. Some chosen
//! queries are one batch whose sequences share pages. Or all of them are one prefill: the query tokens of one sequence.
//!
//! In a cache of the file's own format the error is the kernels' alone. In a narrow one most of it is what quantising K
//! and V costs, which no kernel can mend: there the library's append fills the pages, which must hold bit for bit what the
//! reference quantiser makes, and the tolerance bounds what decode adds to attention on those numbers.
use super::case::{Arrangement, Case, Context, Sequence};
use super::golden::{Golden, Need};
use super::paged::Paged;
use super::reference;
use super::run::{Answer, DeviceCase};
use super::stored::CaseCache;
use super::tolerance::{self, Mismatch, Tolerance};
use super::variant::{QueryCounts, Variants};
use crate::{CacheDType, Device, Error, KernelId, Splits};
use std::time::Duration;

/// Queries of a file that are decoded, at most.
pub const QUERIES: usize = 16;

/// How a file's queries are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Up to [`QUERIES`] of them, each the one query token of a sequence of its own.
    Decode,
    /// So many last ones at once, or all where there are fewer: the query tokens of one sequence.
    Prefill {
        /// How many.
        last: usize,
    },
}

impl Pass {
    /// "decode", "prefill".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Prefill { .. } => "prefill",
        }
    }

    /// Indices of the queries that it computes of `queries`, ascending.
    pub fn positions(self, queries: usize) -> Vec<usize> {
        match self {
            Self::Decode => positions(queries),
            Self::Prefill { last } => (queries.saturating_sub(last)..queries).collect(),
        }
    }
}

/// Ways that the batch is computed.
pub const WAYS: [(&str, Splits); 3] =
    [("unsplit", Splits::Never), ("auto", Splits::Auto), ("most splits", Splits::Most)];

/// A file ready to be computed. Its parts are public so that a test can spoil one.
pub struct Trial {
    /// How its queries are computed.
    pub pass: Pass,
    /// The batch.
    pub case: Case,
    /// Its cache.
    pub paged: Paged,
    /// The file's answer `[query tokens, q_heads, D]`.
    pub expected: Vec<f32>,
    /// What the kernels' error may be: against `expected`, or in a narrow cache against [`Narrow::ideal`].
    pub tolerance: Tolerance,
    /// What there is besides where the cache is narrow.
    pub narrow: Option<Narrow>,
}

/// What a narrow cache is filled with, and what an ideal quantiser and exact attention make of it.
#[derive(Clone, Debug)]
pub struct Narrow {
    /// Attention in f32 on what the reference quantiser stores, `[query tokens, q_heads, D]`.
    pub ideal: Vec<f32>,
    /// Its error against the file's answer: what quantising costs.
    pub ideal_error: f64,
    /// How far the file's answer is from attention on its K and V as they are, where that is above the 16-bit bound: errors
    /// against it mean nothing then.
    pub wrong_file: Option<f64>,
}

/// How a file's trial went.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The attention kernel.
    pub kernel: KernelId,
    /// The largest error of the three ways, relative to the largest |expected|; infinite where one is not comparable.
    pub error: f64,
    /// Time on the device, all ways together.
    pub elapsed: Duration,
    /// What is wrong, the way it was seen in first; `None`: ok.
    pub failure: Option<String>,
    /// What there is to say besides of a narrow cache.
    pub quantised: Option<Quantised>,
}

/// A narrow cache's part of a [`Verdict`].
#[derive(Clone, Copy, Debug)]
pub struct Quantised {
    /// The append kernel.
    pub append: KernelId,
    /// [`Narrow::ideal_error`].
    pub ideal_error: f64,
    /// The largest error of the three ways against [`Narrow::ideal`], relative to its largest magnitude.
    pub added: f64,
}

/// One answer's errors, and what is wrong with it.
struct Compared {
    error: f64,
    added: f64,
    failure: Option<String>,
}

impl Trial {
    /// Lays `golden` out for a decode in pages of `page_size` tokens whose order is drawn from `seed`, and computes the
    /// tolerance.
    pub fn new(golden: &Golden, page_size: usize, seed: u64) -> Self {
        Self::laid_out(golden, Pass::Decode, CaseCache::Own, page_size, seed)
    }

    /// As [`Trial::new`], for a prefill of the `last` queries.
    pub fn prefill(golden: &Golden, last: usize, page_size: usize, seed: u64) -> Self {
        Self::laid_out(golden, Pass::Prefill { last }, CaseCache::Own, page_size, seed)
    }

    /// As [`Trial::new`], in a cache of `format`: one scale of all of K, one of all of V; NVFP4's block scales in the order
    /// of tokens, in buffers of their own. `None` where queries of the file's format do not read such a cache.
    pub fn with_cache(golden: &Golden, format: CacheDType, page_size: usize, seed: u64) -> Option<Self> {
        Self::of(golden, Pass::Decode, format, page_size, seed)
    }

    /// As [`Trial::with_cache`], for any pass.
    pub fn of(golden: &Golden, pass: Pass, format: CacheDType, page_size: usize, seed: u64) -> Option<Self> {
        CaseCache::of(format, golden.format, 0).map(|cache| Self::laid_out(golden, pass, cache, page_size, seed))
    }

    fn laid_out(golden: &Golden, pass: Pass, cache: CaseCache, page_size: usize, seed: u64) -> Self {
        let token = golden.q_heads * golden.head_dim;
        let chosen = pass.positions(golden.queries).into_iter();
        let expected: Vec<f32> =
            chosen.flat_map(|query| golden.out[query * token..][..token].iter().copied()).collect();
        let case = case_of(golden, pass, CaseCache::Own);
        let (tolerance, exact) = exactly(&case);
        if cache == CaseCache::Own {
            let paged = Paged::new(&case, page_size, Arrangement::Nhd, seed);
            return Self { pass, case, paged, expected, tolerance, narrow: None };
        }
        let far = tolerance::error(&expected, &exact).unwrap_or(f64::INFINITY);
        let wrong_file = (!tolerance.admits(far)).then_some(far);
        let case = case_of(golden, pass, cache);
        let (tolerance, ideal) = exactly(&case);
        let paged = Paged::new(&case, page_size, Arrangement::Nhd, seed);
        let ideal_error = tolerance::error(&ideal, &expected).unwrap_or(f64::INFINITY);
        let narrow = Narrow { ideal, ideal_error, wrong_file };
        Self { pass, case, paged, expected, tolerance, narrow: Some(narrow) }
    }

    /// Computes on `device` unsplit, as planned and with the most splits, `step` called after each. A narrow cache is filled
    /// by an append before.
    ///
    /// # Errors
    /// What keeps the kernels from running; a wrong answer is no error but a [`Verdict`].
    pub fn judge(&self, device: &Device, step: impl Fn()) -> Result<Verdict, Error> {
        let (on_device, mut quantised, mut failure) = match &self.narrow {
            None => (DeviceCase::new(device, &self.case, &self.paged)?, None, None),
            Some(narrow) => {
                let on_device = DeviceCase::new(device, &self.case, &self.paged.empty())?;
                let (append, failure) = self.fill(&on_device, narrow)?;
                (on_device, Some(Quantised { append, ideal_error: narrow.ideal_error, added: 0.0 }), failure)
            }
        };
        let mut one = |(way, splits): (&str, Splits)| {
            let answer = on_device.run(splits)?;
            step();
            let compared = self.compare(&answer);
            if let Some(quantised) = &mut quantised {
                quantised.added = quantised.added.max(compared.added);
            }
            failure = failure.take().or(compared.failure.map(|what| format!("{way}: {what}")));
            Ok::<_, Error>((answer.kernel, compared.error, answer.elapsed))
        };
        let [first, others @ ..] = WAYS;
        let (kernel, mut error, mut elapsed) = one(first)?;
        for way in others {
            let (_, next, time) = one(way)?;
            error = error.max(next);
            elapsed += time;
        }
        Ok(Verdict { kernel, error, elapsed, failure, quantised })
    }

    /// Fills a narrow cache: the append kernel, and what is wrong with the pages, or with the file.
    fn fill(&self, on_device: &DeviceCase<'_>, narrow: &Narrow) -> Result<(KernelId, Option<String>), Error> {
        let Context { new: [k, v], tokens, .. } = &self.case.contexts[0];
        let append = on_device.append([k, v], &self.paged.slots(0, *tokens))?;
        let pages = on_device.differs(&self.paged)?.map(|what| format!("append: {what}"));
        let file = narrow.wrong_file.map(|far| format!("the file's out is {far:.2e} from attention on its q, k and v"));
        Ok((append, pages.or(file)))
    }

    fn compare(&self, answer: &Answer) -> Compared {
        let wrong = |failure: String| Compared { error: f64::INFINITY, added: f64::INFINITY, failure: Some(failure) };
        if answer.strayed {
            return wrong("bytes outside the output were written".into());
        }
        let error = match tolerance::error(&answer.out, &self.expected) {
            Err(mismatch) => return wrong(self.describe(mismatch)),
            Ok(error) => error,
        };
        let added = match self.narrow.as_ref().map(|narrow| tolerance::error(&answer.out, &narrow.ideal)) {
            Some(Err(mismatch)) => return wrong(self.describe(mismatch)),
            Some(Ok(added)) => added,
            None => error,
        };
        let what = if self.narrow.is_some() { format!("what {} adds,", self.pass.name()) } else { "error".into() };
        let failure = (!self.tolerance.admits(added)).then(|| format!("{what} {added:.2e} is above the bound"));
        Compared { error, added, failure }
    }

    fn describe(&self, mismatch: Mismatch) -> String {
        match mismatch {
            Mismatch::NotFinite { index, actual, expected } => {
                let (row, column) = (index / self.case.head_dim, index % self.case.head_dim);
                let (token, head) = (row / self.case.q_heads, row % self.case.q_heads);
                format!("out[{token}][{head}][{column}] is {actual} where {expected} was expected")
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

/// The batch: the chosen queries of `golden` and all its keys, as `cache` stores them.
fn case_of(golden: &Golden, pass: Pass, cache: CaseCache) -> Case {
    let d = golden.head_dim;
    let queries = pass.positions(golden.queries);
    let mut variants = variants_of(golden);
    let sequences = match pass {
        Pass::Decode => {
            queries.iter().map(|&i| Sequence { context: 0, length: golden.length(i), queries: 1 }).collect()
        }
        Pass::Prefill { .. } => {
            variants.queries = QueryCounts::Uniform(queries.len());
            vec![Sequence { context: 0, length: golden.tokens, queries: queries.len() }]
        }
    };
    let row = |head: usize, query: usize| (head * golden.queries + query) * d;
    let heads = 0..golden.q_heads;
    let q =
        queries.iter().flat_map(|&query| heads.clone().flat_map(move |head| row(head, query)..row(head, query) + d));
    let factors = [&golden.k, &golden.v].map(|side| cache.server_factor(tolerance::largest(side) as f32));
    let store = |rows: &[f32], factor| cache.store(golden.format, rows, d, factor);
    let (k, v) = (store(&golden.k, factors[0]), store(&golden.v, factors[1]));
    Case {
        format: golden.format,
        cache,
        factors,
        head_dim: d,
        q_heads: golden.q_heads,
        kv_heads: golden.kv_heads,
        scale: golden.scale,
        contexts: vec![Context { tokens: golden.tokens, new: [golden.k.clone(), golden.v.clone()], k, v }],
        sequences,
        q: q.map(|at| golden.q[at]).collect(),
        variants,
    }
}

/// What the file needs besides plain causal attention.
fn variants_of(golden: &Golden) -> Variants {
    let mut variants = Variants::default();
    for need in &golden.needs {
        match need {
            // A window of 2^32 keys ends nothing either.
            Need::Window(left) => variants.left = u32::try_from(*left).ok(),
            Need::SoftCap(cap) => variants.softcap = Some(*cap as f32),
            Need::Sinks(sinks) => variants.sinks = Some(sinks.clone()),
        }
    }
    variants
}

/// The tolerance, made of the inputs alone, or a wrong answer in the file would widen it; and attention in f32 throughout.
fn exactly(case: &Case) -> (Tolerance, Vec<f32>) {
    let (mut rounded, mut exact, mut magnitude) = (Vec::new(), Vec::new(), 0.0f32);
    let tokens = case.sequences.iter().enumerate().flat_map(|(i, s)| (0..s.queries).map(move |index| (i, index)));
    for (sequence, index) in tokens {
        for head in 0..case.q_heads {
            let row = reference::row(case, sequence, index, head);
            rounded.extend(row.rounded);
            exact.extend(row.exact);
            magnitude = magnitude.max(row.magnitude);
        }
    }
    // Inputs whose attention overflows have no tolerance: NaN admits nothing.
    let error = tolerance::error(&rounded, &exact).unwrap_or(f64::NAN);
    (Tolerance::new(case.format, case.variants.output, error, f64::from(magnitude), tolerance::largest(&exact)), exact)
}
