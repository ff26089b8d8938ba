//! A decode request: the query tokens of a batch's sequences over a paged cache, with its views checked against one another.
//! Shapes agree here; that they also agree with the plan is checked where the two meet ([`crate::Planned::prepare`]).
use crate::cache::{CacheFor, KvCache};
use crate::dtype::QueryFormat;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::mask::{AlibiSlopes, Mask, Positions, Sinks, Spans, TreeMask};
use crate::output::{AnyOutput, Output};
use crate::query_lens::QueryLens;
use crate::select::{Need, Unsupported};
use crate::tensor::{BlockTable, Lse, Query, SeqLens};

/// Decode attention of a batch: the query tokens of sequence `b`, the last of its `seq_lens[b]` tokens, over those tokens.
///
/// Logits are `scale * q . k`, then soft-capped, then ALiBi's are added, then masked. What a request is given by the methods
/// below may be combined in any way, but for a tree mask with spans.
#[derive(Debug)]
pub struct Decode<'a, Q, K> {
    pub(crate) query: Query<'a, Q>,
    pub(crate) query_lens: QueryLens<'a>,
    pub(crate) cache: KvCache<'a, K>,
    pub(crate) block_table: BlockTable<'a>,
    pub(crate) seq_lens: SeqLens<'a>,
    pub(crate) output: AnyOutput<'a>,
    pub(crate) lse: Option<Lse<'a>>,
    pub(crate) scale: f32,
    pub(crate) geometry: Geometry,
    pub(crate) mask: Mask,
    /// 0: none.
    pub(crate) softcap: f32,
    pub(crate) sinks: Option<Sinks<'a>>,
    pub(crate) alibi: Option<AlibiSlopes<'a>>,
    pub(crate) positions: Option<Positions<'a>>,
    pub(crate) spans: Option<Spans<'a>>,
    pub(crate) spans_in_window: bool,
    pub(crate) tree: Option<TreeMask<'a>>,
}

impl<'a, Q: QueryFormat, K: CacheFor<Q>> Decode<'a, Q, K> {
    /// A request of one query token a sequence, answered in the queries' format, causal, with softmax scale
    /// `1 / sqrt(head_dim)` and no log-sum-exp.
    ///
    /// # Errors
    /// Batches, head counts or head dimensions that differ between the views, or heads that do not divide; a scale of K
    /// that is out of range with the softmax scale; with FP8 queries scales of the cache a token and head.
    pub fn new(
        query: Query<'a, Q>,
        cache: KvCache<'a, K>,
        block_table: BlockTable<'a>,
        seq_lens: SeqLens<'a>,
        output: Output<'a, Q>,
    ) -> Result<Self, Error> {
        Self::with_query_lens(query, QueryLens::One, cache, block_table, seq_lens, output)
    }

    /// As [`Decode::new`], with any number of query tokens a sequence, answered in any format.
    ///
    /// # Errors
    /// As there; query tokens other than `query_lens` come to; `cu_seqlens_q` of another batch, or that decrease.
    pub fn with_query_lens(
        query: Query<'a, Q>,
        query_lens: QueryLens<'a>,
        cache: KvCache<'a, K>,
        block_table: BlockTable<'a>,
        seq_lens: SeqLens<'a>,
        output: impl Into<AnyOutput<'a>>,
    ) -> Result<Self, Error> {
        let output = output.into();
        let (q, out, batch) = (query.rows, output.rows, seq_lens.batch as usize);
        query_lens.check(batch)?;
        let tokens = query_lens.tokens(batch);
        if q.tokens as usize != tokens {
            let other = if query_lens == QueryLens::One { "seq_lens batch" } else { "query_lens tokens" };
            return Err(Error::Mismatch { field: "query tokens", value: q.tokens as usize, other, expected: tokens });
        }
        same("block_table batch", block_table.batch, "seq_lens batch", seq_lens.batch)?;
        same("output tokens", out.tokens, "query tokens", q.tokens)?;
        same("output heads", out.heads, "query heads", q.heads)?;
        same("output head_dim", out.head_dim.get() as u32, "query head_dim", q.head_dim.get() as u32)?;
        same("cache head_dim", cache.head_dim.get() as u32, "query head_dim", q.head_dim.get() as u32)?;
        let heads = [q.heads as usize, cache.kv_heads as usize];
        if Q::QUERY.dtype().is_none() && cache.token_scales() {
            return Err(Unsupported { needs: vec![Need::TokenScales { q: Q::QUERY }] }.into());
        }
        let geometry = Geometry::new(q.head_dim.get(), heads, cache.page_size as usize, Q::QUERY, K::CACHE)?;
        let scale = 1.0 / (q.head_dim.get() as f32).sqrt();
        let decode = Self {
            query,
            query_lens,
            cache,
            block_table,
            seq_lens,
            output,
            lse: None,
            scale,
            geometry,
            mask: Mask::CAUSAL,
            softcap: 0.0,
            sinks: None,
            alibi: None,
            positions: None,
            spans: None,
            spans_in_window: false,
            tree: None,
        };
        decode.scale(scale)
    }

