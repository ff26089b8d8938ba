//! Decode on the simulator against the f64 oracle, over what requests can be: head dimension, formats of queries and
//! cache, kinds of scales, group, page size, layout, lengths and splits. Everything that a kernel must not read is NaN or
//! a page id far outside.
//!
//! A case that failed once stays: its seed is written to `tests/decode.regressions`.
use common::judge::{Exact, bits};
use kernels_gpu::element::CacheKind;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use qkv::testing::case::{Arrangement, CaseShape};
use qkv::testing::paged::Paged;
use qkv::testing::run::{DeviceCase, RunOptions};
use qkv::testing::stored::{CaseCache, Fp8Kind};
use qkv::testing::strategies;
use qkv::testing::variant::{QueryCounts, VariantShape};
use qkv::{Arch, DType, Delivery, Device, Error, KernelChoice, KernelId, SimulatorOptions, Splits};

mod common;

/// So many cases, or as many as `PROPTEST_CASES` says.
fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|count| count.parse().ok());
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        failure_persistence: Some(Box::new(persistence)),
        ..ProptestConfig::default()
    }
}

fn device(delivery: Delivery, seed: u64, multiprocessors: u32) -> Device {
    Device::simulator_with(SimulatorOptions { delivery, seed, multiprocessors, ..SimulatorOptions::default() })
}

fn multiprocessors() -> impl Strategy<Value = u32> {
    proptest::sample::select(vec![1, 4, 7, 132])
}

fn check(shape: &CaseShape, splits: Splits, multiprocessors: u32) -> Result<(), TestCaseError> {
    let case = shape.build();
    let exact = Exact::new(&case);
    let paged = Paged::new(&case, shape.page_size, shape.arrangement, shape.seed);
    let wrong = |what: String| TestCaseError::fail(what);
    let late = device(Delivery::Latest, shape.seed, multiprocessors);
    let run = DeviceCase::new(&late, &case, &paged).map_err(|e| wrong(e.to_string()))?;
    let answer = |on: &DeviceCase<'_>, splits| {
        let answer = on.run(splits).map_err(|e| wrong(format!("{splits:?}: {e}")))?;
        exact.judge(&answer).map_err(|what| wrong(format!("{splits:?}: {what}")))?;
        Ok::<_, TestCaseError>(answer)
    };
    let whole = answer(&run, Splits::Never)?;
    prop_assert!(whole.splits <= 1, "{} splits where there should be none", whole.splits);
    answer(&run, Splits::Most)?;
    let first = answer(&run, splits)?;

    // The same plan again, copies delivered at once and blocks in another order: bitwise the same.
    let early = device(Delivery::Earliest, !shape.seed, multiprocessors);
    let again = answer(&DeviceCase::new(&early, &case, &paged).map_err(|e| wrong(e.to_string()))?, splits)?;
    prop_assert!(bits(&first) == bits(&again), "{splits:?}: another run, another answer");
    Ok(())
}

/// Every kind of cache and scales, at groups that users ship and others' kernels lack.
#[test]
fn every_kind_of_cache_at_groups_of_5_7_and_12() {
    for (index, cache) in CaseCache::all().enumerate() {
        for (turn, format) in DType::ALL.into_iter().enumerate() {
            let shape = CaseShape {
                format,
                cache,
                head_dim: [64, 128, 256, 512][(index + turn) % 4],
                kv_heads: 2,
                group: [5, 7, 12][(index + turn) % 3],
                page_size: [16, 4, 32][index % 3],
                arrangement: Arrangement::ALL[(index + turn) % 7],
                lengths: vec![97, 0, 33],
                variant: VariantShape::default(),
                sharpness: 1.0,
                seed: index as u64,
            };
            let shape = shape.suited();
            check(&shape, Splits::Auto, 4).unwrap_or_else(|what| panic!("{shape:?}: {what}"));
        }
    }
}

proptest! {
    #![proptest_config(config(96))]

    #[test]
    fn decode_is_what_the_oracle_says(
        shape in strategies::case(), splits in strategies::splits(), multiprocessors in multiprocessors()
    ) {
        check(&shape, splits, multiprocessors)?;
    }
}

/// The same of one query token a sequence and groups of up to 16: what kernels with clusters take.
fn of_few_rows(shape: CaseShape) -> CaseShape {
    let variant = VariantShape { queries: QueryCounts::One, ..shape.variant };
    CaseShape { group: 1 + (shape.group - 1) % 16, variant, ..shape }
}

