//! The paged KV cache as a view: K and V of one format, each with its own page, token and head strides, so that NHD,
//! HND and K and V packed together are one path.
use crate::dtype::{Format, HeadDim};
use crate::error::Error;
use crate::geometry::{check_page_size, u32_field};
use crate::tensor::{Axis, COPY_BYTES, DeviceSpan, byte_strides, reach};
use core::marker::PhantomData;

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

/// Where rows of K and V are in their own buffers. Strides are `[page, token, head]`, in elements.
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
    /// `[pages, page_size, kv_heads, 2 * head_dim]`: a row of K, then its row of V.
    ContentNhd,
    /// `[pages, kv_heads, page_size, 2 * head_dim]`.
    ContentHnd,
}

/// One side of the cache, strides in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SideView {
    pub(crate) address: u64,
    /// From the first element to the end of the last.
    pub(crate) bytes: usize,
    /// `[page, token, head]`.
    pub(crate) strides: [i64; 3],
}

/// A paged cache of format `K`.
#[derive(Clone, Copy, Debug)]
pub struct KvCache<'a, K> {
    pub(crate) k: SideView,
    pub(crate) v: SideView,
    pub(crate) pages: u32,
    pub(crate) page_size: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: HeadDim,
    format: PhantomData<(&'a (), K)>,
}

impl<'a, K: Format> KvCache<'a, K> {
    /// A cache with K and V in buffers of their own.
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
        let row = shape.head_dim.get();
        let (k_strides, v_strides) = match layout {
            CacheLayout::Nhd => {
                let strides = shape.strides(row, 1, true)?;
                (strides, strides)
            }
            CacheLayout::Hnd => {
                let strides = shape.strides(row, 1, false)?;
                (strides, strides)
            }
            CacheLayout::Strides { k, v } => (k, v),
        };
        let k = shape.side::<K>(K_NAMES, k.into(), k_strides)?;
        let v = shape.side::<K>(V_NAMES, v.into(), v_strides)?;
        Self::of(k, v, shape)
    }

    /// A cache with K and V in one buffer.
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn packed(span: impl Into<DeviceSpan<'a>>, shape: CacheShape, layout: PackedLayout) -> Result<Self, Error> {
        let span = span.into();
        let dim = shape.head_dim.get();
        let (strides, v_offset) = match layout {
            PackedLayout::PairNhd | PackedLayout::PairHnd => {
                let strides = shape.strides(dim, 2, layout == PackedLayout::PairNhd)?;
                (strides, strides[0] / 2)
            }
            PackedLayout::ContentNhd | PackedLayout::ContentHnd => {
                (shape.strides(2 * dim, 1, layout == PackedLayout::ContentNhd)?, dim)
            }
        };
        let k = shape.side::<K>(K_NAMES, span, strides)?;
        let offset = v_offset.checked_mul(K::DTYPE.bytes()).ok_or(Error::TooLarge { field: "cache" })?;
        let v = if shape.pages == 0 || shape.kv_heads == 0 {
            k
        } else {
            let rest = span.bytes().checked_sub(offset).ok_or(Error::BufferTooSmall {
                field: "packed cache",
                bytes: span.bytes(),
                needed: offset,
            })?;
            shape.side::<K>(V_NAMES, span.slice(offset, rest)?, strides)?
        };
        Self::of(k, v, shape)
    }

    fn of(k: SideView, v: SideView, shape: CacheShape) -> Result<Self, Error> {
        Ok(Self {
            k,
            v,
            pages: u32_field("cache pages", shape.pages)?,
            page_size: u32_field("page_size", shape.page_size)?,
            kv_heads: u32_field("kv_heads", shape.kv_heads)?,
            head_dim: shape.head_dim,
            format: PhantomData,
        })
    }
}

const K_NAMES: [&str; 4] = ["k cache", "k page stride", "k token stride", "k head stride"];
const V_NAMES: [&str; 4] = ["v cache", "v page stride", "v token stride", "v head stride"];

impl CacheShape {
    /// Contiguous `[page, token, head]` strides for rows of `row` elements, pages of `sides` sides.
    fn strides(&self, row: usize, sides: usize, tokens_outside: bool) -> Result<[usize; 3], Error> {
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

    fn side<K: Format>(
        &self,
        names: [&'static str; 4],
        span: DeviceSpan<'_>,
        strides: [usize; 3],
    ) -> Result<SideView, Error> {
        check_page_size(self.page_size)?;
        let extents = [self.pages, self.page_size, self.kv_heads];
        let axis = |i: usize| Axis { field: names[i + 1], extent: extents[i], stride: strides[i] };
        let axes = [axis(0), axis(1), axis(2)];
        let element = K::DTYPE.bytes();
        let bytes = reach(names[0], axes, self.head_dim.get(), element)? * element;
        span.check(names[0], COPY_BYTES, bytes)?;
        Ok(SideView { address: span.address(), bytes, strides: byte_strides(axes, element) })
    }
}
