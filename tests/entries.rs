//! Every entry of the kernels' list is simulated, on a case that reaches each part of its loop: rings that wrap twice,
//! at least two shares a sequence, a tile cut by the length, two KV heads, shuffled pages.
use common::append;
use common::judge::{Exact, bits};
use kernels_gpu::config::{self, RowClass, Shape};
use kernels_gpu::element::CacheKind;
use kernels_gpu::kernels::{ENTRIES, Role};
use qkv::testing::case::{Arrangement, Case, CaseShape};
use qkv::testing::paged::Paged;
use qkv::testing::run::{Answer, DeviceCase, RunOptions};
use qkv::testing::stored::{CaseCache, Fp8Kind, NvFp4Kind};
use qkv::testing::variant::{CaseQuery, QueryCounts, VariantShape};
use qkv::{Arch, DType, Device, KernelChoice, KernelId, SimulatorOptions, Splits};
use std::collections::BTreeSet;

mod common;

/// Tokens of a share after which each team's ring has wrapped twice.
fn share_tokens(shape: &Shape) -> usize {
    ((2 * shape.stages() + 1) * shape.teams * shape.tile_keys) as usize
}

fn case_for(shape: &Shape, rows: RowClass, format: DType, kv: CacheKind) -> CaseShape {
    // A sequence of two shares and a part of a tile, one of one, and none at all.
    let share = share_tokens(shape);
    let group = match rows {
        RowClass::Eight => 5,
        RowClass::Few => 13,
        // More rows than a block's 32 at D = 512, where a second item begins past the first; elsewhere all of its 64.
        RowClass::Many => shape.rows() as usize + 3,
    };
    let case = CaseShape {
        format,
        // One kind of scales for each head dimension and row class.
        cache: CaseCache::of_kind(kv, format, u64::from(shape.head_dim / 64) + rows as u64)
            .expect("the list's kernels read their caches"),
        head_dim: shape.head_dim as usize,
        kv_heads: 2,
        group: group.min(64),
        page_size: 16,
        arrangement: Arrangement::Nhd,
        lengths: vec![2 * share + shape.tile_keys as usize / 2 + 1, share, 0],
        variant: VariantShape::default(),
        sharpness: 1.0,
        seed: u64::from(shape.head_dim),
    };
    case.suited()
}

#[test]
fn every_entry_of_the_list_is_simulated() {
    let device = Device::simulator();
    let mut decoded = BTreeSet::new();
    for entry in ENTRIES {
        let Role::Decode { shape, rows, q, kv } = entry.role else { continue };
        let format: DType = q.name().parse().expect("the list's formats are the library's");
        let numbers = case_for(&shape, rows, format, kv);
        let case = numbers.build();
        let paged = Paged::new(&case, numbers.page_size, numbers.arrangement, numbers.seed);
        let table = &paged.block_table[..numbers.lengths[0].div_ceil(16)];
        assert!(table.windows(2).any(|w| w[1] != w[0] + 1), "{}: pages in order", entry.name);

        let on = DeviceCase::new(&device, &case, &paged).expect(entry.name);
        let splits = Splits::FixedSize(share_tokens(&shape) as u32);
        let answer = on.run(RunOptions { splits, checked: true, ..RunOptions::default() }).expect(entry.name);
        assert_eq!(answer.kernel.to_string(), entry.name);
        assert!(answer.splits >= 2, "{}: {} shares", entry.name, answer.splits);
        let exact = Exact::new(&case);
        let error = exact.judge(&answer).unwrap_or_else(|what| panic!("{}: {what}", entry.name));
        let bound = exact.tolerance().expect("a sequence");
        println!("{}: {} shares, error {error:.2e}, bound {bound}", entry.name, answer.splits);
        let again = on.run(splits).expect(entry.name);
        assert!(bits(&answer) == bits(&again), "{}: another run, another answer", entry.name);
        decoded.insert(entry.name);
    }
    println!("{} decode entries", decoded.len());
    for entry in ENTRIES {
        for case in append::cases(&entry.role) {
            let kernel = append::check(&device, &case).unwrap_or_else(|what| panic!("{}: {what}", entry.name));
            assert_eq!(kernel.to_string(), entry.name);
        }
    }

    let simulated: BTreeSet<String> =
        device.simulated().expect("a simulator").iter().map(ToString::to_string).collect();
    let listed = ENTRIES.iter().filter(|entry| !matches!(entry.role, Role::Prefill { .. }));
    let listed: BTreeSet<String> = listed.map(|entry| entry.name.to_owned()).collect();
    assert_eq!(simulated, listed);
}

