//! Prompts and chunks through the library, judged by the oracle: on a simulated Hopper by the prefill kernels, elsewhere by the
//! decode kernels for many rows, which are the portable prefill. Sequences of every length, number of query tokens and group
//! beside one another, in pages of every size, with every variant.
use common::judge::Exact;
use common::variants::{answer, check, config, judge, same_bits, small};
use kernels_gpu::config::Tiling;
use kernels_gpu::kernels::{ENTRIES, Role};
use proptest::prelude::*;
use qkv::testing::case::{Arrangement, CaseShape};
use qkv::testing::run::RunOptions;
use qkv::testing::stored::CaseCache;
use qkv::testing::strategies;
use qkv::testing::variant::{CaseOutput, PositionShape, QueryCounts, SinkShape, SpanShape, TreeShape, VariantShape};
use qkv::{Arch, DType, Delivery, Device, Family, KernelChoice, KernelId, SimulatorOptions, Splits};

mod common;

/// Head dimensions that have prefill kernels.
const DIMS: [usize; 3] = [64, 128, 256];

/// The first Blackwell.
const BLACKWELL: Arch = Arch { major: 10, minor: 0 };

/// The chips that have prefill kernels, and any other.
const ARCHES: [Arch; 3] = [Arch::HOPPER, BLACKWELL, Arch::OLDEST];

/// Three blocks at a time, so that they take turns at items, and not as many as a power of two.
fn device(arch: Arch, seed: u64) -> Device {
    let delivery = if seed.is_multiple_of(4) { Delivery::Earliest } else { Delivery::Latest };
    Device::simulator_with(SimulatorOptions { arch, multiprocessors: 3, delivery, seed, ..Default::default() })
}

/// The items of the prefill kernel at a head dimension.
fn tiling(head_dim: usize) -> Tiling {
    let of = |role: Role| match role {
        Role::Prefill { shape, .. } if shape.head_dim as usize == head_dim => Some(shape.tiling()),
        _ => None,
    };
    ENTRIES.iter().find_map(|entry| of(entry.role)).expect("a prefill kernel")
}

/// Query tokens of each sequence, and its keys.
fn chunks(of: &[(usize, usize)]) -> CaseShape {
    let (counts, lengths) = of.iter().copied().unzip();
    let variant = VariantShape { queries: QueryCounts::Ragged(counts), ..VariantShape::default() };
    CaseShape { kv_heads: 1, group: 1, lengths, variant, ..small() }
}

/// Prompts: all keys are of query tokens.
fn prompts(lengths: &[usize]) -> CaseShape {
    chunks(&lengths.iter().map(|&length| (length, length)).collect::<Vec<_>>())
}

/// Judges a case with more than 64 query rows on each chip, and that it ran on the kernels that it is for.
fn check_on_each(shape: &CaseShape, splits: &[Splits]) {
    for arch in ARCHES {
        check_on(arch, shape, splits);
    }
}

fn check_on(arch: Arch, shape: &CaseShape, splits: &[Splits]) {
    let device = device(arch, shape.seed);
    check(&device, shape, splits).unwrap_or_else(|what| panic!("{arch}, {shape:?}: {what}"));
    let kernel = match arch {
        Arch::HOPPER => "prefill_d",
        BLACKWELL => "prefill_tcgen05_d",
        _ => "decode_d",
    };
    let ran = device.simulated().expect("a simulator");
    let ran: Vec<_> = ran.iter().map(ToString::to_string).filter(|name| name.contains("_d")).collect();
    assert!(ran.len() == 1 && ran[0].starts_with(kernel), "{arch}, {shape:?}: {ran:?} ran");
}

/// Of 1, of a tile's keys and one more and one less, of an item's rows likewise, and of primes.
#[test]
fn prompts_of_odd_lengths() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        let Tiling { rows, tile_keys, .. } = tiling(head_dim);
        let (rows, tile) = (rows as usize, tile_keys as usize);
        let format = DType::ALL[turn % 2];
        let splits = [Splits::Auto, Splits::Most, Splits::Never][turn];
        let shape = CaseShape { head_dim, format, seed: turn as u64, ..prompts(&[1, tile - 1, 101, tile + 1]) };
        check_on_each(&shape, &[splits]);
        let shape = CaseShape { head_dim, format, seed: turn as u64, ..prompts(&[rows + 1, 2, tile, 67]) };
        check_on_each(&shape, &[splits]);
    }
}

