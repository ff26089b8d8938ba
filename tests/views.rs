//! What bad input gets: a typed error that names the field, its value and what is allowed, before anything is launched.
//! Addresses here are of no memory: a view that is refused, or only looked at, never touches them.
use qkv::{
    Bf16, BlockScales, BlockTable, CacheDType, CacheFormat, CacheLayout, CacheShape, DType, Decode, DeviceSpan, Error,
    F16, Fp8E4M3, Fp8E5M2, Fp8Scales, Geometry, GlobalScale, HeadDim, Interleaved, KvCache, Linear, Lse, NvFp4,
    NvFp4Scales, Output, PackedLayout, Query, ScaleOrder, SeqLens, TokenScales, check_page_table,
};

/// `bytes` at an address that nothing is read from.
fn span(bytes: usize) -> DeviceSpan<'static> {
    at(4096, bytes)
}

fn at(address: u64, bytes: usize) -> DeviceSpan<'static> {
    // SAFETY: no work is launched with it.
    unsafe { DeviceSpan::new(address, bytes) }
}

fn shape(pages: usize, page_size: usize, kv_heads: usize) -> CacheShape {
    CacheShape { pages, page_size, kv_heads, head_dim: HeadDim::D128 }
}

fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn head_dim_96() {
    assert_eq!(message(HeadDim::try_from(96)), "head_dim is 96; allowed: 64, 128, 256, 512");
    assert!(matches!(Query::<Bf16>::new(span(4096), [1, 1, 96]), Err(Error::HeadDim { value: 96 })));
    let geometry = Geometry::new(96, [8, 2], 16, DType::Bf16, DType::Bf16);
    assert!(matches!(geometry, Err(Error::HeadDim { value: 96 })));
}

#[test]
fn heads_that_do_not_divide() {
    for (q_heads, kv_heads) in [(7, 2), (0, 1), (8, 0), (65, 1), (130, 2)] {
        let geometry = Geometry::new(128, [q_heads, kv_heads], 16, DType::Bf16, DType::Bf16);
        assert!(matches!(geometry, Err(Error::Heads { .. })), "{q_heads} over {kv_heads}");
    }
    let text = message(Geometry::new(128, [7, 2], 16, DType::F16, DType::F16));
    assert_eq!(text, "q_heads is 7 with 2 kv_heads; allowed: a multiple of kv_heads, at most 64 times as many");
}

#[test]
fn page_size_24() {
    let text = "page_size is 24; allowed: powers of two from 1 to 1024";
    assert_eq!(message(Geometry::new(128, [8, 2], 24, DType::F16, DType::F16)), text);
    let cache = KvCache::<F16>::new(span(1 << 20), span(1 << 20), shape(2, 24, 2), CacheLayout::Nhd);
    assert_eq!(message(cache), text);
    assert_eq!(message(check_page_table(&[], 0, &[], 24, 1)), text);
}

#[test]
fn a_buffer_too_short_for_its_view() {
    let text = message(Query::<Bf16>::new(span(2 * 3 * 4 * 128 - 1), [3, 4, 128]));
    assert_eq!(text, "query has 3071 bytes; its shape and strides need 3072");
    assert!(Query::<Bf16>::new(span(3072), [3, 4, 128]).is_ok());
    let bytes = 2 * 5 * 16 * 2 * 128;
    let cache = |k, v| KvCache::<Bf16>::new(span(k), span(v), shape(5, 16, 2), CacheLayout::Hnd);
    assert_eq!(
        message(cache(bytes, bytes - 2)),
        format!("v cache has {} bytes; its shape and strides need {bytes}", bytes - 2)
    );
    assert!(cache(bytes, bytes).is_ok());
    assert!(matches!(BlockTable::new(span(4 * 6 - 1), 2, 3), Err(Error::BufferTooSmall { needed: 24, .. })));
    assert!(matches!(SeqLens::new(span(7), 2), Err(Error::BufferTooSmall { needed: 8, .. })));
    assert!(matches!(Lse::new(span(31), 2, 4), Err(Error::BufferTooSmall { needed: 32, .. })));
    assert!(matches!(span(8).slice(4, 5), Err(Error::BufferTooSmall { needed: 9, .. })));
}