/// Blocks of two KV heads that begin together, each with an item of its own, whole and in shares.
#[test]
fn neighbours_that_begin_together_are_what_the_oracle_says() {
    for (index, (kind, head_dim, group)) in [
        (CacheKind::Bf16, 64, 3),
        (CacheKind::Fp8E4M3, 128, 8),
        (CacheKind::Fp8E5M2, 64, 5),
        (CacheKind::Bf16, 128, 12),
    ]
    .into_iter()
    .enumerate()
    {
        let shape = CaseShape {
            format: DType::Bf16,
            cache: CaseCache::of_kind(kind, DType::Bf16, 0).expect("the list's kernels read their caches"),
            head_dim,
            kv_heads: 2,
            group,
            page_size: 16,
            arrangement: Arrangement::ALL[index],
            lengths: vec![40, 300, 0, 129],
            variant: VariantShape::default(),
            sharpness: 1.0,
            seed: index as u64,
        };
        let shape = shape.suited();
        let case = shape.build();
        let paged = Paged::new(&case, 16, shape.arrangement, 1);
        let options = SimulatorOptions { arch: Arch::HOPPER, multiprocessors: 2, ..SimulatorOptions::default() };
        let device = Device::simulator_with(options);
        let on = DeviceCase::new(&device, &case, &paged).expect("a case of the tests");
        for splits in [Splits::Never, Splits::Most] {
            let options = RunOptions { splits, cluster: Some(1), ..RunOptions::default() };
            let answer = on.run(options).expect("an answer");
            assert_eq!(answer.neighbours, 2, "{shape:?}");
            Exact::new(&case).judge(&answer).unwrap_or_else(|what| panic!("{splits:?} of {shape:?}: {what}"));
        }
    }
}

/// Rows of one query token as two items, each of blocks of a cluster: what a plan may make of 9 to 16 rows.
#[test]
fn rows_divided_among_two_clusters_are_what_the_oracle_says() {
    for (index, kind) in [CacheKind::Bf16, CacheKind::Fp8E4M3, CacheKind::NvFp4].into_iter().enumerate() {
        for (group, cluster) in [(9, 2), (16, 8), (12, 16)] {
            let shape = CaseShape {
                format: DType::Bf16,
                cache: CaseCache::of_kind(kind, DType::Bf16, 0).expect("the list's kernels read their caches"),
                head_dim: 512,
                kv_heads: 1,
                group,
                page_size: 16,
                arrangement: Arrangement::Nhd,
                lengths: vec![1000, 70],
                variant: VariantShape::default(),
                sharpness: 1.0,
                seed: index as u64,
            };
            let shape = shape.suited();
            let case = shape.build();
            let paged = Paged::new(&case, 16, Arrangement::Nhd, 1);
            let named = |kernel: &KernelId| kernel.to_string() == format!("decode_d512_bf16_{}_eight", kind.name());
            let kernel = KernelChoice::Kernel(KernelId::all().find(named).expect("a kernel for 8 rows"));
            let device = Device::simulator_with(SimulatorOptions { arch: Arch::HOPPER, ..SimulatorOptions::default() });
            let options = RunOptions { splits: Splits::Never, kernel, cluster: Some(cluster), ..RunOptions::default() };
            let answer = DeviceCase::new(&device, &case, &paged).and_then(|on| on.run(options)).expect("an answer");
            Exact::new(&case).judge(&answer).unwrap_or_else(|what| panic!("{group} rows of {shape:?}: {what}"));
        }
    }
}

proptest! {
    #![proptest_config(config(40))]

    /// Blocks of a cluster have a share together, in whatever order they run and copies are delivered.
    #[test]
    fn what_a_cluster_joins_is_what_the_oracle_says(
        shape in strategies::case().prop_map(of_few_rows),
        splits in strategies::splits(),
        cluster in proptest::sample::select(vec![2, 4, 8, 16]),
    ) {
        let case = shape.build();
        let exact = Exact::new(&case);
        let paged = Paged::new(&case, shape.page_size, shape.arrangement, shape.seed);
        let answer = |delivery, seed| {
            let hopper = SimulatorOptions { arch: Arch::HOPPER, delivery, seed, ..SimulatorOptions::default() };
            let device = Device::simulator_with(hopper);
            let options = RunOptions { splits, cluster: Some(cluster), ..RunOptions::default() };
            let answer = DeviceCase::new(&device, &case, &paged).and_then(|on| on.run(options));
            let answer = answer.map_err(|e| TestCaseError::fail(e.to_string()))?;
            exact.judge(&answer).map_err(TestCaseError::fail)?;
            Ok::<_, TestCaseError>(answer)
        };
        let (late, early) = (answer(Delivery::Latest, shape.seed)?, answer(Delivery::Earliest, !shape.seed)?);
        prop_assert!(bits(&late) == bits(&early), "another order, another answer");
    }
}

