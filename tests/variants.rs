//! Variants of attention on the simulator against the f64 oracle: each, and every two that may be asked for together, over
//! what requests can be. Keys before those that a query token sees are NaN, their pages' ids those of a page of NaN or far
//! outside.
//!
//! A case that failed once stays: its seed is written to `tests/variants.regressions`.
use common::judge::{Exact, bits};
use common::variants::{HEAD_DIMS, SPLITS, answer, check, config, is_rounded, judge, same_bits, simulator, small};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use qkv::testing::case::{Arrangement, Case, CaseShape};
use qkv::testing::paged::Paged;
use qkv::testing::run::{DeviceCase, RunOptions};
use qkv::testing::stored::CaseCache;
use qkv::testing::strategies;
use qkv::testing::strategies::variant::Feature;
use qkv::testing::variant::{
    CaseOutput, PositionShape, QueryCounts, SinkShape, SpanShape, Spans, TreeShape, VariantShape,
};
use qkv::{DType, Splits};

mod common;

/// The same cases every time.
fn sample(runner: &mut TestRunner, features: &[Feature]) -> CaseShape {
    strategies::variant::case(features).new_tree(runner).expect("a case").current()
}

#[test]
fn every_variant_at_every_head_dimension_and_kind_of_cache() {
    let mut runner = TestRunner::deterministic();
    let caches: Vec<CaseCache> = CaseCache::all().collect();
    for (turn, feature) in Feature::ALL.into_iter().enumerate() {
        for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
            // Both formats and, of four head dimensions, all four cache formats; their kinds go round.
            let format = DType::ALL[(turn + index) % 2];
            let cache = [caches[0], caches[1 + turn % 3], caches[4 + turn % 3], caches[7 + (5 * turn + index) % 16]];
            let group = [1, 5, 8, 12, 17, 64][(turn + 2 * index) % 6];
            let cache = cache[(index + turn) % 4];
            let mut shape = sample(&mut runner, &[feature]);
            let lengths = vec![16 * 1024 / head_dim + turn, 0, 70];
            if shape.variant.queries != QueryCounts::One {
                let counts = [5, 2, 16].map(|count: usize| count.min(130usize.div_ceil(group)));
                shape.variant.queries = QueryCounts::Ragged(counts.to_vec());
            }
            let shape = CaseShape { format, cache, head_dim, group, kv_heads: 1, lengths, ..shape }.suited();
            check(&simulator(shape.seed), &shape, &[Splits::Most, Splits::Never])
                .unwrap_or_else(|what| panic!("{feature:?}: {shape:?}: {what}"));
        }
    }
}

#[test]
fn every_two_variants_together() {
    let mut runner = TestRunner::deterministic();
    let pairs = Feature::pairs();
    assert_eq!(pairs.len(), 44);
    for pair in pairs {
        for splits in [Splits::Most, Splits::FixedSize(64)] {
            let shape = sample(&mut runner, &pair);
            check(&simulator(shape.seed), &shape, &[splits])
                .unwrap_or_else(|what| panic!("{pair:?}: {shape:?}: {what}"));
        }
    }
}

proptest! {
    #![proptest_config(config(96))]

    #[test]
    fn one_variant_or_two_are_what_the_oracle_says(
        shape in strategies::variant::one_or_two(), splits in strategies::splits()
    ) {
        check(&simulator(shape.seed), &shape, &[splits, Splits::Never]).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(config(24))]

    /// Windows, spans and trees are found from the lengths that the kernel reads, not from the planned ones. The plan need not
    /// know of positions and spans.
    #[test]
    fn a_plan_for_longer_sequences_serves(
        shape in strategies::variant::one_or_two(), splits in strategies::splits(), more in proptest::collection::vec(0..=2usize, 3),
        aligned in any::<bool>()
    ) {
        let case = shape.build();
        let planned = shape.lengths.iter().zip(more).map(|(length, pages)| (length + pages * shape.page_size) as u32);
        let options = RunOptions { splits, planned: Some(planned.collect()), aligned, ..RunOptions::default() };
        let mut paged = Paged::new(&case, shape.page_size, shape.arrangement, shape.seed);
        paged.forget_unseen(&case);
        let device = simulator(shape.seed);
        let answer = DeviceCase::new(&device, &case, &paged).and_then(|on| on.run(options));
        let answer = answer.map_err(|e| TestCaseError::fail(e.to_string()))?;
        Exact::new(&case).judge(&answer).map_err(TestCaseError::fail)?;
    }
}

