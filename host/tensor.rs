//! Borrowed views of device memory, checked once, where they are made: the bytes that shape and strides reach are in the
//! buffer, rows are aligned for 16-byte copies, and no two rows that are written share a byte.
//!
//! Strides are in elements of the view's format. Along an axis with at most one entry the stride is never used, and any
//! value is taken (frameworks put arbitrary ones there).
use crate::device::Buffer;
use crate::dtype::{CacheDType, Format, HeadDim, QueryFormat};
use crate::error::Error;
use crate::geometry::u32_field;
use crate::overlap::Region;
use core::marker::PhantomData;
use kernels_gpu::element::Fp8E4M3;

/// Bytes that an asynchronous copy moves at once: addresses and strides of rows are multiples of it.
pub(crate) const COPY_BYTES: u64 = 16;

/// Some bytes of device memory, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSpan<'a> {
    address: u64,
    bytes: usize,
    owner: PhantomData<&'a ()>,
}

impl<'a> DeviceSpan<'a> {
    /// The `bytes` at device address `address`: memory of any allocator, such as cudarc's, candle's or `cust`'s.
    ///
    /// # Safety
    /// For `'a`, and until work launched with views of this span has finished on its stream, the range is allocated in
    /// the context that the work runs in, and nothing writes to it (or, for outputs and workspaces, touches it)
    /// unless ordered with that work.
    pub const unsafe fn new(address: u64, bytes: usize) -> Self {
        Self { address, bytes, owner: PhantomData }
    }

    /// The device address of its first byte.
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// How many bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The part from byte `offset` on, `bytes` long.
    ///
    /// # Errors
    /// Where that is not inside the span.
    pub fn slice(&self, offset: usize, bytes: usize) -> Result<Self, Error> {
        let needed = offset.checked_add(bytes).ok_or(Error::TooLarge { field: "span" })?;
        if needed > self.bytes {
            return Err(Error::BufferTooSmall { field: "span", bytes: self.bytes, needed });
        }
        Ok(Self { address: self.address.wrapping_add(offset as u64), bytes, owner: PhantomData })
    }

    /// Checks the address's alignment, and that `needed` bytes are there.
    pub(crate) fn check(&self, field: &'static str, align: u64, needed: usize) -> Result<(), Error> {
        if needed > self.bytes {
            return Err(Error::BufferTooSmall { field, bytes: self.bytes, needed });
        }
        if needed > 0 && !self.address.is_multiple_of(align) {
            return Err(Error::Misaligned { field, bytes: self.address, multiple: align });
        }
        match self.address.checked_add(self.bytes as u64) {
            Some(_) => Ok(()),
            None => Err(Error::TooLarge { field }),
        }
    }
}

impl<'a> From<&'a Buffer> for DeviceSpan<'a> {
    fn from(buffer: &'a Buffer) -> Self {
        // SAFETY: the buffer is borrowed for 'a, and freeing it waits for the device.
        unsafe { Self::new(buffer.address(), buffer.bytes()) }
    }
}

/// One axis of a view, outside the contiguous rows.
#[derive(Clone, Copy)]
pub(crate) struct Axis {
    pub(crate) field: &'static str,
    pub(crate) extent: usize,
    pub(crate) stride: usize,
}

/// How elements are packed, and what addresses and strides are multiples of.
#[derive(Clone, Copy)]
pub(crate) struct Packing {
    /// Bits of an element.
    pub(crate) bits: usize,
    /// In bytes.
    pub(crate) align: u64,
}

impl Packing {
    /// Of rows of a 16-bit format.
    pub(crate) const fn rows<T: Format>() -> Self {
        Self { bits: 8 * T::DTYPE.bytes(), align: COPY_BYTES }
    }
}

/// Bytes that rows of `row` elements reach over `axes`, each stride checked for alignment and against overlap.
pub(crate) fn reach<const N: usize>(
    view: &'static str,
    axes: [Axis; N],
    row: usize,
    packing: Packing,
) -> Result<usize, Error> {
    let too_large = || Error::TooLarge { field: view };
    if axes.iter().any(|a| a.extent == 0) {
        return Ok(0);
    }
    let mut used = axes;
    used.sort_by_key(|a| a.stride);
    let mut reached = row;
    for axis in used.into_iter().filter(|a| a.extent > 1) {
        if axis.stride < reached {
            let Axis { field, extent, stride } = axis;
            return Err(Error::Overlap { field, stride, extent, least: reached });
        }
        let bits = axis.stride.checked_mul(packing.bits).ok_or_else(too_large)? as u64;
        if !bits.is_multiple_of(8 * packing.align) {
            return Err(Error::Misaligned { field: axis.field, bytes: bits / 8, multiple: packing.align });
        }
        let last = axis.stride.checked_mul(axis.extent - 1).ok_or_else(too_large)?;
        reached = reached.checked_add(last).ok_or_else(too_large)?;
    }
    match reached.checked_mul(packing.bits).map(|bits| bits / 8) {
        Some(bytes) if bytes <= i64::MAX as usize => Ok(bytes),
        _ => Err(too_large()),
    }
}

