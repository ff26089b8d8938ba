//! What a prefill kernel takes besides a decode kernel's parameters: the cache as tensor maps, made once a request.
use crate::device::Device;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::select::KernelId;
use kernels_gpu::abi::{CacheSide, DecodeParams, PrefillParams};
use kernels_gpu::kernels::Role;
use kernels_gpu::layout::tensor_map::{TensorMap, TileSwizzle, TiledLayout};
use kernels_gpu::prefill::shape::{COLUMNS_BYTES, PATTERN_ROWS, PrefillShape};

/// Columns of a box; a row may have fewer, and zeros behind them.
const fn columns(element_bytes: u32) -> u32 {
    COLUMNS_BYTES / element_bytes
}

/// What the strides of a tensor map must stay below, in bytes.
const MAX_STRIDE: u64 = 1 << 40;

/// What errors call a side's strides: token, page, KV head.
const STRIDES: [[&str; 3]; 2] =
    [["k token stride", "k page stride", "k head stride"], ["v token stride", "v page stride", "v head stride"]];

/// The parameters of a prefill kernel, for `tokens` query tokens and a cache of `pages` pages; `None` for another kernel.
pub(super) fn prefill(
    device: &Device,
    kernel: KernelId,
    geometry: &Geometry,
    decode: &DecodeParams,
    [tokens, pages]: [u32; 2],
) -> Result<Option<PrefillParams>, Error> {
    let Role::Prefill { shape, .. } = kernel.info().role else { return Ok(None) };
    let box_tokens = geometry.page_size().min(shape.most_box_tokens());
    let k = Places::new(geometry, shape.element_bytes, &decode.k, STRIDES[0], pages)?;
    let v = Places::new(geometry, shape.element_bytes, &decode.v, STRIDES[1], pages)?;
    let boxes = |places: &Places, parts: u32| match box_tokens / PATTERN_ROWS {
        0 => Ok(TensorMap::NONE),
        patterns => device.tensor_map(&places.layout([PATTERN_ROWS, parts, patterns]), places.address),
    };
    let [k_parts, v_parts] = shape.box_parts();
    let single = |places: &Places| device.tensor_map(&places.layout([1, 1, 1]), places.address);
    let queries = queries(geometry, decode, &shape, tokens);
    Ok(Some(PrefillParams {
        maps: [boxes(&k, k_parts)?, boxes(&v, v_parts)?, single(&k)?, single(&v)?],
        query_boxes: queries.is_some().into(),
        query_map: queries.map_or(Ok(TensorMap::NONE), |layout| device.tensor_map(&layout, decode.q.base.address))?,
        decode: *decode,
        steps: [k.steps, v.steps],
        outside: [k.count, v.count],
        box_shift: box_tokens.trailing_zeros(),
        items: 0,
        reserved: 0,
    }))
}

/// The queries as a tensor whose boxes are a block's rows, where a group divides those and strides are a map's; the kernels
/// copy rows one by one else.
fn queries(geometry: &Geometry, decode: &DecodeParams, shape: &PrefillShape, tokens: u32) -> Option<TiledLayout> {
    let (head_dim, group) = (geometry.head_dim().get() as u32, geometry.group());
    let (row, block_rows) = (i64::from(shape.element_bytes * head_dim), shape.block_rows());
    // Where there is one of something its stride is no map's: that of a row does as well.
    let stride = |count: u32, stride: i64| if count > 1 { stride } else { row };
    let token = stride(tokens, decode.q.token_stride);
    let (head, kv_head) = (stride(group, decode.q.head_stride), decode.q.head_stride.checked_mul(group.into())?);
    let kv_head = stride(geometry.kv_heads(), kv_head);
    let fits = |stride: i64| stride > 0 && (stride as u64) < MAX_STRIDE;
    if tokens == 0 || !block_rows.is_multiple_of(group) || ![token, head, kv_head].into_iter().all(fits) {
        return None;
    }
    let [token, head, kv_head] = [token, head, kv_head].map(i64::cast_unsigned);
    let (columns, parts) = (columns(shape.element_bytes), shape.parts());
    Some(TiledLayout {
        rank: 5,
        element_bytes: shape.element_bytes,
        sizes: [columns.min(head_dim).into(), group.into(), tokens.into(), parts.into(), geometry.kv_heads().into()],
        strides: [head, token, COLUMNS_BYTES.into(), kv_head],
        box_sizes: [columns, group, block_rows / group, parts, 1],
        swizzle: TileSwizzle::Bytes128,
    })
}

/// One side of a cache as a tensor: page and KV head are one dimension of it, whose stride divides both of theirs, as there are
/// five dimensions and not six.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    address: u64,
    element_bytes: u32,
    /// Columns, tokens of a pattern, columns' parts, patterns of a page, places.
    sizes: [u64; 5],
    /// Of all dimensions but the first, in bytes.
    strides: [u64; 4],
    /// Places from a page to the next, and from a KV head to the next.
    steps: [u32; 2],
    /// Up to the last page's last head: the first that is outside.
    count: u32,
}