/// Windows of nothing, at the edges of tiles and of what there is, and wider than all: before the query, behind it, both.
#[test]
fn windows_at_their_edges() {
    for (turn, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        let tile = if head_dim == 64 { 32 } else { 16 };
        let lengths = vec![5 * tile + 3, 0, 4 * tile, 1];
        let widths = [0, 1, tile - 1, tile, tile + 1, 4 * tile, lengths[0] - 1, lengths[0], 1 << 20];
        let widths = widths.map(|width| Some(width as u32));
        for (index, left) in widths.into_iter().enumerate() {
            let right = [Some(0), Some(tile as u32), None][index % 3];
            let queries = [QueryCounts::One, QueryCounts::Ragged(vec![3, 2, tile + 1, 1])][(index + turn) % 2].clone();
            let variant = VariantShape { queries, left, right, ..VariantShape::default() };
            let (page_size, cache) = ([16, 1, 64, 8][index % 4], CaseCache::all().nth(3 * index % 23).expect("one"));
            let shape = CaseShape { head_dim, lengths: lengths.clone(), page_size, cache, variant, ..small() }.suited();
            check(&simulator(index as u64), &shape, &[[Splits::Most, Splits::Never][index % 2]])
                .unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        }
        // All keys, whatever the causal order: the second of two tokens and the first see the same.
        let full = VariantShape { queries: QueryCounts::Uniform(2), right: None, ..VariantShape::default() };
        let shape = CaseShape { head_dim, lengths: lengths.clone(), variant: full, ..small() };
        check(&simulator(3), &shape, &SPLITS).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
    }
}

/// A window leaves pages behind that nobody looks at: their ids may be anything in a checked launch.
#[test]
fn page_ids_before_a_window_are_not_looked_at() {
    let variant = VariantShape { left: Some(40), queries: QueryCounts::Uniform(3), ..VariantShape::default() };
    let shape = CaseShape { lengths: vec![200, 30, 43], variant, ..small() };
    let case = shape.build();
    let device = simulator(1);
    let mut paged = Paged::new(&case, shape.page_size, shape.arrangement, shape.seed);
    // The first token of the first sequence is at 197 and sees 157 and later ones, of page 9 on.
    paged.block_table[..9].fill(i32::MIN);
    let checked = RunOptions { checked: true, splits: Splits::Most, ..RunOptions::default() };
    let answer = DeviceCase::new(&device, &case, &paged).and_then(|on| on.run(checked.clone())).expect("a launch");
    Exact::new(&case).judge(&answer).expect("a good answer");
    paged.block_table[9] = i32::MIN;
    let refused = DeviceCase::new(&device, &case, &paged).and_then(|on| on.run(checked));
    let error = refused.expect_err("a page that is seen").to_string();
    assert!(error.contains("block_table[0][9]"), "{error}");
}

/// Tiles outside of a window are not walked through: behind 8192 keys a window takes as long as behind 64. (The simulator's
/// time is that of its instructions; without the window it takes 50 times as long.)
#[test]
fn a_window_takes_as_long_as_what_it_sees() {
    for head_dim in [64, 128] {
        let least = |length: usize| {
            let variant = VariantShape { left: Some(30), ..VariantShape::default() };
            let shape = CaseShape { head_dim, kv_heads: 1, lengths: vec![length], variant, ..small() };
            let (case, device) = (shape.build(), simulator(1));
            let paged = Paged::new(&case, shape.page_size, shape.arrangement, shape.seed);
            let on = DeviceCase::new(&device, &case, &paged).expect("memory");
            (0..8).map(|_| on.run(Splits::Never).expect("a launch").elapsed).min().expect("a run")
        };
        let (short, long) = (least(64), least(8192));
        assert!(long < 6 * short, "{long:?} behind 8192 keys, {short:?} behind 64");
    }
}

