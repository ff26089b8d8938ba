//! The plan's promises, for any batch: every row meets every key that it sees once, at the planned length and at any shorter
//! one; merges gather exactly the shares that there are; blocks finish together; and what must not depend on the batch does
//! not. All of it without a device.
use core::cmp::Reverse;
use kernels_gpu::config::Tiling;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use qkv::{
    Arch, Capture, DType, Error, Family, Geometry, HeadDim, KernelChoice, KernelId, MAX_GROUP, Plan, PlanOptions,
    Properties, Splits, WorkItem,
};
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Instant;

#[path = "plan/neighbours.rs"]
mod neighbours;
#[path = "plan/prefill.rs"]
mod prefill;
#[path = "plan/query_tokens.rs"]
mod query_tokens;

/// The combine kernel's limit.
const MAX_SPLITS: usize = 512;

fn h100(multiprocessors: u32) -> Properties {
    Properties {
        name: "test".into(),
        arch: Arch::HOPPER,
        multiprocessors,
        shared_per_multiprocessor: 228 << 10,
        shared_per_block: 227 << 10,
        families: Family::ALL.to_vec(),
        // An H100 has 132 multiprocessors and room for so many clusters.
        clusters: [66, 30, 15, 7].map(|clusters| clusters * multiprocessors / 132),
    }
}

fn geometry(head_dim: usize, heads: [usize; 2]) -> Geometry {
    Geometry::new(head_dim, heads, 16, DType::Bf16, DType::Bf16).expect("a geometry of the tests")
}

fn plan(geometry: &Geometry, lengths: &[u32], splits: Splits) -> Plan {
    let options = PlanOptions { splits, ..PlanOptions::default() };
    Plan::new(geometry, lengths, &h100(132), &options).expect("a batch of the tests")
}

/// Items of each (sequence, KV head, first row), in the order of the plan.
fn units(plan: &Plan) -> BTreeMap<(u32, u32, u32), Vec<WorkItem>> {
    let mut units: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for item in plan.items() {
        units.entry((item.sequence, item.kv_head, item.first_row)).or_default().push(*item);
    }
    for items in units.values_mut() {
        items.sort_by_key(|item| item.first);
    }
    units
}

fn tiling(plan: &Plan) -> Tiling {
    plan.kernel().tiling().expect("a kernel that has items")
}

fn tile_keys(plan: &Plan) -> u32 {
    tiling(plan).tile_keys
}

/// The tiles of `tiles` that an item takes: what [`WorkItem`] promises.
fn share(item: &WorkItem, tiles: u64) -> core::ops::Range<u64> {
    let bound = |numerator: u32| u64::from(numerator) * tiles / u64::from(item.of);
    bound(item.first)..bound(item.last)
}

fn any_geometry() -> impl Strategy<Value = Geometry> {
    let dims = proptest::sample::select(HeadDim::ALL.to_vec());
    (dims, 1..=8_usize, 1..=MAX_GROUP)
        .prop_map(|(dim, kv_heads, group)| geometry(dim.get(), [kv_heads * group, kv_heads]))
}

fn any_splits() -> impl Strategy<Value = Splits> {
    prop_oneof![Just(Splits::Auto), Just(Splits::Never), Just(Splits::Most), (64..4096_u32).prop_map(Splits::FixedSize)]
}