    /// Multiplies the logits by `scale` instead.
    ///
    /// # Errors
    /// A scale of 0 or below (which would order the keys backwards), or one that is not finite, times log2(e) and K's
    /// scale too.
    pub fn scale(mut self, scale: f32) -> Result<Self, Error> {
        let usable = scale > 0.0 && (scale * core::f32::consts::LOG2_E).is_finite();
        if !usable {
            return Err(Error::Value { field: "scale", value: scale.to_string(), allowed: "above 0, at most 2.3e38" });
        }
        self.scale = scale;
        let folded = self.scale_log2();
        if folded > 0.0 && folded.is_finite() {
            return Ok(self);
        }
        let mut value = format!("{scale:e} with a k scale of {:e}", self.cache.parts().k_scale);
        if Q::QUERY.dtype().is_none() {
            value += &format!(" and a query scale of {:e}", self.query.scale);
        }
        Err(Error::Value { field: "scale", value, allowed: "products with log2(e) above 0 and finite" })
    }

    /// What kernels multiply q . k by: with log2(e), the queries' scale, and what of K's the host knows.
    pub(crate) fn scale_log2(&self) -> f32 {
        self.scale * core::f32::consts::LOG2_E * self.query.scale * self.cache.parts().k_scale
    }

    /// Writes the log-sum-exp too.
    ///
    /// # Errors
    /// A shape other than the queries' tokens and heads.
    pub fn lse(mut self, lse: Lse<'a>) -> Result<Self, Error> {
        same("lse tokens", lse.tokens, "query tokens", self.query.rows.tokens)?;
        same("lse q_heads", lse.heads, "query heads", self.query.rows.heads)?;
        self.lse = Some(lse);
        Ok(self)
    }

    /// Sees the keys of `mask` instead of all up to the token's own. The plan is made for the same mask.
    ///
    /// # Errors
    /// None: it is a `Result` as the other methods' are.
    pub fn mask(mut self, mask: Mask) -> Result<Self, Error> {
        self.mask = mask;
        Ok(self)
    }

    /// Caps scaled logits: `cap * tanh(logit / cap)`.
    ///
    /// # Errors
    /// A cap below 1e-30 or above 1e30, or NaN.
    pub fn softcap(mut self, cap: f32) -> Result<Self, Error> {
        if !(1e-30..=1e30).contains(&cap) {
            return Err(Error::Value { field: "softcap", value: format!("{cap:e}"), allowed: "1e-30 to 1e30" });
        }
        self.softcap = cap;
        Ok(self)
    }

    /// Adds a sink to each head's denominator: of the output, not of the log-sum-exp.
    ///
    /// # Errors
    /// Another number of heads than the queries'.
    pub fn sinks(mut self, sinks: Sinks<'a>) -> Result<Self, Error> {
        same("sinks q_heads", sinks.heads, "query heads", self.query.rows.heads)?;
        self.sinks = Some(sinks);
        Ok(self)
    }

    /// Adds `slope * (key - position)` to a head's logits.
    ///
    /// # Errors
    /// Another number of heads than the queries'.
    pub fn alibi(mut self, slopes: AlibiSlopes<'a>) -> Result<Self, Error> {
        same("alibi slopes q_heads", slopes.heads, "query heads", self.query.rows.heads)?;
        self.alibi = Some(slopes);
        Ok(self)
    }

    /// Places the query tokens elsewhere among the keys than at their end. [`crate::Batch::everywhere`] balances plans for it.
    ///
    /// # Errors
    /// Another number of tokens than the queries'.
    pub fn positions(mut self, positions: Positions<'a>) -> Result<Self, Error> {
        same("positions tokens", positions.tokens, "query tokens", self.query.rows.tokens)?;
        self.positions = Some(positions);
        Ok(self)
    }

