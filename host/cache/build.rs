//! From bytes to a typed cache: lengths first, then scales, then where rows are.
use super::format::{CacheFormat, sealed::Resolve as _};
use super::raw::{Memory, RawCache};
use super::scales::Scaling;
use super::side::{self, COPY_BYTES, SideView};
use super::{CacheLayout, CacheShape, KvCache, PackedLayout};
use crate::dtype::{CacheDType, Format};
use crate::error::Error;
use crate::geometry::{check_page_size, u32_field};
use crate::tensor::{DeviceSpan, Packing};
use core::marker::PhantomData;
use kernels_gpu::layout::nvfp4;

/// How a format's rows fill a page.
#[derive(Clone, Copy)]
struct Rows {
    format: CacheDType,
    /// Whether each side's block scales follow its elements in the page.
    in_pages: bool,
    head_dim: usize,
}

impl Rows {
    const fn bits(&self) -> usize {
        self.format.bits()
    }

    /// Elements that the block scales of a row take the place of.
    const fn scales(&self) -> usize {
        if self.in_pages { nvfp4::scales(self.head_dim as u32) as usize * 8 / self.bits() } else { 0 }
    }

    /// A side's strides in elements, pages of `sides` sides, and the elements of a page's side before its scales.
    fn strides(&self, shape: &CacheShape, sides: usize, tokens_outside: bool) -> Result<([usize; 3], usize), Error> {
        let [_, token, head] = shape.strides(self.head_dim, 1, tokens_outside)?;
        // Both are products that are there if the larger is.
        let [page, ..] = shape.strides(self.head_dim + self.scales(), sides, tokens_outside)?;
        Ok(([page, token, head], shape.page_size * shape.kv_heads * self.head_dim))
    }
}

impl<'a> RawCache<'a> {
    /// The cache of format `K`, with its scales.
    ///
    /// # Errors
    /// As [`KvCache::with_scales`].
    pub fn typed<K: CacheFormat>(&self, scales: K::Scales<'a>) -> Result<KvCache<'a, K>, Error> {
        let rows = Rows { format: K::CACHE, in_pages: scales.in_pages(), head_dim: self.shape.head_dim.get() };
        check_page_size(self.shape.page_size)?;
        self.check_bytes(&rows)?;
        self.build(&rows, scales.resolve(&self.shape)?)
    }

    /// The cache of a 16-bit format, in spans that may be longer.
    pub(super) fn unscaled<K: Format>(&self) -> Result<KvCache<'a, K>, Error> {
        let rows = Rows { format: K::CACHE, in_pages: false, head_dim: self.shape.head_dim.get() };
        self.build(&rows, Scaling::NONE)
    }

    /// Refuses spans of contiguous layouts that are not exactly as long as the format needs, and layouts that it has not.
    fn check_bytes(&self, rows: &Rows) -> Result<(), Error> {
        let one = |field, span: DeviceSpan<'_>, sides| self.check_span(rows, field, span.bytes(), sides);
        match self.memory {
            Memory::Two { k, v, layout: CacheLayout::Nhd | CacheLayout::Hnd } => {
                one(side::K[0], k, 1)?;
                one(side::V[0], v, 1)
            }
            Memory::Two { layout: CacheLayout::Strides { .. }, .. } if rows.in_pages => Err(Error::Layout {
                format: rows.format,
                layout: "given strides with scales in the pages",
                allowed: "Nhd, Hnd, PairNhd, PairHnd; or NvFp4Scales::new, with strides of the scales' own",
            }),
            Memory::Two { layout: CacheLayout::Strides { .. }, .. } => Ok(()),
            Memory::One { layout: PackedLayout::ContentNhd | PackedLayout::ContentHnd, .. }
                if rows.format == CacheDType::NvFp4 =>
            {
                Err(Error::Layout {
                    format: rows.format,
                    layout: "rows of K and V side by side (ContentNhd, ContentHnd)",
                    allowed: "PairNhd, PairHnd, or buffers of their own",
                })
            }
            Memory::One { span, .. } => one("packed cache", span, 2),
        }
    }

    fn check_span(&self, rows: &Rows, field: &'static str, bytes: usize, sides: usize) -> Result<(), Error> {
        let needs = |rows: &Rows| {
            let (strides, _) = rows.strides(&self.shape, sides, true)?;
            self.shape.bytes(strides[0], rows.bits(), field)
        };
        let needed = needs(rows)?;
        if bytes == needed {
            return Ok(());
        }
        let fits = |&format: &CacheDType| {
            let scales = [false, true].into_iter().filter(|in_pages| format == CacheDType::NvFp4 || !in_pages);
            format != rows.format
                && scales
                    .into_iter()
                    .any(|in_pages| needs(&Rows { format, in_pages, ..*rows }).is_ok_and(|n| n == bytes))
        };
        let fits = CacheDType::ALL.into_iter().filter(fits).collect();
        Err(Error::CacheBytes { field, bytes, format: rows.format, needed, fits })
    }

