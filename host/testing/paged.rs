//! A case's keys and values in the pages of a cache, with everything that a kernel must not read poisoned.
//!
//! Pages are in shuffled order among some that nobody uses. Every byte that is no token's is 0xFF, a NaN in all 16-bit
//! and FP8 formats, as a scale a NaN too (e2m1 has none: its block scales are), and every page id past a sequence's end is [`BAD_PAGE`]: a kernel that reads one element or one id too many
//! gives NaN or an address far outside. Fields are public so that a test can spoil them one at a time.
use super::case::{Arrangement, Case};
use super::reference::Sight;
use super::stored::CaseCache;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

/// The page id past a sequence's end: no cache has so many pages, and its address times any stride is out of bounds.
pub const BAD_PAGE: i32 = 2_147_480_000;

/// Pages that no sequence uses, NaN throughout.
pub const SPARE_PAGES: usize = 2;

/// Ids of a block table's row behind those that the longest sequence needs.
const SPARE_COLUMNS: usize = 3;

/// Where K or V lies, or its scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// Index of its buffer in [`Paged::buffers`].
    pub buffer: usize,
    /// Bytes of the buffer before element (0, 0, 0, 0).
    pub offset: usize,
    /// Bytes from a page, a token and a head to the next.
    pub strides: [usize; 3],
}

/// A cache as bytes, and who has which page.
#[derive(Clone, Debug)]
pub struct Paged {
    /// One buffer, or two: K's and V's; then those of scales that are not in the pages, K's and V's.
    pub buffers: Vec<Vec<u8>>,
    /// Where K is.
    pub k: Side,
    /// Where V is.
    pub v: Side,
    /// Where K's scales a token and head are, if there are any.
    pub k_scales: Option<Side>,
    /// Where V's are.
    pub v_scales: Option<Side>,
    /// How K and V lie.
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
    /// The pages of each context, in the order of its tokens.
    pub pages_of: Vec<Vec<usize>>,
}

