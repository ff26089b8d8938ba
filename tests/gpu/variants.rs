//! Variants on the GPU against the f64 oracle: each, and every two together, longer than a simulator can do; drafts and trees
//! against their tokens, merged states, shared prefixes.
use super::common::variants::{HEAD_DIMS, SPLITS, check, small};
use super::common::{drafts, merge, prefix};
use super::test;
use libtest_mimic::{Failed, Trial};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use qkv::testing::case::CaseShape;
use qkv::testing::stored::CaseCache;
use qkv::testing::strategies::variant::{Feature, ROW_EDGES, case};
use qkv::testing::variant::{CaseOutput, PositionShape, QueryCounts, SinkShape, TreeShape, VariantShape};
use qkv::{DType, Device, Splits};

pub fn tests() -> Vec<Trial> {
    let mut runner = TestRunner::deterministic();
    let mut tests = Vec::new();
    let caches: Vec<CaseCache> = CaseCache::all().collect();
    let mut add = |name: String, shape: CaseShape| {
        let name = format!("variants::{}", name.to_lowercase());
        tests.push(test(name, move |device| Ok(check(device, &shape, &SPLITS)?)));
    };
    for (turn, feature) in Feature::ALL.into_iter().enumerate() {
        for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
            let shape =
                CaseShape { head_dim, cache: caches[(7 * turn + 3 * index) % 23], ..sample(&mut runner, &[feature]) };
            add(format!("{feature:?}_d{head_dim}"), longer(shape));
        }
    }
    for [one, other] in Feature::pairs() {
        for sample_index in 0..2 {
            add(format!("{one:?}_{other:?}_{sample_index}"), longer(sample(&mut runner, &[one, other])));
        }
    }
    for (turn, rows) in ROW_EDGES.into_iter().enumerate() {
        for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
            let groups: Vec<usize> = (1..=64).filter(|group| rows % group == 0).collect();
            let group = groups[(turn + index) % groups.len()];
            let variant = VariantShape { queries: QueryCounts::Uniform(rows / group), ..VariantShape::default() };
            let cache = caches[(5 * turn + 7 * index) % 23];
            let shape = CaseShape { head_dim, group, cache, lengths: vec![700, 1, 333], variant, ..small() };
            add(format!("rows_{rows}_d{head_dim}"), shape.suited());
        }
    }
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        type Check = fn(&Device, usize, CaseCache) -> Result<(), String>;
        let checks: [(&str, Check); 4] =
            [("drafts", drafts_of), ("trees", trees_of), ("states", states_of), ("prefix", prefix_of)];
        for (turn, (name, check)) in checks.into_iter().enumerate() {
            let cache = caches[(11 * turn + 5 * index) % 23];
            let run = move |device: &Device| -> Result<(), Failed> { Ok(check(device, head_dim, cache)?) };
            tests.push(test(format!("variants::{name}_d{head_dim}"), run));
        }
    }
    tests
}

/// The same cases every time.
fn sample(runner: &mut TestRunner, features: &[Feature]) -> CaseShape {
    case(features).new_tree(runner).expect("a case").current()
}

/// The case, its sequences some hundreds of tokens longer.
fn longer(shape: CaseShape) -> CaseShape {
    let lengths = shape.lengths.iter().zip([0, 617, 1031]).map(|(length, more)| length + more).collect();
    CaseShape { lengths, ..shape }.suited()
}

fn drafts_of(device: &Device, head_dim: usize, cache: CaseCache) -> Result<(), String> {
    for count in [2, 4, 9, 16] {
        let queries = QueryCounts::Uniform(count);
        let variant = VariantShape { queries, left: (count == 9).then_some(100), ..VariantShape::default() };
        let shape = CaseShape { head_dim, cache, lengths: vec![900, count, 257], variant, ..small() }.suited();
        drafts::drafts_are_their_tokens(device, &shape, Splits::Auto)?;
    }
    Ok(())
}

fn trees_of(device: &Device, head_dim: usize, cache: CaseCache) -> Result<(), String> {
    for count in [4, 16, 40] {
        let variant = VariantShape {
            queries: QueryCounts::Uniform(count),
            tree: Some(TreeShape::Forest),
            left: (count == 16).then_some(100),
            positions: Some(PositionShape::Shifted(0)),
            ..VariantShape::default()
        };
        let shape = CaseShape { head_dim, cache, lengths: vec![700, count, 257], variant, ..small() }.suited();
        drafts::trees_are_their_paths(device, &shape, Splits::Auto)?;
    }
    Ok(())
}

fn states_of(device: &Device, head_dim: usize, cache: CaseCache) -> Result<(), String> {
    for (cuts, output) in [
        (&[0, 1, 2][..], CaseOutput::Own),
        (&[0, 0, 3, 3, 7, 8], CaseOutput::F32),
        (&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], CaseOutput::Fp8E4M3 { scale: 1.0 / 256.0, on_device: true }),
        (&[0, 1, 5], CaseOutput::Sixteen(DType::F16)),
    ] {
        let queries = QueryCounts::Ragged(vec![3, 0, 1]);
        let variant = VariantShape { queries, sinks: Some(SinkShape::Drawn), output, ..VariantShape::default() };
        let shape = CaseShape { head_dim, cache, lengths: vec![900, 0, 257], variant, ..small() }.suited();
        merge::spread(&[device], &shape, cuts, Splits::Auto)?;
    }
    Ok(())
}

fn prefix_of(device: &Device, head_dim: usize, cache: CaseCache) -> Result<(), String> {
    for (turn, splits) in SPLITS.into_iter().enumerate() {
        let variant = VariantShape {
            queries: [QueryCounts::One, QueryCounts::Uniform(5)][turn % 2].clone(),
            tree: (turn == 1).then_some(TreeShape::Forest),
            sinks: Some(SinkShape::Drawn),
            left: (turn == 2).then_some(300),
            positions: (turn == 2).then_some(PositionShape::Shifted(0)),
            ..VariantShape::default()
        };
        let lengths = (0..9).map(|i| 640 + 5 + 37 * i).collect();
        let shape = CaseShape { head_dim, cache, lengths, variant, ..small() }.suited();
        prefix::check(device, &shape, 640 / shape.page_size, splits)?;
    }
    Ok(())
}