proptest! {
    #![proptest_config(config(32))]

    /// Lengths are read when the kernel runs: a plan for longer ones gives the same answer.
    #[test]
    fn a_plan_for_longer_sequences_serves(
        shape in strategies::case(), splits in strategies::splits(), more in proptest::collection::vec(0..=2usize, 4)
    ) {
        let case = shape.build();
        let paged = Paged::new(&case, shape.page_size, shape.arrangement, shape.seed);
        let device = device(Delivery::Latest, shape.seed, 4);
        let planned = shape.lengths.iter().zip(more).map(|(length, pages)| (length + pages * shape.page_size) as u32);
        let options = RunOptions { splits, planned: Some(planned.collect()), ..RunOptions::default() };
        let answer = DeviceCase::new(&device, &case, &paged).and_then(|on| on.run(options));
        let answer = answer.map_err(|e| TestCaseError::fail(e.to_string()))?;
        Exact::new(&case).judge(&answer).map_err(TestCaseError::fail)?;
    }

    /// What is appended is, byte for byte, what the reference quantiser stores, and is decoded as it. (An append makes
    /// scales a token and head of its own, and the reciprocal of a reciprocal is another number than the case's factor,
    /// which decides ties: kernels-gpu/tests/append.rs has these.)
    #[test]
    fn what_is_appended_is_decoded(
        shape in strategies::case().prop_filter("the case's own factors", |shape| match shape.cache {
            CaseCache::Fp8E4M3(kind) | CaseCache::Fp8E5M2(kind) => kind != Fp8Kind::TokenHead,
            CaseCache::NvFp4(kind) => !kind.divides,
            CaseCache::Own => true,
        }),
        splits in strategies::splits()
    ) {
        let case = shape.build();
        let paged = Paged::new(&case, shape.page_size, shape.arrangement, shape.seed);
        let device = device(Delivery::Latest, shape.seed, 4);
        let wrong = |e: Error| TestCaseError::fail(e.to_string());
        let on = DeviceCase::new(&device, &case, &paged.empty()).map_err(wrong)?;
        for (index, context) in case.contexts.iter().enumerate() {
            let [k, v] = &context.new;
            on.append([k, v], &paged.slots(index, context.tokens)).map_err(wrong)?;
        }
        let differs = on.differs(&paged).map_err(wrong)?;
        prop_assert!(differs.is_none(), "{}", differs.unwrap_or_default());
        Exact::new(&case).judge(&on.run(splits).map_err(wrong)?).map_err(TestCaseError::fail)?;
    }

    /// A checked launch refuses a page id out of range and names it; nothing is decoded.
    #[test]
    fn a_checked_launch_names_the_first_bad_page(
        shape in strategies::case().prop_filter("a page", |shape| shape.lengths.iter().any(|&length| length > 0)),
        at in any::<proptest::sample::Index>(), bad in proptest::sample::select(vec![-1, i32::MIN, i32::MAX, 0])
    ) {
        let case = shape.build();
        let mut paged = Paged::new(&case, shape.page_size, shape.arrangement, shape.seed);
        let used: Vec<(usize, usize)> = (0..shape.lengths.len())
            .flat_map(|s| (0..shape.lengths[s].div_ceil(shape.page_size)).map(move |page| (s, page)))
            .collect();
        let (sequence, page) = used[at.index(used.len())];
        let id = if bad == 0 { paged.pages as i32 } else { bad };
        let device = device(Delivery::Latest, shape.seed, 4);
        let options = RunOptions { checked: true, ..RunOptions::default() };
        let good = DeviceCase::new(&device, &case, &paged).and_then(|on| on.run(options.clone()));
        prop_assert!(good.is_ok(), "{good:?}");
        paged.block_table[sequence * paged.table_width + page] = id;
        let refused = DeviceCase::new(&device, &case, &paged).and_then(|on| on.run(options)).map(|_| ());
        let expected = Error::PageId { sequence, page, id, pages: paged.pages as u32 };
        prop_assert_eq!(refused.map_err(|e| e.to_string()), Err(expected.to_string()));
    }
}
