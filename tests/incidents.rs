//! What happened elsewhere, each with the error that it is here: caches taken for another format's, scales that were left
//! out, in another order or the other way up, layouts and pages that a format does not have, and requests that got
//! through to a kernel that was not there. Addresses are of no memory.
use qkv::{
    AnyKvCache, Arch, Bf16, BlockScales, BlockTable, CacheDType, CacheLayout, CacheScales, CacheShape, DType, Decode,
    DeviceSpan, Error, F16, Format, Fp8E4M3, Fp8E5M2, Fp8Scales, GlobalScale, HeadDim, Interleaved, KvCache, Linear,
    MAX_QUERY_TOKENS, Need, NvFp4, NvFp4Scales, Output, PackedLayout, Query, RawCache, ScaleOrder, SeqLens,
    TensorScale, Variant, support,
};

#[path = "incidents/chips.rs"]
mod chips;

const PAGES: usize = 3;

fn span(bytes: usize) -> DeviceSpan<'static> {
    at(4096, bytes)
}

fn at(address: u64, bytes: usize) -> DeviceSpan<'static> {
    // SAFETY: no work is launched with it.
    unsafe { DeviceSpan::new(address, bytes) }
}

fn shape(head_dim: HeadDim, page_size: usize, kv_heads: usize) -> CacheShape {
    CacheShape { pages: PAGES, page_size, kv_heads, head_dim }
}

/// Tokens times heads of a cache of 16 tokens a page and 2 heads.
const ROWS: usize = PAGES * 16 * 2;

fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error").to_string()
}

fn fp8() -> Fp8Scales<'static> {
    Fp8Scales::per_tensor(TensorScale::ONE, TensorScale::ONE)
}

fn one() -> GlobalScale<'static> {
    GlobalScale::multiplies(1.0).expect("1")
}

/// Scales in buffers of their own for `rows` tokens times heads.
fn separate<O: ScaleOrder>(head_dim: HeadDim, rows: usize) -> NvFp4Scales<'static, O> {
    let blocks = span(rows * head_dim.get() / 16);
    NvFp4Scales::new(BlockScales::hnd(blocks), BlockScales::hnd(blocks), one(), one())
}

fn in_pages<O: ScaleOrder>() -> NvFp4Scales<'static, O> {
    NvFp4Scales::in_pages(one(), one())
}

/// vLLM #38822: a `uint8` cache of FP8 went to a kernel that took `uint8` for NVFP4.
#[test]
fn fp8_bytes_offered_as_nvfp4() {
    for head_dim in HeadDim::ALL {
        let d = head_dim.get();
        let raw = RawCache::new(span(ROWS * d), span(ROWS * d), shape(head_dim, 16, 2), CacheLayout::Hnd);
        assert!(raw.typed::<Fp8E4M3>(fp8()).is_ok() && raw.typed::<Fp8E5M2>(fp8()).is_ok());
        for (needed, scales) in [(d / 2, separate::<Linear>(head_dim, ROWS)), (d / 2 + d / 16, in_pages())] {
            let text = format!(
                "k cache has {} bytes; its shape in nvfp4 needs {} (these are the bytes of fp8_e4m3 or fp8_e5m2)",
                ROWS * d,
                ROWS * needed
            );
            assert_eq!(message(raw.typed::<NvFp4>(scales)), text);
            assert_eq!(message(raw.named(CacheDType::NvFp4, CacheScales::NvFp4(scales))), text);
        }
        let packed = RawCache::packed(span(2 * ROWS * d), shape(head_dim, 16, 2), PackedLayout::PairHnd);
        assert!(packed.typed::<Fp8E4M3>(fp8()).is_ok());
        assert!(matches!(
            packed.typed::<NvFp4<Interleaved>>(in_pages()),
            Err(Error::CacheBytes { field: "packed cache", format: CacheDType::NvFp4, .. })
        ));
    }
}