#[test]
fn misaligned_addresses_and_strides() {
    let text = message(Query::<Bf16>::new(at(4104, 3072), [3, 4, 128]));
    assert_eq!(text, "query is 4104 bytes; allowed: multiples of 16");
    // 516 elements are 1032 bytes.
    let text = message(Output::<Bf16>::with_strides(span(1 << 20), [3, 4, 128], [516, 128]));
    assert_eq!(text, "output token stride is 1032 bytes; allowed: multiples of 16");
    let strides = CacheLayout::Strides { k: [2 * 16 * 132, 2 * 132, 132], v: [4096, 256, 128] };
    let cache = KvCache::<F16>::new(span(1 << 20), span(1 << 20), shape(2, 16, 2), strides);
    assert!(matches!(cache, Err(Error::Misaligned { field: "k head stride", bytes: 264, multiple: 16 })));
    assert!(matches!(SeqLens::new(at(4098, 64), 2), Err(Error::Misaligned { multiple: 4, .. })));
}

#[test]
fn overlapping_strides() {
    let text = message(Output::<F16>::with_strides(span(1 << 20), [3, 4, 128], [256, 128]));
    assert_eq!(text, "output token stride: a stride of 256 elements over 3 elements overlaps; allowed: at least 512");
    let query = Query::<F16>::with_strides(span(1 << 20), [3, 4, 128], [512, 64]);
    assert!(matches!(query, Err(Error::Overlap { field: "query head stride", least: 128, .. })));
    let strides = CacheLayout::Strides { k: [4096, 256, 128], v: [4096, 256, 0] };
    let cache = KvCache::<F16>::new(span(1 << 20), span(1 << 20), shape(2, 16, 2), strides);
    assert!(matches!(cache, Err(Error::Overlap { field: "v head stride", stride: 0, .. })));
    assert!(matches!(BlockTable::with_stride(span(4096), 2, 8, 7), Err(Error::Overlap { least: 8, .. })));
}

#[test]
fn strides_along_single_entries_do_not_count() {
    // A framework's stride of an axis with one entry is arbitrary.
    assert!(Query::<F16>::with_strides(span(2 * 4 * 128), [1, 4, 128], [usize::MAX, 128]).is_ok());
    let strides = CacheLayout::Strides { k: [2048, 128, 1], v: [2048, 128, 7] };
    assert!(KvCache::<F16>::new(span(8192), span(8192), shape(2, 16, 1), strides).is_ok());
    assert!(BlockTable::with_stride(span(32), 1, 8, 0).is_ok());
}

#[test]
fn empty_views_need_no_memory() {
    assert!(Query::<F16>::new(at(0, 0), [0, 4, 128]).is_ok());
    assert!(KvCache::<F16>::new(at(0, 0), at(0, 0), shape(0, 16, 2), CacheLayout::Nhd).is_ok());
    assert!(KvCache::<F16>::packed(at(0, 0), shape(0, 16, 2), PackedLayout::PairNhd).is_ok());
    assert!(BlockTable::new(at(0, 0), 0, 8).is_ok());
}

#[test]
fn sizes_that_overflow() {
    let huge = usize::MAX / 4;
    assert!(matches!(Query::<F16>::new(span(16), [huge, 4, 128]), Err(Error::TooLarge { field: "query" })));
    let cache = KvCache::<F16>::new(span(16), span(16), shape(huge, 16, 2), CacheLayout::Nhd);
    assert!(matches!(cache, Err(Error::TooLarge { .. })));
    let cache = KvCache::<F16>::packed(span(16), shape(huge, 16, huge), PackedLayout::PairHnd);
    assert!(matches!(cache, Err(Error::TooLarge { .. })));
    assert!(matches!(BlockTable::new(span(16), huge, huge), Err(Error::TooLarge { .. })));
    assert!(matches!(Lse::new(span(16), huge, huge), Err(Error::TooLarge { .. })));
    assert!(matches!(SeqLens::new(span(16), usize::MAX), Err(Error::TooLarge { .. })));
    // Strides of a view without elements are never used, and not multiplied either.
    assert!(Query::<F16>::with_strides(span(16), [0, 2, 64], [0, usize::MAX]).is_ok());
    let strides = CacheLayout::Strides { k: [0, usize::MAX, 64], v: [usize::MAX; 3] };
    assert!(KvCache::<F16>::new(span(16), span(16), shape(0, 16, 2), strides).is_ok());
    // An address range past the end of memory.
    assert!(matches!(Query::<F16>::new(at(u64::MAX - 15, 4096), [1, 1, 128]), Err(Error::TooLarge { .. })));
}

