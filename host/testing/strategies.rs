//! proptest strategies for decode problems, valid and not.
//!
//! They choose edges rather than size: lengths next to a tile's, a page's or a ring's end, page ids in any order, groups
//! and page sizes at their limits. A case of theirs holds at most [`KEY_ELEMENTS`] elements of K, so that it runs in
//! tens of milliseconds on the simulator.
//!
//! ```
//! use proptest::strategy::{Strategy, ValueTree};
//! use qkv::testing::strategies;
//! let mut runner = proptest::test_runner::TestRunner::deterministic();
//! let shape = strategies::case().new_tree(&mut runner).unwrap().current();
//! assert_eq!(shape.q_heads() % shape.kv_heads, 0);
//! ```
pub mod variant;

use super::case::{Arrangement, CaseShape};
use super::paged::BAD_PAGE;
use super::stored::CaseCache;
use super::variant::VariantShape;
use crate::{DType, Splits};
use kernels_gpu::config::{RowClass, Shape, shape};
use proptest::prelude::*;
use proptest::sample::select;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Elements of K that a case of [`case`] has at most.
pub const KEY_ELEMENTS: usize = 64 * 1024;

/// Groups that published models use, besides the edges of what a 16-row tile and a 64-row item hold.
const GROUPS: [usize; 15] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 16, 17, 33, 64];

/// A head dimension with kernels.
pub fn head_dim() -> impl Strategy<Value = usize> + Clone {
    select(vec![64, 128, 256, 512])
}

/// A 16-bit format.
pub fn format() -> impl Strategy<Value = DType> + Clone {
    select(DType::ALL.to_vec())
}

/// A cache, each format as often as another, with any kind of its scales.
pub fn cache() -> impl Strategy<Value = CaseCache> + Clone {
    let narrow = |is: fn(&CaseCache) -> bool| select(CaseCache::all().filter(is).collect::<Vec<_>>());
    prop_oneof![
        Just(CaseCache::Own),
        narrow(|cache| matches!(cache, CaseCache::Fp8E4M3(_))),
        narrow(|cache| matches!(cache, CaseCache::Fp8E5M2(_))),
        narrow(|cache| matches!(cache, CaseCache::NvFp4(_))),
    ]
}

/// Query heads a KV head, 1 to 64, often one that a model has.
pub fn group() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![3 => select(GROUPS.to_vec()), 1 => 1..=64usize]
}

/// A page size, 2^0 to 2^10, most often 16.
pub fn page_size() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![1 => Just(16), 2 => (0..=10u32).prop_map(|shift| 1usize << shift)]
}

/// How K and V lie in memory.
pub fn arrangement() -> impl Strategy<Value = Arrangement> + Clone {
    select(Arrangement::ALL.to_vec())
}

/// How a plan splits.
pub fn splits() -> impl Strategy<Value = Splits> {
    prop_oneof![Just(Splits::Auto), Just(Splits::Never), Just(Splits::Most), (1..=200u32).prop_map(Splits::FixedSize)]
}

/// A length of at most `most` tokens at an edge of the kernel for `head_dim`, `group` and `cache` or of a page: one off or on a
/// multiple of a tile, of all the tiles of a block's ring (where it wraps), of a page; 0; or anything.
pub fn length(head_dim: usize, group: usize, cache: CaseCache, page_size: usize, most: usize) -> BoxedStrategy<usize> {
    let shape = kernel_shape(head_dim, group, cache);
    let tile = shape.tile_keys as usize;
    let ring = tile * (shape.stages() * shape.teams) as usize;
    let near = move |unit: usize| {
        (0..=(most / unit).min(4), select(vec![-1i64, 0, 1]))
            .prop_map(move |(times, off)| (times * unit).saturating_add_signed(off as isize).min(most))
    };
    prop_oneof![
        1 => Just(0),
        1 => Just(1.min(most)),
        3 => near(tile),
        3 => near(ring),
        3 => near(page_size),
        2 => 0..=most,
    ]
    .boxed()
}

/// A valid decode problem of one to four sequences.
pub fn case() -> impl Strategy<Value = CaseShape> {
    (format(), cache(), head_dim(), 1..=3usize, group(), page_size(), arrangement()).prop_flat_map(
        |(format, cache, head_dim, kv_heads, group, page_size, arrangement)| {
            let most = KEY_ELEMENTS / (head_dim * kv_heads);
            let lengths = (1..=4usize).prop_flat_map(move |batch| {
                proptest::collection::vec(length(head_dim, group, cache, page_size, most / batch), batch)
            });
            let sharpness = select(vec![1.0f32, 0.25, 4.0]);
            (lengths, sharpness, any::<u64>().no_shrink()).prop_map(move |(lengths, sharpness, seed)| {
                let shape = CaseShape {
                    format,
                    cache,
                    head_dim,
                    kv_heads,
                    group,
                    page_size,
                    arrangement,
                    lengths,
                    variant: VariantShape::default(),
                    sharpness,
                    seed,
                };
                shape.suited()
            })
        },
    )
}

/// A head dimension without kernels.
pub fn invalid_head_dim() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![select(vec![0, 1, 32, 63, 65, 80, 96, 112, 192, 576, 1024, usize::MAX]), 0..=1024usize]
        .prop_filter("no kernel's", |d| ![64, 128, 256, 512].contains(d))
}

