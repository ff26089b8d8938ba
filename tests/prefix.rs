//! A prefix that a batch shares, read once, against the plain plan over whole sequences and against the oracle.
//!
//! Rows of the block table behind the first have no valid page ids for the prefix: nobody may read it there.
use common::prefix::{check, run, shared};
use common::variants::{HEAD_DIMS, SPLITS, config, simulator, small};
use proptest::prelude::*;
use qkv::testing::case::CaseShape;
use qkv::testing::run::RunOptions;
use qkv::testing::stored::CaseCache;
use qkv::testing::strategies;
use qkv::testing::variant::{CaseOutput, PositionShape, QueryCounts, SinkShape, SpanShape, TreeShape, VariantShape};
use qkv::{DType, Splits};

mod common;

#[test]
fn a_shared_prefix_with_every_variant() {
    let plain = VariantShape::default;
    let own = Some(PositionShape::Shifted(0));
    let variants = [
        plain(),
        VariantShape { queries: QueryCounts::Uniform(4), sinks: Some(SinkShape::Drawn), ..plain() },
        VariantShape { queries: QueryCounts::Ragged(vec![3, 0, 9]), softcap: Some(2.0), ..plain() },
        VariantShape {
            queries: QueryCounts::Uniform(12),
            tree: Some(TreeShape::Forest),
            sinks: Some(SinkShape::Drawn),
            ..plain()
        },
        VariantShape { left: Some(40), positions: own, queries: QueryCounts::Uniform(2), ..plain() },
        VariantShape { left: Some(3), positions: own, sinks: Some(SinkShape::Drawn), ..plain() },
        VariantShape { alibi: true, positions: own, softcap: Some(5.0), queries: QueryCounts::Uniform(3), ..plain() },
        VariantShape {
            left: Some(60),
            positions: own,
            tree: Some(TreeShape::Bits),
            queries: QueryCounts::Uniform(5),
            ..plain()
        },
        VariantShape { output: CaseOutput::Fp8E4M3 { scale: 1.0 / 64.0, on_device: true }, ..plain() },
        VariantShape { output: CaseOutput::F32, queries: QueryCounts::Uniform(5), right: None, ..plain() },
    ];
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        for (turn, variant) in variants.iter().enumerate() {
            let cache = CaseCache::all().nth((7 * turn + 3 * index) % 23).expect("a cache");
            let (page_size, pages) = [(16, 3), (4, 9), (32, 1), (16, 1)][(turn + index) % 4];
            // Suffixes of query tokens alone, of a page and more.
            let lengths = [12, 50, 17].map(|rest| pages * page_size + rest).to_vec();
            let format = DType::ALL[(turn + index) % 2];
            let shape = CaseShape { head_dim, cache, format, page_size, lengths, variant: variant.clone(), ..small() };
            let shape = shape.suited();
            check(&simulator(shape.seed), &shape, pages, SPLITS[(turn + index) % 4])
                .unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        }
    }
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn a_shared_prefix_is_what_the_oracle_says(
        shape in strategies::case(), pages in 1..=4usize, rest in proptest::collection::vec(1..=40usize, 1..=4),
        counts in proptest::collection::vec(1..=8usize, 4), sinks in any::<bool>(), splits in strategies::splits()
    ) {
        let shape = CaseShape { page_size: shape.page_size.min(32), group: shape.group.min(16), kv_heads: 1, ..shape };
        let lengths = rest.iter().zip(&counts).map(|(rest, count)| pages * shape.page_size + (*rest).max(*count)).collect();
        let sinks = sinks.then_some(SinkShape::Drawn);
        let variant = VariantShape { queries: QueryCounts::Ragged(counts), sinks, ..VariantShape::default() };
        let shape = CaseShape { lengths, variant, ..shape }.suited();
        check(&simulator(shape.seed), &shape, pages, splits).map_err(TestCaseError::fail)?;
    }
}

/// More query rows together than one item, or many, have in the prefix's pass.
#[test]
fn many_sequences_share_a_prefix() {
    for (head_dim, group) in [(64, 4), (512, 8), (128, 33)] {
        let lengths = (0..40).map(|i| 64 + 1 + (7 * i) % 30).collect();
        let shape = CaseShape { head_dim, group, kv_heads: 1, lengths, ..small() };
        check(&simulator(shape.seed), &shape, 4, Splits::Auto).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
    }
}

/// What cannot be told with a shared prefix is refused when the request meets the plan.
#[test]
fn what_a_shared_prefix_does_not_do_is_refused() {
    let error = |variant: VariantShape, prefix| {
        let shape = CaseShape { lengths: vec![70, 90], variant, ..small() };
        let (case, paged) = shared(&shape, 2);
        let options = RunOptions { shared_prefix: Some(prefix), ..RunOptions::default() };
        run(&simulator(1), &case, &paged, options).expect_err("a refusal").to_string()
    };
    let plain = VariantShape::default;
    let positions = "a window or ALiBi with a shared prefix and no positions";
    for (what, expected) in [
        (error(VariantShape { left: Some(5), ..plain() }, 32), positions),
        (error(VariantShape { alibi: true, ..plain() }, 32), positions),
        (
            error(VariantShape { spans: Some(SpanShape { most: 3, in_window: false }), ..plain() }, 32),
            "spans with a shared prefix",
        ),
        (error(plain(), 0), "prefix_tokens is 0"),
        (error(plain(), 33), "prefix_tokens is 33"),
        (error(VariantShape { queries: QueryCounts::Uniform(7), ..plain() }, 64), "prefix"),
    ] {
        assert!(what.contains(expected), "{what:?}, not {expected:?}");
    }
}
