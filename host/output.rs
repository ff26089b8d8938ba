//! Where results go, and in which format: the queries' own, any other of 16 or 32 bits, or FP8 with a scale.
use crate::cache::TensorScale;
use crate::error::Error;
use crate::overlap::Region;
use crate::tensor::{COPY_BYTES, DeviceSpan, Packing, RowsView};
use core::marker::PhantomData;
use kernels_gpu::abi::{self, OutputKind, Rows};
use kernels_gpu::element::{Bf16, F16, Fp8E4M3};
use kernels_gpu::memory::Global;

/// IEEE single: a format of outputs.
#[derive(Clone, Copy, Debug)]
pub struct F32;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Bf16 {}
    impl Sealed for super::F16 {}
    impl Sealed for super::F32 {}
    impl Sealed for super::Fp8E4M3 {}
}

/// A marker type of a format that attention's result can have, whatever the queries' format.
pub trait OutputFormat: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The format as a value.
    const KIND: OutputKind;
}

impl OutputFormat for Bf16 {
    const KIND: OutputKind = OutputKind::Bf16;
}

impl OutputFormat for F16 {
    const KIND: OutputKind = OutputKind::F16;
}

impl OutputFormat for F32 {
    const KIND: OutputKind = OutputKind::F32;
}

impl OutputFormat for Fp8E4M3 {
    const KIND: OutputKind = OutputKind::Fp8E4M3;
}

/// An output format whose elements are the numbers themselves, without a scale.
pub trait UnscaledOutput: OutputFormat {}

impl UnscaledOutput for Bf16 {}
impl UnscaledOutput for F16 {}
impl UnscaledOutput for F32 {}

const fn bytes(kind: OutputKind) -> usize {
    match kind {
        OutputKind::Bf16 | OutputKind::F16 => 2,
        OutputKind::F32 => 4,
        OutputKind::Fp8E4M3 => 1,
    }
}

/// Where attention's result goes: `[tokens, heads, head_dim]` of format `F`.
#[derive(Debug)]
pub struct Output<'a, F> {
    any: AnyOutput<'a>,
    format: PhantomData<F>,
}

impl<'a, F: UnscaledOutput> Output<'a, F> {
    /// Contiguous output of shape `[tokens, heads, head_dim]`.
    ///
    /// # Errors
    /// A head dimension without kernels, a span too short or not aligned to 16 bytes.
    pub fn new(span: impl Into<DeviceSpan<'a>>, shape: [usize; 3]) -> Result<Self, Error> {
        Self::build(span.into(), shape, None, TensorScale::ONE)
    }

    /// Output of shape `[tokens, heads, head_dim]` whose `[token, head]` strides are given, in elements.
    ///
    /// # Errors
    /// As [`Output::new`], and strides that overlap or are not multiples of 16 bytes.
    pub fn with_strides(
        span: impl Into<DeviceSpan<'a>>,
        shape: [usize; 3],
        strides: [usize; 2],
    ) -> Result<Self, Error> {
        Self::build(span.into(), shape, Some(strides), TensorScale::ONE)
    }
}

impl<'a> Output<'a, Fp8E4M3> {
    /// Contiguous output of shape `[tokens, heads, head_dim]` in e4m3: a number is its code times `scale`, and the code that of
    /// the result times `1 / scale`, both in f32. What is above 448 times `scale` becomes that.
    ///
    /// # Errors
    /// As [`Output::new`].
    pub fn quantised(
        span: impl Into<DeviceSpan<'a>>,
        shape: [usize; 3],
        scale: TensorScale<'a>,
    ) -> Result<Self, Error> {
        Self::build(span.into(), shape, None, scale)
    }

    /// As [`Output::quantised`], its `[token, head]` strides given, in elements.
    ///
    /// # Errors
    /// As [`Output::with_strides`].
    pub fn quantised_with_strides(
        span: impl Into<DeviceSpan<'a>>,
        shape: [usize; 3],
        strides: [usize; 2],
        scale: TensorScale<'a>,
    ) -> Result<Self, Error> {
        Self::build(span.into(), shape, Some(strides), scale)
    }
}

impl<'a, F: OutputFormat> Output<'a, F> {
    fn build(
        span: DeviceSpan<'a>,
        shape: [usize; 3],
        strides: Option<[usize; 2]>,
        scale: TensorScale<'a>,
    ) -> Result<Self, Error> {
        let names = ["output", "output token stride", "output head stride"];
        let packing = Packing { bits: 8 * bytes(F::KIND), align: COPY_BYTES };
        let rows = RowsView::new(names, span, packing, shape, strides)?;
        let factor = scale.factor();
        let any = AnyOutput { rows, kind: F::KIND, scale: factor.host, scale_at: factor.address, owner: PhantomData };
        Ok(Self { any, format: PhantomData })
    }
}

/// An output of any format.
#[derive(Debug)]
pub struct AnyOutput<'a> {
    pub(crate) rows: RowsView,
    kind: OutputKind,
    /// What of the scale the host knows.
    scale: f32,
    /// Where the device reads the rest of it; 0: nowhere.
    scale_at: u64,
    owner: PhantomData<&'a ()>,
}

impl<'a, F> From<Output<'a, F>> for AnyOutput<'a> {
    fn from(output: Output<'a, F>) -> Self {
        output.any
    }
}

impl AnyOutput<'_> {
    /// Its elements' format.
    pub const fn kind(&self) -> OutputKind {
        self.kind
    }

    /// For a kernel's parameters.
    pub(crate) fn to_abi(&self) -> abi::Output {
        let RowsView { address, token_stride, head_stride, .. } = self.rows;
        abi::Output {
            rows: Rows { base: Global::new(address), token_stride, head_stride },
            kind: self.kind as u32,
            scale: self.scale,
            scale_at: Global::new(self.scale_at),
        }
    }

    /// The memory that is written.
    pub(crate) fn region(&self) -> Region {
        Region { field: "output", address: self.rows.address, bytes: self.rows.bytes }
    }

    /// The scale that the device reads.
    pub(crate) fn scale_region(&self) -> Region {
        let bytes = if self.scale_at == 0 { 0 } else { size_of::<f32>() };
        Region { field: "output scale", address: self.scale_at, bytes }
    }
}
