//! Plans of prefill kernels, whose blocks are persistent: how level they are, what is cut, and how long a plan takes to make.
use super::{geometry, h100, tiling, units};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use qkv::{Arch, Batch, Capture, Geometry, MAX_QUERY_TOKENS, Mask, Plan, PlanOptions, Properties, QueryLens, Splits};
use std::collections::BTreeMap;
use std::time::Instant;

/// Tiles of an item.
fn tiles(item: &qkv::WorkItem) -> f64 {
    // An item of nothing is the fraction 0 / 1 .. 1 / 1.
    if item.length_bound == 0 { 0.0 } else { f64::from(item.last - item.first) }
}

/// Blocks (or clusters) of a launch.
fn grid(plan: &Plan, multiprocessors: u32) -> usize {
    (multiprocessors / plan.kernel().info().cluster()).max(1) as usize
}

/// Tiles of each block: block `b` of `n` does items `b`, `b + n`, and so on.
pub fn loads(plan: &Plan, multiprocessors: u32) -> Vec<f64> {
    let mut loads = vec![0.0; grid(plan, multiprocessors)];
    let blocks = loads.len();
    plan.items().iter().enumerate().for_each(|(index, item)| loads[index % blocks] += tiles(item));
    loads
}

fn most_and_mean(plan: &Plan, multiprocessors: u32) -> (f64, f64) {
    let loads = loads(plan, multiprocessors);
    (loads.iter().copied().fold(0.0, f64::max), loads.iter().sum::<f64>() / loads.len() as f64)
}

fn prompts(geometry: &Geometry, lengths: &[u32], splits: Splits) -> Plan {
    let starts: Vec<u32> = (0..=lengths.len()).map(|end| lengths[..end].iter().sum()).collect();
    let batch = Batch::from(lengths).query_lens(QueryLens::Ragged(&starts));
    let plan = Plan::new(geometry, batch, &h100(132), &PlanOptions { splits, ..PlanOptions::default() });
    let plan = plan.expect("a batch of the tests");
    assert!(plan.kernel().info().hopper(), "{}", plan.kernel());
    plan
}