/// `[q_heads, kv_heads]` that make no groups of 1 to 64.
pub fn invalid_heads() -> impl Strategy<Value = [usize; 2]> + Clone {
    prop_oneof![
        (0..=128usize).prop_map(|q| [q, 0]),
        (1..=16usize).prop_map(|kv| [0, kv]),
        (2..=16usize, 1..=64usize).prop_flat_map(|(kv, group)| (1..kv).prop_map(move |off| [kv * group + off, kv])),
        (1..=16usize, 65..=200usize).prop_map(|(kv, group)| [kv * group, kv]),
    ]
}

/// A page size that is no power of two up to 1024.
pub fn invalid_page_size() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![select(vec![0, 3, 24, 1023, 1025, 2048, usize::MAX]), 0..=4096usize]
        .prop_filter("not allowed", |page| !page.is_power_of_two() || *page > 1024)
}

/// Strides `[page, token, head]` in 16-bit elements of an NHD cache whose pages hold `page_size` tokens of `kv_heads`
/// rows of `head_dim`, one of them spoiled: not a multiple of 16 bytes, or so small that rows overlap. At least 2
/// tokens a page and 2 heads, or there is no stride to spoil.
pub fn invalid_strides(
    head_dim: usize,
    kv_heads: usize,
    page_size: usize,
) -> impl Strategy<Value = [usize; 3]> + Clone {
    let good = [page_size * kv_heads * head_dim, kv_heads * head_dim, head_dim];
    let axes = select((0..3).filter(|&axis| [2, page_size, kv_heads][axis] > 1).collect::<Vec<_>>());
    let misaligned = (axes.clone(), 1..8usize).prop_map(move |(axis, off)| {
        let mut strides = good;
        strides[axis] += off;
        strides
    });
    let overlapping = (axes, 1..=head_dim / 8).prop_map(move |(axis, less)| {
        let mut strides = good;
        strides[axis] -= 8 * less;
        strides
    });
    prop_oneof![misaligned, overlapping]
}

/// A block table, the lengths that it serves, and where it was spoiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageTable {
    /// Ids `[lengths.len(), max_pages]`; past a sequence's end they are out of range and not to be looked at.
    pub ids: Vec<i32>,
    /// Ids a sequence.
    pub max_pages: usize,
    /// Tokens of each sequence.
    pub lengths: Vec<u32>,
    /// Tokens a page.
    pub page_size: usize,
    /// Pages of the cache.
    pub pages: usize,
    /// The first id out of range that a sequence uses, as (sequence, page, id).
    pub first_bad: Option<(usize, usize, i32)>,
}

/// A table whose used ids are all in range.
pub fn page_table() -> impl Strategy<Value = PageTable> {
    (page_size(), 1..=64usize, 0..=3usize).prop_flat_map(|(page_size, pages, spare)| {
        let lengths = proptest::collection::vec(0..=(12 * page_size) as u32, 0..=5);
        (lengths, any::<u64>().no_shrink()).prop_map(move |(lengths, seed)| {
            let used = |length: u32| (length as usize).div_ceil(page_size);
            let max_pages = lengths.iter().map(|&l| used(l)).max().unwrap_or(0) + spare;
            let mut random = SmallRng::seed_from_u64(seed);
            let ids = lengths.iter().flat_map(|&length| {
                let past = vec![BAD_PAGE; max_pages - used(length)];
                let own: Vec<i32> = (0..used(length)).map(|_| random.random_range(0..pages as i32)).collect();
                own.into_iter().chain(past)
            });
            let ids = ids.collect();
            PageTable { ids, max_pages, lengths, page_size, pages, first_bad: None }
        })
    })
}

/// A table with one or more used ids out of range.
pub fn invalid_page_table() -> impl Strategy<Value = PageTable> {
    let used = |table: &PageTable| table.lengths.iter().any(|&length| length > 0);
    let bad = prop_oneof![Just(-1), Just(i32::MIN), Just(i32::MAX), Just(BAD_PAGE), Just(0)];
    let table = page_table().prop_filter("a sequence with a page", used);
    (table, proptest::collection::vec((any::<proptest::sample::Index>(), bad), 1..=3)).prop_map(
        |(mut table, spoils)| {
            let places: Vec<(usize, usize)> = (0..)
                .zip(&table.lengths)
                .flat_map(|(sequence, &length)| {
                    (0..(length as usize).div_ceil(table.page_size)).map(move |page| (sequence, page))
                })
                .collect();
            for (index, id) in spoils {
                let (sequence, page) = places[index.index(places.len())];
                // 0 stands for the smallest id that is out of range.
                let id = if id == 0 { table.pages as i32 } else { id };
                table.ids[sequence * table.max_pages + page] = id;
            }
            let id = |(sequence, page): (usize, usize)| table.ids[sequence * table.max_pages + page];
            let first = places.into_iter().find(|&place| !(0..table.pages as i32).contains(&id(place)));
            table.first_bad = first.map(|(sequence, page)| (sequence, page, id((sequence, page))));
            table
        },
    )
}

fn kernel_shape(head_dim: usize, group: usize, cache: CaseCache) -> Shape {
    shape(head_dim as u32, RowClass::of(group as u32, head_dim as u32), cache.dtype(DType::Bf16).kind())
}
