//! A decode request: one query token a sequence over a paged cache, with its views checked against one another.
//! Shapes agree here; that they also agree with the plan is checked where the two meet ([`crate::Planned::prepare`]).
use crate::cache::{CacheFor, KvCache};
use crate::dtype::Format;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::tensor::{BlockTable, Lse, Output, Query, SeqLens};

/// Decode attention of a batch: token `b` of `query` over the first `seq_lens[b]` tokens of sequence `b`.
#[derive(Debug)]
pub struct Decode<'a, Q, K> {
    pub(crate) query: Query<'a, Q>,
    pub(crate) cache: KvCache<'a, K>,
    pub(crate) block_table: BlockTable<'a>,
    pub(crate) seq_lens: SeqLens<'a>,
    pub(crate) output: Output<'a, Q>,
    pub(crate) lse: Option<Lse<'a>>,
    pub(crate) scale: f32,
    pub(crate) geometry: Geometry,
}

impl<'a, Q: Format, K: CacheFor<Q>> Decode<'a, Q, K> {
    /// A request with softmax scale `1 / sqrt(head_dim)` and no log-sum-exp.
    ///
    /// # Errors
    /// Batches, head counts or head dimensions that differ between the views, or heads that do not divide; a scale of K
    /// that is out of range with the softmax scale.
    pub fn new(
        query: Query<'a, Q>,
        cache: KvCache<'a, K>,
        block_table: BlockTable<'a>,
        seq_lens: SeqLens<'a>,
        output: Output<'a, Q>,
    ) -> Result<Self, Error> {
        let (q, out) = (query.rows, output.rows);
        same("query tokens", q.tokens, "seq_lens batch", seq_lens.batch)?;
        same("block_table batch", block_table.batch, "seq_lens batch", seq_lens.batch)?;
        same("output tokens", out.tokens, "query tokens", q.tokens)?;
        same("output heads", out.heads, "query heads", q.heads)?;
        same("output head_dim", out.head_dim.get() as u32, "query head_dim", q.head_dim.get() as u32)?;
        same("cache head_dim", cache.head_dim.get() as u32, "query head_dim", q.head_dim.get() as u32)?;
        let heads = [q.heads as usize, cache.kv_heads as usize];
        let geometry = Geometry::new(q.head_dim.get(), heads, cache.page_size as usize, Q::DTYPE, K::CACHE)?;
        let scale = 1.0 / (q.head_dim.get() as f32).sqrt();
        Self { query, cache, block_table, seq_lens, output, lse: None, scale, geometry }.scale(scale)
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
        let value = format!("{scale:e} with a k scale of {:e}", self.cache.parts().k_scale);
        Err(Error::Value { field: "scale", value, allowed: "products with log2(e) above 0 and finite" })
    }

    /// What kernels multiply q . k by: with log2(e), and what of K's scale the host knows.
    pub(crate) fn scale_log2(&self) -> f32 {
        self.scale * core::f32::consts::LOG2_E * self.cache.parts().k_scale
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

    /// The part of the request that a plan is made for.
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Sequences.
    pub const fn batch(&self) -> usize {
        self.seq_lens.batch as usize
    }
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