/// Those of some chips likewise: a block's second item begins in the middle of its rings, which have wrapped twice by then.
#[test]
fn every_prefill_entry_is_simulated() {
    let on = |arch| {
        let options = SimulatorOptions { arch, multiprocessors: 2, ..SimulatorOptions::default() };
        Device::simulator_with(options)
    };
    let (hopper, blackwell) = (on(Arch::HOPPER), on(Arch { major: 10, minor: 0 }));
    for entry in ENTRIES {
        let device = if entry.hopper() { &hopper } else { &blackwell };
        let Role::Prefill { shape, q, kv, .. } = entry.role else { continue };
        let (format, query) = CaseQuery::of_kind(q);
        let tile = shape.tile_keys as usize;
        let share = (2 * shape.stages as usize + 1) * tile;
        // A little more than an item's rows, of three heads.
        let tokens = shape.tiling().rows as usize / 3 + 1;
        let numbers = CaseShape {
            format,
            cache: CaseCache::of_kind(kv, format, 0).expect("the list's kernels read their caches"),
            head_dim: shape.head_dim as usize,
            kv_heads: 2,
            group: 3,
            page_size: 16,
            arrangement: Arrangement::Nhd,
            lengths: vec![2 * share + tile / 2 + 1, 0],
            variant: VariantShape { query, queries: QueryCounts::Ragged(vec![tokens, 1]), ..VariantShape::default() },
            sharpness: 1.0,
            seed: u64::from(shape.head_dim),
        };
        let case = numbers.build();
        let paged = Paged::new(&case, numbers.page_size, numbers.arrangement, numbers.seed);
        let on = DeviceCase::new(device, &case, &paged).expect(entry.name);
        let splits = Splits::FixedSize(share as u32);
        let kernel = KernelChoice::Kernel(KernelId::named(entry.name).expect("the list's"));
        let options = |checked| RunOptions { splits, checked, kernel, ..RunOptions::default() };
        let answer = on.run(options(true)).expect(entry.name);
        assert_eq!(answer.kernel.to_string(), entry.name);
        assert!(answer.splits >= 2, "{}: {} shares", entry.name, answer.splits);
        let error = Exact::new(&case).judge(&answer).unwrap_or_else(|what| panic!("{}: {what}", entry.name));
        println!("{}: {} shares, error {error:.2e}", entry.name, answer.splits);
        let again = on.run(options(false)).expect(entry.name);
        assert!(bits(&answer) == bits(&again), "{}: another run, another answer", entry.name);
    }
    let simulated: BTreeSet<_> =
        [hopper, blackwell].iter().flat_map(|device| device.simulated().expect("a simulator")).collect();
    for entry in ENTRIES.iter().filter(|entry| entry.prefills()) {
        assert!(simulated.iter().any(|kernel| kernel.to_string() == entry.name), "{}", entry.name);
    }
}

