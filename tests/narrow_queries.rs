//! FP8 queries with FP8 caches through the library, on a simulated Hopper, and on Blackwell at D = 64 and 512: any number of query tokens, lengths at the edges of
//! tiles, groups, pages, variants, ways to cut; judged by the oracle on the numbers that codes and scales are.
use common::judge::Exact;
use common::variants::{answer, check, config, judge, same_bits, small};
use kernels_gpu::prefill::shape::narrow_prefill_shape;
use proptest::prelude::*;
use qkv::testing::case::{Arrangement, CaseShape};
use qkv::testing::run::RunOptions;
use qkv::testing::stored::{CaseCache, Fp8Kind};
use qkv::testing::strategies;
use qkv::testing::variant::{
    CaseOutput, CaseQuery, PositionShape, QueryCounts, SinkShape, SpanShape, TreeShape, VariantShape,
};
use qkv::{Arch, DType, Delivery, Device, SimulatorOptions, Splits};

mod common;

/// Head dimensions that have kernels.
const DIMS: [usize; 3] = [64, 128, 256];

const BLACKWELL: Arch = Arch { major: 10, minor: 0 };

/// Those where Blackwell's kernels are most their own: of rows that are half of a swizzle's, and of pairs of blocks.
const DIMS_OF_BLACKWELL: [usize; 2] = [64, 512];

/// Of the queries.
const SCALE: f32 = 7.0 / 512.0;

fn device(arch: Arch, seed: u64) -> Device {
    let delivery = if seed.is_multiple_of(4) { Delivery::Earliest } else { Delivery::Latest };
    Device::simulator_with(SimulatorOptions { arch, multiprocessors: 3, delivery, seed, ..Default::default() })
}

fn tile(head_dim: usize) -> usize {
    narrow_prefill_shape(head_dim as u32).tile_keys as usize
}

/// Scales that the host knows, and those that the device reads.
fn cache(turn: usize) -> CaseCache {
    CaseCache::Fp8E4M3([Fp8Kind::Tensor, Fp8Kind::OnDevice][turn % 2])
}

/// Query tokens of each sequence, and its keys.
fn chunks(head_dim: usize, turn: usize, of: &[(usize, usize)]) -> CaseShape {
    let (counts, lengths) = of.iter().copied().unzip();
    let (query, queries) = (CaseQuery::Fp8E4M3 { scale: SCALE }, QueryCounts::Ragged(counts));
    let variant = VariantShape { query, queries, ..VariantShape::default() };
    let (cache, format) = (cache(turn), DType::ALL[turn % 2]);
    CaseShape { head_dim, format, cache, kv_heads: 1, group: 1, lengths, variant, seed: turn as u64, ..small() }
}

fn check_on_hopper(shape: &CaseShape, splits: &[Splits]) {
    check_on(Arch::HOPPER, shape, splits);
}

fn check_on(arch: Arch, shape: &CaseShape, splits: &[Splits]) {
    let device = device(arch, shape.seed);
    check(&device, shape, splits).unwrap_or_else(|what| panic!("{arch}, {shape:?}: {what}"));
    let ran = device.simulated().expect("a simulator");
    let unit = if arch == BLACKWELL { "tcgen05_" } else { "" };
    let name = format!("prefill_{unit}d{}_e4m3_e4m3", shape.head_dim);
    assert!(ran.iter().any(|kernel| kernel.to_string() == name), "{shape:?}: {ran:?} ran");
    assert!(!ran.iter().any(|kernel| kernel.to_string().starts_with("decode_d")), "{shape:?}: {ran:?} ran");
}

/// Single tokens too: there is no decode kernel of this format.
#[test]
fn lengths_at_the_edges_of_tiles() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        let tile = tile(head_dim);
        let lengths = [1, 2, 15, 17, tile - 1, tile, tile + 1, 2 * tile + 1, 101, 0, 4 * tile + 7];
        let of: Vec<_> = lengths.iter().map(|&length| (1, length)).collect();
        check_on_hopper(&CaseShape { group: 4, kv_heads: 2, ..chunks(head_dim, turn, &of) }, &[Splits::Auto]);
        let prompts: Vec<_> = [1, tile - 1, tile + 1, 67].iter().map(|&length| (length, length)).collect();
        check_on_hopper(&chunks(head_dim, turn + 2, &prompts), &[Splits::Never, Splits::Most]);
    }
}

/// Decode's single tokens, drafts, prompts, a chunk, no query tokens and no keys in one launch, cut in every way.
#[test]
fn prompts_and_drafts_and_single_tokens_in_one_launch() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        let of = [(1, 250), (5, 83), (35, 35), (0, 64), (1, 1), (17, 220), (3, 0), (50, 20)];
        let shape = CaseShape { kv_heads: 2, group: 2, ..chunks(head_dim, turn, &of) };
        check_on_hopper(&shape, &[Splits::Auto, Splits::Most, Splits::Never, Splits::FixedSize(96)]);
    }
}

