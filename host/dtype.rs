//! Element formats and head dimensions: the two choices that pick a kernel, each an enum that a number or a name must
//! pass through. There is no default and no fall-through.
use crate::cache::CacheFor;
use crate::error::Error;
use crate::output::UnscaledOutput;
use core::fmt;
use core::str::FromStr;
use kernels_gpu::element::{Bf16, CacheKind, ElementKind, F16, Fp8E4M3, QueryKind};
use kernels_gpu::layout::nvfp4;

/// An element format by name: what a tensor's type parameter says, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DType {
    /// bfloat16.
    Bf16,
    /// IEEE 754 binary16.
    F16,
}

impl DType {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Bf16, Self::F16];

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        self.kind().bytes() as usize
    }

    /// The name that kernels, messages and the command line use.
    pub const fn name(self) -> &'static str {
        self.kind().name()
    }

    pub(crate) const fn kind(self) -> ElementKind {
        match self {
            Self::Bf16 => ElementKind::Bf16,
            Self::F16 => ElementKind::F16,
        }
    }

    pub(crate) const fn of(kind: ElementKind) -> Self {
        match kind {
            ElementKind::Bf16 => Self::Bf16,
            ElementKind::F16 => Self::F16,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "bf16" => Ok(Self::Bf16),
            "f16" | "fp16" => Ok(Self::F16),
            _ => Err(Error::Value { field: "dtype", value: format!("{name:?}"), allowed: "bf16, f16 (or fp16)" }),
        }
    }
}

/// The format of queries: a model's own, or FP8 beside a cache of it.
///
/// ```
/// use qkv::{DType, QueryDType};
/// assert!("e4m3".parse().is_ok_and(|q: QueryDType| q == QueryDType::Fp8E4M3));
/// assert_eq!(QueryDType::from(DType::Bf16).name(), "bf16");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QueryDType {
    /// bfloat16.
    Bf16,
    /// IEEE 754 binary16.
    F16,
    /// FP8 with 4 exponent bits, 3 of fraction, and one scale of all of them.
    Fp8E4M3,
}

impl QueryDType {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Bf16, Self::F16, Self::Fp8E4M3];

    /// The name that kernels, messages and the command line use.
    pub const fn name(self) -> &'static str {
        self.kind().name()
    }

    /// The format as a model's own, which outputs may have too; `None` for FP8.
    pub const fn dtype(self) -> Option<DType> {
        match self {
            Self::Bf16 => Some(DType::Bf16),
            Self::F16 => Some(DType::F16),
            Self::Fp8E4M3 => None,
        }
    }

    const fn kind(self) -> QueryKind {
        match self {
            Self::Bf16 => QueryKind::Bf16,
            Self::F16 => QueryKind::F16,
            Self::Fp8E4M3 => QueryKind::Fp8E4M3,
        }
    }

    pub(crate) const fn of(kind: QueryKind) -> Self {
        match kind {
            QueryKind::Bf16 => Self::Bf16,
            QueryKind::F16 => Self::F16,
            QueryKind::Fp8E4M3 => Self::Fp8E4M3,
        }
    }
}

impl From<DType> for QueryDType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::Bf16 => Self::Bf16,
            DType::F16 => Self::F16,
        }
    }
}

impl fmt::Display for QueryDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for QueryDType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "e4m3" | "fp8_e4m3" => Ok(Self::Fp8E4M3),
            _ => match name.parse::<DType>() {
                Ok(dtype) => Ok(dtype.into()),
                Err(_) => {
                    let allowed = "bf16, f16 (or fp16), e4m3 (or fp8_e4m3)";
                    Err(Error::Value { field: "query dtype", value: format!("{name:?}"), allowed })
                }
            },
        }
    }
}