/// A prompt that comes in parts: fewer query tokens than keys. And more, of which the first see nothing.
#[test]
fn chunks_of_prompts() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        let tile = tiling(head_dim).tile_keys as usize;
        let of = [(40, 2 * tile + 3), (33, tile), (37, 91), (50, 20)];
        let shape = CaseShape { head_dim, group: 2, seed: 3 + turn as u64, ..chunks(&of) };
        check_on_each(&shape, &[Splits::Most, Splits::Never]);
    }
}

/// Decode's single tokens, drafts, prompts, a chunk, no query tokens and no keys in one launch.
#[test]
fn prompts_and_drafts_and_single_tokens_in_one_launch() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        let of = [(1, 150), (5, 83), (35, 35), (0, 64), (1, 1), (17, 120), (3, 0)];
        let sinks = (turn == 1).then_some(SinkShape::Drawn);
        let mut shape = CaseShape { head_dim, kv_heads: 2, group: 2, seed: 7 + turn as u64, ..chunks(&of) };
        shape.variant.sinks = sinks;
        check_on_each(&shape, &[[Splits::Auto, Splits::FixedSize(96), Splits::Never][turn]]);
    }
}

/// Groups that divide an item's rows and groups that do not: rows of one query token in two items.
#[test]
fn every_kind_of_group() {
    for (turn, group) in [1, 3, 5, 7, 8, 12, 16, 31, 48, 64].into_iter().enumerate() {
        let head_dim = DIMS[turn % 3];
        let tokens = 65_usize.div_ceil(group).max(2) + turn % 2;
        let shape =
            CaseShape { head_dim, group, seed: turn as u64, ..chunks(&[(tokens, tokens + 70), (1, 9), (2, 2)]) };
        check_on_each(&shape, &[[Splits::Auto, Splits::Most][turn % 2]]);
    }
}

/// Pages smaller and larger than a box and a tile, wherever K and V lie.
#[test]
fn every_page_size_and_arrangement() {
    for shift in 0..=10 {
        let head_dim = DIMS[shift % 3];
        let arrangement = Arrangement::ALL[shift % Arrangement::ALL.len()];
        let (page_size, seed) = (1 << shift, shift as u64);
        let shape = CaseShape {
            head_dim,
            page_size,
            arrangement,
            group: 3,
            kv_heads: 2,
            seed,
            ..chunks(&[(23, 171), (9, 30)])
        };
        check_on_each(&shape, &[Splits::Auto]);
    }
}

/// Each variant, at each head dimension in turn, and some together.
#[test]
fn every_variant() {
    let plain = || VariantShape { queries: QueryCounts::Ragged(vec![40, 1, 36]), ..VariantShape::default() };
    let span = |in_window| Some(SpanShape { most: 40, in_window });
    let variants = [
        VariantShape { left: Some(20), ..plain() },
        VariantShape { left: Some(0), sinks: Some(SinkShape::Drawn), ..plain() },
        VariantShape { right: None, ..plain() },
        VariantShape { left: Some(100), right: Some(9), ..plain() },
        VariantShape { softcap: Some(2.0), ..plain() },
        VariantShape { sinks: Some(SinkShape::All(1e4)), ..plain() },
        VariantShape { sinks: Some(SinkShape::Drawn), left: Some(64), softcap: Some(20.0), ..plain() },
        VariantShape { alibi: true, ..plain() },
        VariantShape { positions: Some(PositionShape::Drawn), ..plain() },
        VariantShape { positions: Some(PositionShape::Shifted(-30)), left: Some(50), alibi: true, ..plain() },
        VariantShape { spans: span(false), ..plain() },
        VariantShape { spans: span(true), left: Some(15), ..plain() },
        VariantShape { tree: Some(TreeShape::Forest), ..plain() },
        VariantShape { tree: Some(TreeShape::Bits), left: Some(10), ..plain() },
        VariantShape { tree: Some(TreeShape::Chain), sinks: Some(SinkShape::Drawn), ..plain() },
        VariantShape { output: CaseOutput::F32, ..plain() },
        VariantShape { output: CaseOutput::Sixteen(DType::F16), right: Some(3), ..plain() },
        VariantShape { output: CaseOutput::Fp8E4M3 { scale: 1.0 / 64.0, on_device: true }, ..plain() },
    ];
    for (turn, variant) in variants.into_iter().enumerate() {
        let (head_dim, seed) = (DIMS[turn % 3], turn as u64);
        let shape = CaseShape { head_dim, group: 2, lengths: vec![140, 77, 36], variant, seed, ..chunks(&[]) };
        let splits = [Splits::Auto, Splits::Most, Splits::Never][turn / 3 % 3];
        check_on_each(&shape, &[splits]);
    }
}