#[test]
fn nvfp4_bytes_offered_as_fp8() {
    for head_dim in HeadDim::ALL {
        let d = head_dim.get();
        for bytes in [ROWS * d / 2, ROWS * (d / 2 + d / 16)] {
            let raw = RawCache::new(span(bytes), span(bytes), shape(head_dim, 16, 2), CacheLayout::Nhd);
            let text = format!(
                "k cache has {bytes} bytes; its shape in fp8_e5m2 needs {} (these are the bytes of nvfp4)",
                ROWS * d
            );
            assert_eq!(message(raw.typed::<Fp8E5M2>(fp8())), text);
            assert!(matches!(raw.named(CacheDType::Fp8E4M3, CacheScales::Fp8(fp8())), Err(Error::CacheBytes { .. })));
        }
    }
}

/// Neither are a 16-bit cache's bytes those of a narrow one, nor the reverse.
#[test]
fn sixteen_bit_bytes_offered_as_fp8() {
    let raw = |bytes| RawCache::new(span(bytes), span(bytes), shape(HeadDim::D128, 16, 2), CacheLayout::Nhd);
    let text = "k cache has 24576 bytes; its shape in fp8_e4m3 needs 12288 (these are the bytes of bf16 or fp16)";
    assert_eq!(message(raw(24576).typed::<Fp8E4M3>(fp8())), text);
    assert!(raw(24576).named(CacheDType::Bf16, CacheScales::None).is_ok_and(|c| matches!(c, AnyKvCache::Bf16(_))));
    assert!(matches!(raw(12288).typed::<Bf16>(()), Err(Error::CacheBytes { .. })));
    // No format's bytes.
    let text = "k cache has 12289 bytes; its shape in fp8_e4m3 needs 12288";
    assert_eq!(message(raw(12289).typed::<Fp8E4M3>(fp8())), text);
}

/// vLLM #38822: "kv_cache_sf must be provided for NVFP4 KV cache", at the first request. Here when the cache is made, of a
/// cache that really is NVFP4.
#[test]
fn nvfp4_without_scales() {
    let raw = RawCache::new(span(ROWS * 72), span(ROWS * 72), shape(HeadDim::D128, 16, 2), CacheLayout::Hnd);
    assert_eq!(
        message(raw.named(CacheDType::NvFp4, CacheScales::None)),
        "a cache of nvfp4 was given no scales; it needs block scales and a global scale of K and of V \
         (CacheScales::NvFp4 or NvFp4Interleaved)"
    );
    assert!(raw.named(CacheDType::NvFp4, CacheScales::NvFp4(in_pages())).is_ok());
}

#[test]
fn scales_of_another_format() {
    let raw = RawCache::new(span(ROWS * 72), span(ROWS * 72), shape(HeadDim::D128, 16, 2), CacheLayout::Hnd);
    let (narrow, four) = (CacheScales::Fp8(fp8()), CacheScales::NvFp4(in_pages()));
    let eight = CacheScales::NvFp4Interleaved(in_pages());
    for (dtype, scales) in [
        (CacheDType::NvFp4, narrow),
        (CacheDType::Fp8E4M3, four),
        (CacheDType::Fp8E5M2, eight),
        (CacheDType::Fp8E4M3, CacheScales::None),
        (CacheDType::Bf16, narrow),
        (CacheDType::F16, four),
    ] {
        let refused = raw.named(dtype, scales);
        assert!(matches!(refused, Err(Error::Scales { format, .. }) if format == dtype), "{dtype}: {refused:?}");
    }
}

