//! NVFP4: the order of V's block scales is a type, and where block scales lie is said once.
use super::CacheShape;
use super::format::sealed::Resolve;
use super::scales::{GlobalScale, Scaling, SideScaling};
use super::side;
use crate::dtype::CacheDType;
use crate::error::Error;
use crate::tensor::{DeviceSpan, Packing};
use core::fmt::Debug;
use core::marker::PhantomData;
use kernels_gpu::layout::nvfp4;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Linear {}
    impl Sealed for super::Interleaved {}
}

/// The order of a side's block scales. Read in the other one they are wrong numbers, not errors, so it is a type.
pub trait ScaleOrder: sealed::Sealed + Copy + Debug + Send + Sync + 'static {
    /// Whether it is [`Interleaved`].
    const INTERLEAVED: bool;
}

/// Block scales in the order of tokens: `[page_size, D / 16]` of a page and head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear;

/// Block scales four tokens at a time: a tile `[page_size / 4, D / 16, 4]` of each page and head, as vLLM and FlashInfer
/// have V's for Blackwell's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interleaved;

impl ScaleOrder for Linear {
    const INTERLEAVED: bool = false;
}

impl ScaleOrder for Interleaved {
    const INTERLEAVED: bool = true;
}

/// Four-bit e2m1, two elements a byte with the even one in the low half, an e4m3 scale for 16 elements and a
/// [`GlobalScale`]. `O` is the order of V's block scales; K's are always linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NvFp4<O = Linear>(PhantomData<O>);

/// Block scales of K or of V in a buffer of their own: e4m3, one for 16 elements.
#[derive(Clone, Copy, Debug)]
pub struct BlockScales<'a, O = Linear> {
    span: DeviceSpan<'a>,
    place: Place,
    order: PhantomData<O>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Nhd,
    Hnd,
    Strides([usize; 3]),
}

impl<'a> BlockScales<'a, Linear> {
    /// `[pages, page_size, kv_heads, D / 16]`. Only the linear order has it: four tokens of one head are not together.
    pub fn nhd(span: impl Into<DeviceSpan<'a>>) -> Self {
        Self::of(span.into(), Place::Nhd)
    }
}

impl<'a, O: ScaleOrder> BlockScales<'a, O> {
    /// `[pages, kv_heads, page_size, D / 16]`; in the interleaved order `[pages, kv_heads, page_size / 4, D / 16, 4]`.
    pub fn hnd(span: impl Into<DeviceSpan<'a>>) -> Self {
        Self::of(span.into(), Place::Hnd)
    }

    /// Scales whose `[page, token, head]` strides are given, in bytes. In the interleaved order a token's stride is
    /// `D / 16`: a tile is contiguous.
    pub fn with_strides(span: impl Into<DeviceSpan<'a>>, strides: [usize; 3]) -> Self {
        Self::of(span.into(), Place::Strides(strides))
    }

    const fn of(span: DeviceSpan<'a>, place: Place) -> Self {
        Self { span, place, order: PhantomData }
    }

    fn resolve(
        &self,
        names: [&'static str; 4],
        shape: &CacheShape,
        global: GlobalScale<'_>,
    ) -> Result<SideScaling, Error> {
        let blocks = nvfp4::scales(shape.head_dim.get() as u32) as usize;
        let strides = match self.place {
            Place::Strides(strides @ [_, token, _]) => {
                if O::INTERLEAVED && token != blocks {
                    let allowed = "head_dim / 16: a tile of four tokens is contiguous";
                    return Err(Error::Value { field: names[2], value: token.to_string(), allowed });
                }
                strides
            }
            Place::Nhd | Place::Hnd => {
                let strides = shape.strides(blocks, 1, matches!(self.place, Place::Nhd))?;
                side::exact(names[0], self.span.bytes(), shape.bytes(strides[0], 8, names[0])?)?;
                strides
            }
        };
        let packing = Packing { bits: 8, align: side::SCALE_BYTES };
        let view = shape.side(names, self.span, strides, blocks, packing)?;
        Ok(SideScaling { factor: global.factor(), view: Some(view) })
    }
}

/// The scales of an NVFP4 cache: `k = e2m1 * block_scale * global`, and V likewise.
#[derive(Clone, Copy, Debug)]
pub struct NvFp4Scales<'a, O = Linear> {
    /// K's and V's; `None`: in the cache's pages.
    blocks: Option<(BlockScales<'a, Linear>, BlockScales<'a, O>)>,
    k_global: GlobalScale<'a>,
    v_global: GlobalScale<'a>,
}

impl<'a, O: ScaleOrder> NvFp4Scales<'a, O> {
    /// Block scales in buffers of their own; the cache's spans hold elements alone.
    pub const fn new(
        k: BlockScales<'a, Linear>,
        v: BlockScales<'a, O>,
        k_global: GlobalScale<'a>,
        v_global: GlobalScale<'a>,
    ) -> Self {
        Self { blocks: Some((k, v)), k_global, v_global }
    }

    /// Block scales in the cache's own pages, behind each side's elements: `[elements, scales]` of K and of V in a buffer
    /// each, or vLLM's `[K elements, K scales, V elements, V scales]` in one
    /// ([`PackedLayout::PairHnd`](crate::PackedLayout::PairHnd) or `PairNhd`), each region in the layout's order.
    pub const fn in_pages(k_global: GlobalScale<'a>, v_global: GlobalScale<'a>) -> Self {
        Self { blocks: None, k_global, v_global }
    }
}

impl<O: ScaleOrder> Resolve for NvFp4Scales<'_, O> {
    fn in_pages(&self) -> bool {
        self.blocks.is_none()
    }

    fn resolve(&self, shape: &CacheShape) -> Result<Scaling, Error> {
        check_page_size::<O>(shape, self.in_pages())?;
        let (k, v) = match self.blocks {
            Some((k, v)) => {
                (k.resolve(side::K_SCALES, shape, self.k_global)?, v.resolve(side::V_SCALES, shape, self.v_global)?)
            }
            None => {
                let side = |global: GlobalScale<'_>| SideScaling { factor: global.factor(), view: None };
                (side(self.k_global), side(self.v_global))
            }
        };
        Ok(Scaling { k, v, v_interleaved: O::INTERLEAVED })
    }
}

/// Refuses pages whose tiles of four tokens are not whole, or, with scales in them, that do not end on 16 bytes.
fn check_page_size<O: ScaleOrder>(shape: &CacheShape, in_pages: bool) -> Result<(), Error> {
    let CacheShape { page_size, kv_heads, head_dim, .. } = *shape;
    crate::geometry::check_page_size(page_size)?;
    let token_bytes = kv_heads.saturating_mul(nvfp4::scales(head_dim.get() as u32) as usize);
    let fits = |page: usize| {
        let whole = !O::INTERLEAVED || page.is_multiple_of(nvfp4::INTERLEAVED_TOKENS as usize);
        whole && (!in_pages || page.saturating_mul(token_bytes).is_multiple_of(side::COPY_BYTES as usize))
    };
    // A token and head has at least 4 bytes of scales, so pages of 4 always fit.
    match (0..=10).map(|shift| 1 << shift).find(|&page| fits(page)) {
        Some(least) if !fits(page_size) => {
            Err(Error::PageSize { format: CacheDType::NvFp4, page_size, kv_heads, head_dim, least })
        }
        _ => Ok(()),
    }
}
