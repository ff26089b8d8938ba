//! The formats of a cache as marker types: each says what its codes are, and which scales go with them.
use super::CacheShape;
use super::nvfp4::{NvFp4, NvFp4Scales, ScaleOrder};
use super::scales::{Fp8Scales, Scaling};
use crate::dtype::{CacheDType, Format};
use crate::error::Error;
use core::fmt::Debug;
use kernels_gpu::element::{Bf16, F16, Fp8E4M3, Fp8E5M2};

pub(crate) mod sealed {
    use super::*;

    pub trait Sealed {}
    impl Sealed for Bf16 {}
    impl Sealed for F16 {}
    impl Sealed for Fp8E4M3 {}
    impl Sealed for Fp8E5M2 {}
    impl<O: ScaleOrder> Sealed for NvFp4<O> {}

    /// Scales that are checked against the cache that they are for.
    pub trait Resolve {
        /// Whether they lie in the cache's own pages, behind each side's elements.
        fn in_pages(&self) -> bool {
            false
        }

        /// Where kernels find them.
        fn resolve(&self, shape: &CacheShape) -> Result<Scaling, Error>;
    }

    impl Resolve for () {
        fn resolve(&self, _: &CacheShape) -> Result<Scaling, Error> {
            Ok(Scaling::NONE)
        }
    }
}

/// A marker type of a cache's format. There is no conversion between formats.
pub trait CacheFormat: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The format as a value.
    const CACHE: CacheDType;
    /// What holds its codes: one, or with NVFP4 two.
    type Storage: Copy;
    /// What its codes are to be multiplied by.
    type Scales<'a>: Copy + Debug + sealed::Resolve;
}

impl CacheFormat for Bf16 {
    const CACHE: CacheDType = CacheDType::Bf16;
    type Storage = u16;
    type Scales<'a> = ();
}

impl CacheFormat for F16 {
    const CACHE: CacheDType = CacheDType::F16;
    type Storage = u16;
    type Scales<'a> = ();
}

impl CacheFormat for Fp8E4M3 {
    const CACHE: CacheDType = CacheDType::Fp8E4M3;
    type Storage = u8;
    type Scales<'a> = Fp8Scales<'a>;
}

impl CacheFormat for Fp8E5M2 {
    const CACHE: CacheDType = CacheDType::Fp8E5M2;
    type Storage = u8;
    type Scales<'a> = Fp8Scales<'a>;
}

impl<O: ScaleOrder> CacheFormat for NvFp4<O> {
    const CACHE: CacheDType = CacheDType::NvFp4;
    type Storage = u8;
    type Scales<'a> = NvFp4Scales<'a, O>;
}

/// A cache's format that queries of format `Q` can be decoded with: their own, and of 16-bit ones the narrow ones.
#[diagnostic::on_unimplemented(
    message = "queries of `{Q}` do not read a cache of `{Self}`",
    note = "a cache is of the queries' own format, or where that has 16 bits of Fp8E4M3, Fp8E5M2 or NvFp4"
)]
pub trait CacheFor<Q>: CacheFormat {}

impl CacheFor<Self> for Bf16 {}
impl CacheFor<Self> for F16 {}
impl<Q: Format> CacheFor<Q> for Fp8E4M3 {}
impl CacheFor<Self> for Fp8E4M3 {}
impl<Q: Format> CacheFor<Q> for Fp8E5M2 {}
impl<Q: Format, O: ScaleOrder> CacheFor<Q> for NvFp4<O> {}
