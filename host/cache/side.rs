//! One side of a cache, K or V, or its scales: strides checked once, lengths exact where a layout is contiguous.
use super::CacheShape;
use crate::error::Error;
use crate::geometry::check_page_size;
use crate::tensor::{Axis, DeviceSpan, Packing, byte_strides, reach};
use kernels_gpu::abi::CacheSide;
use kernels_gpu::memory::Global;

/// Bytes that elements are copied in at once.
pub(crate) use crate::tensor::COPY_BYTES;

/// Bytes that scales are read in.
pub(super) const SCALE_BYTES: u64 = 4;

/// What errors call a side and its page, token and head strides.
pub(super) const K: [&str; 4] = ["k cache", "k page stride", "k token stride", "k head stride"];
pub(super) const V: [&str; 4] = ["v cache", "v page stride", "v token stride", "v head stride"];
pub(super) const K_SCALES: [&str; 4] =
    ["k scales", "k scales' page stride", "k scales' token stride", "k scales' head stride"];
pub(super) const V_SCALES: [&str; 4] =
    ["v scales", "v scales' page stride", "v scales' token stride", "v scales' head stride"];

/// One side of the cache, strides in bytes.
#[derive(Clone, Copy, Debug)]
pub struct SideView {
    pub(crate) address: u64,
    /// From the first element to the end of the last.
    pub(crate) bytes: usize,
    /// `[page, token, head]`.
    pub(crate) strides: [i64; 3],
}

impl SideView {
    /// As kernels have it.
    pub(crate) const fn to_abi(self) -> CacheSide {
        let [page_stride, token_stride, head_stride] = self.strides;
        CacheSide { base: Global::new(self.address), page_stride, token_stride, head_stride }
    }
}

/// Refuses a span of scales that has other than the bytes that its shape needs.
pub(super) fn exact(field: &'static str, bytes: usize, needed: usize) -> Result<(), Error> {
    if bytes == needed { Ok(()) } else { Err(Error::Bytes { field, bytes, needed }) }
}

impl CacheShape {
    /// Contiguous `[page, token, head]` strides for rows of `row` elements, pages of `sides` sides.
    pub(super) fn strides(&self, row: usize, sides: usize, tokens_outside: bool) -> Result<[usize; 3], Error> {
        let inner = if tokens_outside { self.kv_heads } else { self.page_size };
        let middle = inner.checked_mul(row);
        let outer = if tokens_outside { self.page_size } else { self.kv_heads };
        let page = middle.and_then(|m| m.checked_mul(outer)).and_then(|p| p.checked_mul(sides));
        match (page, middle) {
            (Some(page), Some(middle)) if tokens_outside => Ok([page, middle, row]),
            (Some(page), Some(middle)) => Ok([page, row, middle]),
            _ => Err(Error::TooLarge { field: "cache" }),
        }
    }

    /// Bytes of all pages, of `page` elements of `bits` each.
    pub(super) fn bytes(&self, page: usize, bits: usize, field: &'static str) -> Result<usize, Error> {
        // Pages are whole bytes: rows are.
        let bytes = page.checked_mul(bits).and_then(|page| (page / 8).checked_mul(self.pages));
        bytes.filter(|&bytes| bytes <= i64::MAX as usize).ok_or(Error::TooLarge { field })
    }

    /// A side of rows of `row` elements, checked; strides are in elements.
    pub(super) fn side(
        &self,
        names: [&'static str; 4],
        span: DeviceSpan<'_>,
        strides: [usize; 3],
        row: usize,
        packing: Packing,
    ) -> Result<SideView, Error> {
        check_page_size(self.page_size)?;
        let extents = [self.pages, self.page_size, self.kv_heads];
        let axis = |i: usize| Axis { field: names[i + 1], extent: extents[i], stride: strides[i] };
        let axes = [axis(0), axis(1), axis(2)];
        let bytes = reach(names[0], axes, row, packing)?;
        span.check(names[0], packing.align, bytes)?;
        Ok(SideView { address: span.address(), bytes, strides: byte_strides(axes, packing) })
    }
}
