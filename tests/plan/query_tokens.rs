//! Plans of several query tokens a sequence and of masks: rows and the keys that they see, key by key.
use super::{MAX_SPLITS, any_geometry, any_splits, geometry, h100, loads, share, tile_keys, tiling, units};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use qkv::{Arch, Batch, Capture, Mask, Plan, PlanOptions, Properties, QueryLens, Splits, WorkItem};

/// A batch that owns its numbers: lengths and query tokens of the sequences, and their mask.
#[derive(Clone, Debug)]
struct Sequences {
    lengths: Vec<u32>,
    starts: Vec<u32>,
    mask: Mask,
    everywhere: bool,
}

impl Sequences {
    fn batch(&self) -> Batch<'_> {
        let batch = Batch::from(&self.lengths).query_lens(QueryLens::Ragged(&self.starts)).mask(self.mask);
        if self.everywhere { batch.everywhere() } else { batch }
    }

    fn q_len(&self, sequence: u32) -> u32 {
        self.starts[sequence as usize + 1] - self.starts[sequence as usize]
    }

    /// Key tiles that query tokens `first..=last` of a sequence see, key by key.
    fn tiles(&self, sequence: u32, tile_keys: u32, [first, last]: [u32; 2]) -> u64 {
        let length = i64::from(self.lengths[sequence as usize]);
        let position = |token: u32| length - i64::from(self.q_len(sequence)) + i64::from(token);
        let seen = |key: i64| {
            self.everywhere
                || (first..=last).map(position).any(|p| {
                    self.mask.left.is_none_or(|left| key >= p - i64::from(left))
                        && self.mask.right.is_none_or(|right| key <= p + i64::from(right))
                })
        };
        (0..length.div_euclid(i64::from(tile_keys)) + 1)
            .filter(|tile| {
                let keys = tile * i64::from(tile_keys)..((tile + 1) * i64::from(tile_keys)).min(length);
                keys.into_iter().any(seen)
            })
            .count() as u64
    }
}

