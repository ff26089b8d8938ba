//! States over disjoint sets of keys merged: against one pass over all keys, against the formula in f64, and what must not
//! change a bit.
use common::merge::spread;
use common::variants::{HEAD_DIMS, config, same_bits, simulator, small};
use proptest::prelude::*;
use qkv::testing::case::{Case, CaseShape};
use qkv::testing::merge::{State, merge};
use qkv::testing::stored::CaseCache;
use qkv::testing::strategies;
use qkv::testing::variant::{CaseOutput, QueryCounts, SinkShape, VariantShape};
use qkv::{DType, Device, Splits};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

mod common;

/// Halves, uneven shares, shares without keys at either end and between; sinks count once, whatever the output is.
#[test]
fn a_context_spread_over_devices() {
    let cuts: [&[usize]; 5] =
        [&[0, 1], &[0, 1, 2], &[0, 0, 3, 3, 7, 8, 8], &[0, 1, 1], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]];
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        for (turn, cuts) in cuts.into_iter().enumerate() {
            let output = [
                CaseOutput::Own,
                CaseOutput::F32,
                CaseOutput::Sixteen(DType::F16),
                CaseOutput::Fp8E4M3 { scale: 1.0 / 128.0, on_device: index % 2 == 0 },
            ];
            let variant = VariantShape {
                queries: [QueryCounts::One, QueryCounts::Ragged(vec![3, 0, 1])][turn % 2].clone(),
                left: [None, Some(50)][(turn + index) / 2 % 2],
                softcap: (turn == 3).then_some(2.0),
                sinks: [None, Some(SinkShape::Drawn), Some(SinkShape::All(1e4))][(turn + index) % 3],
                alibi: turn == 4,
                output: output[(turn + index) % 4],
                ..VariantShape::default()
            };
            let cache = CaseCache::all().nth((9 * turn + 4 * index) % 23).expect("a cache");
            let shape = CaseShape { head_dim, cache, lengths: vec![100, 0, 41], variant, ..small() }.suited();
            spread(&[&simulator(1), &simulator(2), &simulator(3)], &shape, cuts, Splits::Auto)
                .unwrap_or_else(|what| panic!("{shape:?}, {cuts:?}: {what}"));
        }
    }
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn shares_merged_are_what_the_oracle_says(
        shape in strategies::case(), cuts in proptest::collection::vec(0..=6usize, 1..=4), sinks in any::<bool>(),
        left in proptest::option::of(0..=90u32), splits in strategies::splits()
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().chain([0, 6]).collect();
        cuts.sort_unstable();
        let sinks = sinks.then_some(SinkShape::Drawn);
        let variant = VariantShape { sinks, left, ..VariantShape::default() };
        let lengths = shape.lengths.iter().map(|length| length / 2).collect();
        let shape = CaseShape { variant, lengths, group: shape.group.min(8), ..shape };
        spread(&[&simulator(shape.seed), &simulator(!shape.seed)], &shape, &cuts, splits).map_err(TestCaseError::fail)?;
    }
}

/// A case of so many query tokens and heads, whose keys do not matter.
fn rows(head_dim: usize, tokens: usize, kv_heads: usize, group: usize) -> CaseShape {
    let variant = VariantShape { queries: QueryCounts::Uniform(tokens), ..VariantShape::default() };
    CaseShape { head_dim, kv_heads, group, lengths: vec![0], variant, ..small() }
}

/// States drawn: outputs of N(0, 1) about, log-sum-exps far apart, some of no keys.
fn drawn(case: &Case, states: usize, random: &mut SmallRng) -> Vec<State> {
    let rows = case.tokens() * case.q_heads;
    let state = |random: &mut SmallRng| {
        let lse: Vec<f32> = (0..rows)
            .map(|_| if random.random_ratio(1, 5) { f32::NEG_INFINITY } else { random.random_range(-30.0..30.0) })
            .collect();
        let out = lse.iter().flat_map(|lse| {
            let empty = *lse == f32::NEG_INFINITY;
            (0..case.head_dim).map(|_| if empty { 0.0 } else { random.random_range(-2.0f32..2.0) }).collect::<Vec<_>>()
        });
        (out.collect(), lse.clone())
    };
    (0..states).map(|_| state(random)).collect()
}

