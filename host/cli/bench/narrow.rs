//! e4m3 queries: which caches go with them, and what their results may be off by.
use super::cases::Case;
use super::inputs::Normals;
use super::{BenchError, LARGEST_ERROR, Measured, timing};
use crate::{Bf16, CacheDType, Device, Error, Fp8E4M3, Need, QueryDType, Unsupported};

/// As [`LARGEST_ERROR`]. P has 4 bits of a significand, and an output is off by a thirtieth, some of its elements by three times that.
const LARGEST_NARROW_ERROR: f64 = 0.06;

/// Above which a case's error is no rounding any more.
pub const fn largest_error(case: &Case) -> f64 {
    if case.asked.narrow { LARGEST_NARROW_ERROR } else { LARGEST_ERROR }
}

/// The one format of queries that is asked for: others go with the cache's.
///
/// # Errors
/// Any other name.
pub fn queries(name: &str) -> Result<QueryDType, String> {
    match name {
        "e4m3" => Ok(QueryDType::Fp8E4M3),
        _ => Err("allowed: e4m3".into()),
    }
}

/// As [`timing::measure`], with a cache that such queries read.
///
/// # Errors
/// Another cache, and as there.
pub fn measure(device: &Device, case: &Case, normals: &Normals) -> Result<Measured, BenchError> {
    let kv = match case.kv.as_str() {
        "e4m3" => return timing::measure::<Bf16, Fp8E4M3, Fp8E4M3>(device, case, normals),
        "bf16" => CacheDType::Bf16,
        "f16" => CacheDType::F16,
        "e5m2" => CacheDType::Fp8E5M2,
        "nvfp4" => CacheDType::NvFp4,
        _ => return Err(BenchError::CacheFormat { format: case.kv.clone() }),
    };
    Err(Error::from(Unsupported { needs: vec![Need::Formats { q: QueryDType::Fp8E4M3, kv }] }).into())
}

#[cfg(test)]
mod tests {
    use super::super::cases::{Cases, Narrowed};
    use super::*;

    #[test]
    fn other_caches_are_refused() {
        let file = r#"{"models": {"m": {"d": 128, "hq": 8, "hkv": 1}},
            "prefill": {"page": 16, "loads": [[1, 8]], "causal": [true]}}"#;
        let cases = Cases::parse(file.as_bytes()).expect("a file of cases");
        let refused = |kv: &str| {
            let narrowed = Narrowed { kv: &[kv.to_owned()], ..Narrowed::default() };
            let mut case = cases.prefill_cases(narrowed, None).expect("cases").remove(0);
            case.asked.narrow = true;
            assert!(largest_error(&case) > LARGEST_ERROR);
            measure(&Device::simulator(), &case, &Normals::draw(64)).expect_err("no kernel").to_string()
        };
        assert_eq!(refused("bf16"), "no kernel for q e4m3 with a bf16 cache (allowed: fp8_e4m3)");
        assert_eq!(refused("int8"), "cache format int8 (allowed: bf16, f16, e4m3, e5m2, nvfp4)");
        assert_eq!(queries("bf16"), Err("allowed: e4m3".to_owned()));
    }
}