/// The format of a KV cache, chosen by the name that a server's settings have for it.
///
/// ```
/// use qkv::{CacheDType, DType, HeadDim};
/// let format = |name| CacheDType::named(name, DType::Bf16);
/// assert!(format("auto").is_ok_and(|f| f == CacheDType::Bf16), "the model's own");
/// assert!(format("fp8").is_ok_and(|f| f.row_bytes(HeadDim::D512) == 512));
/// assert!(format("nvfp4").is_ok_and(|f| f.row_bytes(HeadDim::D512) == 288));
/// let error = format("uint8").map_err(|e| e.to_string());
/// assert!(error.is_err_and(|e| e.ends_with("allowed: auto, bf16, fp16, fp8, fp8_e4m3, fp8_e5m2, nvfp4")));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CacheDType {
    /// bfloat16.
    Bf16,
    /// IEEE 754 binary16.
    F16,
    /// FP8 with 4 exponent bits, 3 of fraction.
    Fp8E4M3,
    /// FP8 with 5 exponent bits, 2 of fraction.
    Fp8E5M2,
    /// Four-bit e2m1 with an e4m3 scale for 16 elements.
    NvFp4,
}

impl CacheDType {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::Bf16, Self::F16, Self::Fp8E4M3, Self::Fp8E5M2, Self::NvFp4];

    /// The format of this name; "auto" is `model`, the format of the model's queries.
    ///
    /// # Errors
    /// Any other name: none is guessed, and there is no default.
    pub fn named(name: &str, model: impl Into<Self>) -> Result<Self, Error> {
        match name {
            "auto" => Ok(model.into()),
            "bf16" => Ok(Self::Bf16),
            "fp16" => Ok(Self::F16),
            "fp8" | "fp8_e4m3" => Ok(Self::Fp8E4M3),
            "fp8_e5m2" => Ok(Self::Fp8E5M2),
            "nvfp4" => Ok(Self::NvFp4),
            _ => Err(Error::Value {
                field: "cache dtype",
                value: format!("{name:?}"),
                allowed: "auto, bf16, fp16, fp8, fp8_e4m3, fp8_e5m2, nvfp4",
            }),
        }
    }

    /// The name that [`CacheDType::named`] takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "fp16",
            Self::Fp8E4M3 => "fp8_e4m3",
            Self::Fp8E5M2 => "fp8_e5m2",
            Self::NvFp4 => "nvfp4",
        }
    }

    pub(crate) const fn of(kind: CacheKind) -> Self {
        match kind {
            CacheKind::Bf16 => Self::Bf16,
            CacheKind::F16 => Self::F16,
            CacheKind::Fp8E4M3 => Self::Fp8E4M3,
            CacheKind::Fp8E5M2 => Self::Fp8E5M2,
            CacheKind::NvFp4 => Self::NvFp4,
        }
    }

    /// Bits of one element, without scales.
    pub(crate) const fn bits(self) -> usize {
        self.kind().bits() as usize
    }

    pub(crate) const fn kind(self) -> CacheKind {
        match self {
            Self::Bf16 => CacheKind::Bf16,
            Self::F16 => CacheKind::F16,
            Self::Fp8E4M3 => CacheKind::Fp8E4M3,
            Self::Fp8E5M2 => CacheKind::Fp8E5M2,
            Self::NvFp4 => CacheKind::NvFp4,
        }
    }

    /// Bytes of one token and head of K, or of V; with NVFP4's block scales.
    pub const fn row_bytes(self, head_dim: HeadDim) -> usize {
        let dim = head_dim.get() as u32;
        let bytes = match self {
            Self::Bf16 | Self::F16 => 2 * dim,
            Self::Fp8E4M3 | Self::Fp8E5M2 => dim,
            Self::NvFp4 => nvfp4::data_bytes(dim) + nvfp4::scales(dim),
        };
        bytes as usize
    }
}

impl From<QueryDType> for CacheDType {
    fn from(dtype: QueryDType) -> Self {
        match dtype {
            QueryDType::Bf16 => Self::Bf16,
            QueryDType::F16 => Self::F16,
            QueryDType::Fp8E4M3 => Self::Fp8E4M3,
        }
    }
}