#[test]
fn every_kind_of_group() {
    for (turn, group) in [1, 3, 5, 7, 8, 12, 16, 31, 48, 64].into_iter().enumerate() {
        let tokens = 65_usize.div_ceil(group).max(2) + turn % 2;
        let of = [(tokens, tokens + 70), (1, 9), (2, 2)];
        check_on_hopper(&CaseShape { group, ..chunks(DIMS[turn % 3], turn, &of) }, &[Splits::Auto]);
    }
}

#[test]
fn every_page_size_and_arrangement() {
    for shift in 0..=10 {
        let arrangement = Arrangement::ALL[shift % Arrangement::ALL.len()];
        let shape = chunks(DIMS[shift % 3], shift, &[(23, 171), (9, 30)]);
        let shape = CaseShape { page_size: 1 << shift, arrangement, group: 3, kv_heads: 2, ..shape };
        check_on_hopper(&shape, &[Splits::Auto]);
    }
}

#[test]
fn every_variant() {
    let span = |in_window| Some(SpanShape { most: 40, in_window });
    let base = |turn: usize| chunks(DIMS[turn % 3], turn, &[(40, 140), (1, 77), (36, 36)]);
    let plain = || base(0).variant;
    let variants = [
        VariantShape { left: Some(20), ..plain() },
        VariantShape { left: Some(0), sinks: Some(SinkShape::Drawn), ..plain() },
        VariantShape { right: None, ..plain() },
        VariantShape { softcap: Some(2.0), ..plain() },
        VariantShape { sinks: Some(SinkShape::All(1e4)), ..plain() },
        VariantShape { sinks: Some(SinkShape::Drawn), left: Some(64), softcap: Some(20.0), ..plain() },
        VariantShape { alibi: true, ..plain() },
        VariantShape { positions: Some(PositionShape::Drawn), ..plain() },
        VariantShape { spans: span(false), ..plain() },
        VariantShape { spans: span(true), left: Some(15), ..plain() },
        VariantShape { tree: Some(TreeShape::Forest), ..plain() },
        VariantShape { tree: Some(TreeShape::Bits), left: Some(10), ..plain() },
        VariantShape { output: CaseOutput::F32, ..plain() },
        VariantShape { output: CaseOutput::Fp8E4M3 { scale: 1.0 / 64.0, on_device: true }, ..plain() },
    ];
    for (turn, variant) in variants.into_iter().enumerate() {
        check_on_hopper(&CaseShape { group: 2, variant, ..base(turn) }, &[[Splits::Auto, Splits::Most][turn / 2 % 2]]);
    }
}

/// Few keys with all the weight: P's largest is exact, and what is far below it is not lost.
#[test]
fn attention_on_few_keys() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        for sharpness in [0.01, 8.0, 60.0] {
            let shape = chunks(head_dim, turn, &[(20, 300), (2, 190)]);
            check_on_hopper(&CaseShape { group: 3, sharpness, ..shape }, &[Splits::Auto]);
        }
    }
}

/// Sequences that turn out shorter than planned.
#[test]
fn sequences_shorter_than_planned() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        let shape = CaseShape { group: 2, ..chunks(head_dim, turn, &[(35, 140), (2, 90), (4, 0)]) };
        let case = shape.build();
        let planned = Some(vec![190, 95, 100]);
        let options = RunOptions { splits: Splits::Most, planned, checked: true, ..RunOptions::default() };
        let answer = answer(&device(Arch::HOPPER, 1), &shape, &case, options).expect("a launch");
        Exact::new(&case).judge(&answer).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
    }
}

/// Who does an item is nothing that its result depends on.
#[test]
fn blocks_take_turns_at_items() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        let shape = CaseShape { kv_heads: 2, ..chunks(head_dim, turn, &[(128, 137), (257, 257), (1, 40)]) };
        let case = shape.build();
        let answers = [1, 2, 5].map(|multiprocessors| {
            let options = SimulatorOptions { arch: Arch::HOPPER, multiprocessors, ..Default::default() };
            judge(&Device::simulator_with(options), &shape, &case, &[Splits::Never]).expect("right").remove(0)
        });
        same_bits("one block", &answers[0], &answers[1]).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        same_bits("five blocks", &answers[2], &answers[1]).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
    }
}

#[test]
fn a_shared_prefix() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        let of: Vec<_> = (0..6).map(|rest| (1 + turn, 64 + 3 + rest)).collect();
        let mut shape = CaseShape { group: 6, ..chunks(head_dim, turn, &of) };
        shape.variant.queries = QueryCounts::Uniform(1 + turn);
        let device = device(Arch::HOPPER, shape.seed);
        common::prefix::check(&device, &shape, 4, Splits::Auto).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
    }
}

/// A block whose only item has no keys ends with nothing under way.
#[test]
fn a_sequence_without_keys_has_a_block_of_its_own() {
    for seed in [0, 1] {
        for (arch, head_dims) in [(Arch::HOPPER, &DIMS[..]), (BLACKWELL, &DIMS_OF_BLACKWELL)] {
            for &head_dim in head_dims {
                check_on(arch, &CaseShape { seed, ..chunks(head_dim, 0, &[(1, 0)]) }, &[Splits::Auto]);
                check_on(arch, &CaseShape { seed, ..chunks(head_dim, 0, &[(5, 0), (3, 200)]) }, &[Splits::Auto]);
            }
        }
    }
}

