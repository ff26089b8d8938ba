//! An NVFP4 cache from bytes alone.
use qkv::{CacheLayout, CacheShape, DeviceSpan, Error, KvCache, NvFp4};

fn cache(span: DeviceSpan<'_>, shape: CacheShape) -> Result<KvCache<'_, NvFp4>, Error> {
    KvCache::<NvFp4>::new(span, span, shape, CacheLayout::Hnd)
}

fn typed(span: DeviceSpan<'_>, shape: CacheShape) -> Result<KvCache<'_, NvFp4>, Error> {
    KvCache::<NvFp4>::with_scales(span, span, shape, CacheLayout::Hnd, ())
}

fn main() {}