#[test]
fn packed_layouts_hold_both_sides() {
    let bytes = 2 * 2 * 3 * 16 * 2 * 128;
    for layout in [PackedLayout::PairNhd, PackedLayout::PairHnd, PackedLayout::ContentNhd, PackedLayout::ContentHnd] {
        assert!(KvCache::<F16>::packed(span(bytes), shape(3, 16, 2), layout).is_ok(), "{layout:?}");
        // One byte short, V's last row does not fit.
        let short = KvCache::<F16>::packed(span(bytes - 1), shape(3, 16, 2), layout);
        assert!(matches!(short, Err(Error::BufferTooSmall { .. })), "{layout:?}");
    }
}

fn request(
    tokens: usize,
    heads: [usize; 2],
    batch: usize,
    page_size: usize,
) -> Result<Decode<'static, F16, F16>, Error> {
    let [q_heads, kv_heads] = heads;
    Decode::new(
        Query::new(span(1 << 20), [tokens, q_heads, 128])?,
        KvCache::new(span(1 << 20), span(1 << 20), shape(4, page_size, kv_heads), CacheLayout::Nhd)?,
        BlockTable::new(span(1 << 10), batch, 4)?,
        SeqLens::new(span(1 << 10), batch)?,
        Output::new(span(1 << 20), [tokens, q_heads, 128])?,
    )
}

#[test]
fn parts_that_disagree() {
    assert!(request(3, [8, 2], 3, 16).is_ok());
    assert_eq!(message(request(3, [8, 2], 4, 16)), "query tokens is 3, but seq_lens batch is 4; they must be equal");
    assert!(matches!(request(3, [7, 2], 3, 16), Err(Error::Heads { q_heads: 7, kv_heads: 2 })));
    let lse = request(3, [8, 2], 3, 16).and_then(|r| r.lse(Lse::new(span(1 << 10), 3, 7)?));
    assert_eq!(message(lse), "lse q_heads is 7, but query heads is 8; they must be equal");
    let scaled = |scale| request(3, [8, 2], 3, 16).and_then(|r| r.scale(scale));
    assert_eq!(message(scaled(f32::NAN)), "scale is NaN; allowed: above 0, at most 2.3e38");
    // 3e38 is finite, and times log2(e) it is not.
    for refused in [0.0, -0.125, f32::INFINITY, f32::NEG_INFINITY, 3e38] {
        assert!(matches!(scaled(refused), Err(Error::Value { field: "scale", .. })), "{refused}");
    }
    assert!(scaled(1.0).is_ok() && scaled(2.3e38).is_ok() && scaled(1e-30).is_ok());
}

#[test]
fn page_ids_out_of_range() -> Result<(), Error> {
    let lengths = [33, 0, 16];
    let mut table = [0, 4, 2, -1, 2_147_480_000, 9, 3, -7, 7];
    // Only the first ceil(length / 16) of each row of three count.
    check_page_table(&table, 3, &lengths, 16, 5)?;
    assert!(matches!(
        check_page_table(&table, 3, &lengths, 16, 4),
        Err(Error::PageId { sequence: 0, page: 1, id: 4, pages: 4 })
    ));
    table[6] = -3;
    let text = "block_table[2][0] is -3; allowed: 0 to 4 (the cache has 5 pages)";
    assert_eq!(message(check_page_table(&table, 3, &lengths, 16, 5)), text);
    let narrow = check_page_table(&table[..6], 2, &lengths, 16, 5);
    assert!(matches!(narrow, Err(Error::BlockTableTooNarrow { max_pages: 2, sequence: 0, needed: 3, .. })));
    let short = check_page_table(&table[..8], 3, &lengths, 16, 5);
    assert!(matches!(short, Err(Error::Mismatch { value: 8, expected: 9, .. })));
    Ok(())
}

#[test]
fn an_unknown_dtype_is_told_the_known_ones() {
    let text = "dtype is \"fp4\"; allowed: bf16, f16 (or fp16)";
    assert_eq!(message("fp4".parse::<DType>()), text);
}

const PAGES: usize = 3;

/// Tokens times heads of [`PAGES`] pages of 16 tokens and 2 heads.
const ROWS: usize = PAGES * 16 * 2;

fn one() -> GlobalScale<'static> {
    GlobalScale::multiplies(1.0).expect("1")
}

/// Block scales in buffers of their own.
fn separate() -> NvFp4Scales<'static, Linear> {
    NvFp4Scales::new(BlockScales::hnd(span(ROWS * 8)), BlockScales::hnd(span(ROWS * 8)), one(), one())
}

