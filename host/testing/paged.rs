//! A case's keys and values in the pages of a cache, with everything that a kernel must not read poisoned.
//!
//! Pages are in shuffled order among some that nobody uses. Every byte that is no token's is 0xFF, a NaN in all 16-bit
//! formats, and every page id past a sequence's end is [`BAD_PAGE`]: a kernel that reads one element or one id too many
//! gives NaN or an address far outside. Fields are public so that a test can spoil them one at a time.
use super::case::{Arrangement, Case};
use super::format;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

/// The page id past a sequence's end: no cache has so many pages, and its address times any stride is out of bounds.
pub const BAD_PAGE: i32 = 2_147_480_000;

/// Pages that no sequence uses, NaN throughout.
pub const SPARE_PAGES: usize = 2;

/// Ids of a block table's row behind those that the longest sequence needs.
const SPARE_COLUMNS: usize = 3;

/// Where K or V lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// Index of its buffer in [`Paged::buffers`].
    pub buffer: usize,
    /// Elements of the buffer before element (0, 0, 0, 0).
    pub offset: usize,
    /// Elements from a page, a token and a head to the next.
    pub strides: [usize; 3],
}

/// A cache as bytes, and who has which page.
#[derive(Clone, Debug)]
pub struct Paged {
    /// One buffer, or two: K's and V's.
    pub buffers: Vec<Vec<u8>>,
    /// Where K is.
    pub k: Side,
    /// Where V is.
    pub v: Side,
    /// How the two lie.
    pub arrangement: Arrangement,
    /// Pages of the cache.
    pub pages: usize,
    /// Tokens a page.
    pub page_size: usize,
    /// Page ids `[batch, table_width]`.
    pub block_table: Vec<i32>,
    /// Ids a row of the table.
    pub table_width: usize,
    /// Ids of pages that are NaN throughout.
    pub spare: Vec<i32>,
}

impl Paged {
    /// `case` in pages of `page_size` tokens, their order drawn from `seed`.
    pub fn new(case: &Case, page_size: usize, arrangement: Arrangement, seed: u64) -> Self {
        let used: usize = case.contexts.iter().map(|c| c.tokens.div_ceil(page_size)).sum();
        let pages = used + SPARE_PAGES;
        let mut ids: Vec<usize> = (0..pages).collect();
        ids.shuffle(&mut SmallRng::seed_from_u64(seed));

        let (k, v, sizes) = sides(arrangement, pages, page_size, case.kv_heads, case.head_dim);
        let mut buffers: Vec<Vec<u8>> = sizes.into_iter().map(|elements| vec![0xFF; 2 * elements]).collect();
        let mut free = ids.iter().copied();
        let mut pages_of = Vec::with_capacity(case.contexts.len());
        for context in &case.contexts {
            let own: Vec<usize> = free.by_ref().take(context.tokens.div_ceil(page_size)).collect();
            for (side, values) in [(&k, &context.k), (&v, &context.v)] {
                for head in 0..case.kv_heads {
                    for token in 0..context.tokens {
                        let place = [own[token / page_size], token % page_size, head];
                        let at = side.offset + place.iter().zip(side.strides).map(|(i, s)| i * s).sum::<usize>();
                        let row = format::encode_bytes(case.format, context.row(values, head, token, case.head_dim));
                        buffers[side.buffer][2 * at..][..row.len()].copy_from_slice(&row);
                    }
                }
            }
            pages_of.push(own);
        }

        let longest = case.sequences.iter().map(|s| s.length.div_ceil(page_size)).max().unwrap_or(0);
        let table_width = longest + SPARE_COLUMNS;
        let mut block_table = vec![BAD_PAGE; case.sequences.len() * table_width];
        for (row, sequence) in block_table.chunks_exact_mut(table_width).zip(&case.sequences) {
            let own = &pages_of[sequence.context][..sequence.length.div_ceil(page_size)];
            for (entry, &id) in row.iter_mut().zip(own) {
                *entry = page_id(id);
            }
        }
        let spare = free.map(page_id).collect();
        Self { buffers, k, v, arrangement, pages, page_size, block_table, table_width, spare }
    }
}

/// A page's id; one that does not fit is out of range for the cache too, and is refused there.
fn page_id(page: usize) -> i32 {
    i32::try_from(page).unwrap_or(BAD_PAGE)
}

/// Where K and V lie, and the elements of each buffer.
fn sides(arrangement: Arrangement, pages: usize, page: usize, heads: usize, d: usize) -> (Side, Side, Vec<usize>) {
    let two = |k: [usize; 3], v: [usize; 3]| {
        let side = |buffer, strides| Side { buffer, offset: 0, strides };
        (side(0, k), side(1, v), vec![pages * k[0], pages * v[0]])
    };
    let one = |strides: [usize; 3], v_offset: usize| {
        let k = Side { buffer: 0, offset: 0, strides };
        (k, Side { offset: v_offset, ..k }, vec![pages * strides[0]])
    };
    // Strides of a page of rows of `row` elements; the page's own is set apart by the callers.
    let side = page * heads * d;
    let nhd = |row: usize| [page * heads * row, heads * row, row];
    let hnd = |row: usize| [page * heads * row, row, page * row];
    let pair = |[_, token, head]: [usize; 3]| [2 * side, token, head];
    match arrangement {
        Arrangement::Nhd => two(nhd(d), nhd(d)),
        Arrangement::Hnd => two(hnd(d), hnd(d)),
        Arrangement::PairNhd => one(pair(nhd(d)), side),
        Arrangement::PairHnd => one(pair(hnd(d)), side),
        Arrangement::ContentNhd => one(nhd(2 * d), d),
        Arrangement::ContentHnd => one(hnd(2 * d), d),
        Arrangement::Padded => {
            let k = nhd(d + 8);
            two(k, [k[0] + d + 8, k[1], k[2]])
        }
    }
}