/// vLLM #50288: V's block scales read in the other order are garbage. The order is in the cache's type, to the last.
#[test]
fn scales_in_the_wrong_order() {
    let raw = RawCache::new(span(ROWS * 72), span(ROWS * 72), shape(HeadDim::D128, 16, 2), CacheLayout::Hnd);
    let linear = raw.named(CacheDType::NvFp4, CacheScales::NvFp4(in_pages()));
    let interleaved = raw.named(CacheDType::NvFp4, CacheScales::NvFp4Interleaved(in_pages()));
    assert!(matches!(linear, Ok(AnyKvCache::NvFp4(_))));
    assert!(matches!(interleaved, Ok(AnyKvCache::NvFp4Interleaved(_))));
}

fn request<'a, Q: Format, K: qkv::CacheFor<Q>>(cache: KvCache<'a, K>) -> Result<Decode<'a, Q, K>, Error> {
    Decode::new(
        Query::new(span(1 << 16), [2, 8, 128])?,
        cache,
        BlockTable::new(span(1 << 10), 2, 4)?,
        SeqLens::new(span(1 << 10), 2)?,
        Output::new(span(1 << 16), [2, 8, 128])?,
    )
}

/// vLLM before #38822: layers that share another layer's cache (Gemma 4 E2B) skipped the step that gave the bytes their
/// format. Here the second layer has the first one's typed cache; there are no bytes to give a format to.
#[test]
fn a_kv_sharing_layer_borrows_the_typed_cache() -> Result<(), Error> {
    let shape = shape(HeadDim::D128, 16, 2);
    let scales = Fp8Scales::per_tensor(TensorScale::value(0.5)?, TensorScale::value(2.0)?);
    let owner: KvCache<'_, Fp8E4M3> =
        KvCache::with_scales(span(ROWS * 128), span(ROWS * 128), shape, CacheLayout::Nhd, scales)?;
    let sharing = owner;
    let (first, second) = (request::<Bf16, _>(owner)?, request::<Bf16, _>(sharing)?);
    assert_eq!(first.geometry(), second.geometry());
    assert_eq!(second.geometry().kv(), CacheDType::Fp8E4M3);
    assert_eq!(format!("{owner:?}"), format!("{sharing:?}"), "scales and all");
    Ok(())
}

/// vLLM #46329, #49011, #50288: NVFP4 broke when the cache's layout changed to rows of K and V side by side, and in NHD.
#[test]
fn nhd_and_packed_layouts_with_nvfp4() -> Result<(), Error> {
    let shape = shape(HeadDim::D128, 16, 2);
    let (one_side, both) = (span(ROWS * 72), span(2 * ROWS * 72));
    for layout in [CacheLayout::Nhd, CacheLayout::Hnd] {
        KvCache::<NvFp4>::with_scales(one_side, one_side, shape, layout, in_pages())?;
        let elements = span(ROWS * 64);
        KvCache::<NvFp4>::with_scales(elements, elements, shape, layout, separate(HeadDim::D128, ROWS))?;
    }
    for layout in [PackedLayout::PairNhd, PackedLayout::PairHnd] {
        KvCache::<NvFp4>::packed_with_scales(both, shape, layout, in_pages())?;
        let elements = span(2 * ROWS * 64);
        KvCache::<NvFp4>::packed_with_scales(elements, shape, layout, separate(HeadDim::D128, ROWS))?;
    }
    KvCache::<NvFp4<Interleaved>>::packed_with_scales(both, shape, PackedLayout::PairHnd, in_pages())?;
    for (layout, refused) in [
        (PackedLayout::PairNhd, "interleaved scales of V in NHD"),
        (PackedLayout::ContentNhd, "rows of K and V side by side (ContentNhd, ContentHnd)"),
        (PackedLayout::ContentHnd, "rows of K and V side by side (ContentNhd, ContentHnd)"),
    ] {
        let cache = KvCache::<NvFp4<Interleaved>>::packed_with_scales(both, shape, layout, in_pages());
        assert!(matches!(cache, Err(Error::Layout { layout, .. }) if layout == refused), "{layout:?}: {cache:?}");
    }
    let text =
        message(KvCache::<NvFp4<Interleaved>>::with_scales(one_side, one_side, shape, CacheLayout::Nhd, in_pages()));
    assert_eq!(
        text,
        "a cache of nvfp4 has no layout of interleaved scales of V in NHD; allowed: HND, where four tokens of a head are \
         together (CacheLayout::Hnd, PackedLayout::PairHnd)"
    );
    // Rows of K and V side by side are nothing special to FP8.
    for layout in [PackedLayout::PairNhd, PackedLayout::ContentNhd, PackedLayout::ContentHnd] {
        KvCache::<Fp8E5M2>::packed_with_scales(span(2 * ROWS * 128), shape, layout, fp8())?;
    }
    Ok(())
}

