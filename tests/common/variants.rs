//! A case with variants on a device, judged: what the suites on the simulator and on a GPU share.
use super::judge::{Exact, bits};
use proptest::test_runner::{Config, FileFailurePersistence};
use qkv::testing::case::{Arrangement, Case, CaseShape};
use qkv::testing::paged::Paged;
use qkv::testing::run::{Answer, DeviceCase, RunOptions};
use qkv::testing::stored::CaseCache;
use qkv::testing::variant::VariantShape;
use qkv::{DType, Delivery, Device, SimulatorOptions, Splits};

/// Every head dimension.
pub const HEAD_DIMS: [usize; 4] = [64, 128, 256, 512];

/// As many cases as asked for by the environment, otherwise `cases`; seeds of failures are kept beside the suite.
pub fn config(cases: u32) -> Config {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|count| count.parse().ok());
    let persistence = FileFailurePersistence::WithSource("regressions");
    Config { cases: asked.unwrap_or(cases), failure_persistence: Some(Box::new(persistence)), ..Config::default() }
}

/// Every way that a sequence may be cut.
pub const SPLITS: [Splits; 4] = [Splits::Never, Splits::Auto, Splits::Most, Splits::FixedSize(48)];

/// A small case: 2 KV heads of 3 query heads at D = 128, three sequences.
pub fn small() -> CaseShape {
    CaseShape {
        format: DType::Bf16,
        cache: CaseCache::Own,
        head_dim: 128,
        kv_heads: 2,
        group: 3,
        page_size: 16,
        arrangement: Arrangement::Nhd,
        lengths: vec![130, 0, 47],
        variant: VariantShape::default(),
        sharpness: 1.0,
        seed: 1,
    }
}

/// A simulator, copies delivered as late as may be and the rest drawn from `seed`.
pub fn simulator(seed: u64) -> Device {
    Device::simulator_with(SimulatorOptions {
        delivery: Delivery::Latest,
        seed,
        multiprocessors: 4,
        ..Default::default()
    })
}

/// What `device` makes of `case` in pages laid out for `shape`, keys that nobody sees taken away.
pub fn answer(
    device: &Device,
    shape: &CaseShape,
    case: &Case,
    options: impl Into<RunOptions>,
) -> Result<Answer, String> {
    let mut paged = Paged::new(case, shape.page_size, shape.arrangement, shape.seed);
    paged.forget_unseen(case);
    DeviceCase::new(device, case, &paged).and_then(|on| on.run(options)).map_err(|error| error.to_string())
}

/// Judges `case` by the oracle, run as each of `splits`; gives the answers.
pub fn judge(device: &Device, shape: &CaseShape, case: &Case, splits: &[Splits]) -> Result<Vec<Answer>, String> {
    let exact = Exact::new(case);
    let mut answers = Vec::new();
    for &splits in splits {
        let answer = answer(device, shape, case, splits).map_err(|what| format!("{splits:?}: {what}"))?;
        exact.judge(&answer).map_err(|what| format!("{splits:?}, {}: {what}", answer.kernel))?;
        answers.push(answer);
    }
    Ok(answers)
}

/// As [`judge`], the case that `shape` stands for; a second run must have the same bits.
pub fn check(device: &Device, shape: &CaseShape, splits: &[Splits]) -> Result<(), String> {
    let case = shape.build();
    let answers = judge(device, shape, &case, splits)?;
    let again = answer(device, shape, &case, splits[0])?;
    if bits(&again) == bits(&answers[0]) { Ok(()) } else { Err("another run, another answer".into()) }
}

/// Whether `actual` is `single`, an f32 output, rounded to the case's output, bit for bit.
pub fn is_rounded(case: &Case, actual: &[f32], single: &[f32]) -> bool {
    let rounded = case.variants.output.round(case.format, single);
    actual.iter().map(|x| x.to_bits()).eq(rounded.iter().map(|x| x.to_bits()))
}

/// Whether two answers have the same bits, in words.
pub fn same_bits(what: &str, one: &Answer, other: &Answer) -> Result<(), String> {
    let (one, other) = (bits(one), bits(other));
    match one.iter().zip(&other).position(|(a, b)| a != b) {
        None if one.len() == other.len() => Ok(()),
        None => Err(format!("{what}: {} numbers and {}", one.len(), other.len())),
        Some(at) => {
            Err(format!("{what}: number {at} is {:?}, not {:?}", f32::from_bits(one[at]), f32::from_bits(other[at])))
        }
    }
}
