//! A cache before it has a format: bytes, a shape and a layout; and the one place where a format's name becomes a type.
use super::nvfp4::{Interleaved, Linear, NvFp4, NvFp4Scales};
use super::scales::Fp8Scales;
use super::{CacheLayout, CacheShape, KvCache, PackedLayout};
use crate::dtype::CacheDType;
use crate::error::Error;
use crate::tensor::DeviceSpan;
use kernels_gpu::element::{Bf16, F16, Fp8E4M3, Fp8E5M2};

/// Bytes of a paged cache whose format nobody has named yet: there is nothing to do with them but that.
///
/// ```
/// use qkv::{AnyKvCache, CacheDType, CacheLayout, CacheScales, CacheShape, DType, DeviceSpan, Error, Fp8Scales};
/// use qkv::{HeadDim, RawCache, TensorScale};
///
/// # fn main() -> Result<(), Error> {
/// // A server has one byte buffer a side, and the cache's format as a word in its settings.
/// // SAFETY: no work is launched with them.
/// let span = |address| unsafe { DeviceSpan::new(address, 4 * 16 * 2 * 128) };
/// let shape = CacheShape { pages: 4, page_size: 16, kv_heads: 2, head_dim: HeadDim::D128 };
/// let raw = RawCache::new(span(1 << 20), span(2 << 20), shape, CacheLayout::Nhd);
/// let scales = Fp8Scales::per_tensor(TensorScale::value(0.25)?, TensorScale::ONE);
/// let cache = raw.named(CacheDType::named("fp8", DType::Bf16)?, CacheScales::Fp8(scales))?;
/// assert!(matches!(cache, AnyKvCache::Fp8E4M3(_)));
///
/// // The same bytes are no NVFP4 cache, and no FP8 cache without scales.
/// assert!(raw.named(CacheDType::NvFp4, CacheScales::Fp8(scales)).is_err());
/// assert!(raw.named(CacheDType::Fp8E4M3, CacheScales::None).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RawCache<'a> {
    pub(super) memory: Memory<'a>,
    pub(super) shape: CacheShape,
}

/// Where the bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Memory<'a> {
    Two { k: DeviceSpan<'a>, v: DeviceSpan<'a>, layout: CacheLayout },
    One { span: DeviceSpan<'a>, layout: PackedLayout },
}

impl<'a> RawCache<'a> {
    /// Bytes of K and V in buffers of their own.
    pub fn new(
        k: impl Into<DeviceSpan<'a>>,
        v: impl Into<DeviceSpan<'a>>,
        shape: CacheShape,
        layout: CacheLayout,
    ) -> Self {
        Self { memory: Memory::Two { k: k.into(), v: v.into(), layout }, shape }
    }

    /// Bytes of K and V in one buffer.
    pub fn packed(span: impl Into<DeviceSpan<'a>>, shape: CacheShape, layout: PackedLayout) -> Self {
        Self { memory: Memory::One { span: span.into(), layout }, shape }
    }

    /// The cache of the format that a name in a server's settings stands for, and that format's scales.
    ///
    /// # Errors
    /// Scales of another format, or none where the format has them; and as [`KvCache::with_scales`].
    pub fn named(&self, dtype: CacheDType, scales: CacheScales<'a>) -> Result<AnyKvCache<'a>, Error> {
        use CacheDType as D;
        use CacheScales as S;
        match (dtype, scales) {
            (D::Bf16, S::None) => self.typed::<Bf16>(()).map(AnyKvCache::Bf16),
            (D::F16, S::None) => self.typed::<F16>(()).map(AnyKvCache::F16),
            (D::Fp8E4M3, S::Fp8(scales)) => self.typed::<Fp8E4M3>(scales).map(AnyKvCache::Fp8E4M3),
            (D::Fp8E5M2, S::Fp8(scales)) => self.typed::<Fp8E5M2>(scales).map(AnyKvCache::Fp8E5M2),
            (D::NvFp4, S::NvFp4(scales)) => self.typed::<NvFp4>(scales).map(AnyKvCache::NvFp4),
            (D::NvFp4, S::NvFp4Interleaved(scales)) => {
                self.typed::<NvFp4<Interleaved>>(scales).map(AnyKvCache::NvFp4Interleaved)
            }
            // Every other pair by name: a new format does not compile until it has a line above.
            (D::Bf16 | D::F16, S::Fp8(_) | S::NvFp4(_) | S::NvFp4Interleaved(_)) => {
                Err(Error::Scales { format: dtype, given: scales.kind(), needed: "none (CacheScales::None)" })
            }
            (D::Fp8E4M3 | D::Fp8E5M2, S::None | S::NvFp4(_) | S::NvFp4Interleaved(_)) => Err(Error::Scales {
                format: dtype,
                given: scales.kind(),
                needed: "k_scale and v_scale (CacheScales::Fp8)",
            }),
            (D::NvFp4, S::None | S::Fp8(_)) => Err(Error::Scales {
                format: dtype,
                given: scales.kind(),
                needed: "block scales and a global scale of K and of V (CacheScales::NvFp4 or NvFp4Interleaved)",
            }),
        }
    }
}

/// Scales of a cache whose format is known by name alone.
#[derive(Clone, Copy, Debug)]
pub enum CacheScales<'a> {
    /// A 16-bit cache has none.
    None,
    /// Of an FP8 cache.
    Fp8(Fp8Scales<'a>),
    /// Of an NVFP4 cache, V's block scales in the order of tokens.
    NvFp4(NvFp4Scales<'a, Linear>),
    /// Of an NVFP4 cache, V's block scales four tokens at a time.
    NvFp4Interleaved(NvFp4Scales<'a, Interleaved>),
}

impl CacheScales<'_> {
    const fn kind(&self) -> &'static str {
        match self {
            Self::None => "no scales",
            Self::Fp8(_) => "FP8 scales",
            Self::NvFp4(_) => "NVFP4 scales",
            Self::NvFp4Interleaved(_) => "interleaved NVFP4 scales",
        }
    }
}

/// A cache of a format that was chosen at run time: one typed variant a format.
#[derive(Clone, Copy, Debug)]
pub enum AnyKvCache<'a> {
    /// bfloat16.
    Bf16(KvCache<'a, Bf16>),
    /// IEEE 754 binary16.
    F16(KvCache<'a, F16>),
    /// FP8 with 4 exponent bits.
    Fp8E4M3(KvCache<'a, Fp8E4M3>),
    /// FP8 with 5 exponent bits.
    Fp8E5M2(KvCache<'a, Fp8E5M2>),
    /// NVFP4, V's block scales in the order of tokens.
    NvFp4(KvCache<'a, NvFp4<Linear>>),
    /// NVFP4, V's block scales four tokens at a time.
    NvFp4Interleaved(KvCache<'a, NvFp4<Interleaved>>),
}

impl AnyKvCache<'_> {
    /// The format.
    pub const fn dtype(&self) -> CacheDType {
        match self {
            Self::Bf16(_) => CacheDType::Bf16,
            Self::F16(_) => CacheDType::F16,
            Self::Fp8E4M3(_) => CacheDType::Fp8E4M3,
            Self::Fp8E5M2(_) => CacheDType::Fp8E5M2,
            Self::NvFp4(_) | Self::NvFp4Interleaved(_) => CacheDType::NvFp4,
        }
    }
}
