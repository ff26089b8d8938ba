//! Decode problems as plain numbers: a shape that prints in one line, and the data that it stands for.
//!
//! A [`CaseShape`] is what property suites draw, shrink and print; [`CaseShape::build`] turns it into the same [`Case`]
//! every time. A case knows nothing of pages: [`super::paged::Paged`] lays it out in a cache.
use super::format;
use super::stored::{CaseCache, Stored};
use super::variant::{VariantShape, Variants};
use crate::{DType, QueryDType};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

/// A decode problem without its data.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseShape {
    /// Format of q and the output, unless the variant says others.
    pub format: DType,
    /// The cache, with the kind of its scales.
    pub cache: CaseCache,
    /// D.
    pub head_dim: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Query heads a KV head.
    pub group: usize,
    /// Tokens a page.
    pub page_size: usize,
    /// How K and V lie in memory.
    pub arrangement: Arrangement,
    /// Tokens in the cache of each sequence; 0 is allowed.
    pub lengths: Vec<usize>,
    /// What is asked for besides plain attention of one query token a sequence.
    pub variant: VariantShape,
    /// The softmax scale is this over the root of D: 1 spreads attention over many keys, 8 puts it on few.
    pub sharpness: f32,
    /// Seed of the data and of the pages' order.
    pub seed: u64,
}

/// How a cache's K and V lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arrangement {
    /// Two buffers `[pages, page, heads, D]`.
    Nhd,
    /// Two buffers `[pages, heads, page, D]`.
    Hnd,
    /// One buffer `[pages, 2, page, heads, D]`: a page of K, then its page of V.
    PairNhd,
    /// One buffer `[pages, 2, heads, page, D]`.
    PairHnd,
    /// One buffer `[pages, page, heads, 2 D]`: a row of K, then its row of V.
    ContentNhd,
    /// One buffer `[pages, heads, page, 2 D]`.
    ContentHnd,
    /// Two buffers `[pages, page, heads, D]`, 16 bytes behind each row unused, V's with one more unused row a page.
    Padded,
}

impl Arrangement {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Nhd, Self::Hnd, Self::PairNhd, Self::PairHnd, Self::ContentNhd, Self::ContentHnd, Self::Padded];
}

/// The keys and values of some tokens, as the case's cache stores them.
#[derive(Clone, Debug)]
pub struct Context {
    /// Tokens.
    pub tokens: usize,
    /// K and V before they are stored, `[kv_heads, tokens, D]`, exact in the queries' format: what an append is given.
    pub new: [Vec<f32>; 2],
    /// `[kv_heads, tokens, D]`.
    pub k: Stored,
    /// `[kv_heads, tokens, D]`.
    pub v: Stored,
}

/// One sequence: the first `length` tokens of a context, and the queries of the last of them. Sequences of one context share
/// its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Index of its context.
    pub context: usize,
    /// Tokens that it has.
    pub length: usize,
    /// Query tokens; may be more than there are tokens.
    pub queries: usize,
}

/// A decode problem with its data.
#[derive(Clone, Debug)]
pub struct Case {
    /// Format of q and the output.
    pub format: DType,
    /// The cache, with the kind of its scales.
    pub cache: CaseCache,
    /// The factors of all of K and of all of V: what codes are multiplied by, whichever way it is told.
    pub factors: [f32; 2],
    /// D.
    pub head_dim: usize,
    /// Query heads, a multiple of the KV heads.
    pub q_heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Softmax scale.
    pub scale: f32,
    /// Keys and values.
    pub contexts: Vec<Context>,
    /// The batch.
    pub sequences: Vec<Sequence>,
    /// Queries `[tokens, q_heads, D]`, exact in their format; those of a sequence are adjacent.
    pub q: Vec<f32>,
    /// What is asked for besides.
    pub variants: Variants,
}

impl CaseShape {
    /// Query heads.
    pub fn q_heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// The nearest shape that there is in the cache's format: NVFP4 has neither rows of K and V side by side nor scales
    /// beside unused bytes, and pages in which whole regions fit.
    pub fn suited(mut self) -> Self {
        let CaseCache::NvFp4(kind) = &mut self.cache else { return self };
        self.arrangement = match self.arrangement {
            Arrangement::ContentNhd => Arrangement::PairNhd,
            Arrangement::ContentHnd => Arrangement::PairHnd,
            other => other,
        };
        kind.in_pages &= self.arrangement != Arrangement::Padded;
        if kind.in_pages && kind.interleaved {
            self.arrangement = match self.arrangement {
                Arrangement::Nhd => Arrangement::Hnd,
                Arrangement::PairNhd => Arrangement::PairHnd,
                other => other,
            };
        }
        if kind.in_pages || kind.interleaved {
            self.page_size = self.page_size.max(4);
        }
        self
    }

