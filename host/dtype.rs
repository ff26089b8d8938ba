//! Element formats and head dimensions: the two choices that pick a kernel, each an enum that a number or a name must
//! pass through. There is no default and no fall-through.
use crate::error::Error;
use core::fmt;
use core::str::FromStr;
use kernels_gpu::element::{Bf16, ElementKind, F16};

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

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Bf16 {}
    impl Sealed for super::F16 {}
}

/// A marker type of an element format that a tensor can hold.
pub trait Format: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The format as a value.
    const DTYPE: DType;
}

impl Format for Bf16 {
    const DTYPE: DType = DType::Bf16;
}

impl Format for F16 {
    const DTYPE: DType = DType::F16;
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