/// The judge itself: what it must refuse.
#[test]
fn a_wrong_answer_is_refused() {
    let shape = config::shape(64, RowClass::Few, CacheKind::Bf16);
    let numbers =
        CaseShape { lengths: vec![1, 300, 0], ..case_for(&shape, RowClass::Few, DType::Bf16, CacheKind::Bf16) };
    let case = numbers.build();
    let paged = Paged::new(&case, numbers.page_size, numbers.arrangement, numbers.seed);
    let device = Device::simulator();
    let good = DeviceCase::new(&device, &case, &paged).and_then(|on| on.run(Splits::Auto)).expect("a launch");
    let exact = Exact::new(&case);
    exact.judge(&good).expect("a good answer");
    let token = case.q_heads * case.head_dim;
    // The long sequence's outputs are smaller than those of the one key beside it.
    let largest = |sequence: usize| good.out[sequence * token..][..token].iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let (short, long) = (largest(0), largest(1));
    assert!(long < short / 3.0, "{long} {short}");
    let last = good.out.len() - 1;
    type Spoil<'a> = &'a dyn Fn(&mut Answer);
    let spoilt: [(&str, Spoil<'_>); 11] = [
        ("one element of one key off by 1 % of the largest", &|a| a.out[0] += 0.01 * short),
        ("one element of many keys off by 2 % of the largest", &|a| a.out[token] += 0.02 * long),
        ("a NaN", &|a| a.out[1] = f32::NAN),
        ("an infinity in a row without keys", &|a| a.out[last] = f32::INFINITY),
        ("1e-6 in a row without keys", &|a| a.out[last] = 1e-6),
        ("an output missing", &|a| a.out.truncate(last)),
        ("an lse missing", &|a| a.lse.truncate(a.lse.len() - 1)),
        ("an lse too many", &|a| a.lse.push(0.0)),
        ("an lse off by 1e-3", &|a| a.lse[0] += 1e-3),
        ("a finite lse without keys", &|a| *a.lse.last_mut().expect("one") = 0.0),
        ("a write outside", &|a| a.strayed = true),
    ];
    for (what, spoil) in spoilt {
        let mut answer = good.clone();
        spoil(&mut answer);
        assert!(exact.judge(&answer).is_err(), "{what} was taken");
    }
}

/// Scales in the other order, a reciprocal, K's factor for V's, and a format's codes as the other's: what types keep apart
/// here is no close call for the judge.
#[test]
fn a_cache_read_another_way_is_refused() {
    let device = Device::simulator();
    let kind = NvFp4Kind { interleaved: true, in_pages: false, divides: false, on_device: false };
    let fp8 = CaseCache::Fp8E4M3(Fp8Kind::Tensor);
    type Spoil<'a> = &'a dyn Fn(&mut Case);
    let spoilt: [(&str, CaseCache, Spoil<'_>); 6] = [
        ("blocks of V in the order of tokens", CaseCache::NvFp4(kind), &|case| {
            case.cache = CaseCache::NvFp4(NvFp4Kind { interleaved: false, ..kind });
        }),
        ("a reciprocal of V's global scale", CaseCache::NvFp4(kind), &|case| case.factors[1] = 1.0 / case.factors[1]),
        ("a reciprocal of K's", CaseCache::NvFp4(kind), &|case| case.factors[0] = 1.0 / case.factors[0]),
        ("V's scale off by 3 %", fp8, &|case| case.factors[1] *= 1.03),
        ("K's scale off by 20 %", fp8, &|case| case.factors[0] *= 1.2),
        ("e4m3 as e5m2", fp8, &|case| case.cache = CaseCache::Fp8E5M2(Fp8Kind::Tensor)),
    ];
    for (what, cache, spoil) in spoilt {
        let shape = config::shape(128, RowClass::Few, CacheKind::NvFp4);
        let base = case_for(&shape, RowClass::Few, DType::F16, CacheKind::NvFp4);
        let numbers = CaseShape { cache, arrangement: Arrangement::Hnd, lengths: vec![1, 100], ..base };
        let mut case = numbers.build();
        let paged = Paged::new(&case, numbers.page_size, numbers.arrangement, numbers.seed);
        let exact = Exact::new(&case);
        let run = |case: &Case| DeviceCase::new(&device, case, &paged).and_then(|on| on.run(Splits::Auto));
        exact.judge(&run(&case).expect("a launch")).expect("a good answer");
        spoil(&mut case);
        let refused = exact.judge(&run(&case).expect("a launch"));
        assert!(refused.is_err(), "{what}: {refused:?}");
    }
}