/// Strides in bytes of a view that [`reach`] has passed; 0 along axes that are never stepped along, whose strides are
/// not checked: those of one element, and all of a view without elements.
pub(crate) fn byte_strides<const N: usize>(axes: [Axis; N], packing: Packing) -> [i64; N] {
    let empty = axes.iter().any(|axis| axis.extent == 0);
    axes.map(|axis| if empty || axis.extent < 2 { 0 } else { (axis.stride * packing.bits / 8) as i64 })
}

/// Rows `[tokens, heads, head_dim]`, the last axis contiguous.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowsView {
    pub(crate) address: u64,
    /// From the first element to the end of the last.
    pub(crate) bytes: usize,
    pub(crate) tokens: u32,
    pub(crate) heads: u32,
    pub(crate) head_dim: HeadDim,
    /// Bytes from a token to the next.
    pub(crate) token_stride: i64,
    /// Bytes from a head to the next.
    pub(crate) head_stride: i64,
}

impl RowsView {
    pub(crate) fn new(
        names: [&'static str; 3],
        span: DeviceSpan<'_>,
        packing: Packing,
        shape: [usize; 3],
        strides: Option<[usize; 2]>,
    ) -> Result<Self, Error> {
        let [tokens, heads, head_dim] = shape;
        let head_dim = HeadDim::try_from(head_dim)?;
        let dim = head_dim.get();
        let contiguous = heads.checked_mul(dim).ok_or(Error::TooLarge { field: names[0] })?;
        let [token, head] = strides.unwrap_or([contiguous, dim]);
        let axes = [
            Axis { field: names[1], extent: tokens, stride: token },
            Axis { field: names[2], extent: heads, stride: head },
        ];
        let bytes = reach(names[0], axes, dim, packing)?;
        span.check(names[0], COPY_BYTES, bytes)?;
        let [token_stride, head_stride] = byte_strides(axes, packing);
        Ok(Self {
            address: span.address(),
            bytes,
            tokens: u32_field(names[1], tokens)?,
            heads: u32_field(names[2], heads)?,
            head_dim,
            token_stride,
            head_stride,
        })
    }
}

/// Queries `[tokens, heads, head_dim]` of format `Q`: the sequences' query tokens, one sequence's after another's.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a, Q> {
    pub(crate) rows: RowsView,
    /// What elements are multiplied by.
    pub(crate) scale: f32,
    format: PhantomData<(&'a (), Q)>,
}

impl<'a, Q: Format> Query<'a, Q> {
    /// Contiguous queries of shape `[tokens, heads, head_dim]`.
    ///
    /// # Errors
    /// A head dimension without kernels, a span too short or not aligned to 16 bytes.
    pub fn new(span: impl Into<DeviceSpan<'a>>, shape: [usize; 3]) -> Result<Self, Error> {
        Self::build(span.into(), shape, None, 1.0)
    }

    /// Queries of shape `[tokens, heads, head_dim]` whose `[token, head]` strides are given, in elements.
    ///
    /// # Errors
    /// As [`Query::new`], and strides that overlap or are not multiples of 16 bytes.
    pub fn with_strides(
        span: impl Into<DeviceSpan<'a>>,
        shape: [usize; 3],
        strides: [usize; 2],
    ) -> Result<Self, Error> {
        Self::build(span.into(), shape, Some(strides), 1.0)
    }
}

impl<'a> Query<'a, Fp8E4M3> {
    /// Contiguous queries of shape `[tokens, heads, head_dim]` in e4m3: a number is its code times `scale`.
    ///
    /// # Errors
    /// As [`Query::new`]; a scale of 0 or below, or one that is not finite.
    pub fn quantised(span: impl Into<DeviceSpan<'a>>, shape: [usize; 3], scale: f32) -> Result<Self, Error> {
        Self::build(span.into(), shape, None, scale)
    }

