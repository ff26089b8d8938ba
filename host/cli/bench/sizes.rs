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
    /// Bytes of the cache that a call reads, each counted once.
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
        // Before there is a number for each sequence.
        batch.checked_mul(tokens.div_ceil(page_size)).filter(|pages| (1..1 << 31).contains(pages)).ok_or_else(load)?;
        let own = case.lengths();
        let pages: usize = own.iter().map(|tokens| tokens.div_ceil(page_size)).sum();
        let tokens = own.iter().copied().min().unwrap_or(0);
        if q_len == 0 || q_len > tokens {
            return Err(BenchError::QueryTokens { q_len, tokens });
        }
        if !prefix.is_multiple_of(page_size) {
            return Err(BenchError::Prefix { prefix, page_size });
        }
        let prefix_pages = prefix / page_size;
        let pages = pages.checked_add(prefix_pages).ok_or_else(load)?;
        let page_ids = i32::try_from(pages).map_err(|_| load())?;
        let length = |&tokens: &usize| prefix.checked_add(tokens).and_then(|length| u32::try_from(length).ok());
        let lengths: Option<Vec<u32>> = own.iter().map(length).collect();
        let row = head_dim * T::DTYPE.bytes();
        let sized = |tokens: usize, heads: usize| tokens.checked_mul(heads * row).ok_or_else(load);
        let q_tokens = batch.checked_mul(q_len).ok_or_else(load)?;
        let head_dim = HeadDim::try_from(head_dim)?;
        let source_bytes = sized(pages * page_size, kv_heads)?;
        let row_bytes = K::CACHE.row_bytes(head_dim);
        let side_bytes = source_bytes / row * row_bytes;
        let reach = window.filter(|_| causal).map_or(usize::MAX, |left| (left as usize).saturating_add(q_len));
        let seen: usize = own.iter().map(|&tokens| tokens.min(reach)).sum();
        Ok(Self {
            geometry,
            shape: CacheShape { pages, page_size, kv_heads, head_dim },
            lengths: lengths.ok_or_else(load)?,
            page_ids,
            prefix_pages,
            table_width: case.table_width(),
            touched_bytes: 2 * (prefix + seen) * kv_heads * row_bytes,
            source_bytes,
            side_bytes,
            q_bytes: sized(q_tokens, q_heads)?,
            contiguous,
        })
    }

    /// A block table: pages in random order, or following one another; those of a shared prefix first in every row, and 0
    /// behind a shorter sequence's last.
    pub fn table(&self, random: &mut SmallRng) -> Vec<i32> {
        let pages = if self.contiguous { contiguous_pages } else { shuffled_pages };
        let ids = pages(self.page_ids, random);
        let (prefix, mut own) = ids.split_at(self.prefix_pages);
        let mut table = Vec::with_capacity(self.lengths.len() * self.table_width);
        for (row, &length) in (1..).zip(&self.lengths) {
            let pages = (length as usize).div_ceil(self.shape.page_size) - self.prefix_pages;
            let (of_row, others) = own.split_at(pages);
            own = others;
            table.extend(prefix.iter().chain(of_row));
            table.resize(row * self.table_width, 0);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::cases::Kind;
    use crate::cli::bench::ragged;
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
    fn where_lengths_differ_pages_are_as_many_as_there_are() {
        let asked = Asked { ragged: true, ..Asked::default() };
        let ragged = case(3, ragged::LONGEST, 16, asked);
        let own = ragged.lengths();
        let sizes = Sizes::new::<Bf16, Bf16>(&ragged).expect("a load");
        let pages: Vec<usize> = own.iter().map(|length| length.div_ceil(16)).collect();
        assert_eq!((sizes.page_ids as usize, sizes.table_width), (pages.iter().sum(), ragged::LONGEST / 16));
        assert_eq!(sizes.touched_bytes, 2 * own.iter().sum::<usize>() * 8 * 64 * 2);
        assert!(sizes.lengths.iter().map(|&length| length as usize).eq(own));
        let table = sizes.table(&mut SmallRng::seed_from_u64(1));
        let rows: Vec<&[i32]> = table.chunks_exact(sizes.table_width).collect();
        let mut ids: Vec<i32> =
            rows.iter().zip(&pages).flat_map(|(row, &pages)| row[..pages].iter().copied()).collect();
        ids.sort_unstable();
        assert!(rows.len() == 3 && ids.into_iter().eq(0..sizes.page_ids));
        assert!(rows.iter().zip(&pages).all(|(row, &pages)| row[pages..].iter().all(|&id| id == 0)));
        let refused = Sizes::new::<Bf16, Bf16>(&Case { asked: Asked { q_len: 2, ..asked }, ..ragged });
        assert!(matches!(refused, Err(BenchError::QueryTokens { q_len: 2, tokens: 1 })));
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