impl Paged {
    /// `case` in pages of `page_size` tokens, their order drawn from `seed`.
    pub fn new(case: &Case, page_size: usize, arrangement: Arrangement, seed: u64) -> Self {
        let used: usize = case.contexts.iter().map(|c| c.tokens.div_ceil(page_size)).sum();
        let pages = used + SPARE_PAGES;
        let mut ids: Vec<usize> = (0..pages).collect();
        ids.shuffle(&mut SmallRng::seed_from_u64(seed));

        let Places { k, v, k_scales, v_scales, sizes } = places(case, arrangement, pages, page_size);
        let mut buffers: Vec<Vec<u8>> = sizes.into_iter().map(|bytes| vec![0xFF; bytes]).collect();
        let mut free = ids.iter().copied();
        let mut pages_of = Vec::with_capacity(case.contexts.len());
        let interleaved = matches!(case.cache, CaseCache::NvFp4(kind) if kind.interleaved);
        let (codes, scales) = case.cache.row_bytes(case.head_dim);
        for context in &case.contexts {
            let own: Vec<usize> = free.by_ref().take(context.tokens.div_ceil(page_size)).collect();
            let sides = [(&k, &k_scales, &context.k, false), (&v, &v_scales, &context.v, interleaved)];
            for (side, scale_side, stored, interleaved) in sides {
                for (row, (head, token)) in
                    (0..case.kv_heads).flat_map(|head| (0..context.tokens).map(move |token| (head, token))).enumerate()
                {
                    let place = [own[token / page_size], token % page_size, head];
                    let bytes = &stored.codes[row * codes..][..codes];
                    buffers[side.buffer][side.at(place)..][..codes].copy_from_slice(bytes);
                    let Some(side) = scale_side else { continue };
                    for (block, &byte) in stored.scales[row * scales..][..scales].iter().enumerate() {
                        buffers[side.buffer][side.scale_at(place, block, interleaved)] = byte;
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
        Self {
            buffers,
            k,
            v,
            k_scales,
            v_scales,
            arrangement,
            pages,
            page_size,
            block_table,
            table_width,
            spare,
            pages_of,
        }
    }

    /// The same cache before anything is stored in it: poison throughout.
    pub fn empty(&self) -> Self {
        Self { buffers: self.buffers.iter().map(|buffer| vec![0xFF; buffer.len()]).collect(), ..self.clone() }
    }

    /// The slots of a context's first `tokens` tokens, as an append is told them.
    pub fn slots(&self, context: usize, tokens: usize) -> Vec<i64> {
        let slot =
            |token: usize| self.pages_of[context][token / self.page_size] * self.page_size + token % self.page_size;
        (0..tokens).map(|token| slot(token) as i64).collect()
    }
}

impl Paged {
    /// Takes from each sequence the keys before the first that any of its query tokens sees: whole pages of them have the id of
    /// a page that is NaN throughout, of every other sequence [`BAD_PAGE`]; the rest of their tokens is NaN (in a context that
    /// sequences share, which others of them may see, it stays).
    pub fn forget_unseen(&mut self, case: &Case) {
        let Some(&nothing) = self.spare.first() else { return };
        for (index, sequence) in case.sequences.iter().enumerate() {
            let first = (0..sequence.queries).map(|i| Sight::new(case, index, i).unseen()).min();
            let unseen = first.unwrap_or(sequence.length);
            let pages =
                if unseen == sequence.length { unseen.div_ceil(self.page_size) } else { unseen / self.page_size };
            self.block_table[index * self.table_width..][..pages].fill(if index % 2 == 0 { nothing } else { BAD_PAGE });
            let shared = case.sequences.iter().filter(|other| other.context == sequence.context).count() > 1;
            for token in pages * self.page_size..if shared { 0 } else { unseen } {
                let page = self.pages_of[sequence.context][token / self.page_size];
                for head in 0..case.kv_heads {
                    self.poison(case, [page, token % self.page_size, head]);
                }
            }
        }
    }

    /// Makes a row of K and of V NaN: all codes, and all scales of its own.
    fn poison(&mut self, case: &Case, [page, token, head]: [usize; 3]) {
        let (codes, scales) = case.cache.row_bytes(case.head_dim);
        let interleaved = matches!(case.cache, CaseCache::NvFp4(kind) if kind.interleaved);
        for (side, scale_side, interleaved) in [(self.k, self.k_scales, false), (self.v, self.v_scales, interleaved)] {
            self.buffers[side.buffer][side.at([page, token, head])..][..codes].fill(0xFF);
            let Some(side) = scale_side else { continue };
            for block in 0..scales {
                let at = side.scale_at([page, token, head], block, interleaved);
                self.buffers[side.buffer][at] = 0xFF;
            }
        }
    }
}

/// A page's id; one that does not fit is out of range for the cache too, and is refused there.
fn page_id(page: usize) -> i32 {
    i32::try_from(page).unwrap_or(BAD_PAGE)
}

impl Side {
    /// The byte where a `[page, token, head]` begins.
    fn at(&self, place: [usize; 3]) -> usize {
        self.offset + place.iter().zip(self.strides).map(|(i, s)| i * s).sum::<usize>()
    }

    /// The byte of a row's scale of `block`: interleaved, four tokens' scales of a block are side by side.
    fn scale_at(&self, [page, token, head]: [usize; 3], block: usize, interleaved: bool) -> usize {
        if interleaved {
            self.at([page, token / 4 * 4, head]) + 4 * block + token % 4
        } else {
            self.at([page, token, head]) + block
        }
    }
}

/// Where K and V and their scales lie, and the bytes of each buffer.
struct Places {
    k: Side,
    v: Side,
    k_scales: Option<Side>,
    v_scales: Option<Side>,
    sizes: Vec<usize>,
}

/// Unused bytes behind each row of [`Arrangement::Padded`].
const PADDING: usize = 16;

fn places(case: &Case, arrangement: Arrangement, pages: usize, page: usize) -> Places {
    let heads = case.kv_heads;
    let (row, scales) = case.cache.row_bytes(case.head_dim);
    let (in_pages, interleaved) = match case.cache {
        CaseCache::NvFp4(kind) => (kind.in_pages, kind.interleaved),
        CaseCache::Own | CaseCache::Fp8E4M3(_) | CaseCache::Fp8E5M2(_) => (false, false),
    };
    let nhd = |row: usize| [page * heads * row, heads * row, row];
    let hnd = |row: usize| [page * heads * row, row, page * row];
    let tokens_outside = match arrangement {
        Arrangement::Nhd | Arrangement::PairNhd | Arrangement::ContentNhd | Arrangement::Padded => true,
        Arrangement::Hnd | Arrangement::PairHnd | Arrangement::ContentHnd => false,
    };
    let strides = |row: usize| if tokens_outside { nhd(row) } else { hnd(row) };

    // A page's side: its codes, and where they are in the pages its scales.
    let side = page * heads * (row + if in_pages { scales } else { 0 });
    let paged = |sides: usize| {
        let [_, token, head] = strides(row);
        [sides * side, token, head]
    };
    let two = |k: [usize; 3], v: [usize; 3]| {
        let of = |buffer, strides| Side { buffer, offset: 0, strides };
        (of(0, k), of(1, v), vec![pages * k[0], pages * v[0]])
    };
    let one = |strides: [usize; 3], v_offset: usize| {
        let k = Side { buffer: 0, offset: 0, strides };
        (k, Side { offset: v_offset, ..k }, vec![pages * strides[0]])
    };
    let (k, v, mut sizes) = match arrangement {
        Arrangement::Nhd | Arrangement::Hnd => two(paged(1), paged(1)),
        Arrangement::PairNhd | Arrangement::PairHnd => one(paged(2), side),
        Arrangement::ContentNhd | Arrangement::ContentHnd => one(strides(2 * row), row),
        Arrangement::Padded => {
            let k = nhd(row + PADDING);
            two(k, [k[0] + row + PADDING, k[1], k[2]])
        }
    };
    if scales == 0 {
        return Places { k, v, k_scales: None, v_scales: None, sizes };
    }
    let (k_scales, v_scales) = if in_pages {
        let of = |data: Side| {
            let [_, token, head] = strides(scales);
            Side { offset: data.offset + page * heads * row, strides: [data.strides[0], token, head], ..data }
        };
        (of(k), of(v))
    } else {
        let padding = if arrangement == Arrangement::Padded { 4 } else { 0 };
        let mut of = |interleaved: bool| {
            // FP8's are always tokens outside; the interleaved order has four tokens of one head together.
            let fp8 = !matches!(case.cache, CaseCache::NvFp4(_));
            let [page_stride, token, head] = match (interleaved, fp8 || tokens_outside) {
                (true, _) => hnd(scales),
                (false, true) => nhd(scales + padding),
                (false, false) => hnd(scales),
            };
            let strides = [page_stride + padding, token, head];
            sizes.push(pages * strides[0]);
            Side { buffer: sizes.len() - 1, offset: 0, strides }
        };
        (of(false), of(interleaved))
    };
    Places { k, v, k_scales: Some(k_scales), v_scales: Some(v_scales), sizes }
}
