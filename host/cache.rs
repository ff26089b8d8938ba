//! The paged KV cache as a view: K and V of one format, each with its own page, token and head strides, so that NHD,
//! HND and K and V packed together are one path.
//!
//! [`RawCache`] is bytes and a layout, without anything to attend to. Given a format and its scales it is a [`KvCache`];
//! there is no other way to one, and none from a cache of one format to a cache of another.
mod build;
mod format;
mod nvfp4;
mod parts;
mod raw;
mod scales;
mod side;

pub use format::{CacheFor, CacheFormat};
pub use nvfp4::{BlockScales, Interleaved, Linear, NvFp4, NvFp4Scales, ScaleOrder};
pub use raw::{AnyKvCache, CacheScales, RawCache};
pub use scales::{Fp8Scales, GlobalScale, TensorScale, TokenScales};

use crate::dtype::{Format, HeadDim};
use crate::error::Error;
use crate::tensor::DeviceSpan;
use core::marker::PhantomData;
use scales::Scaling;
use side::SideView;

/// What a cache holds: `pages` pages of `page_size` tokens of `kv_heads` rows of `head_dim` elements, for K and for V.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Pages.
    pub pages: usize,
    /// Tokens a page: a power of two from 1 to 1024.
    pub page_size: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Elements a row.
    pub head_dim: HeadDim,
}

/// Where rows of K and V are in their own buffers. Strides are `[page, token, head]`, in elements: of 4 bits in NVFP4,
/// where a stride must still come to a multiple of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheLayout {
    /// `[pages, page_size, kv_heads, head_dim]`.
    Nhd,
    /// `[pages, kv_heads, page_size, head_dim]`.
    Hnd,
    /// Any other.
    Strides {
        /// K's strides.
        k: [usize; 3],
        /// V's strides.
        v: [usize; 3],
    },
}

/// Where rows of K and V are in one buffer of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackedLayout {
    /// `[pages, 2, page_size, kv_heads, head_dim]`: a page of K, then its page of V.
    PairNhd,
    /// `[pages, 2, kv_heads, page_size, head_dim]`.
    PairHnd,
    /// `[pages, page_size, kv_heads, 2 * head_dim]`: a row of K, then its row of V. Not of NVFP4.
    ContentNhd,
    /// `[pages, kv_heads, page_size, 2 * head_dim]`. Not of NVFP4.
    ContentHnd,
}

/// A paged cache of format `K`.
///
/// It is `Copy`: layers that share a cache share this view of it, format, scales and all. There are no bytes on the way
/// to a second layer whose format could be taken for another.
#[derive(Clone, Copy, Debug)]
pub struct KvCache<'a, K> {
    pub(crate) k: SideView,
    pub(crate) v: SideView,
    scaling: Scaling,
    pub(crate) pages: u32,
    pub(crate) page_size: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: HeadDim,
    format: PhantomData<(&'a (), K)>,
}

impl<'a, K: Format> KvCache<'a, K> {
    /// A 16-bit cache with K and V in buffers of their own.
    ///
    /// # Errors
    /// A page size that is not a power of two up to 1024; a span too short or not aligned to 16 bytes; strides that
    /// overlap or are not multiples of 16 bytes.
    pub fn new(
        k: impl Into<DeviceSpan<'a>>,
        v: impl Into<DeviceSpan<'a>>,
        shape: CacheShape,
        layout: CacheLayout,
    ) -> Result<Self, Error> {
        RawCache::new(k, v, shape, layout).unscaled()
    }

    /// A 16-bit cache with K and V in one buffer.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn packed(span: impl Into<DeviceSpan<'a>>, shape: CacheShape, layout: PackedLayout) -> Result<Self, Error> {
        RawCache::packed(span, shape, layout).unscaled()
    }
}

impl<'a, K: CacheFormat> KvCache<'a, K> {
    /// A cache with K and V in buffers of their own, and the scales of its format.
    ///
    /// # Errors
    /// As [`KvCache::new`]; a span of a contiguous layout that is not of exactly the bytes that the format needs; scales
    /// that do not fit the shape; a page size that does not suit NVFP4's scales, with the smallest that does.
    pub fn with_scales(
        k: impl Into<DeviceSpan<'a>>,
        v: impl Into<DeviceSpan<'a>>,
        shape: CacheShape,
        layout: CacheLayout,
        scales: K::Scales<'a>,
    ) -> Result<Self, Error> {
        RawCache::new(k, v, shape, layout).typed(scales)
    }

    /// A cache with K and V in one buffer, and the scales of its format.
    ///
    /// # Errors
    /// As [`KvCache::with_scales`]; rows of K and V side by side in NVFP4.
    pub fn packed_with_scales(
        span: impl Into<DeviceSpan<'a>>,
        shape: CacheShape,
        layout: PackedLayout,
        scales: K::Scales<'a>,
    ) -> Result<Self, Error> {
        RawCache::packed(span, shape, layout).typed(scales)
    }
}