#[test]
fn chunks_and_sharp_attention_on_blackwell() {
    for (turn, head_dim) in DIMS_OF_BLACKWELL.into_iter().enumerate() {
        let of = [(1, 250), (5, 127), (35, 35), (0, 64), (1, 1), (1, 128), (17, 129), (3, 0), (50, 20)];
        let shape = CaseShape { kv_heads: 2, group: 2, ..chunks(head_dim, turn, &of) };
        check_on(BLACKWELL, &shape, &[Splits::Auto, Splits::Most, Splits::Never, Splits::FixedSize(128)]);
        for sharpness in [0.01, 8.0, 60.0] {
            let shape = chunks(head_dim, turn, &[(20, 300), (2, 190)]);
            check_on(BLACKWELL, &CaseShape { group: 3, sharpness, ..shape }, &[Splits::Auto]);
        }
    }
}

/// There a row's copy is half a box, of boxes and of single tokens.
#[test]
fn pages_groups_and_variants_at_64() {
    let plain = chunks(64, 0, &[(1, 1)]).variant;
    let variants = [
        plain.clone(),
        VariantShape { left: Some(20), ..plain.clone() },
        VariantShape { left: Some(64), sinks: Some(SinkShape::Drawn), softcap: Some(20.0), ..plain.clone() },
        VariantShape { right: None, output: CaseOutput::F32, ..plain },
    ];
    for (shift, group) in (0..=10).zip([1, 3, 5, 7, 8, 12, 16, 31, 48, 64, 2]) {
        let shape = chunks(64, shift, &[(23, 171), (1, 30), (9, 140)]);
        let queries = shape.variant.queries.clone();
        let variant = VariantShape { queries, ..variants[shift % variants.len()].clone() };
        let arrangement = Arrangement::ALL[shift % Arrangement::ALL.len()];
        let shape = CaseShape { page_size: 1 << shift, arrangement, group, kv_heads: 2, variant, ..shape };
        for arch in [Arch::HOPPER, BLACKWELL] {
            check_on(arch, &shape, &[Splits::Auto, Splits::Most]);
        }
    }
}

/// What there is no kernel for is refused when it is planned, or made.
#[test]
fn elsewhere_it_is_refused() {
    let refused = |arch: Arch, shape: &CaseShape| {
        let device = device(arch, 1);
        answer(&device, shape, &shape.build(), Splits::Auto).expect_err("no kernel")
    };
    let shape = chunks(128, 0, &[(2, 40)]);
    for (major, minor) in [(8, 0), (8, 9), (10, 1)] {
        let text = refused(Arch { major, minor }, &shape);
        assert_eq!(
            text,
            format!("no kernel for q e4m3 on architecture sm_{major}{minor} (allowed: sm_100, sm_103, sm_90)")
        );
    }
    let wide = CaseShape { head_dim: 512, ..shape.clone() };
    let text = refused(Arch::HOPPER, &wide);
    assert_eq!(text, "no kernel for head_dim 512 of q e4m3 with a fp8_e4m3 cache together");
    let token_head = CaseShape { cache: CaseCache::Fp8E4M3(Fp8Kind::TokenHead), ..shape };
    let text = refused(Arch::HOPPER, &token_head);
    let scales = "q e4m3 with scales of the cache a token and head (allowed: one of K and one of V)";
    assert_eq!(text, format!("no kernel for {scales}"));
}

fn any_chunks(head_dims: &'static [usize]) -> impl Strategy<Value = CaseShape> {
    let group = prop_oneof![1..=8_usize, 1..=64_usize];
    let others = proptest::collection::vec((0..=24_usize, 0..=200_usize), 1..=4);
    let place = (strategies::page_size(), strategies::arrangement(), 1..=2_usize);
    let asked = (proptest::option::of(0..=150_u32), any::<bool>(), any::<bool>());
    (proptest::sample::select(head_dims), group, others, place, asked, any::<u64>().no_shrink()).prop_map(
        |(head_dim, group, others, (page_size, arrangement, kv_heads), (left, sinks, full), seed)| {
            let of: Vec<_> = others.into_iter().map(|(count, length)| (count.min(130 / group), length)).collect();
            let mut shape = chunks(head_dim, seed as usize % 2, &of);
            shape.variant.left = left;
            shape.variant.sinks = sinks.then_some(SinkShape::Drawn);
            shape.variant.right = if full { None } else { Some(0) };
            CaseShape { group, page_size, arrangement, kv_heads, seed, ..shape }
        },
    )
}

proptest! {
    #![proptest_config(config(16))]

    #[test]
    fn anything_drawn(shape in any_chunks(&DIMS), splits in strategies::splits()) {
        let device = device(Arch::HOPPER, shape.seed);
        check(&device, &shape, &[splits]).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn anything_drawn_on_blackwell(shape in any_chunks(&DIMS_OF_BLACKWELL), splits in strategies::splits()) {
        let device = device(BLACKWELL, shape.seed);
        check(&device, &shape, &[splits]).map_err(TestCaseError::fail)?;
    }
}
