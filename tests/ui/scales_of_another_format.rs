//! FP8's scales for an NVFP4 cache.
use qkv::{Error, Fp8Scales, KvCache, NvFp4, RawCache};

fn cache<'a>(raw: RawCache<'a>, scales: Fp8Scales<'a>) -> Result<KvCache<'a, NvFp4>, Error> {
    raw.typed::<NvFp4>(scales)
}

fn main() {}
