//! A request for bf16 queries of an f16 cache: two 16-bit formats do not meet.
use qkv::{Bf16, Decode, Error, F16, KvCache, Planned};

fn prepare<'r>(planned: &'r Planned<'r>, request: &Decode<'r, Bf16, F16>) -> Result<(), Error> {
    planned.prepare(request).map(|_| ())
}

fn reads<K: qkv::CacheFor<Bf16>>(_: KvCache<'_, K>) {}

fn given(cache: KvCache<'_, F16>) {
    reads(cache);
}

fn main() {}