/// Refused when the cache is made, with the smallest page size that would do; not at the first request.
#[test]
fn a_page_size_that_does_not_suit() -> Result<(), Error> {
    fn offered<O: ScaleOrder>(
        head_dim: HeadDim,
        page_size: usize,
        heads: usize,
    ) -> Result<KvCache<'static, NvFp4<O>>, Error> {
        let rows = PAGES * page_size * heads;
        let both = span(2 * rows * head_dim.get() * 9 / 16);
        KvCache::packed_with_scales(both, shape(head_dim, page_size, heads), PackedLayout::PairHnd, in_pages())
    }
    assert_eq!(
        message(offered::<Linear>(HeadDim::D64, 1, 1)),
        "page_size is 1, too few for whole regions of nvfp4 with 1 kv_heads of 64; allowed: powers of two from 4 to 1024"
    );
    for (head_dim, page_size, heads, expected) in [
        (HeadDim::D64, 2, 1, Some(4)),
        (HeadDim::D64, 1, 2, Some(2)),
        (HeadDim::D64, 1, 4, None),
        (HeadDim::D64, 1, 3, Some(4)),
        (HeadDim::D128, 1, 1, Some(2)),
        (HeadDim::D256, 1, 1, None),
        (HeadDim::D512, 1, 3, None),
    ] {
        let found = match offered::<Linear>(head_dim, page_size, heads) {
            Ok(_) => None,
            Err(Error::PageSize { least, .. }) => Some(least),
            Err(other) => return Err(other),
        };
        assert_eq!(found, expected, "{head_dim}, pages of {page_size}, {heads} heads");
        if let Some(least) = expected {
            offered::<Linear>(head_dim, least, heads)?;
        }
    }
    // The interleaved order has four tokens together, whatever the alignment.
    for page_size in [1, 2] {
        let refused = offered::<Interleaved>(HeadDim::D512, page_size, 8);
        assert!(matches!(refused, Err(Error::PageSize { least: 4, .. })), "{refused:?}");
        let rows = PAGES * page_size * 8;
        let elements = span(rows * 256);
        let shape = shape(HeadDim::D512, page_size, 8);
        let scales = separate::<Interleaved>(HeadDim::D512, rows);
        let refused = KvCache::<NvFp4<Interleaved>>::with_scales(elements, elements, shape, CacheLayout::Hnd, scales);
        assert!(matches!(refused, Err(Error::PageSize { least: 4, .. })), "{refused:?}");
        // In the linear order any page size will do where scales are apart.
        let scales = separate::<Linear>(HeadDim::D512, rows);
        KvCache::<NvFp4>::with_scales(elements, elements, shape, CacheLayout::Hnd, scales)?;
    }
    offered::<Interleaved>(HeadDim::D64, 4, 1)?;
    Ok(())
}