/// A cap of 1e-30 leaves no logit, and attention is the mean; one of 1e30 caps nothing.
#[test]
fn soft_caps_out_of_all_proportion() {
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        for sharpness in [1.0, 16.0] {
            let format = DType::ALL[index % 2];
            let capped = |softcap| {
                let variant = VariantShape { softcap, ..VariantShape::default() };
                CaseShape { head_dim, format, sharpness, lengths: vec![90, 1, 0], variant, ..small() }
            };
            let device = simulator(index as u64);
            for cap in [1e-30, 1e-3, 1.0, 1e4, 1e30] {
                let shape = capped(Some(cap));
                check(&device, &shape, &[Splits::Most, Splits::Never]).unwrap_or_else(|e| panic!("{shape:?}: {e}"));
            }
            // Judged by the oracle of the case without a cap.
            let (shape, plain) = (capped(Some(1e30)), capped(None));
            let capped = answer(&device, &shape, &shape.build(), Splits::Never).expect("a launch");
            Exact::new(&plain.build()).judge(&capped).unwrap_or_else(|e| panic!("{shape:?}: {e}"));
        }
    }
}

/// A sink of 1e4 takes all the weight, one of -1e4 none; the log-sum-exp has neither.
#[test]
fn sinks_out_of_all_proportion() {
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        let with = |sinks| {
            let variant = VariantShape { sinks, queries: QueryCounts::Uniform(2), ..VariantShape::default() };
            CaseShape { head_dim, format: DType::ALL[index % 2], variant, ..small() }
        };
        let device = simulator(index as u64);
        for splits in [Splits::Never, Splits::Most] {
            let run = |sinks| {
                let shape = with(sinks);
                let answers = judge(&device, &shape, &shape.build(), &[splits]);
                answers.unwrap_or_else(|what| panic!("{shape:?}: {what}")).remove(0)
            };
            let plain = run(None);
            let least = run(Some(SinkShape::All(-1e4)));
            same_bits("a sink of -1e4", &least, &plain).unwrap_or_else(|what| panic!("{what}"));
            let most = run(Some(SinkShape::All(1e4)));
            assert!(most.out.iter().all(|&x| x == 0.0), "a sink of 1e4 leaves something");
            assert_eq!(most.lse, plain.lse);
            run(Some(SinkShape::Drawn));
        }
    }
}

/// Where no key is seen the output is 0 and the log-sum-exp -inf, with a sink too: windows that end before the first key or
/// begin behind the last, trees whose tokens see nothing.
#[test]
fn all_keys_masked() {
    let nothing = |variant: VariantShape, lengths: Vec<usize>| {
        for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
            for sinks in [None, Some(SinkShape::Drawn), Some(SinkShape::All(-1e4))] {
                let variant = VariantShape { sinks, softcap: sinks.map(|_| 5.0), ..variant.clone() };
                let shape = CaseShape { head_dim, lengths: lengths.clone(), variant, ..small() };
                let case = shape.build();
                let answers = judge(&simulator(index as u64), &shape, &case, &[Splits::Most, Splits::Never]);
                for answer in answers.unwrap_or_else(|what| panic!("{shape:?}: {what}")) {
                    assert!(answer.out.iter().all(|&x| x == 0.0) && answer.lse.iter().all(|&l| l == f32::NEG_INFINITY));
                }
            }
        }
    };
    let two = VariantShape { queries: QueryCounts::Uniform(2), ..VariantShape::default() };
    let before = VariantShape { positions: Some(PositionShape::Shifted(-1000)), ..two.clone() };
    nothing(before, vec![70, 0, 33]);
    let behind = VariantShape { positions: Some(PositionShape::Shifted(1000)), left: Some(5), ..two.clone() };
    nothing(behind, vec![70, 0, 33]);
    nothing(two, vec![0, 0]);
}