/// Lengths with query tokens, some of none and some with more than there are keys.
fn sequences(lengths: impl Strategy<Value = u32>, q_lens: core::ops::Range<u32>) -> impl Strategy<Value = Sequences> {
    let side = || prop_oneof![Just(None), Just(Some(0)), (0..400_u32).prop_map(Some), Just(Some(100_000))];
    let right = prop_oneof![3 => Just(Some(0)), 1 => side()];
    let pairs = proptest::collection::vec((lengths, q_lens), 0..12);
    (pairs, side(), right, proptest::bool::weighted(0.2)).prop_map(|(pairs, left, right, everywhere)| {
        let (lengths, q_lens): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let starts = core::iter::once(0).chain(q_lens.iter().scan(0, |end, q_len| {
            *end += q_len;
            Some(*end)
        }));
        Sequences { lengths, starts: starts.collect(), mask: Mask { left, right }, everywhere }
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_query_row_meets_every_key_that_it_sees_once(
        geometry in any_geometry(),
        sequences in sequences(0..3000_u32, 0..20),
        splits in any_splits(),
        multiprocessors in 1..200_u32,
        shorter in 0.0..1.0_f64,
    ) {
        let options = PlanOptions { splits, ..PlanOptions::default() };
        let plan = Plan::new(&geometry, sequences.batch(), &h100(multiprocessors), &options)?;
        let (rows, group) = (tiling(&plan).rows, geometry.group());
        prop_assert_eq!(plan.query_starts(), &sequences.starts[..]);
        let units = units(&plan);
        for sequence in 0..sequences.lengths.len() as u32 {
            let of_sequence = sequences.q_len(sequence) * group;
            for kv_head in 0..geometry.kv_heads() {
                let begins: Vec<_> = units.keys().filter(|u| (u.0, u.1) == (sequence, kv_head)).map(|u| u.2).collect();
                prop_assert_eq!(begins, (0..of_sequence).step_by(rows as usize).collect::<Vec<_>>());
            }
        }
        for (&(sequence, _, first_row), items) in &units {
            let of_sequence = sequences.q_len(sequence) * group;
            let last_row = (first_row + rows).min(of_sequence) - 1;
            let planned = sequences.tiles(sequence, tile_keys(&plan), [first_row / group, last_row / group]);
            prop_assert!(items.iter().all(|item| u64::from(item.of) == planned.max(1)));
            for tiles in [planned, (planned as f64 * shorter) as u64, planned.saturating_sub(1), 1.min(planned), 0] {
                let mut at = 0;
                for item in items {
                    prop_assert_eq!((item.q_start, item.q_len), (sequences.starts[sequence as usize], sequences.q_len(sequence)));
                    let taken = share(item, tiles);
                    prop_assert_eq!(taken.start, at);
                    at = taken.end;
                }
                prop_assert_eq!(at, tiles);
            }
        }
    }

    #[test]
    fn items_and_merges_name_what_there_is(
        geometry in any_geometry(),
        sequences in sequences(prop_oneof![0..3000_u32, 10_000..20_000_u32], 0..6),
        splits in any_splits(),
        multiprocessors in 1..200_u32,
    ) {
        let options = PlanOptions { splits, ..PlanOptions::default() };
        let plan = Plan::new(&geometry, sequences.batch(), &h100(multiprocessors), &options)?;
        let rows_of_an_item = tiling(&plan).rows;
        let items = plan.items();
        let mut merges = plan.merges().iter();
        let mut slots = 0;
        let cluster = plan.cluster() as usize;
        let mut cut: Vec<_> = units(&plan).into_iter().filter(|(_, items)| items.len() > cluster).collect();
        cut.sort_by_key(|(_, items)| items[0].partial);
        for ((sequence, kv_head, first_row), items) in cut {
            prop_assert!(items.len() <= cluster * MAX_SPLITS && items.len().is_multiple_of(cluster));
            let merge = merges.next().expect("a merge for every unit that is cut");
            prop_assert_eq!(merge.q_start, sequences.starts[sequence as usize]);
            prop_assert_eq!((merge.first_head, merge.first_row), (kv_head * geometry.group(), first_row));
            let rows = sequences.q_len(sequence) * geometry.group();
            prop_assert_eq!(merge.rows, rows_of_an_item.min(rows - first_row));
            prop_assert_eq!((merge.first_partial, merge.partials as usize), (slots, items.len() / cluster));
            for share in items.chunks(cluster) {
                prop_assert!(share.iter().all(|item| item.partial == slots));
                slots += 1;
            }
        }
        prop_assert!(merges.next().is_none());
        let whole = items.iter().filter(|item| item.partial == WorkItem::WHOLE).count();
        prop_assert_eq!(whole + cluster * slots as usize, items.len());
    }

    #[test]
    fn multiprocessors_finish_together_with_query_tokens_and_windows(
        geometry in any_geometry(),
        lengths in proptest::collection::vec((3_000..60_000_u32, 0..20_u32), 1..40),
        left in prop_oneof![Just(None), (0..10_000_u32).prop_map(Some)],
        multiprocessors in 1..60_u32,
    ) {
        let (lengths, q_lens): (Vec<_>, Vec<_>) = lengths.into_iter().unzip();
        let starts: Vec<u32> = (0..=q_lens.len()).map(|end| q_lens[..end].iter().sum()).collect();
        let batch = Batch::from(&lengths).query_lens(QueryLens::Ragged(&starts)).mask(Mask { left, ..Mask::CAUSAL });
        let plan = Plan::new(&geometry, batch, &h100(multiprocessors), &PlanOptions::default())?;
        let (most, mean) = loads(&plan, multiprocessors);
        // A prefill kernel's partial results are dear: its cuts save more tiles than that before they are made.
        let slack = if plan.kernel().info().hopper() { 48.0 } else { 24.0 + f64::from(tiling(&plan).teams) };
        prop_assert!(most <= 1.3 * mean + slack, "{most} tiles on the fullest, {mean} in the mean");
    }

    #[test]
    fn later_plans_with_fewer_query_tokens_fit_a_captured_launch(
        geometry in any_geometry(),
        sequences in sequences(0..5000_u32, 0..7),
        splits in any_splits(),
        multiprocessors in 1..200_u32,
    ) {
        let options = PlanOptions { splits, max_length: Some(5000), max_q_len: Some(6), capture: Capture::AnyPlan, ..Default::default() };
        let later = Plan::new(&geometry, sequences.batch(), &h100(multiprocessors), &options)?;
        // The most query tokens that there may be, all at the longest.
        let lengths = vec![5000; sequences.lengths.len()];
        let all = Batch { lengths: &lengths, query_lens: QueryLens::Uniform(6), ..sequences.batch() };
        let all = Plan::new(&geometry, all, &h100(multiprocessors), &options)?;
        prop_assert_eq!(all.workspace_bytes(), later.workspace_bytes());
        prop_assert!(all.replays(&later));
        prop_assert_eq!(later.replays(&all), later.query_tokens() == all.query_tokens());
    }
}

/// Rows beyond an item's are more items on the same keys, one after another where each has a block.
#[test]
fn rows_beyond_an_item_are_more_items() {
    let row_counts = |group: usize, q_len: u32| {
        let geometry = geometry(128, [2 * group, 2]);
        let options = PlanOptions { splits: Splits::Never, ..PlanOptions::default() };
        let batch = Batch::from(&[1000]).query_lens(QueryLens::Uniform(q_len));
        let ampere = Properties { arch: Arch::OLDEST, ..h100(132) };
        let plan = Plan::new(&geometry, batch, &ampere, &options).expect("a batch of the tests");
        let heads: Vec<_> = plan.items().iter().map(|item| item.kv_head).collect();
        assert!(heads.is_sorted(), "items of a KV head are together: {heads:?}");
        (tiling(&plan).rows, plan.items().len() / 2)
    };
    assert_eq!((row_counts(8, 1), row_counts(1, 9), row_counts(4, 4)), ((8, 1), (16, 1), (16, 1)));
    assert_eq!((row_counts(17, 1), row_counts(4, 8), row_counts(1, 32)), ((16, 2), (16, 2), (16, 2)));
    assert_eq!((row_counts(33, 1), row_counts(1, 33), row_counts(16, 4)), ((64, 1), (64, 1), (64, 1)));
    assert_eq!((row_counts(5, 13), row_counts(8, 16), row_counts(43, 3)), ((64, 2), (64, 2), (64, 3)));
    assert_eq!(row_counts(64, 5000), (64, 5000));
}

/// A window is what is read: nothing of the cost or of the items is of tiles before it.
#[test]
fn a_window_leaves_what_is_before_it() {
    let geometry = geometry(64, [64, 8]);
    let planned = |length: u32, mask: Mask| {
        let plan = Plan::new(&geometry, Batch::from(&[length; 8]).mask(mask), &h100(132), &PlanOptions::default());
        plan.expect("a batch of the tests").items().iter().map(|item| item.last - item.first).sum::<u32>()
    };
    // 128 keys of a length that is a multiple of the 32 of a tile: 4 tiles each.
    assert_eq!(planned(32_768, Mask::sliding_window(127)), 4 * 64);
    assert_eq!(planned(32_768, Mask::sliding_window(127)), planned(128, Mask::CAUSAL));
    assert_eq!(planned(32_768, Mask::sliding_window(128)), 5 * 64);
    assert_eq!(planned(32_768, Mask::sliding_window(0)), 64);
    assert_eq!(planned(100, Mask::sliding_window(u32::MAX)), planned(100, Mask::CAUSAL));
    assert_eq!(planned(100, Mask { left: Some(0), right: None }), 64);
}

#[test]
fn a_sequence_without_query_tokens_has_no_items() {
    let geometry = geometry(64, [8, 8]);
    let batch = Batch::from(&[500, 900, 0]).query_lens(QueryLens::Ragged(&[0, 2, 2, 3]));
    let plan = Plan::new(&geometry, batch, &h100(4), &PlanOptions::default()).expect("a batch of the tests");
    assert_eq!((plan.query_tokens(), plan.splits_of(1, 0)), (3, 0));
    assert!(plan.splits_of(0, 7) >= 1 && plan.splits_of(2, 7) == 1);
    let none = Batch::from(&[500, 900]).query_lens(QueryLens::Ragged(&[0; 3]));
    let plan = Plan::new(&geometry, none, &h100(4), &PlanOptions::default()).expect("a batch of the tests");
    assert_eq!((plan.query_tokens(), plan.items().len(), plan.merges().len()), (0, 0, 0));
}

#[test]
fn query_tokens_that_cannot_be_planned() {
    let geometry = geometry(64, [8, 8]);
    let refused = |lengths: &[u32], query_lens, options| {
        let batch = Batch::from(lengths).query_lens(query_lens);
        Plan::new(&geometry, batch, &h100(4), &options).expect_err("refused").to_string()
    };
    let default = PlanOptions::default();
    assert_eq!(refused(&[5], QueryLens::Uniform(0), default), "query tokens a sequence is 0; allowed: 1 to 524288");
    let many = "no kernel for 524289 query tokens a sequence (allowed: 1 to 524288)";
    assert_eq!(refused(&[5], QueryLens::Uniform(524_289), default), many);
    assert_eq!(refused(&[5, 5], QueryLens::Ragged(&[0, 1, 524_290]), default), many);
    let entries = "cu_seqlens_q entries is 2, but sequences + 1 is 3; they must be equal";
    assert_eq!(refused(&[5, 5], QueryLens::Ragged(&[0, 1]), default), entries);
    let first = "cu_seqlens_q[0] is 1; allowed: 0 to 0";
    assert_eq!(refused(&[5], QueryLens::Ragged(&[1, 2]), default), first);
    let falls = "cu_seqlens_q[2] is 2; allowed: 3 to 2147483647";
    assert_eq!(refused(&[5, 5], QueryLens::Ragged(&[0, 3, 2]), default), falls);
    let room = "max_q_len is 3; allowed: at least the most query tokens of a planned sequence";
    assert_eq!(refused(&[5], QueryLens::Uniform(4), PlanOptions { max_q_len: Some(3), ..default }), room);
    let huge = PlanOptions { max_q_len: Some(600_000), ..default };
    assert!(refused(&[5], QueryLens::One, huge).contains("600000 query tokens"));
}

#[test]
fn a_captured_launch_has_one_mask_and_enough_query_tokens() {
    let geometry = geometry(128, [8, 2]);
    let plan = |query_lens, mask, max_q_len| {
        let options = PlanOptions { max_q_len, ..PlanOptions::default() };
        let batch = Batch::from(&[300, 200]).query_lens(query_lens).mask(mask);
        Plan::new(&geometry, batch, &h100(132), &options).expect("a batch of the tests")
    };
    let full = plan(QueryLens::Uniform(4), Mask::CAUSAL, Some(4));
    assert!(full.replays(&plan(QueryLens::Ragged(&[0, 1, 4]), Mask::CAUSAL, Some(4))));
    assert!(full.replays(&plan(QueryLens::One, Mask::CAUSAL, Some(4))));
    assert!(!plan(QueryLens::One, Mask::CAUSAL, Some(4)).replays(&full), "more query tokens than were captured");
    assert!(!full.replays(&plan(QueryLens::Uniform(4), Mask::sliding_window(5), Some(4))), "another mask");
    assert!(!full.replays(&plan(QueryLens::One, Mask::CAUSAL, None)), "another kernel");
    // Of one kernel, but other rooms.
    let (two, one) = (plan(QueryLens::Uniform(2), Mask::CAUSAL, None), plan(QueryLens::One, Mask::CAUSAL, None));
    assert_eq!(two.kernel(), one.kernel());
    assert!(two.replays(&one) && !one.replays(&two));
}