    /// The case: q, K and V drawn from N(0, 1) and rounded to q's format, K and V then as the cache stores them; a context
    /// a sequence.
    pub fn build(&self) -> Case {
        let mut random = SmallRng::seed_from_u64(self.seed);
        let mut normal = |count: usize| -> Vec<f32> {
            (0..count).map(|_| format::round(self.format, random.sample(StandardNormal))).collect()
        };
        let drawn: Vec<(usize, [Vec<f32>; 2])> = self
            .lengths
            .iter()
            .map(|&tokens| {
                let count = self.kv_heads * tokens * self.head_dim;
                (tokens, [normal(count), normal(count)])
            })
            .collect();
        let factors = [0, 1].map(|side: usize| {
            let all = drawn.iter().flat_map(|(_, sides)| &sides[side]);
            self.cache.factor(all.fold(0.0f32, |most, x| most.max(x.abs())))
        });
        let store = |rows: &[f32], factor| self.cache.store(self.format, rows, self.head_dim, factor);
        let contexts = drawn.into_iter().map(|(tokens, [k, v])| {
            let [k_factor, v_factor] = factors;
            Context { tokens, k: store(&k, k_factor), v: store(&v, v_factor), new: [k, v] }
        });
        let contexts = contexts.collect();
        let queries = &self.variant.queries;
        let count = queries.total(self.lengths.len()) * self.q_heads() * self.head_dim;
        let query = self.variant.query;
        let q = (0..count).map(|_| query.round(self.format, random.sample(StandardNormal))).collect();
        let sequence = |(i, &length)| Sequence { context: i, length, queries: queries.of(i) };
        let sequences: Vec<Sequence> = self.lengths.iter().enumerate().map(sequence).collect();
        let variants = self.variant.build(self, &sequences, &mut random);
        Case {
            format: self.format,
            cache: self.cache,
            factors,
            head_dim: self.head_dim,
            q_heads: self.q_heads(),
            kv_heads: self.kv_heads,
            scale: self.sharpness / (self.head_dim as f32).sqrt(),
            q,
            contexts,
            sequences,
            variants,
        }
    }
}

impl Case {
    /// Planned lengths, a sequence each.
    ///
    /// Saturates at `u32::MAX`, which no cache on one device reaches.
    pub fn lengths(&self) -> Vec<u32> {
        self.sequences.iter().map(|s| u32::try_from(s.length).unwrap_or(u32::MAX)).collect()
    }

    /// Query tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.queries).sum()
    }

    /// The first query token of a sequence.
    pub fn query_start(&self, sequence: usize) -> usize {
        self.sequences[..sequence].iter().map(|s| s.queries).sum()
    }

    /// Format of the queries.
    pub fn query_dtype(&self) -> QueryDType {
        self.variants.query.dtype(self.format)
    }

    /// The query row of a query token and head.
    pub fn query(&self, token: usize, q_head: usize) -> &[f32] {
        &self.q[(token * self.q_heads + q_head) * self.head_dim..][..self.head_dim]
    }

    /// The KV head that a query head reads.
    pub fn kv_head(&self, q_head: usize) -> usize {
        q_head / (self.q_heads / self.kv_heads)
    }

    /// The key of a sequence's token, for a query head.
    pub fn key(&self, sequence: usize, q_head: usize, token: usize) -> &[f32] {
        let context = &self.contexts[self.sequences[sequence].context];
        context.row(&context.k.numbers, self.kv_head(q_head), token, self.head_dim)
    }

    /// The value of a sequence's token, for a query head.
    pub fn value(&self, sequence: usize, q_head: usize, token: usize) -> &[f32] {
        let context = &self.contexts[self.sequences[sequence].context];
        context.row(&context.v.numbers, self.kv_head(q_head), token, self.head_dim)
    }
}

impl Context {
    /// The row of a KV head and token in `side`, the numbers of one of this context's K and V.
    pub fn row<'a>(&self, side: &'a [f32], kv_head: usize, token: usize, head_dim: usize) -> &'a [f32] {
        &side[(kv_head * self.tokens + token) * head_dim..][..head_dim]
    }
}