/// An output in another format has the bits of the f32 output rounded to it.
#[test]
fn outputs_are_the_f32_output_rounded() {
    let fp8 = [(1.0, false), (1.0 / 96.0, true), (1.0 / 4096.0, false), (0.3, true)];
    let fp8 = fp8.map(|(scale, on_device)| CaseOutput::Fp8E4M3 { scale, on_device });
    let formats = [CaseOutput::Own, CaseOutput::Sixteen(DType::Bf16), CaseOutput::Sixteen(DType::F16)];
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        for (turn, cache) in [0, 2, 15].into_iter().enumerate() {
            let with = |output| {
                let sinks = (turn % 2 == 1).then_some(SinkShape::Drawn);
                let variant = VariantShape {
                    output,
                    sinks,
                    queries: QueryCounts::Uniform(3 * turn + 1),
                    ..VariantShape::default()
                };
                let cache = CaseCache::all().nth(cache).expect("a cache");
                CaseShape { head_dim, cache, format: DType::ALL[(index + turn) % 2], variant, ..small() }.suited()
            };
            let device = simulator(index as u64);
            let run = |output, splits| {
                let shape = with(output);
                answer(&device, &shape, &shape.build(), splits).unwrap_or_else(|what| panic!("{shape:?}: {what}"))
            };
            for splits in [Splits::Never, Splits::Most] {
                let single = run(CaseOutput::F32, splits);
                Exact::new(&with(CaseOutput::F32).build()).judge(&single).expect("a good answer");
                for output in formats.into_iter().chain(fp8) {
                    let other = run(output, splits);
                    assert!(!other.strayed, "{output:?}");
                    let case = with(output).build();
                    assert!(is_rounded(&case, &other.out, &single.out), "{splits:?}: {:?}", with(output));
                    assert_eq!(other.lse, single.lse);
                }
            }
        }
    }
}

/// What asks for nothing changes nothing: windows wider than the sequence, slopes and sinks of no weight, positions where
/// the tokens are, spans without keys, a tree that is a chain, and each way to say one query token a sequence.
#[test]
fn variants_that_ask_for_nothing_change_no_bit() {
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        for queries in [QueryCounts::One, QueryCounts::Uniform(3)] {
            let cache = CaseCache::all().nth(7 * index % 23).expect("a cache");
            let variant = VariantShape { queries: queries.clone(), ..VariantShape::default() };
            let shape = CaseShape { head_dim, cache, group: 5, lengths: vec![150, 3, 64], variant, ..small() }.suited();
            let plain = shape.build();
            let device = simulator(index as u64);
            for splits in [Splits::Never, Splits::Most, Splits::FixedSize(64)] {
                let run = |case: &Case| {
                    answer(&device, &shape, case, splits).unwrap_or_else(|what| panic!("{shape:?}: {what}"))
                };
                let expected = run(&plain);
                let same = |what: &str, change: &dyn Fn(&mut qkv::testing::variant::Variants)| {
                    let mut case = plain.clone();
                    change(&mut case.variants);
                    let what = format!("{what}, {splits:?}, {shape:?}");
                    same_bits(&what, &run(&case), &expected).unwrap_or_else(|what| panic!("{what}"));
                };
                same("a window as long as the sequence", &|v| v.left = Some(150));
                same("a window without end", &|v| v.left = Some(u32::MAX));
                same("sinks of no weight", &|v| v.sinks = Some(vec![f32::NEG_INFINITY; plain.q_heads]));
                same("slopes of 0", &|v| v.slopes = Some(vec![0.0; plain.q_heads]));
                let tokens = plain.tokens();
                same("spans without keys", &|v| {
                    v.spans = Some(Spans { ranges: vec![[7, 7]; tokens], in_window: false });
                });
                let own = plain.sequences.iter();
                let own = own.flat_map(|s| (0..s.queries).map(|i| (s.length + i) as i32 - s.queries as i32));
                same("positions where the tokens are", &|v| v.positions = Some(own.clone().collect()));
                let counts: Vec<usize> = plain.sequences.iter().map(|s| s.queries).collect();
                same("query tokens of each sequence", &|v| v.queries = QueryCounts::Ragged(counts.clone()));
                let chain = CaseShape {
                    variant: VariantShape { tree: Some(TreeShape::Chain), ..shape.variant.clone() },
                    ..shape.clone()
                };
                same("a chain of drafts", &|v| v.tree = chain.build().variants.tree);
                if queries == QueryCounts::One {
                    same("one query token each", &|v| v.queries = QueryCounts::Uniform(1));
                    same("a full mask", &|v| v.right = None);
                }
            }
        }
    }
}