    /// Sees a span of keys besides the window; of the span only keys within the window's `left` on either side of the
    /// position if `in_window`. [`crate::Batch::everywhere`] balances plans for it.
    ///
    /// # Errors
    /// Another number of tokens than the queries'; a tree mask.
    pub fn spans(mut self, spans: Spans<'a>, in_window: bool) -> Result<Self, Error> {
        same("spans tokens", spans.tokens, "query tokens", self.query.rows.tokens)?;
        (self.spans, self.spans_in_window) = (Some(spans), in_window);
        self.tree_or_spans()
    }

    /// Sees, of the sequence's query tokens, those that `tree` says: drafts of several continuations.
    ///
    /// # Errors
    /// Another number of tokens than the queries'; bits for fewer tokens a sequence than one has; spans.
    pub fn tree(mut self, tree: TreeMask<'a>) -> Result<Self, Error> {
        same("tree tokens", tree.tokens, "query tokens", self.query.rows.tokens)?;
        tree_room(&tree, self.query_lens.most())?;
        self.tree = Some(tree);
        self.tree_or_spans()
    }

    fn tree_or_spans(self) -> Result<Self, Error> {
        if self.tree.is_some() && self.spans.is_some() {
            return Err(Unsupported { needs: vec![Need::TreeWithSpans] }.into());
        }
        Ok(self)
    }

    /// The part of the request that a plan is made for.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Sequences.
    pub const fn batch(&self) -> usize {
        self.seq_lens.batch as usize
    }
}

/// Refuses a tree mask whose rows have no bit for each of `tokens` query tokens of a sequence.
pub(crate) fn tree_room(tree: &TreeMask<'_>, tokens: u32) -> Result<(), Error> {
    if tokens <= tree.room() {
        return Ok(());
    }
    let (field, allowed) = ("tree bits a query token", "at least the most query tokens of a sequence");
    Err(Error::Value { field, value: tree.room().to_string(), allowed })
}

pub(crate) fn same(field: &'static str, value: u32, other: &'static str, expected: u32) -> Result<(), Error> {
    if value == expected {
        return Ok(());
    }
    Err(Error::Mismatch { field, value: value as usize, other, expected: expected as usize })
}

/// Checks page ids on the host: each sequence's `lengths[b]` tokens lie in pages `0 .. pages`.
///
/// `table` is `[lengths.len(), max_pages]`, contiguous; entries past a sequence's last page are not looked at.
///
/// # Errors
/// A page size that is not a power of two up to 1024, a table of another size or too narrow, and the first id out of
/// range in the order (sequence, page).
pub fn check_page_table(
    table: &[i32],
    max_pages: usize,
    lengths: &[u32],
    page_size: usize,
    pages: usize,
) -> Result<(), Error> {
    crate::geometry::check_page_size(page_size)?;
    let pages = crate::geometry::u32_field("cache pages", pages)?;
    let expected = lengths.len().checked_mul(max_pages).ok_or(Error::TooLarge { field: "block_table" })?;
    if table.len() != expected {
        let (field, other) = ("block_table entries", "lengths * max_pages");
        return Err(Error::Mismatch { field, value: table.len(), other, expected });
    }
    check_width(max_pages, lengths, page_size as u32)?;
    for (sequence, &length) in lengths.iter().enumerate() {
        let row = table.get(sequence * max_pages..).unwrap_or_default();
        let used = (length as usize).div_ceil(page_size);
        let bad = row.iter().take(used).position(|&id| u32::try_from(id).map_or(true, |id| id >= pages));
        if let Some(page) = bad {
            return Err(Error::PageId { sequence, page, id: row[page], pages });
        }
    }
    Ok(())
}

/// Checks that every length's pages have a column.
pub(crate) fn check_width(max_pages: usize, lengths: &[u32], page_size: u32) -> Result<(), Error> {
    let pages = |length: u32| length.div_ceil(page_size) as usize;
    match lengths.iter().position(|&length| pages(length) > max_pages) {
        None => Ok(()),
        Some(sequence) => {
            let length = lengths[sequence];
            Err(Error::BlockTableTooNarrow { max_pages, sequence, length, needed: pages(length), page_size })
        }
    }
}
