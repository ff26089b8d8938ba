//! What a prefill kernel takes besides a decode kernel's parameters: the cache as tensor maps, made once a request.
use crate::device::Device;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::select::KernelId;
use kernels_gpu::abi::{CacheSide, DecodeParams, PrefillParams};
use kernels_gpu::kernels::Role;
use kernels_gpu::layout::tensor_map::{TensorMap, TileSwizzle, TiledLayout};
use kernels_gpu::prefill::shape::COLUMNS_BYTES;

/// Bytes of an element of the caches that have prefill kernels.
const ELEMENT_BYTES: u32 = 2;

/// What the strides of a tensor map must stay below, in bytes.
const MAX_STRIDE: u64 = 1 << 40;

/// What errors call the strides of each side, as they come in a map.
const STRIDES: [[&str; 3]; 2] =
    [["k head stride", "k token stride", "k page stride"], ["v head stride", "v token stride", "v page stride"]];

/// The parameters of a prefill kernel, for a cache of `pages` pages; `None` for another kernel.
pub(super) fn prefill(
    device: &Device,
    kernel: KernelId,
    geometry: &Geometry,
    decode: &DecodeParams,
    pages: u32,
) -> Result<Option<PrefillParams>, Error> {
    let Role::Prefill { shape, .. } = kernel.info().role else { return Ok(None) };
    let box_shift = geometry.page_size().min(shape.most_box_tokens()).trailing_zeros();
    // A tensor has at least one of everything. Of a cache without pages nothing is read.
    let pages = pages.max(1);
    let map = |side: usize, tokens: u32| {
        let of = [&decode.k, &decode.v][side];
        device.tensor_map(&layout(geometry, of, STRIDES[side], pages, tokens)?, of.base.address)
    };
    let whole = 1 << box_shift;
    let maps: [TensorMap; 4] = [map(0, whole)?, map(1, whole)?, map(0, 1)?, map(1, 1)?];
    Ok(Some(PrefillParams { maps, decode: *decode, box_shift, pages, items: 0, reserved: 0 }))
}

/// One side of a cache in boxes of 64 columns of `tokens` tokens of a head.
fn layout(
    geometry: &Geometry,
    side: &CacheSide,
    names: [&'static str; 3],
    pages: u32,
    tokens: u32,
) -> Result<TiledLayout, Error> {
    let head_dim = geometry.head_dim().get() as u64;
    let counts = [geometry.kv_heads(), geometry.page_size(), pages].map(u64::from);
    let mut strides = [0; 4];
    let of = [side.head_stride, side.token_stride, side.page_stride];
    for (index, (stride, count)) in of.into_iter().zip(counts).enumerate() {
        // Where there is one, the stride is 0, which leads nowhere and is no map's: that of a row does as well.
        let stride = if count < 2 { u64::from(ELEMENT_BYTES) * head_dim } else { stride as u64 };
        if stride >= MAX_STRIDE {
            let allowed = "below 2^40 bytes with more than 64 query rows";
            return Err(Error::Value { field: names[index], value: format!("{stride} bytes"), allowed });
        }
        strides[index] = stride;
    }
    let [heads, page_size, pages] = counts;
    Ok(TiledLayout {
        rank: 4,
        element_bytes: ELEMENT_BYTES,
        sizes: [head_dim, heads, page_size, pages, 0],
        strides,
        box_sizes: [COLUMNS_BYTES / ELEMENT_BYTES, 1, tokens, 1, 0],
        swizzle: TileSwizzle::Bytes128,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use kernels_gpu::memory::Global;

    fn side(strides: [i64; 3]) -> CacheSide {
        let [page_stride, token_stride, head_stride] = strides;
        CacheSide { base: Global::new(1 << 20), page_stride, token_stride, head_stride }
    }

    fn of(kv_heads: usize, page_size: usize, pages: u32, strides: [i64; 3]) -> Result<TiledLayout, Error> {
        let geometry = Geometry::new(128, [4 * kv_heads, kv_heads], page_size, DType::Bf16, DType::Bf16)?;
        layout(&geometry, &side(strides), STRIDES[1], pages, 16)
    }

    #[test]
    fn any_order_of_tokens_and_heads_is_a_map() -> Result<(), Error> {
        // Heads inside tokens, tokens inside heads, K and V by turns.
        for strides in [[2 * 16 * 256, 2 * 256, 256], [2 * 16 * 256, 256, 16 * 256], [4 * 16 * 256, 4 * 256, 512]] {
            let map = of(2, 16, 7, strides)?;
            assert_eq!(
                (map.rank, &map.sizes[..4], map.box_sizes[..4].to_vec()),
                (4, &[128, 2, 16, 7][..], vec![64, 1, 16, 1])
            );
            assert_eq!(map.strides[..3], [strides[2] as u64, strides[1] as u64, strides[0] as u64]);
            assert_eq!(map.check(1 << 20), Ok(()));
        }
        Ok(())
    }

    #[test]
    fn one_head_token_or_page_has_no_stride() -> Result<(), Error> {
        let map = of(1, 1, 1, [0; 3])?;
        assert_eq!((map.strides, map.check(1 << 20)), ([256, 256, 256, 0], Ok(())));
        Ok(())
    }

    #[test]
    fn a_stride_that_no_map_has_is_named() {
        let error = of(2, 16, 2, [1 << 40, 512, 256]).expect_err("too long");
        let allowed = "below 2^40 bytes with more than 64 query rows";
        assert_eq!(error.to_string(), format!("v page stride is 1099511627776 bytes; allowed: {allowed}"));
    }
}