#[test]
fn scales_that_do_not_fit_the_cache() -> Result<(), Error> {
    let shape = shape(PAGES, 16, 2);
    let eight =
        |scales| KvCache::<Fp8E4M3>::with_scales(span(ROWS * 128), span(ROWS * 128), shape, CacheLayout::Nhd, scales);
    let good = TokenScales::new(span(4 * ROWS));
    eight(Fp8Scales::per_token_head(good, good))?;
    let text = message(eight(Fp8Scales::per_token_head(good, TokenScales::new(span(4 * ROWS - 4)))));
    assert_eq!(text, format!("v scales has {} bytes; its shape needs exactly {}", 4 * ROWS - 4, 4 * ROWS));
    let strided = |strides| eight(Fp8Scales::per_token_head(TokenScales::with_strides(span(1 << 16), strides), good));
    strided([64, 3, 1])?;
    assert!(matches!(strided([32, 1, 1]), Err(Error::Overlap { field: "k scales' head stride", .. })));
    let odd = TokenScales::new(at(4098, 4 * ROWS));
    assert!(matches!(eight(Fp8Scales::per_token_head(odd, good)), Err(Error::Misaligned { multiple: 4, .. })));

    let elements = span(ROWS * 64);
    fn four<O: ScaleOrder>(
        elements: DeviceSpan<'static>,
        shape: CacheShape,
        v: BlockScales<'static, O>,
    ) -> Result<KvCache<'static, NvFp4<O>>, Error> {
        let scales = NvFp4Scales::new(BlockScales::nhd(span(ROWS * 8)), v, one(), one());
        KvCache::with_scales(elements, elements, shape, CacheLayout::Nhd, scales)
    }
    four::<Linear>(elements, shape, BlockScales::nhd(span(ROWS * 8)))?;
    four::<Interleaved>(elements, shape, BlockScales::hnd(span(ROWS * 8)))?;
    let short = four::<Interleaved>(elements, shape, BlockScales::hnd(span(ROWS * 8 - 8)));
    assert!(matches!(short, Err(Error::Bytes { field: "v scales", .. })), "{short:?}");
    let strided = |strides| four::<Interleaved>(elements, shape, BlockScales::with_strides(span(1 << 16), strides));
    strided([512, 8, 256])?;
    assert!(matches!(strided([512, 16, 256]), Err(Error::Value { field: "v scales' token stride", .. })));
    assert!(matches!(
        four::<Linear>(elements, shape, BlockScales::with_strides(span(1 << 16), [512, 10, 256])),
        Err(Error::Misaligned { field: "v scales' token stride", bytes: 10, multiple: 4 })
    ));
    Ok(())
}

/// Strides are in elements; those of NVFP4 are half a byte, and come to multiples of 16 bytes all the same.
#[test]
fn strides_of_half_a_byte() -> Result<(), Error> {
    let shape = shape(PAGES, 16, 2);
    let cache = |token| {
        let strides = [16 * token, token, 128];
        let layout = CacheLayout::Strides { k: strides, v: strides };
        let scales = separate();
        KvCache::<NvFp4>::with_scales(span(1 << 16), span(1 << 16), shape, layout, scales)
    };
    cache(256)?;
    cache(288)?;
    assert!(matches!(
        cache(272),
        Err(Error::Misaligned { field: "k token stride" | "k page stride", multiple: 16, .. })
    ));
    assert!(matches!(cache(128), Err(Error::Overlap { .. })));
    let layout = CacheLayout::Strides { k: [4096, 256, 128], v: [4096, 256, 128] };
    let refused =
        KvCache::<NvFp4>::with_scales(span(1 << 16), span(1 << 16), shape, layout, NvFp4Scales::in_pages(one(), one()));
    assert!(matches!(refused, Err(Error::Layout { .. })), "{refused:?}");
    Ok(())
}

#[test]
fn markers_say_what_they_hold() {
    fn of<K: CacheFormat>() -> (CacheDType, usize) {
        (K::CACHE, size_of::<K::Storage>())
    }
    assert_eq!(of::<Bf16>(), (CacheDType::Bf16, 2));
    assert_eq!(of::<Fp8E5M2>(), (CacheDType::Fp8E5M2, 1));
    assert_eq!(of::<NvFp4>(), of::<NvFp4<Interleaved>>());
}