fn any_lengths() -> impl Strategy<Value = Vec<u32>> {
    let length = prop_oneof![Just(0_u32), 1..40_u32, 1..3000_u32, 10_000..20_000_u32];
    proptest::collection::vec(length, 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_row_meets_every_key_once_at_any_length(
        geometry in any_geometry(),
        lengths in any_lengths(),
        splits in any_splits(),
        multiprocessors in 1..200_u32,
        shorter in 0.0..1.0_f64,
    ) {
        let options = PlanOptions { splits, ..PlanOptions::default() };
        let plan = Plan::new(&geometry, &lengths, &h100(multiprocessors), &options)?;
        let rows = tiling(&plan).rows;
        let units = units(&plan);
        let row_tiles = geometry.group().div_ceil(rows);
        prop_assert_eq!(units.len(), lengths.len() * (geometry.kv_heads() * row_tiles) as usize);
        for (&(sequence, kv_head, first_row), items) in &units {
            prop_assert!((sequence as usize) < lengths.len() && kv_head < geometry.kv_heads());
            prop_assert!(first_row.is_multiple_of(rows) && first_row < geometry.group());
            let length = lengths[sequence as usize];
            let planned = u64::from(length.div_ceil(tile_keys(&plan)));
            for tiles in [planned, (planned as f64 * shorter) as u64, planned.saturating_sub(1), 1.min(planned), 0] {
                let mut at = 0;
                for item in items {
                    prop_assert_eq!(item.length_bound, length);
                    let taken = share(item, tiles);
                    prop_assert_eq!(taken.start, at);
                    at = taken.end;
                }
                prop_assert_eq!(at, tiles);
            }
        }
    }

    #[test]
    fn multiprocessors_finish_together(
        geometry in any_geometry(),
        lengths in proptest::collection::vec(3_000..60_000_u32, 1..40),
        multiprocessors in 1..60_u32,
    ) {
        let plan = Plan::new(&geometry, &lengths, &h100(multiprocessors), &PlanOptions::default())?;
        let (most, mean) = loads(&plan, multiprocessors);
        // Besides, a step of a block (whole steps are what there is to deal out), and what more shares would cost: to be
        // without them is worth two dozen tiles, or a twentieth of the time.
        let slack = 24.0 + f64::from(tiling(&plan).teams);
        prop_assert!(most <= 1.3 * mean + slack, "{most} tiles on the fullest, {mean} in the mean");
    }

    #[test]
    fn a_fixed_split_size_does_not_see_the_batch(
        geometry in any_geometry(),
        first in 0..5000_u32,
        others in any_lengths(),
        tokens in 64..4096_u32,
        chosen in any::<prop::sample::Index>(),
    ) {
        let lengths = [vec![first], others].concat();
        let chosen = chosen.index(lengths.len());
        let shares = |plan: &Plan, sequence: usize| -> Vec<_> {
            let of_sequence = units(plan).into_iter().filter(|((s, ..), _)| *s as usize == sequence);
            of_sequence.flat_map(|(_, items)| items.into_iter().map(|i| (i.first, i.last, i.of))).collect()
        };
        let (batch, alone) = (
            plan(&geometry, &lengths, Splits::FixedSize(tokens)),
            plan(&geometry, &lengths[chosen..=chosen], Splits::FixedSize(tokens)),
        );
        prop_assert_eq!(shares(&batch, chosen), shares(&alone, 0));
    }

    #[test]
    fn later_plans_fit_a_captured_launch(
        geometry in any_geometry(),
        lengths in proptest::collection::vec((0..5000_u32, 0..5000_u32), 0..24),
        splits in any_splits(),
        multiprocessors in 1..200_u32,
    ) {
        let options =
            PlanOptions { splits, max_length: Some(5000), max_q_len: None, capture: Capture::AnyPlan, ..Default::default() };
        let (now, later): (Vec<_>, Vec<_>) = lengths.into_iter().unzip();
        let now = Plan::new(&geometry, &now, &h100(multiprocessors), &options)?;
        let later = Plan::new(&geometry, &later, &h100(multiprocessors), &options)?;
        prop_assert!(now.replays(&later) && later.replays(&now));
        prop_assert_eq!(now.workspace_bytes(), later.workspace_bytes());
        let this = Plan::new(&geometry, now.lengths(), &h100(multiprocessors), &PlanOptions { capture: Capture::ThisPlan, ..options })?;
        prop_assert!(!this.replays(&later));
    }
}

/// Tiles of the fullest multiprocessor and of the mean, each item started in order where the least is to do; of a prefill kernel
/// where its block is.
fn loads(plan: &Plan, multiprocessors: u32) -> (f64, f64) {
    if plan.kernel().info().hopper() {
        let loads = prefill::loads(plan, multiprocessors);
        return (loads.iter().copied().fold(0.0, f64::max), loads.iter().sum::<f64>() / loads.len() as f64);
    }
    let mut loads: BinaryHeap<Reverse<u32>> = (0..multiprocessors).map(|_| Reverse(0)).collect();
    for item in plan.items().iter().filter(|i| i.length_bound > 0) {
        let Reverse(least) = loads.pop().expect("a multiprocessor");
        loads.push(Reverse(least + item.last - item.first));
    }
    let loads: Vec<f64> = loads.into_iter().map(|Reverse(load)| f64::from(load)).collect();
    (loads.iter().copied().fold(0.0, f64::max), loads.iter().sum::<f64>() / loads.len() as f64)
}

/// About 40 us in an optimised build on a quiet machine (docs/decode.md), where it once was 181. The least of many tries, so that what
/// else a machine does is no failure.
#[test]
fn a_large_batch_is_planned_quickly() {
    let (geometry, lengths) = (geometry(128, [32, 8]), vec![2048; 1024]);
    let least = (0..300).map(|_| {
        let start = Instant::now();
        let plan = plan(&geometry, &lengths, Splits::Auto);
        let elapsed = start.elapsed();
        assert_eq!(plan.items().len(), 8192);
        elapsed
    });
    let least = least.min().expect("tries").as_secs_f64() * 1e6;
    println!("1024 sequences are planned in {least:.1} us");
    assert!(least < 150.0, "{least:.1} us");
}

#[test]
fn one_short_sequence_is_spread_as_far_as_it_goes() {
    // 8 KV heads of 1024 tokens: 16 steps of 64 keys each.
    let geometry = geometry(128, [32, 8]);
    let planned = |cluster| {
        let options = PlanOptions { cluster, ..PlanOptions::default() };
        Plan::new(&geometry, &[1024], &h100(132), &options).expect("a plan")
    };
    let plan = planned(Some(1));
    assert_eq!((plan.items().len(), plan.merges().len()), (128, 8));
    assert_eq!(plan.splits_of(0, 7), 16);
    assert_eq!(plan.splits_of(1, 0), 0);
    assert!(plan.items().iter().all(|item| item.last - item.first == 4));
    // A cluster for each: no merge.
    let plan = planned(None);
    assert_eq!((plan.cluster(), plan.items().len(), plan.merges().len()), (8, 64, 0));
    assert!(plan.items().iter().all(|item| item.last - item.first == 8 && item.partial == WorkItem::WHOLE));
}

#[test]
fn a_long_sequence_is_shared_out_in_whole_tiles() {
    let options = PlanOptions { capture: Capture::ThisPlan, ..PlanOptions::default() };
    let plan = Plan::new(&geometry(512, [16, 1]), &[32_768], &h100(132), &options).expect("a plan");
    // 512 tiles of 64 keys: 4 each, though 15 clusters have places of their own.
    assert_eq!((plan.cluster(), plan.items().len(), plan.merges()[0].partials), (8, 128, 16));
}

/// Short sequences come last and level what long shares leave uneven, so that few shares do: 85 of the longest took longer than 45 to 64 on an H100.
#[test]
fn long_tiles_of_lengths_that_differ_are_cut_into_few_shares() {
    let lengths: Vec<u32> = (1..=128).map(|sequence| 131_072 / sequence).collect();
    let options = PlanOptions { capture: Capture::ThisPlan, ..PlanOptions::default() };
    let plan = Plan::new(&geometry(512, [16, 1]), &lengths, &h100(132), &options).expect("a plan");
    let shares = plan.merges().iter().map(|merge| merge.partials).max().expect("the longest is cut");
    assert!(plan.cluster() == 2 && (32..=64).contains(&shares), "{shares} in clusters of {}", plan.cluster());
}

/// 16 rows as two items of 8 read the keys twice, which pays where a step's own time is what bounds.
#[test]
fn a_short_sequence_of_16_rows_is_two_items_of_8() {
    let planned = |lengths: &[u32], options: &PlanOptions| {
        let plan = Plan::new(&geometry(512, [16, 1]), lengths, &h100(132), options).expect("a plan");
        (plan.kernel().to_string(), plan.cluster(), plan.items().len())
    };
    let [eight, few] = ["decode_d512_bf16_bf16_eight", "decode_d512_bf16_bf16_few"].map(str::to_owned);
    let this = PlanOptions { capture: Capture::ThisPlan, ..PlanOptions::default() };
    assert_eq!(planned(&[1024], &this), (eight.clone(), 16, 32));
    assert_eq!(planned(&[32_768], &this).0, few, "the memory bounds it");
    assert_eq!(planned(&[1024; 128], &this).0, few, "the memory bounds them");
    assert_eq!(planned(&[1024], &PlanOptions::default()).0, few, "later plans have the same kernel");
    let never = PlanOptions { splits: Splits::Never, ..this };
    assert_eq!(planned(&[1024], &never).0, few, "other batches have the same kernel");
    let kernel = |name: &str| KernelId::all().find(|kernel| kernel.to_string() == name).expect("a kernel");
    let forced = PlanOptions { kernel: KernelChoice::Kernel(kernel(&few)), ..this };
    assert_eq!(planned(&[1024], &forced).0, few, "the choice");
}

#[test]
fn clusters_are_of_few_rows_and_of_chips_that_have_them() {
    let options = |cluster| PlanOptions { cluster, ..PlanOptions::default() };
    let planned = |heads, properties: &Properties, cluster| {
        Plan::new(&geometry(128, heads), &[1024, 30], properties, &options(cluster)).map(|plan| plan.cluster())
    };
    let old = Properties { arch: Arch { major: 8, minor: 0 }, clusters: [0; 4], ..h100(132) };
    let driver = Properties { clusters: [0; 4], ..h100(132) };
    for cluster in [1, 2, 4, 8, 16] {
        assert_eq!(planned([32, 4], &h100(132), Some(cluster)).ok(), Some(cluster));
    }
    let refused = |heads, properties: &Properties, cluster| match planned(heads, properties, Some(cluster)) {
        Err(Error::Value { field: "cluster", value, allowed }) => (value, allowed),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused([32, 4], &h100(132), 32), ("32".to_owned(), "1, 2, 4, 8 or 16"));
    assert_eq!(refused([32, 4], &h100(132), 3), ("3".to_owned(), "1, 2, 4, 8 or 16"));
    for (room, allowed) in [([66, 30, 15, 0], "1, 2, 4 or 8"), ([9, 1, 0, 0], "1, 2 or 4"), ([1, 0, 0, 0], "1 or 2")] {
        let narrow = Properties { clusters: room, ..h100(132) };
        assert_eq!(refused([32, 4], &narrow, 16), ("16".to_owned(), allowed));
    }
    let none = "1 for this kernel on this device";
    for (heads, properties) in [([64, 1], &h100(132)), ([32, 4], &old), ([32, 4], &driver)] {
        assert_eq!(refused(heads, properties, 2), ("2".to_owned(), none));
        assert_eq!(planned(heads, properties, None).ok(), Some(1));
    }
    // Any lengths of as many sequences have the same: a captured launch serves them.
    assert_eq!(planned([32, 4], &h100(132), None).ok(), Some(8));
    assert_eq!(planned([32, 4], &h100(63), None).ok(), Some(4));
    assert_eq!(planned([32, 4], &h100(15), None).ok(), Some(1));
    // Those of a cluster are parts of one share.
    let plan = Plan::new(
        &geometry(128, [32, 4]),
        &[1024, 0],
        &h100(132),
        &PlanOptions { splits: Splits::Most, ..options(Some(4)) },
    );
    let plan = plan.expect("a plan");
    assert!(plan.items().chunks(4).all(|parts| {
        let key = |item: &WorkItem| (item.sequence, item.kv_head, item.first_row, item.partial, item.of);
        parts.iter().all(|part| key(part) == key(&parts[0]))
            && parts.windows(2).all(|pair| pair[0].last == pair[1].first || pair[0].of == 1)
    }));
}

#[test]
fn one_long_sequence_fills_the_device() {
    let plan = plan(&geometry(128, [32, 8]), &[131_072], Splits::Auto);
    let (most, mean) = loads(&plan, 132);
    assert!(most <= 1.05 * mean, "{most} {mean}");
}

#[test]
fn an_even_batch_is_left_whole() {
    // 396 units for 132 multiprocessors: nothing is gained by cutting.
    let plan = plan(&geometry(128, [24, 4]), &[4096; 99], Splits::Auto);
    assert_eq!((plan.items().len(), plan.merges().len()), (396, 0));
}

#[test]
fn one_long_sequence_among_short_ones_is_cut() {
    let mut lengths = vec![200; 63];
    lengths.push(100_000);
    let plan = plan(&geometry(128, [32, 8]), &lengths, Splits::Auto);
    assert!(plan.splits_of(63, 0) > 20);
    let (most, mean) = loads(&plan, 132);
    assert!(most <= 1.25 * mean, "{most} {mean}");
}

#[test]
fn never_cuts_nothing_and_most_cuts_to_tiles() {
    let geometry = geometry(256, [8, 2]);
    let never = plan(&geometry, &[5000, 1, 0], Splits::Never);
    assert!(never.merges().is_empty() && never.items().iter().all(|i| i.partial == WorkItem::WHOLE));
    let most = plan(&geometry, &[100, 1, 0], Splits::Most);
    assert_eq!(most.splits_of(0, 0), 4); // 32 keys a tile
    assert_eq!((most.splits_of(1, 0), most.splits_of(2, 0)), (1, 1));
    assert_eq!(plan(&geometry, &[100_000], Splits::Most).splits_of(0, 1), MAX_SPLITS); // of 3125 tiles
}

#[test]
fn an_empty_batch_is_a_plan_of_nothing() {
    for splits in [Splits::Auto, Splits::Never, Splits::Most, Splits::FixedSize(64)] {
        let plan = plan(&geometry(64, [8, 8]), &[], splits);
        assert_eq!((plan.items().len(), plan.merges().len()), (0, 0));
    }
}

#[test]
fn a_sequence_without_keys_still_has_its_item() {
    for splits in [Splits::Auto, Splits::Never, Splits::Most, Splits::FixedSize(64)] {
        let plan = plan(&geometry(512, [64, 1]), &[0, 0], splits);
        // Two items of 32 rows each.
        assert_eq!((plan.items().len(), plan.merges().len()), (4, 0));
        assert!(plan.items().iter().all(|i| i.of >= 1 && i.partial == WorkItem::WHOLE));
    }
}

#[test]
fn what_cannot_be_planned_is_said() {
    let geometry = geometry(64, [8, 8]);
    let planned = |lengths: &[u32], options: PlanOptions| Plan::new(&geometry, lengths, &h100(4), &options);
    let with = |splits| PlanOptions { splits, ..PlanOptions::default() };
    let error = planned(&[1 << 31], with(Splits::Auto)).expect_err("too long");
    assert_eq!(error.to_string(), "planned length is 2147483648; allowed: at most 2147483647 tokens");
    let error = planned(&[5], with(Splits::FixedSize(0))).expect_err("no size");
    assert_eq!(error.to_string(), "fixed split size is 0; allowed: at least 1 token");
    let error = planned(&[5, 100_000], with(Splits::FixedSize(20))).expect_err("too many shares");
    assert!(matches!(error, Error::TooManySplits { sequence: 1, shares: 3125, split_tokens: 32, .. }), "{error}");
    let error = planned(&[5; 1 << 22], with(Splits::Auto)).expect_err("too many items");
    assert!(matches!(error, Error::PlanTooLarge { items: 33_554_432, .. }), "{error}");
    // 2^18 sequences of 8 heads are few enough; in 100 shares each, with tiles of 32 keys, they are not.
    let error = planned(&[6400; 1 << 18], with(Splits::FixedSize(64))).expect_err("too many shares together");
    assert!(matches!(error, Error::PlanTooLarge { items: 209_715_200, .. }), "{error}");
    let short = PlanOptions { splits: Splits::Most, max_length: Some(4), ..PlanOptions::default() };
    assert!(matches!(planned(&[5], short), Err(Error::Value { field: "max_length", .. })));
    let old = Properties { arch: Arch { major: 7, minor: 5 }, ..h100(4) };
    let error = Plan::new(&geometry, &[5], &old, &PlanOptions::default()).expect_err("too old");
    assert_eq!(error.to_string(), "no kernel for architecture sm_75 (allowed: sm_80 and newer)");
    // The longest lengths there are do not overflow.
    assert!(planned(&[i32::MAX as u32; 16], with(Splits::Auto)).is_ok());
}