    fn build<K: CacheFormat>(&self, rows: &Rows, mut scaling: Scaling) -> Result<KvCache<'a, K>, Error> {
        let Self { memory, shape } = *self;
        let (k, v) = match memory {
            Memory::Two { k, v, layout: CacheLayout::Strides { k: k_strides, v: v_strides } } => {
                (self.side(rows, side::K, k, k_strides)?, self.side(rows, side::V, v, v_strides)?)
            }
            Memory::Two { k, v, layout: layout @ (CacheLayout::Nhd | CacheLayout::Hnd) } => {
                let tokens_outside = layout == CacheLayout::Nhd;
                let (strides, elements) = rows.strides(&shape, 1, tokens_outside)?;
                self.scales_in_pages(rows, &mut scaling, [k, v], [elements; 2], strides[0], tokens_outside)?;
                (self.side(rows, side::K, k, strides)?, self.side(rows, side::V, v, strides)?)
            }
            Memory::One { span, layout } => {
                let (strides, v_at) = match layout {
                    PackedLayout::PairNhd | PackedLayout::PairHnd => {
                        let tokens_outside = layout == PackedLayout::PairNhd;
                        let (strides, elements) = rows.strides(&shape, 2, tokens_outside)?;
                        let v_at = strides[0] / 2;
                        let scales_at = [elements, v_at + elements];
                        self.scales_in_pages(rows, &mut scaling, [span; 2], scales_at, strides[0], tokens_outside)?;
                        (strides, v_at)
                    }
                    PackedLayout::ContentNhd | PackedLayout::ContentHnd => {
                        let strides = shape.strides(2 * rows.head_dim, 1, layout == PackedLayout::ContentNhd)?;
                        (strides, rows.head_dim)
                    }
                };
                let k = self.side(rows, side::K, span, strides)?;
                let empty = shape.pages == 0 || shape.kv_heads == 0;
                let v = if empty { k } else { self.side(rows, side::V, behind(span, v_at, rows.bits())?, strides)? };
                (k, v)
            }
        };
        Ok(KvCache {
            k,
            v,
            scaling,
            pages: u32_field("cache pages", shape.pages)?,
            page_size: u32_field("page_size", shape.page_size)?,
            kv_heads: u32_field("kv_heads", shape.kv_heads)?,
            head_dim: shape.head_dim,
            format: PhantomData,
        })
    }

    fn side(
        &self,
        rows: &Rows,
        names: [&'static str; 4],
        span: DeviceSpan<'_>,
        strides: [usize; 3],
    ) -> Result<SideView, Error> {
        let packing = Packing { bits: rows.bits(), align: COPY_BYTES };
        self.shape.side(names, span, strides, rows.head_dim, packing)
    }

    /// Where the block scales of each side are, `at` elements into its span, in pages of `page` elements.
    fn scales_in_pages(
        &self,
        rows: &Rows,
        scaling: &mut Scaling,
        spans: [DeviceSpan<'_>; 2],
        at: [usize; 2],
        page: usize,
        tokens_outside: bool,
    ) -> Result<(), Error> {
        if !rows.in_pages {
            return Ok(());
        }
        if scaling.v_interleaved && tokens_outside {
            return Err(Error::Layout {
                format: rows.format,
                layout: "interleaved scales of V in NHD",
                allowed: "HND, where four tokens of a head are together (CacheLayout::Hnd, PackedLayout::PairHnd)",
            });
        }
        let blocks = nvfp4::scales(rows.head_dim as u32) as usize;
        let [_, token, head] = self.shape.strides(blocks, 1, tokens_outside)?;
        let packing = Packing { bits: 8, align: side::SCALE_BYTES };
        let sides = [(&mut scaling.k, side::K_SCALES), (&mut scaling.v, side::V_SCALES)];
        for ((side, names), (span, at)) in sides.into_iter().zip(spans.into_iter().zip(at)) {
            let empty = self.shape.pages == 0 || self.shape.kv_heads == 0;
            let span = if empty { span } else { behind(span, at, rows.bits())? };
            let strides = [page * rows.bits() / 8, token, head];
            side.view = Some(self.shape.side(names, span, strides, blocks, packing)?);
        }
        Ok(())
    }
}

/// What of `span` is behind `elements` elements of `bits`.
fn behind(span: DeviceSpan<'_>, elements: usize, bits: usize) -> Result<DeviceSpan<'_>, Error> {
    let offset = elements.checked_mul(bits).ok_or(Error::TooLarge { field: "cache" })? / 8;
    let (field, bytes) = ("packed cache", span.bytes());
    let rest = bytes.checked_sub(offset).ok_or(Error::BufferTooSmall { field, bytes, needed: offset })?;
    span.slice(offset, rest)
}
