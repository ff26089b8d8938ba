//! Several query tokens a sequence on the simulator: as many rows as items hold and one more, ragged batches, and drafts
//! against the same tokens decoded one at a time, trees against their paths.
use common::drafts::{drafts_are_their_tokens, rows_of, trees_are_their_paths};
use common::variants::{HEAD_DIMS, answer, check, config, same_bits, simulator, small};
use proptest::prelude::*;
use qkv::testing::case::{Case, CaseShape};
use qkv::testing::stored::CaseCache;
use qkv::testing::variant::{PositionShape, QueryCounts, SinkShape, TreeShape, VariantShape};
use qkv::{DType, Splits};

mod common;

/// Rows at which an item's class or the number of items changes, of one token or of many, at every head dimension.
#[test]
fn rows_at_the_edges_of_items() {
    for (turn, rows) in [8, 9, 16, 17, 32, 33, 64, 65, 128, 129].into_iter().enumerate() {
        for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
            // The divisors of the rows that are groups: of 129 rows, 1, 3 and 43 heads.
            let groups: Vec<usize> = (1..=64).filter(|group| rows % group == 0).collect();
            let group = groups[(turn + index) % groups.len()];
            let count = rows / group;
            let cache = CaseCache::all().nth((5 * turn + 3 * index) % 23).expect("a cache");
            let format = DType::ALL[(turn + index) % 2];
            // More keys than query tokens, and fewer.
            let lengths = vec![count.max(40) + 7, (count / 2).min(90)];
            let ragged = QueryCounts::Ragged(vec![count, (count / 3).max(1)]);
            let queries = if (turn + index) % 2 == 0 { QueryCounts::Uniform(count) } else { ragged };
            let variant = VariantShape { queries, ..VariantShape::default() };
            let shape = CaseShape { head_dim, group, cache, format, kv_heads: 1, lengths, variant, ..small() }.suited();
            check(&simulator(shape.seed), &shape, &[Splits::Most, Splits::Never])
                .unwrap_or_else(|what| panic!("{rows} rows, {shape:?}: {what}"));
        }
    }
}

/// A sequence of no keys, one of no query tokens, one of more query tokens than keys, among others.
#[test]
fn ragged_query_tokens() {
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        for (turn, counts) in
            [vec![2, 3, 0, 1, 7], vec![0, 16, 1, 0, 5], vec![0; 5], vec![9, 0, 0, 0, 0]].into_iter().enumerate()
        {
            let variant = VariantShape {
                queries: QueryCounts::Ragged(counts),
                sinks: (turn == 0).then_some(SinkShape::Drawn),
                left: (turn == 1).then_some(20),
                ..VariantShape::default()
            };
            let cache = CaseCache::all().nth((6 * turn + index) % 23).expect("a cache");
            let shape = CaseShape { head_dim, cache, lengths: vec![70, 0, 33, 90, 4], variant, ..small() }.suited();
            check(&simulator(1), &shape, &[Splits::FixedSize(32), Splits::Auto])
                .unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        }
    }
}

/// Cut every so many tokens, a sequence has the same bits alone and in any batch of the same kernel, its window too.
#[test]
fn fixed_splits_make_a_sequence_the_same_in_any_batch() {
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        for left in [None, Some(50)] {
            let variant = VariantShape { queries: QueryCounts::Uniform(4), left, ..VariantShape::default() };
            let shape = CaseShape { head_dim, lengths: vec![40, 150, 97], variant, seed: index as u64, ..small() };
            let batch = shape.build();
            let device = simulator(1);
            let splits = Splits::FixedSize(48);
            let together = answer(&device, &shape, &batch, splits).expect("a launch");
            for (sequence, of) in batch.sequences.iter().enumerate() {
                let tokens: Vec<usize> = (batch.query_start(sequence)..).take(of.queries).collect();
                let row = batch.q_heads * batch.head_dim;
                let q = batch.q[tokens[0] * row..][..of.queries * row].to_vec();
                let alone = Case { sequences: vec![*of], q, ..batch.clone() };
                let alone = answer(&device, &shape, &alone, splits).expect("a launch");
                let expected = rows_of(&batch, &together, &tokens);
                same_bits("alone", &alone, &expected).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
            }
        }
    }
}