/// However keys are cut: states that are merged, shares without keys among them.
#[test]
fn every_way_to_cut() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        let tile = tiling(head_dim).tile_keys as usize;
        let shape = CaseShape { head_dim, seed: 20 + turn as u64, ..chunks(&[(66, 3 * tile + 5), (1, 2 * tile)]) };
        let all = [Splits::Most, Splits::Auto, Splits::Never, Splits::FixedSize(tile as u32)];
        check_on(Arch::HOPPER, &shape, &all);
    }
}

/// Sequences that turn out shorter than planned: shares are fractions of what there is.
#[test]
fn sequences_shorter_than_planned() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        let shape = CaseShape { head_dim, group: 2, seed: 30 + turn as u64, ..chunks(&[(35, 140), (2, 90), (4, 0)]) };
        let case = shape.build();
        let device = device(Arch::HOPPER, shape.seed);
        let exact = common::judge::Exact::new(&case);
        let planned = Some(vec![190, 95, 100]);
        let options = RunOptions { splits: Splits::Most, planned, ..RunOptions::default() };
        let answer = answer(&device, &shape, &case, options).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        assert!(answer.kernel.to_string().starts_with("prefill_"), "{}", answer.kernel);
        exact.judge(&answer).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
    }
}

/// More items than blocks, which take turns: a block's second item begins where the first one left its rings.
#[test]
fn blocks_take_turns_at_items() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        let rows = tiling(head_dim).rows as usize;
        let kv_heads = 2;
        // Eleven items for three blocks, of which the last round has two.
        let of = [(rows, rows + 9), (2 * rows + 1, 2 * rows + 1), (1, 40)];
        let shape =
            CaseShape { head_dim, kv_heads, seed: 41 + turn as u64, ..chunks(&of[..if turn == 1 { 3 } else { 2 }]) };
        let case = shape.build();
        let answers = [1, 2, 5].map(|multiprocessors| {
            let options =
                SimulatorOptions { arch: Arch::HOPPER, multiprocessors, seed: turn as u64, ..Default::default() };
            let device = Device::simulator_with(options);
            if multiprocessors == 2 {
                let mut answers = judge(&device, &shape, &case, &[Splits::Never]).expect("right");
                answers.remove(0)
            } else {
                answer(&device, &shape, &case, Splits::Never).expect("a launch")
            }
        });
        // Who does an item is nothing that its result depends on.
        same_bits("one block", &answers[0], &answers[1]).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        same_bits("five blocks", &answers[2], &answers[1]).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
    }
}

/// The pass over a shared prefix has the rows of the whole batch: they are a prefill kernel's too.
#[test]
fn a_shared_prefix_of_many_sequences() {
    for (turn, head_dim) in DIMS.into_iter().enumerate() {
        let lengths: Vec<_> = (0..12).map(|rest| 64 + 3 + rest).collect();
        let queries = QueryCounts::Uniform(1 + turn);
        let variant = VariantShape { queries, ..VariantShape::default() };
        let shape = CaseShape { head_dim, group: 6, kv_heads: 1, lengths, variant, seed: turn as u64, ..small() };
        for arch in ARCHES {
            let device = device(arch, shape.seed);
            common::prefix::check(&device, &shape, 4, Splits::Auto).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
            let ran = device.simulated().expect("a simulator");
            let prefill = ran.iter().any(|kernel| kernel.info().prefills());
            assert_eq!(prefill, arch != Arch::OLDEST, "{ran:?}");
        }
    }
}

/// Narrow caches have no prefill kernel yet: they are the decode kernels' on Hopper too.
#[test]
fn narrow_caches_are_decoded() {
    for cache in CaseCache::all().filter(|cache| *cache != CaseCache::Own).step_by(7) {
        let shape = CaseShape { cache, group: 2, ..chunks(&[(40, 70), (1, 33)]) }.suited();
        let case = shape.build();
        let device = device(Arch::HOPPER, 1);
        let answers = judge(&device, &shape, &case, &[Splits::Auto]).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        assert!(answers[0].kernel.to_string().starts_with("decode_"), "{}", answers[0].kernel);
    }
}