/// Prefix-LM: image tokens that see one another both ways, within the window or not, in drafts whose window ends among them.
#[test]
fn spans_with_and_without_the_window() {
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        for in_window in [false, true] {
            for left in [None, Some(0), Some(9), Some(40)] {
                let spans = Some(SpanShape { most: 30, in_window });
                let queries = QueryCounts::Ragged(vec![20, 1, 12]);
                let variant = VariantShape { spans, left, queries, ..VariantShape::default() };
                let lengths = vec![100, 40, 12];
                let shape = CaseShape { head_dim, lengths, variant, page_size: 8, ..small() };
                let splits = [Splits::Never, Splits::Most][usize::from(in_window ^ left.is_some())];
                check(&simulator(index as u64), &shape, &[splits]).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
            }
        }
    }
}

/// The judge and the layout themselves: what they must refuse.
#[test]
fn a_variant_left_out_is_refused() {
    let all = VariantShape {
        queries: QueryCounts::Uniform(3),
        left: Some(60),
        softcap: Some(1.0),
        sinks: Some(SinkShape::All(2.0)),
        alibi: true,
        positions: Some(PositionShape::Shifted(-1)),
        spans: Some(SpanShape { most: 20, in_window: false }),
        ..VariantShape::default()
    };
    let shape = CaseShape { variant: all, lengths: vec![120, 80], arrangement: Arrangement::Hnd, ..small() };
    let case = shape.build();
    let exact = Exact::new(&case);
    let device = simulator(1);
    let right = answer(&device, &shape, &case, Splits::Auto).expect("a launch");
    exact.judge(&right).expect("a good answer");
    type Spoil<'a> = &'a dyn Fn(&mut qkv::testing::variant::Variants);
    let spoilt: [(&str, Spoil<'_>); 9] = [
        ("a window of one key less", &|v| v.left = Some(59)),
        ("a window of one key more", &|v| v.left = Some(61)),
        ("no cap", &|v| v.softcap = None),
        ("another cap", &|v| v.softcap = Some(1.1)),
        ("no sinks", &|v| v.sinks = None),
        ("sinks off by 2 %", &|v| v.sinks = v.sinks.as_ref().map(|sinks| sinks.iter().map(|s| s + 0.02).collect())),
        ("no slopes", &|v| v.slopes = None),
        ("positions where the tokens are", &|v| v.positions = None),
        ("no spans", &|v| v.spans = None),
    ];
    for (what, spoil) in spoilt {
        let mut other = case.clone();
        spoil(&mut other.variants);
        // Without `forget_unseen`: a wider window would see NaN.
        let paged = Paged::new(&case, shape.page_size, shape.arrangement, shape.seed);
        let wrong = DeviceCase::new(&device, &other, &paged).and_then(|on| on.run(Splits::Auto)).expect("a launch");
        assert!(exact.judge(&wrong).is_err(), "{what} was taken");
        assert!(bits(&wrong) != bits(&right), "{what} changed nothing");
    }
}
