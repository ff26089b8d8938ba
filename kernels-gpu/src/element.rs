//! Element formats as types: what a buffer holds is a marker, not a flag.
use crate::ptx::{convert, mma};

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Bf16 {}
    impl Sealed for super::F16 {}
}

/// bfloat16: 8 exponent bits, 7 of fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bf16;

/// IEEE 754 binary16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct F16;

/// The element formats by name, for tables and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ElementKind {
    /// [`Bf16`].
    Bf16,
    /// [`F16`].
    F16,
}

impl ElementKind {
    /// The name that entries, messages and the command line use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Bytes of one element.
    pub const fn bytes(self) -> u32 {
        2
    }
}

/// A format of queries and outputs: what the tensor cores multiply.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The format's name.
    const KIND: ElementKind;

    /// Two numbers rounded to nearest even, `low` in the low half.
    fn pack(low: f32, high: f32) -> u32;

    /// `d + a * b` for one 16 × 8 × 16 tile, f32 accumulation; fragments as in [`crate::layout::fragment`].
    fn mma(d: [f32; 4], a: [u32; 4], b: [u32; 2]) -> [f32; 4];
}

impl Element for Bf16 {
    const KIND: ElementKind = ElementKind::Bf16;

    #[inline(always)]
    #[track_caller]
    fn pack(low: f32, high: f32) -> u32 {
        convert::cvt_rn_bf16x2(high, low)
    }

    #[inline(always)]
    #[track_caller]
    fn mma(d: [f32; 4], a: [u32; 4], b: [u32; 2]) -> [f32; 4] {
        mma::mma_m16n8k16_bf16(d, a, b)
    }
}

impl Element for F16 {
    const KIND: ElementKind = ElementKind::F16;

    #[inline(always)]
    #[track_caller]
    fn pack(low: f32, high: f32) -> u32 {
        convert::cvt_rn_f16x2(high, low)
    }

    #[inline(always)]
    #[track_caller]
    fn mma(d: [f32; 4], a: [u32; 4], b: [u32; 2]) -> [f32; 4] {
        mma::mma_m16n8k16_f16(d, a, b)
    }
}

/// A format of a KV cache that a decode kernel with queries `Q` can read.
pub trait KvElement<Q: Element>: sealed::Sealed + Copy + Send + Sync + 'static {}

/// The format of the queries: its elements are the products' operands as they are.
impl<Q: Element> KvElement<Q> for Q {}