/// A batch of causal prompts and chunks: lengths, and the query tokens of each, the first sequence a prompt.
fn chunks() -> impl Strategy<Value = Vec<(u32, u32)>> {
    let chunk = (0..20_000_u32, 0..3000_u32).prop_map(|(before, tokens)| (before + tokens, tokens));
    let prompt = (130..5000_u32).prop_map(|tokens| (tokens, tokens));
    (prompt.clone(), proptest::collection::vec(prop_oneof![chunk, prompt], 0..12))
        .prop_map(|(first, others)| [vec![first], others].concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    /// The bound of dealing in rounds, cut or not, and what each round reads.
    #[test]
    fn blocks_are_level_and_read_a_section_at_a_time(
        head_dim in prop::sample::select(vec![64_usize, 128, 256]),
        (kv_heads, group) in (1..=8_usize, 1..=16_usize),
        sequences in chunks(),
        left in prop_oneof![Just(None), (0..3000_u32).prop_map(Some)],
        splits in super::any_splits(),
        multiprocessors in 1..200_u32,
    ) {
        let (lengths, tokens): (Vec<_>, Vec<_>) = sequences.into_iter().unzip();
        let starts: Vec<u32> = (0..=tokens.len()).map(|end| tokens[..end].iter().sum()).collect();
        let batch = Batch::from(&lengths).query_lens(QueryLens::Ragged(&starts)).mask(Mask { left, ..Mask::CAUSAL });
        let geometry = geometry(head_dim, [kv_heads * group, kv_heads]);
        let options = PlanOptions { splits, ..PlanOptions::default() };
        let plan = Plan::new(&geometry, batch, &h100(multiprocessors), &options)?;
        prop_assert!(plan.kernel().info().hopper());
        // A pure function of what it is given.
        prop_assert_eq!(&plan, &Plan::new(&geometry, batch, &h100(multiprocessors), &options)?);
        let (most, mean) = most_and_mean(&plan, multiprocessors);
        let longest = plan.items().iter().map(tiles).fold(0.0, f64::max);
        prop_assert!(most <= mean + longest, "{most} tiles on the fullest, {mean} in the mean, {longest} the longest");
        check_sections(&plan, grid(&plan, multiprocessors))?;
        // Every share of every query tile once.
        let rows = tiling(&plan).rows;
        let units = units(&plan);
        let row_tiles: usize = tokens.iter().map(|&tokens| (tokens * group as u32).div_ceil(rows) as usize).sum();
        prop_assert_eq!(units.len(), row_tiles * kv_heads);
        for items in units.values() {
            prop_assert_eq!((items[0].first, items[items.len() - 1].last), (0, items[0].of));
            prop_assert!(items.windows(2).all(|two| two[0].last == two[1].first));
        }
    }
}

/// What a list has of a (sequence, KV head).
struct Pair {
    /// The first round with an item of it, and the last.
    rounds: [usize; 2],
    /// Its longest item, in tiles.
    longest: f64,
    /// Of its keys and values.
    bytes: u64,
}

fn pairs(plan: &Plan, blocks: usize) -> Vec<Pair> {
    let token_bytes = 2 * 2 * plan.geometry().head_dim().get() as u64;
    let mut pairs: BTreeMap<_, Pair> = BTreeMap::new();
    for (index, item) in plan.items().iter().enumerate() {
        let round = index / blocks;
        let bytes = u64::from(item.length_bound) * token_bytes;
        let new = Pair { rounds: [round; 2], longest: 0.0, bytes };
        let pair = pairs.entry((item.sequence, item.kv_head)).or_insert(new);
        pair.rounds[1] = round;
        pair.longest = pair.longest.max(tiles(item));
    }
    pairs.into_values().collect()
}

/// Between any two rounds, the pairs that have items before and behind are of one section, whose keys and values are at most
/// 16 MB or one pair's. Of pairs that are not of one section those with the longest items come first, and of each pair the
/// longest items.
fn check_sections(plan: &Plan, blocks: usize) -> Result<(), TestCaseError> {
    const SECTION: u64 = 16 << 20;
    let pairs = pairs(plan, blocks);
    for round in 1..plan.items().len().div_ceil(blocks) {
        let open = pairs.iter().filter(|pair| pair.rounds[0] < round && round <= pair.rounds[1]);
        let (count, bytes) = open.fold((0, 0), |(count, bytes), pair| (count + 1, bytes + pair.bytes));
        prop_assert!(count <= 1 || bytes <= SECTION, "{count} pairs of {bytes} bytes before round {round}");
    }
    for (first, second) in pairs.iter().flat_map(|first| pairs.iter().map(move |second| (first, second))) {
        let apart = first.bytes + second.bytes > SECTION && first.rounds[1] < second.rounds[0];
        prop_assert!(!apart || first.longest >= second.longest);
    }
    // Of each round a pair's shortest and longest.
    let mut of_pairs: BTreeMap<_, Vec<(usize, [f64; 2])>> = BTreeMap::new();
    for (index, item) in plan.items().iter().enumerate() {
        let (round, tiles) = (index / blocks, tiles(item));
        let rounds = of_pairs.entry((item.sequence, item.kv_head)).or_default();
        match rounds.last_mut() {
            Some((of, [least, most])) if *of == round => (*least, *most) = (least.min(tiles), most.max(tiles)),
            _ => rounds.push((round, [tiles; 2])),
        }
    }
    for rounds in of_pairs.values() {
        prop_assert!(rounds.windows(2).all(|two| two[0].1[0] >= two[1].1[1]), "{rounds:?}");
    }
    Ok(())
}

/// Causal prompts as a server has them: level within a few hundredths without a cut.
#[test]
fn causal_prompts_are_level() {
    for (head_dim, heads, lengths, above) in [
        (128, [32, 8], vec![2048], 1.035),
        (128, [32, 8], vec![8192], 1.01),
        (128, [32, 8], vec![1024; 8], 1.01),
        (128, [32, 8], vec![8192; 2], 1.01),
        (128, [32, 8], vec![32_768], 1.01),
        (128, [4, 1], vec![8192], 1.03),
        (128, [32, 8], vec![1000, 4000, 300, 7000, 5000, 800, 2000, 2000], 1.01),
        (64, [64, 8], vec![4096; 4], 1.01),
        (256, [16, 16], vec![1024; 8], 1.02),
        (256, [16, 16], vec![8192; 2], 1.01),
        (256, [16, 8], vec![8192, 100, 3000, 17], 1.02),
    ] {
        let plan = prompts(&geometry(head_dim, heads), &lengths, Splits::Auto);
        let (most, mean) = most_and_mean(&plan, 132);
        println!("{lengths:?} at {head_dim}: {:.4} of the mean, {} items", most / mean, plan.items().len());
        assert!(most <= above * mean, "{lengths:?} at {head_dim}: {most} tiles on the fullest, {mean} in the mean");
        assert_eq!(plan.merges().len(), 0, "{lengths:?} at {head_dim}: cut though level");
    }
}

/// Prompts of many heads: no round reads more than the end of a section and the begin of the next, which fit an H100's L2
/// of 50 MB together. Of the longest items of all pairs it would be 134 MB.
#[test]
fn what_a_round_reads_fits_the_l2() {
    for (head_dim, heads, lengths) in [
        (256, [16, 16], vec![1024; 8]),
        (256, [16, 16], vec![8192; 2]),
        (128, [32, 8], vec![1024; 8]),
        (128, [32, 8], vec![8192; 2]),
        (128, [32, 8], vec![1000, 4000, 300, 7000, 5000, 800, 2000, 2000]),
    ] {
        let plan = prompts(&geometry(head_dim, heads), &lengths, Splits::Auto);
        let blocks = grid(&plan, 132);
        let pairs = pairs(&plan, blocks);
        for round in 0..plan.items().len().div_ceil(blocks) {
            let read = pairs.iter().filter(|pair| pair.rounds[0] <= round && round <= pair.rounds[1]);
            let bytes: u64 = read.map(|pair| pair.bytes).sum();
            assert!(bytes <= 32 << 20, "{lengths:?} at {head_dim}: {bytes} bytes in round {round}");
        }
    }
}

/// One long chunk of few rows is cut so far that it fills the chip; where there is enough without that, nothing is cut.
#[test]
fn few_rows_of_many_keys_fill_the_chip() {
    let geometry = geometry(128, [8, 1]);
    let chunk = |tokens: u32, length: u32| {
        let batch = Batch::from(core::slice::from_ref(&length)).query_lens(QueryLens::Uniform(tokens));
        Plan::new(&geometry, batch, &h100(132), &PlanOptions::default()).expect("a batch of the tests")
    };
    for (tokens, length) in [(16, 100_000), (17, 200_000), (64, 100_000), (300, 131_072), (1000, 60_000)] {
        let plan = chunk(tokens, length);
        let (most, mean) = most_and_mean(&plan, 132);
        assert!(plan.items().len() >= 125, "{tokens} of {length}: {} items", plan.items().len());
        assert!(most <= 1.15 * mean + 1.0, "{tokens} of {length}: {most} tiles on the fullest, {mean} in the mean");
    }
    // Two tiles of keys: a merge would take longer.
    assert_eq!((chunk(16, 200).items().len(), chunk(16, 200).merges().len()), (1, 0));
    assert_eq!(chunk(16 * 132, 100_000).merges().len(), 0);
}

/// The order of a later plan is for the captured grid: of the device's blocks, however many items there are.
#[test]
fn a_captured_grid_is_the_devices() {
    let geometry = geometry(128, [32, 8]);
    let options = PlanOptions { max_q_len: Some(4096), capture: Capture::AnyPlan, ..PlanOptions::default() };
    let plan = |lengths: [u32; 2], tokens: &[u32]| {
        let batch = Batch::from(&lengths).query_lens(QueryLens::Ragged(tokens));
        Plan::new(&geometry, batch, &h100(132), &options).expect("a batch of the tests")
    };
    let (first, later) = (plan([4096, 4096], &[0, 4096, 8192]), plan([9000, 70], &[0, 4000, 4001]));
    assert!(first.replays(&later));
    let (most, mean) = most_and_mean(&later, 132);
    assert!(most <= 1.04 * mean, "{most} tiles on the fullest, {mean} in the mean");
    // Another number of multiprocessors is another order.
    let batch = Batch::from(&[4096, 4096]).query_lens(QueryLens::Uniform(4096));
    let fewer = Plan::new(&geometry, batch, &h100(66), &options).expect("a batch of the tests");
    assert!(!fewer.replays(&later));
}

/// The most query tokens that there are, and long prompts of many heads, are planned in a blink beside what they take to run.
#[test]
fn long_prompts_are_planned_quickly() {
    let most = MAX_QUERY_TOKENS as u32;
    for (heads, length) in [([64, 8], 131_072), ([8, 8], most), ([64, 1], most)] {
        let geometry = geometry(128, heads);
        let start = Instant::now();
        let plan = prompts(&geometry, &[length], Splits::Auto);
        let elapsed = start.elapsed();
        let rows = (heads[0] / heads[1]) as u64 * u64::from(length);
        assert_eq!(plan.items().len() as u64, heads[1] as u64 * rows.div_ceil(u64::from(tiling(&plan).rows)));
        println!("{length} tokens of {heads:?} heads: {} items in {elapsed:.1?}", plan.items().len());
        assert!(elapsed.as_secs() < 5, "{elapsed:?}");
    }
    // On other chips too, in items of 64 rows.
    let ampere = Properties { arch: Arch::OLDEST, ..h100(108) };
    let batch = Batch::from(core::slice::from_ref(&most)).query_lens(QueryLens::Uniform(most));
    let plan = Plan::new(&geometry(128, [64, 1]), batch, &ampere, &PlanOptions::default()).expect("a plan");
    assert_eq!(plan.items().len(), MAX_QUERY_TOKENS);
}

/// Where nothing asks for the same sums whatever else there is, a row's keys choose how many a step has.
#[test]
fn rows_of_many_keys_are_a_kernels_of_long_steps() {
    let geometry = geometry(128, [32, 8]);
    let this = PlanOptions { capture: Capture::ThisPlan, ..PlanOptions::default() };
    let kernel = |lengths: &[u32], mask: Mask, options: &PlanOptions| {
        let starts: Vec<u32> = (0..=lengths.len()).map(|end| lengths[..end].iter().sum()).collect();
        let batch = Batch::from(lengths).query_lens(QueryLens::Ragged(&starts)).mask(mask);
        Plan::new(&geometry, batch, &h100(132), options).expect("a batch of the tests").kernel().to_string()
    };
    let (short, long) = ("prefill_d128_bf16_bf16", "prefill_d128_bf16_bf16_long");
    for (lengths, mask, expected) in [
        (vec![1024; 8], Mask::CAUSAL, short),
        (vec![1024; 8], Mask::FULL, short),
        (vec![2048; 4], Mask::CAUSAL, short),
        (vec![8192; 2], Mask::FULL, long),
        (vec![32768], Mask::CAUSAL, long),
        (vec![32768], Mask::FULL, long),
        (vec![32768], Mask { left: Some(1000), ..Mask::CAUSAL }, short),
        // The long one's rows are most of them.
        (vec![100, 1000, 32768, 300], Mask::CAUSAL, long),
    ] {
        assert_eq!(kernel(&lengths, mask, &this), expected, "{lengths:?}, {mask:?}");
        for options in [
            PlanOptions { capture: Capture::AnyPlan, ..this },
            PlanOptions { splits: Splits::Never, ..this },
            PlanOptions { splits: Splits::FixedSize(1024), ..this },
        ] {
            assert_eq!(kernel(&lengths, mask, &options), short, "{lengths:?}, {options:?}");
        }
    }
}