    /// As [`Query::quantised`], their `[token, head]` strides given, in elements.
    ///
    /// # Errors
    /// As [`Query::quantised`] and [`Query::with_strides`].
    pub fn quantised_with_strides(
        span: impl Into<DeviceSpan<'a>>,
        shape: [usize; 3],
        strides: [usize; 2],
        scale: f32,
    ) -> Result<Self, Error> {
        Self::build(span.into(), shape, Some(strides), scale)
    }
}

impl<'a, Q: QueryFormat> Query<'a, Q> {
    fn build(span: DeviceSpan<'a>, shape: [usize; 3], strides: Option<[usize; 2]>, scale: f32) -> Result<Self, Error> {
        let usable = scale > 0.0 && scale.is_finite();
        if !usable {
            let (field, allowed) = ("query scale", "above 0 and finite");
            return Err(Error::Value { field, value: scale.to_string(), allowed });
        }
        let names = ["query", "query token stride", "query head stride"];
        let packing = Packing { bits: CacheDType::from(Q::QUERY).bits(), align: COPY_BYTES };
        let rows = RowsView::new(names, span, packing, shape, strides)?;
        Ok(Self { rows, scale, format: PhantomData })
    }
}

/// Page ids `[batch, max_pages]`, i32: entry `(b, i)` is where tokens `i * page_size ..` of sequence `b` are.
#[derive(Clone, Copy, Debug)]
pub struct BlockTable<'a> {
    pub(crate) address: u64,
    /// From the first element to the end of the last.
    pub(crate) bytes: usize,
    pub(crate) batch: u32,
    pub(crate) max_pages: u32,
    /// Elements from a sequence to the next.
    pub(crate) stride: i64,
    owner: PhantomData<&'a ()>,
}

impl<'a> BlockTable<'a> {
    /// A contiguous table.
    ///
    /// # Errors
    /// A span too short or not aligned to 4 bytes.
    pub fn new(span: impl Into<DeviceSpan<'a>>, batch: usize, max_pages: usize) -> Result<Self, Error> {
        Self::with_stride(span, batch, max_pages, max_pages)
    }

    /// A table whose sequences are `stride` elements apart.
    ///
    /// # Errors
    /// As [`BlockTable::new`], and a stride below `max_pages`.
    pub fn with_stride(
        span: impl Into<DeviceSpan<'a>>,
        batch: usize,
        max_pages: usize,
        stride: usize,
    ) -> Result<Self, Error> {
        let (span, field) = (span.into(), "block_table");
        if batch > 1 && stride < max_pages {
            return Err(Error::Overlap { field: "block_table stride", stride, extent: batch, least: max_pages });
        }
        let reached = match (batch, max_pages) {
            (0, _) | (_, 0) => Some(0),
            (1, _) => Some(max_pages),
            _ => stride.checked_mul(batch - 1).and_then(|last| last.checked_add(max_pages)),
        };
        let needed = reached.and_then(|n| n.checked_mul(4)).filter(|&n| n <= i64::MAX as usize);
        let bytes = needed.ok_or(Error::TooLarge { field })?;
        span.check(field, 4, bytes)?;
        Ok(Self {
            address: span.address(),
            bytes,
            batch: u32_field("block_table batch", batch)?,
            max_pages: u32_field("block_table max_pages", max_pages)?,
            stride: if batch > 1 { stride as i64 } else { 0 },
            owner: PhantomData,
        })
    }
}

/// Tokens in the cache `[batch]`, i32; the sequence's query tokens are the last of them.
#[derive(Clone, Copy, Debug)]
pub struct SeqLens<'a> {
    pub(crate) address: u64,
    pub(crate) batch: u32,
    owner: PhantomData<&'a ()>,
}

impl<'a> SeqLens<'a> {
    /// Lengths of `batch` sequences, contiguous.
    ///
    /// # Errors
    /// A span too short or not aligned to 4 bytes.
    pub fn new(span: impl Into<DeviceSpan<'a>>, batch: usize) -> Result<Self, Error> {
        let (span, field) = (span.into(), "seq_lens");
        span.check(field, 4, batch.checked_mul(4).ok_or(Error::TooLarge { field })?)?;
        Ok(Self { address: span.address(), batch: u32_field("seq_lens batch", batch)?, owner: PhantomData })
    }
}

/// Where the log-sum-exp goes: `[tokens, q_heads]`, f32, contiguous; the natural logarithm, without
/// sinks; -inf for a row that sees no key.
#[derive(Debug)]
pub struct Lse<'a> {
    pub(crate) address: u64,
    pub(crate) tokens: u32,
    pub(crate) heads: u32,
    owner: PhantomData<&'a ()>,
}

impl<'a> Lse<'a> {
    /// Log-sum-exps of `tokens` tokens and `q_heads` heads.
    ///
    /// # Errors
    /// A span too short or not aligned to 4 bytes.
    pub fn new(span: impl Into<DeviceSpan<'a>>, tokens: usize, q_heads: usize) -> Result<Self, Error> {
        let (span, field) = (span.into(), "lse");
        let needed = tokens.checked_mul(q_heads).and_then(|n| n.checked_mul(4));
        span.check(field, 4, needed.ok_or(Error::TooLarge { field })?)?;
        Ok(Self {
            address: span.address(),
            tokens: u32_field("lse tokens", tokens)?,
            heads: u32_field("lse q_heads", q_heads)?,
            owner: PhantomData,
        })
    }

    /// The memory that is written.
    pub(crate) fn region(&self) -> Region {
        let bytes = size_of::<f32>() * self.tokens as usize * self.heads as usize;
        Region { field: "lse", address: self.address, bytes }
    }
}
