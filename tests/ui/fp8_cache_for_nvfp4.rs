//! An FP8 cache where an NVFP4 one is asked for.
use qkv::{Fp8E4M3, KvCache, NvFp4};

fn wants(_: KvCache<'_, NvFp4>) {}

fn gives(cache: KvCache<'_, Fp8E4M3>) {
    wants(cache);
}

fn main() {}