/// "The global scale" is one number to vLLM's kernels and its reciprocal to quantisers.
#[test]
fn a_global_scale_and_its_reciprocal() -> Result<(), Error> {
    let shown = |scale: GlobalScale<'_>| format!("{scale:?}");
    assert_eq!(shown(GlobalScale::multiplies(300.0)?), "GlobalScale::Multiplies(300.0)");
    assert_eq!(shown(GlobalScale::divides(300.0)?), "GlobalScale::Divides(300.0)");
    assert!(shown(GlobalScale::multiplies_on_device(span(4))?).starts_with("GlobalScale::MultipliesAt"));
    assert!(shown(GlobalScale::divides_on_device(span(4))?).starts_with("GlobalScale::DividesAt"));
    for refused in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(GlobalScale::multiplies(refused).is_err() && GlobalScale::divides(refused).is_err(), "{refused}");
        assert!(TensorScale::value(refused).is_err(), "{refused}");
    }
    // 1 over it is infinite.
    assert!(GlobalScale::multiplies(1e-40).is_ok() && GlobalScale::divides(1e-40).is_err());
    assert!(matches!(
        GlobalScale::divides_on_device(at(4098, 4)),
        Err(Error::Misaligned { field: "global scale", multiple: 4, .. })
    ));
    assert!(matches!(TensorScale::on_device(span(3)), Err(Error::BufferTooSmall { needed: 4, .. })));
    Ok(())
}

/// A scale of K that the softmax scale overflows with is refused with the request, not found as NaN in its output.
#[test]
fn a_scale_that_overflows_with_the_softmax_scale() -> Result<(), Error> {
    let cache = |scale| {
        let scales = Fp8Scales::per_tensor(TensorScale::value(scale)?, TensorScale::ONE);
        let shape = shape(HeadDim::D128, 16, 2);
        KvCache::<Fp8E4M3>::with_scales(span(ROWS * 128), span(ROWS * 128), shape, CacheLayout::Nhd, scales)
    };
    assert!(request::<F16, _>(cache(1e38)?).is_ok());
    let refused = request::<F16, _>(cache(1e38)?)?.scale(100.0);
    assert!(matches!(refused, Err(Error::Value { field: "scale", .. })), "{refused:?}");
    assert!(request::<F16, _>(cache(1e-38)?)?.scale(1e-10).is_err(), "all scores would be 0");
    Ok(())
}

/// vLLM #48114: a list of head dimensions that knew nothing of architectures crashed older GPUs.
#[test]
fn head_dim_512_on_an_architecture_without_a_kernel() {
    let turing = Arch { major: 7, minor: 5 };
    let refused = support(turing, 512, DType::F16, DType::F16, 16, 8, Variant::PLAIN).expect_err("no kernel");
    assert_eq!(refused.needs, [Need::Arch { arch: turing }]);
    assert_eq!(refused.to_string(), "no kernel for architecture sm_7.5 (allowed: sm_8.0 and newer)".replace('.', ""));
}

/// Groups that users ship and others' kernels lack; that they are decoded right is
/// `every_kind_of_cache_at_groups_of_5_7_and_12` of `tests/decode.rs`.
#[test]
fn groups_of_5_7_and_12() {
    let ampere = Arch::OLDEST;
    for (group, head_dim) in [5, 7, 12].into_iter().flat_map(|group| HeadDim::ALL.map(|d| (group, d.get()))) {
        for dtype in DType::ALL {
            assert!(
                support(ampere, head_dim, dtype, dtype, 16, group, Variant::PLAIN).is_ok(),
                "{group} at {head_dim}"
            );
        }
    }
}

#[test]
fn a_query_length_that_no_kernel_covers() {
    for q_len in [0, MAX_QUERY_TOKENS + 1, usize::MAX] {
        let variant = Variant { q_len, ..Variant::PLAIN };
        let refused = support(Arch::OLDEST, 128, DType::Bf16, DType::Bf16, 16, 8, variant).expect_err("no kernel");
        assert_eq!(refused.needs, [Need::QueryLength { value: q_len }]);
        let allowed = "(allowed: 1 to 524288)";
        assert_eq!(refused.to_string(), format!("no kernel for {q_len} query tokens a sequence {allowed}"));
    }
    assert_eq!(Variant::default(), Variant::PLAIN);
}