impl Places {
    fn new(
        geometry: &Geometry,
        element_bytes: u32,
        side: &CacheSide,
        names: [&'static str; 3],
        pages: u32,
    ) -> Result<Self, Error> {
        let (head_dim, page_size) = (geometry.head_dim().get() as u64, u64::from(geometry.page_size()));
        let row = u64::from(element_bytes) * head_dim;
        // Of a cache without pages nothing is read; a tensor has at least one of everything.
        let counts = [page_size, u64::from(pages.max(1)), u64::from(geometry.kv_heads())];
        let mut strides = [side.token_stride, side.page_stride, side.head_stride].map(|stride| stride as u64);
        for ((stride, count), field) in strides.iter_mut().zip(counts).zip(names) {
            if count < 2 {
                *stride = 0;
            }
            if *stride >= MAX_STRIDE {
                let allowed = "below 2^40 bytes with more than 64 query rows, or FP8 queries";
                return Err(Error::Value { field, value: format!("{stride} bytes"), allowed });
            }
        }
        let [token, page, head] = strides;
        // Where there is one of something its stride is 0, which leads nowhere and is no map's: that of a row does as well.
        let or_row = |stride: u64| if stride == 0 { row } else { stride };
        let (token, place) = (or_row(token), or_row(common_divisor(page, head)));
        let in_pattern = page_size.min(PATTERN_ROWS.into());
        if token * in_pattern >= MAX_STRIDE {
            let allowed = "below 2^37 bytes with more than 64 query rows, or FP8 queries";
            return Err(Error::Value { field: names[0], value: format!("{token} bytes"), allowed });
        }
        let steps = [page / place, head / place];
        let count = (counts[1] - 1) * steps[0] + (counts[2] - 1) * steps[1] + 1;
        let Some([page_step, head_step, count]) = indices([steps[0], steps[1], count]) else {
            let value = format!("{page} bytes, of {pages} pages, with a head stride of {head}");
            let allowed = "with more than 64 query rows, or FP8 queries, common divisors of both of at least a 2^31st of the cache";
            return Err(Error::Value { field: names[1], value, allowed });
        };
        let columns = u64::from(columns(element_bytes));
        Ok(Self {
            address: side.base.address,
            element_bytes,
            sizes: [
                columns.min(head_dim),
                in_pattern,
                head_dim.div_ceil(columns),
                page_size / in_pattern,
                count.into(),
            ],
            strides: [token, COLUMNS_BYTES.into(), token * in_pattern, place],
            steps: [page_step, head_step],
            count,
        })
    }

    /// In boxes of 128 bytes of columns of so many tokens of a pattern, parts of the columns, and patterns.
    fn layout(&self, [tokens, parts, patterns]: [u32; 3]) -> TiledLayout {
        TiledLayout {
            rank: 5,
            element_bytes: self.element_bytes,
            sizes: self.sizes,
            strides: self.strides,
            box_sizes: [columns(self.element_bytes), tokens, parts, patterns, 1],
            swizzle: TileSwizzle::Bytes128,
        }
    }
}

/// As a kernel's coordinates, which are signed; `None` where one is too large.
fn indices(places: [u64; 3]) -> Option<[u32; 3]> {
    let fits = places.iter().all(|&place| place <= i32::MAX as u64);
    fits.then(|| places.map(|place| place as u32))
}

/// The greatest common divisor; of 0 and a number the number.
const fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{CacheDType, DType, QueryDType};
    use kernels_gpu::memory::Global;

    const ROW: i64 = 256;

    /// Of D = 128, by page, token and head strides.
    fn of(kv_heads: usize, page_size: usize, pages: u32, strides: [i64; 3]) -> Result<Places, Error> {
        let geometry = Geometry::new(128, [4 * kv_heads, kv_heads], page_size, DType::Bf16, DType::Bf16)?;
        let [page_stride, token_stride, head_stride] = strides;
        let side = CacheSide { base: Global::new(1 << 20), page_stride, token_stride, head_stride };
        Places::new(&geometry, 2, &side, STRIDES[1], pages)
    }

    /// Of 8 bits: boxes have 128 columns of a byte.
    #[test]
    fn elements_of_8_bits_have_boxes_as_wide_in_bytes() -> Result<(), Error> {
        let geometry = Geometry::new(256, [8, 2], 16, QueryDType::Fp8E4M3, CacheDType::Fp8E4M3)?;
        let (row, base) = (256, Global::new(1 << 20));
        let side = CacheSide { base, page_stride: 32 * row, token_stride: 2 * row, head_stride: row };
        let places = Places::new(&geometry, 1, &side, STRIDES[0], 7)?;
        let layout = places.layout([8, 2, 2]);
        assert_eq!((layout.check(1 << 20), layout.tile_bytes()), (Ok(()), 16 * 256));
        assert_eq!((places.sizes, layout.element_bytes), ([128, 8, 2, 2, 6 * 32 + 2], 1));
        assert_eq!((places.strides, places.steps), ([512, 128, 8 * 512, 256], [32, 1]));
        Ok(())
    }

