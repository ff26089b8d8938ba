//! Element formats as types: what a buffer holds is a marker, not a flag.
use crate::ptx::{convert, mma};

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Bf16 {}
    impl Sealed for super::F16 {}
    impl Sealed for super::Fp8E4M3 {}
    impl Sealed for super::Fp8E5M2 {}
    impl Sealed for super::NvFp4 {}
    impl Sealed for super::ConvertedNvFp4 {}
}

/// bfloat16: 8 exponent bits, 7 of fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bf16;

/// IEEE 754 binary16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct F16;

/// FP8 with 4 exponent bits and 3 of fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fp8E4M3;

/// FP8 with 5 exponent bits and 2 of fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fp8E5M2;

/// Four-bit e2m1 with an e4m3 scale for 16 elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NvFp4;

/// [`NvFp4`] as chips with a conversion from e2m1 (sm_100a and its kin) read it: the same cache, other operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvertedNvFp4;

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

/// The formats of queries by name, for tables and messages: those of [`ElementKind`], and narrow ones that prefill alone takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QueryKind {
    /// [`Bf16`].
    Bf16,
    /// [`F16`].
    F16,
    /// [`Fp8E4M3`].
    Fp8E4M3,
}

impl QueryKind {
    /// Of decode's queries.
    pub const fn of(kind: ElementKind) -> Self {
        match kind {
            ElementKind::Bf16 => Self::Bf16,
            ElementKind::F16 => Self::F16,
        }
    }

    /// The name that entries, messages and the command line use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Fp8E4M3 => "e4m3",
        }
    }
}

/// A format of queries and outputs: what the tensor cores multiply.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The format's name.
    const KIND: ElementKind;

    /// Two numbers rounded to nearest even, `low` in the low half.
    fn pack(low: f32, high: f32) -> u32;

    /// The numbers of a word: the low half's, the high half's.
    fn unpack(word: u32) -> [f32; 2];

    /// Whether some numbers are outside of f16's range.
    const WIDE: bool;

    /// `d + a * b` for one 16 × 8 × 16 tile, f32 accumulation; fragments as in [`crate::layout::fragment`].
    fn mma(d: [f32; 4], a: [u32; 4], b: [u32; 2]) -> [f32; 4];
}

impl Element for Bf16 {
    const KIND: ElementKind = ElementKind::Bf16;
    const WIDE: bool = true;

    #[inline(always)]
    #[track_caller]
    fn pack(low: f32, high: f32) -> u32 {
        convert::cvt_rn_bf16x2(high, low)
    }

    #[inline(always)]
    fn unpack(word: u32) -> [f32; 2] {
        // The upper half of an f32.
        [f32::from_bits(word << 16), f32::from_bits(word & 0xFFFF_0000)]
    }

    #[inline(always)]
    #[track_caller]
    fn mma(d: [f32; 4], a: [u32; 4], b: [u32; 2]) -> [f32; 4] {
        mma::mma_m16n8k16_bf16(d, a, b)
    }
}

impl Element for F16 {
    const KIND: ElementKind = ElementKind::F16;
    const WIDE: bool = false;

    #[inline(always)]
    #[track_caller]
    fn pack(low: f32, high: f32) -> u32 {
        convert::cvt_rn_f16x2(high, low)
    }

    #[inline(always)]
    #[track_caller]
    fn unpack(word: u32) -> [f32; 2] {
        [convert::cvt_f32_f16(word & 0xFFFF), convert::cvt_f32_f16(word >> 16)]
    }

    #[inline(always)]
    #[track_caller]
    fn mma(d: [f32; 4], a: [u32; 4], b: [u32; 2]) -> [f32; 4] {
        mma::mma_m16n8k16_f16(d, a, b)
    }
}

/// The formats of a KV cache by name, for tables and messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CacheKind {
    /// [`Bf16`].
    Bf16,
    /// [`F16`].
    F16,
    /// [`Fp8E4M3`].
    Fp8E4M3,
    /// [`Fp8E5M2`].
    Fp8E5M2,
    /// [`NvFp4`].
    NvFp4,
}

impl CacheKind {
    /// The name that entries use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Fp8E4M3 => "e4m3",
            Self::Fp8E5M2 => "e5m2",
            Self::NvFp4 => "nvfp4",
        }
    }

    /// Bits of one element, without scales.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bf16 | Self::F16 => 16,
            Self::Fp8E4M3 | Self::Fp8E5M2 => 8,
            Self::NvFp4 => 4,
        }
    }
}

/// A format of a KV cache.
pub trait CacheElement: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The format's name.
    const CACHE: CacheKind;
}

macro_rules! cache_elements {
    ($($name:ident)*) => {$(
        impl CacheElement for $name {
            const CACHE: CacheKind = CacheKind::$name;
        }
    )*};
}

cache_elements! { Bf16 F16 Fp8E4M3 Fp8E5M2 NvFp4 }

impl CacheElement for ConvertedNvFp4 {
    const CACHE: CacheKind = NvFp4::CACHE;
}