/// The formula, in f64.
fn formula(case: &Case, states: &[State]) -> (Vec<f64>, Vec<f64>) {
    let d = case.head_dim;
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for row in 0..case.tokens() * case.q_heads {
        let largest = states.iter().map(|(_, lse)| f64::from(lse[row])).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = states
            .iter()
            .map(|(_, lse)| if largest.is_finite() { (f64::from(lse[row]) - largest).exp() } else { 0.0 })
            .collect();
        let keys: f64 = weights.iter().sum();
        let sink = case.variants.sinks.as_ref().map(|sinks| f64::from(sinks[row % case.q_heads]));
        let denominator = keys + sink.map_or(0.0, |sink| (sink - largest).exp());
        for c in 0..d {
            let sum: f64 = weights.iter().zip(states).map(|(w, (o, _))| w * f64::from(o[row * d + c])).sum();
            out.push(if keys > 0.0 { sum / denominator } else { 0.0 });
        }
        lse.push(if keys > 0.0 { largest + keys.ln() } else { f64::NEG_INFINITY });
    }
    (out, lse)
}

/// As many states as lanes read at a time and one more, up to the most; rows of one token, of many; all heads of a model.
#[test]
fn states_of_any_number_are_the_formula() {
    let counts = [1, 2, 3, 8, 9, 16, 17, 33, 512];
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        for (turn, states) in counts.into_iter().enumerate() {
            let (tokens, kv_heads, group) = [(1, 1, 1), (3, 2, 5), (2, 1, 64), (5, 8, 3)][(turn + index) % 4];
            let mut shape = rows(head_dim, tokens, kv_heads, group);
            if turn % 2 == 1 {
                shape.variant.sinks = Some(SinkShape::Drawn);
            }
            shape.variant.output = CaseOutput::F32;
            let case = shape.build();
            let drawn = drawn(&case, states, &mut SmallRng::seed_from_u64((16 * index + turn) as u64));
            let merged = merge(&simulator(1), &case, &drawn).expect("a launch");
            let (out, lse) = formula(&case, &drawn);
            assert!(!merged.strayed);
            // An exponential and a sum of as many terms, in f32.
            let near = |actual: &f32, exact: &f64, size: f64| {
                let bound = (16.0 + states as f64) * f64::from(f32::EPSILON) * size.max(1.0);
                exact.is_finite() && (f64::from(*actual) - exact).abs() <= bound || f64::from(*actual) == *exact
            };
            let what = format!("{states} states of {shape:?}");
            assert!(merged.out.iter().zip(&out).all(|(a, e)| near(a, e, 60.0)), "out of {what}");
            assert!(merged.lse.iter().zip(&lse).all(|(a, e)| near(a, e, e.abs())), "lse of {what}");
        }
    }
}

/// One state is itself, and states without keys change no bit of what others are.
#[test]
fn states_without_keys_change_no_bit() {
    let device: Device = simulator(1);
    for head_dim in HEAD_DIMS {
        let mut shape = rows(head_dim, 3, 2, 4);
        shape.variant.output = CaseOutput::F32;
        let case = shape.build();
        let states = drawn(&case, 3, &mut SmallRng::seed_from_u64(7));
        let merged = |states: &[State]| merge(&device, &case, states).expect("a launch");
        let alone = merged(&states[..1]);
        assert_eq!(alone.out, states[0].0);
        let empty: State = (vec![0.0; states[0].0.len()], vec![f32::NEG_INFINITY; states[0].1.len()]);
        let three = merged(&states);
        let more = [&states[..], &[empty.clone(), empty.clone()]].concat();
        same_bits("two more without keys", &merged(&more), &three).expect("the same");
        let nothing = merged(&[empty.clone(), empty]);
        assert!(nothing.out.iter().all(|&x| x == 0.0) && nothing.lse.iter().all(|&l| l == f32::NEG_INFINITY));
    }
}