/// A family that must answer does so right for query rows that another is preferred for.
#[test]
fn a_chosen_family_answers_any_number_of_rows() {
    for (turn, head_dim) in DIMS.into_iter().chain([512]).enumerate() {
        for (of, family) in [((1, 70), Family::Wgmma), ((70, 90), Family::Portable)] {
            let shape = CaseShape { head_dim, seed: 10 + turn as u64, ..chunks(&[of]) };
            let case = shape.build();
            let options = RunOptions { kernel: KernelChoice::Family(family), ..RunOptions::default() };
            let answer = answer(&device(Arch::HOPPER, shape.seed), &shape, &case, options).expect("a launch");
            assert_eq!(answer.kernel.family(), family, "{}", answer.kernel);
            Exact::new(&case).judge(&answer).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        }
    }
}

/// Kernels that are taken for many keys a row alone, where a simulator would be too long: around their tiles, in pages of every size.
#[test]
fn kernels_of_long_steps_are_right() {
    for (turn, page_size) in [1, 4, 16, 64, 1024].into_iter().enumerate() {
        let format = DType::ALL[turn % 2];
        let kernel = KernelId::named(&format!("prefill_d128_{format}_{format}_long")).expect("a kernel");
        let Role::Prefill { shape: of_kernel, .. } = kernel.info().role else {
            panic!("{kernel} is no prefill kernel")
        };
        let tile = of_kernel.tile_keys as usize;
        let of = [(70, tile - 1), (1, tile), (33, tile + 1), (0, 9), (5, 2 * tile + 1), (1, 1)];
        let mut shape = CaseShape { head_dim: 128, format, page_size, group: 2, seed: turn as u64, ..chunks(&of) };
        match turn {
            1 => shape.variant.left = Some(60),
            2 => shape.variant.right = None,
            3 => shape.variant.sinks = Some(SinkShape::Drawn),
            _ => (),
        }
        let case = shape.build();
        for splits in [Splits::Auto, Splits::Most] {
            let options = RunOptions { kernel: KernelChoice::Kernel(kernel), ..splits.into() };
            let answer = answer(&device(Arch::HOPPER, shape.seed), &shape, &case, options).expect("a launch");
            assert_eq!(answer.kernel, kernel);
            Exact::new(&case).judge(&answer).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        }
    }
}

/// Sequences of a few keys, of which a prompt has more than 64 query rows.
fn any_chunks() -> impl Strategy<Value = CaseShape> {
    let group = prop_oneof![1..=8_usize, 1..=64_usize];
    let others = proptest::collection::vec((0..=24_usize, 0..=150_usize), 0..=3);
    let place = (strategies::format(), strategies::page_size(), strategies::arrangement(), 1..=2_usize);
    let asked = (proptest::option::of(0..=150_u32), any::<bool>(), any::<bool>(), 0..=90_usize);
    (proptest::sample::select(DIMS.to_vec()), group, others, place, asked, any::<u64>().no_shrink()).prop_map(
        |(head_dim, group, others, (format, page_size, arrangement, kv_heads), (left, sinks, full, before), seed)| {
            let prompt = 65_usize.div_ceil(group) + before % 7;
            // Few rows besides: items are what takes time.
            let other = |(count, length): (usize, usize)| (count.min(130 / group), length);
            let of: Vec<_> = others.into_iter().map(other).chain([(prompt, prompt + before)]).collect();
            let mut shape = chunks(&of);
            shape.variant.left = left;
            shape.variant.sinks = sinks.then_some(SinkShape::Drawn);
            shape.variant.right = if full { None } else { Some(0) };
            CaseShape { head_dim, group, format, page_size, arrangement, kv_heads, seed, ..shape }
        },
    )
}

proptest! {
    #![proptest_config(config(16))]

    #[test]
    fn anything_drawn(shape in any_chunks(), splits in strategies::splits()) {
        let device = device(Arch::HOPPER, shape.seed);
        check(&device, &shape, &[splits]).map_err(TestCaseError::fail)?;
    }
}
