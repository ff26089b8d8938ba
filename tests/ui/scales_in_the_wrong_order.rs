//! V's block scales in the order of tokens, for a cache whose order is four tokens at a time; and K's the other way.
use qkv::{BlockScales, Error, GlobalScale, Interleaved, KvCache, Linear, NvFp4, NvFp4Scales, RawCache};

fn cache<'a>(raw: RawCache<'a>, scales: NvFp4Scales<'a, Linear>) -> Result<KvCache<'a, NvFp4<Interleaved>>, Error> {
    raw.typed::<NvFp4<Interleaved>>(scales)
}

fn scales<'a>(k: BlockScales<'a, Interleaved>, v: BlockScales<'a, Interleaved>, global: GlobalScale<'a>) {
    NvFp4Scales::new(k, v, global, global);
}

fn main() {}