#[test]
fn drafts_against_their_tokens_one_at_a_time() {
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        for (turn, count) in [2, 4, 5, 16].into_iter().enumerate() {
            let variant = VariantShape {
                queries: QueryCounts::Uniform(count),
                left: [None, Some(30), Some(3), None][turn],
                softcap: (turn == 1).then_some(3.0),
                sinks: (turn == 2).then_some(SinkShape::Drawn),
                alibi: turn == 3,
                ..VariantShape::default()
            };
            let cache = CaseCache::all().nth((7 * turn + 2 * index) % 23).expect("a cache");
            let shape = CaseShape { head_dim, cache, lengths: vec![90, count, 31], variant, ..small() }.suited();
            drafts_are_their_tokens(&simulator(1), &shape, [Splits::Never, Splits::Most][turn % 2])
                .unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        }
    }
}

#[test]
fn trees_against_their_paths() {
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        for (turn, count) in [3, 8, 16, 40].into_iter().enumerate() {
            // A window before the tree, wider than the tree is deep; positions are the tokens' depths. (ALiBi's distances are of
            // keys' places, which on a path are others.)
            let windowed = turn % 2 == 1;
            let variant = VariantShape {
                queries: QueryCounts::Uniform(count),
                tree: Some(TreeShape::Forest),
                left: windowed.then_some(45),
                positions: windowed.then_some(PositionShape::Shifted(0)),
                sinks: (turn == 2).then_some(SinkShape::Drawn),
                ..VariantShape::default()
            };
            let cache = CaseCache::all().nth((11 * turn + 5 * index) % 23).expect("a cache");
            let (lengths, seed) = (vec![count + 61, count, count + 16], (4 * index + turn) as u64);
            let shape = CaseShape { head_dim, group: 2, cache, lengths, variant, seed, ..small() }.suited();
            trees_are_their_paths(&simulator(1), &shape, [Splits::Never, Splits::Most][turn / 2])
                .unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        }
    }
}

/// A tree's bits reach further back than its tokens' window: items behind the first begin with the tree all the same.
#[test]
fn trees_wider_than_their_window() {
    for (index, head_dim) in HEAD_DIMS.into_iter().enumerate() {
        for (turn, left) in [0, 5, 40].into_iter().enumerate() {
            let variant = VariantShape {
                queries: QueryCounts::Uniform(70),
                tree: Some([TreeShape::Bits, TreeShape::Forest][turn % 2]),
                left: Some(left),
                positions: (turn == 1).then_some(PositionShape::Drawn),
                ..VariantShape::default()
            };
            let lengths = vec![110];
            let seed = (3 * index + turn) as u64;
            let shape = CaseShape { head_dim, group: 2, kv_heads: 1, lengths, variant, seed, ..small() };
            check(&simulator(1), &shape, &[Splits::Most]).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        }
    }
}

proptest! {
    #![proptest_config(config(24))]

    /// As above, with anything drawn. Windows of trees are wider than they are deep, or a path's own would hide what the bits
    /// show.
    #[test]
    fn drafts_and_trees_are_what_their_tokens_are(
        shape in qkv::testing::strategies::case(), counts in proptest::collection::vec(1..=16usize, 4), forest in any::<bool>(),
        left in proptest::option::of(16..=60u32), splits in qkv::testing::strategies::splits()
    ) {
        let lengths = shape.lengths.iter().zip(&counts).map(|(length, count)| length / 2 + count).collect();
        let tree = forest.then_some(TreeShape::Forest);
        let positions = forest.then_some(PositionShape::Shifted(0));
        let variant = VariantShape { queries: QueryCounts::Ragged(counts), left, tree, positions, ..VariantShape::default() };
        let group = shape.group.min(8);
        let shape = CaseShape { lengths, variant, kv_heads: 1, group, ..shape };
        let device = simulator(shape.seed);
        let done = if forest { trees_are_their_paths } else { drafts_are_their_tokens }(&device, &shape, splits);
        done.map_err(TestCaseError::fail)?;
    }
}
