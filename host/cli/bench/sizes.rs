//! How much there is of a case: pages, bytes, what a call reads of them.
use super::BenchError;
use super::cases::{Asked, Case};
use super::inputs::{contiguous_pages, shuffled_pages};
use super::stored::Timed;
use crate::{CacheShape, Format, Geometry, HeadDim, QueryDType};
use rand::rngs::SmallRng;

/// A case's sizes, checked.
pub struct Sizes {
    pub geometry: Geometry,
    pub shape: CacheShape,
    /// Planned lengths.
    pub lengths: Vec<u32>,
    /// Pages of the cache, as ids count them.
    pub page_ids: i32,
    /// Pages of a shared prefix.
    pub prefix_pages: usize,
    /// Pages a sequence, the prefix's among them.
    pub table_width: usize,
    /// Bytes of the cache that a call reads.
    pub touched_bytes: usize,
    /// Bytes of K, and of V, in the model's format.
    pub source_bytes: usize,
    /// Bytes of K, and of V, in the cache.
    pub side_bytes: usize,
    /// Bytes of q, and of the output.
    pub q_bytes: usize,
    /// Whether a sequence's pages follow one another.
    contiguous: bool,
}

impl Sizes {
    /// Those of `case`.
    ///
    /// # Errors
    /// What no cache or request is.
    pub fn new<T: Format, K: Timed<T>>(case: &Case) -> Result<Self, BenchError> {
        let Case { head_dim, q_heads, kv_heads, batch, tokens, page_size, asked, .. } = *case;
        let q = if case.asked.narrow { QueryDType::Fp8E4M3 } else { T::DTYPE.into() };
        let geometry = Geometry::new(head_dim, [q_heads, kv_heads], page_size, q, K::CACHE)?;
        let load = || BenchError::Load { batch, tokens };
        let Asked { q_len, causal, window, prefix, contiguous, .. } = asked;
        let own_pages = tokens.div_ceil(page_size);
        let pages = batch.checked_mul(own_pages).filter(|&pages| pages > 0).ok_or_else(load)?;
        if q_len == 0 || q_len > tokens {
            return Err(BenchError::QueryTokens { q_len, tokens });
        }
        if !prefix.is_multiple_of(page_size) {
            return Err(BenchError::Prefix { prefix, page_size });
        }
        let prefix_pages = prefix / page_size;
        let pages = pages.checked_add(prefix_pages).ok_or_else(load)?;
        let page_ids = i32::try_from(pages).map_err(|_| load())?;
        let length = prefix.checked_add(tokens).and_then(|length| u32::try_from(length).ok()).ok_or_else(load)?;
        let row = head_dim * T::DTYPE.bytes();
        let sized = |tokens: usize, heads: usize| tokens.checked_mul(heads * row).ok_or_else(load);
        let q_tokens = batch.checked_mul(q_len).ok_or_else(load)?;
        let head_dim = HeadDim::try_from(head_dim)?;
        let source_bytes = sized(pages * page_size, kv_heads)?;
        let row_bytes = K::CACHE.row_bytes(head_dim);
        let side_bytes = source_bytes / row * row_bytes;
        let seen = window.filter(|_| causal).map_or(tokens, |left| tokens.min((left as usize).saturating_add(q_len)));
        Ok(Self {
            geometry,
            shape: CacheShape { pages, page_size, kv_heads, head_dim },
            lengths: vec![length; batch],
            page_ids,
            prefix_pages,
            table_width: prefix_pages + own_pages,
            touched_bytes: (2 * side_bytes).min(2 * (prefix + batch * seen) * kv_heads * row_bytes),
            source_bytes,
            side_bytes,
            q_bytes: sized(q_tokens, q_heads)?,
            contiguous,
        })
    }

    /// A block table: pages in random order, or following one another; those of a shared prefix first in every row.
    pub fn table(&self, random: &mut SmallRng) -> Vec<i32> {
        let pages = if self.contiguous { contiguous_pages } else { shuffled_pages };
        let ids = pages(self.page_ids, random);
        let (prefix, own) = ids.split_at(self.prefix_pages);
        let own_pages = self.table_width - self.prefix_pages;
        own.chunks_exact(own_pages).flat_map(|own| prefix.iter().chain(own).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::cases::Kind;
    use crate::{Bf16, Error};
    use rand::SeedableRng;

    fn case(batch: usize, tokens: usize, page_size: usize, asked: Asked) -> Case {
        let (model, kv) = ("m".to_owned(), "bf16".to_owned());
        Case { kind: Kind::Decode, model, head_dim: 64, q_heads: 8, kv_heads: 8, batch, tokens, kv, page_size, asked }
    }

    #[test]
    fn a_prefix_is_first_in_every_row_and_a_window_reads_little() {
        let of = |asked| Sizes::new::<Bf16, Bf16>(&case(3, 20, 16, asked));
        let sizes = of(Asked { prefix: 48, q_len: 2, ..Asked::default() }).expect("a load");
        assert_eq!((sizes.table_width, sizes.page_ids, sizes.lengths[0]), (5, 9, 68));
        let table = sizes.table(&mut SmallRng::seed_from_u64(1));
        assert_eq!(table.len(), 15);
        assert!(table.chunks_exact(5).all(|row| row[..3] == table[..3]));
        let mut ids = [&table[..5], &table[8..10], &table[13..]].concat();
        ids.sort_unstable();
        assert!(ids.into_iter().eq(0..9));
        let sizes = of(Asked { window: Some(7), q_len: 3, ..Asked::default() }).expect("a load");
        assert_eq!(sizes.touched_bytes, 2 * 3 * 10 * 8 * 64 * 2);
        let sizes = of(Asked { window: Some(7), q_len: 3, causal: false, ..Asked::default() }).expect("a load");
        assert_eq!(sizes.touched_bytes, 2 * 3 * 20 * 8 * 64 * 2);
        let in_order = of(Asked { prefix: 48, contiguous: true, ..Asked::default() }).expect("a load");
        let table = in_order.table(&mut SmallRng::seed_from_u64(1));
        assert!(table[..5].windows(2).all(|ids| ids[1] == (ids[0] + 1) % 9), "{table:?}");
        for q_len in [0, 21] {
            let refused = of(Asked { q_len, ..Asked::default() });
            assert!(matches!(refused, Err(BenchError::QueryTokens { tokens: 20, .. })));
        }
        let refused = of(Asked { prefix: 17, ..Asked::default() });
        assert!(matches!(refused, Err(BenchError::Prefix { prefix: 17, page_size: 16 })));
    }

    #[test]
    fn loads_out_of_range_are_refused() {
        let of = |batch, tokens, page_size| Sizes::new::<Bf16, Bf16>(&case(batch, tokens, page_size, Asked::default()));
        let sizes = of(3, 20, 16).expect("a load");
        assert_eq!((sizes.table_width, sizes.page_ids, sizes.side_bytes), (2, 6, 6 * 16 * 8 * 64 * 2));
        for (batch, tokens) in [(0, 20), (3, 0), (usize::MAX, 20), (1 << 31, 1), (1, usize::MAX)] {
            assert!(matches!(of(batch, tokens, 16), Err(BenchError::Load { .. })), "{batch} of {tokens}");
        }
        assert!(matches!(of(1, 1, 24), Err(BenchError::Library(Error::Value { field: "page_size", .. }))));
    }
}