    /// There a row is half a box, which is wider than the tensor: zeros are copied behind it, and not what the cache has there.
    #[test]
    fn rows_of_64_bytes_have_boxes_of_128() -> Result<(), Error> {
        let geometry = Geometry::new(64, [8, 2], 16, QueryDType::Fp8E4M3, CacheDType::Fp8E4M3)?;
        let (row, base) = (64, Global::new(1 << 20));
        let side = CacheSide { base, page_stride: 32 * row, token_stride: 2 * row, head_stride: row };
        let places = Places::new(&geometry, 1, &side, STRIDES[0], 7)?;
        let layout = places.layout([8, 1, 2]);
        assert_eq!((layout.check(1 << 20), layout.tile_bytes()), (Ok(()), 16 * 128));
        assert_eq!((places.sizes, layout.box_sizes), ([64, 8, 1, 2, 6 * 32 + 2], [128, 8, 1, 2, 1]));
        assert_eq!((places.strides, places.steps), ([128, 128, 8 * 128, 64], [32, 1]));
        assert_eq!(places.layout([1; 3]).check(1 << 20), Ok(()));
        Ok(())
    }

    #[test]
    fn every_element_is_where_the_cache_has_it() -> Result<(), Error> {
        // Heads inside tokens, tokens inside heads, K and V by turns, rows with unused bytes behind them, K's page then V's.
        for [page, token, head] in [
            [32 * ROW, 2 * ROW, ROW],
            [32 * ROW, ROW, 16 * ROW],
            [64 * ROW, 4 * ROW, 2 * ROW],
            [33 * (ROW + 16), 2 * (ROW + 16), ROW + 16],
            [64 * ROW, ROW, 16 * ROW],
        ] {
            let places = of(2, 16, 7, [page, token, head])?;
            let layout = places.layout([8, 2, 2]);
            assert_eq!((layout.check(1 << 20), layout.tile_bytes()), (Ok(()), 16 * 256));
            assert_eq!(places.layout([1; 3]).check(1 << 20), Ok(()));
            assert_eq!(places.sizes[..4], [64, 8, 2, 2]);
            for (p, t, h, column) in [(0, 0, 0, 0), (6, 15, 1, 127), (3, 9, 0, 64), (1, 7, 1, 63)] {
                let place = p * u64::from(places.steps[0]) + h * u64::from(places.steps[1]);
                assert!(place < u64::from(places.count));
                let at = [t % 8, column as u64 / 64, t / 8, place];
                let offset = at.iter().zip(places.strides).map(|(index, stride)| index * stride).sum::<u64>();
                let [p, t, h] = [p, t, h].map(u64::cast_signed);
                let expected = p * page + t * token + h * head + 2 * column;
                assert_eq!(
                    offset as i64 + 2 * (column % 64),
                    expected,
                    "page {p}, token {t}, head {h}, column {column}"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn one_head_token_or_page_has_no_stride() -> Result<(), Error> {
        let places = of(1, 1, 1, [0; 3])?;
        assert_eq!((places.sizes, places.strides), ([64, 1, 2, 1, 1], [256, 128, 256, 256]));
        assert_eq!((places.steps, places.count, places.layout([1; 3]).check(1 << 20)), ([0, 0], 1, Ok(())));
        // Nor has a cache of no page.
        assert_eq!(of(1, 1, 0, [0; 3])?, places);
        Ok(())
    }

    #[test]
    fn strides_that_no_map_has_are_named() {
        let message = |strides, pages| of(2, 16, pages, strides).expect_err("refused").to_string();
        let allowed = "below 2^40 bytes with more than 64 query rows, or FP8 queries";
        assert_eq!(
            message([1 << 40, 512, 256], 2),
            format!("v page stride is 1099511627776 bytes; allowed: {allowed}")
        );
        let allowed = "below 2^37 bytes with more than 64 query rows, or FP8 queries";
        assert_eq!(
            message([1 << 39, 1 << 37, 256], 2),
            format!("v token stride is 137438953472 bytes; allowed: {allowed}")
        );
        // A common divisor of 16 bytes: 2^31 places are 32 GiB.
        let text = message([(1 << 20) + 16, 512, 256], 1 << 16);
        assert!(
            text.starts_with("v page stride is 1048592 bytes, of 65536 pages, with a head stride of 256; allowed: "),
            "{text}"
        );
        assert!(of(2, 16, 1 << 14, [(1 << 20) + 16, 512, 256]).is_ok());
    }
}
