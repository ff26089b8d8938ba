//! A cache of f16 in a request for bf16: no byte buffer changes its format on the way.
use qkv::{Bf16, BlockTable, CacheLayout, CacheShape, Decode, DeviceSpan, Error, F16, KvCache, Output, Query, SeqLens};

fn request(span: DeviceSpan<'_>, shape: CacheShape) -> Result<(), Error> {
    let cache = KvCache::<F16>::new(span, span, shape, CacheLayout::Nhd)?;
    let query = Query::<Bf16>::new(span, [1, 1, 64])?;
    let output = Output::<Bf16>::new(span, [1, 1, 64])?;
    Decode::<Bf16, Bf16>::new(query, cache, BlockTable::new(span, 1, 1)?, SeqLens::new(span, 1)?, output)?;
    Ok(())
}

fn main() {}