impl From<DType> for CacheDType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::Bf16 => Self::Bf16,
            DType::F16 => Self::F16,
        }
    }
}

impl fmt::Display for CacheDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A marker type of a 16-bit format: of queries and outputs, and of caches without scales.
pub trait Format: CacheFor<Self> + QueryFormat + UnscaledOutput {
    /// The format as a value.
    const DTYPE: DType;
}

impl Format for Bf16 {
    const DTYPE: DType = DType::Bf16;
}

impl Format for F16 {
    const DTYPE: DType = DType::F16;
}

/// A marker type of a format of queries: [`Bf16`], [`F16`], and [`Fp8E4M3`] with a scale.
pub trait QueryFormat: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The format as a value.
    const QUERY: QueryDType;
}

mod sealed {
    use super::*;

    pub trait Sealed {}
    impl Sealed for Bf16 {}
    impl Sealed for F16 {}
    impl Sealed for Fp8E4M3 {}
}

impl QueryFormat for Bf16 {
    const QUERY: QueryDType = QueryDType::Bf16;
}

impl QueryFormat for F16 {
    const QUERY: QueryDType = QueryDType::F16;
}

impl QueryFormat for Fp8E4M3 {
    const QUERY: QueryDType = QueryDType::Fp8E4M3;
}

/// A head dimension that there are kernels for.
///
/// ```
/// use qkv::HeadDim;
/// assert!(HeadDim::try_from(128).is_ok_and(|d| d.get() == 128));
/// assert!(HeadDim::try_from(96).is_err_and(|e| e.to_string() == "head_dim is 96; allowed: 64, 128, 256, 512"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HeadDim {
    /// 64.
    D64,
    /// 128.
    D128,
    /// 256.
    D256,
    /// 512.
    D512,
}

impl HeadDim {
    /// Every head dimension.
    pub const ALL: [Self; 4] = [Self::D64, Self::D128, Self::D256, Self::D512];

    pub(crate) const ALLOWED: &'static str = "64, 128, 256, 512";

    /// The dimension as a number.
    pub const fn get(self) -> usize {
        match self {
            Self::D64 => 64,
            Self::D128 => 128,
            Self::D256 => 256,
            Self::D512 => 512,
        }
    }
}

impl TryFrom<usize> for HeadDim {
    type Error = Error;

    fn try_from(value: usize) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|d| d.get() == value).ok_or(Error::HeadDim { value })
    }
}

impl fmt::Display for HeadDim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// vLLM PR #38822: a name that no branch knew fell through in silence, and a cache kept the wrong format.
    #[test]
    fn an_unknown_cache_dtype_is_refused() {
        for name in ["", "uint8", "FP8", "fp8_e4m3fn", "fp4", "float8", "auto ", "int8"] {
            let refused = CacheDType::named(name, DType::Bf16);
            assert!(matches!(refused, Err(Error::Value { field: "cache dtype", .. })), "{name}: {refused:?}");
        }
    }

    #[test]
    fn names_lead_to_their_formats_and_auto_to_the_models() {
        for format in CacheDType::ALL {
            for model in DType::ALL {
                assert!(CacheDType::named(format.name(), model).is_ok_and(|named| named == format));
                assert!(CacheDType::named("auto", model).is_ok_and(|named| named == model.into()));
            }
        }
    }

    /// No two storage widths have rows of one size, at any head dimension: bytes of one cannot pass for the other's.
    #[test]
    fn rows_of_different_widths_differ_in_size() {
        for head_dim in HeadDim::ALL {
            let bytes = CacheDType::ALL.map(|format| format.row_bytes(head_dim));
            let d = head_dim.get();
            assert_eq!(bytes, [2 * d, 2 * d, d, d, d * 9 / 16]);
        }
    }
}
