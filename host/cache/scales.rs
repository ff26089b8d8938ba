//! What a cache's codes are multiplied by: a factor of a whole tensor, or one f32 a token and head.
//!
//! A factor is a number that the host knows, folded into the softmax scale or the output's factor, or one that a kernel
//! reads from device memory when it runs. Which of `x = code * s` and `x = code / s` is meant, its constructor says.
use super::CacheShape;
use super::format::sealed::Resolve;
use super::side::{self, SideView};
use crate::error::Error;
use crate::tensor::{DeviceSpan, Packing};
use core::fmt;
use core::marker::PhantomData;

/// What the device multiplies all of K or of V by.
#[derive(Clone, Copy, Debug)]
pub struct Factor {
    /// What the host knows.
    pub(crate) host: f32,
    /// Where the device reads one more, f32; 0: nowhere.
    pub(crate) address: u64,
    /// Whether what the device reads divides.
    pub(crate) divides: bool,
}

/// A side's scales as kernels read them.
#[derive(Clone, Copy, Debug)]
pub struct SideScaling {
    pub(crate) factor: Factor,
    /// Scales a token and head: an f32, or NVFP4's blocks.
    pub(crate) view: Option<SideView>,
}

/// A cache's scales, checked against its shape.
#[derive(Clone, Copy, Debug)]
pub struct Scaling {
    pub(crate) k: SideScaling,
    pub(crate) v: SideScaling,
    /// Whether V's block scales are in the interleaved order.
    pub(crate) v_interleaved: bool,
}

impl Scaling {
    pub(super) const NONE: Self = {
        let side = SideScaling { factor: Factor { host: 1.0, address: 0, divides: false }, view: None };
        Self { k: side, v: side, v_interleaved: false }
    };
}

/// A factor, and which way it works.
#[derive(Clone, Copy, Debug)]
enum Way {
    Multiplies(f32),
    Divides(f32),
    MultipliesAt(u64),
    DividesAt(u64),
}

impl Way {
    fn multiplies(field: &'static str, value: f32) -> Result<Self, Error> {
        if value > 0.0 && value.is_finite() {
            return Ok(Self::Multiplies(value));
        }
        Err(Error::Value { field, value: value.to_string(), allowed: "above 0 and finite" })
    }

    fn divides(field: &'static str, value: f32) -> Result<Self, Error> {
        let usable = |x: f32| x > 0.0 && x.is_finite();
        if usable(value) && usable(1.0 / value) {
            return Ok(Self::Divides(value));
        }
        Err(Error::Value { field, value: value.to_string(), allowed: "above 0 and finite, and 1 over it too" })
    }

    /// The address of an f32 that is read at launch.
    fn at(field: &'static str, span: DeviceSpan<'_>) -> Result<u64, Error> {
        span.check(field, side::SCALE_BYTES, size_of::<f32>())?;
        if span.address() == 0 {
            return Err(Error::Value { field, value: "at address 0".into(), allowed: "device memory" });
        }
        Ok(span.address())
    }

    const fn factor(self) -> Factor {
        match self {
            Self::Multiplies(value) => Factor { host: value, address: 0, divides: false },
            Self::Divides(value) => Factor { host: 1.0 / value, address: 0, divides: false },
            Self::MultipliesAt(address) => Factor { host: 1.0, address, divides: false },
            Self::DividesAt(address) => Factor { host: 1.0, address, divides: true },
        }
    }
}

/// The scale of all of K or all of V in an FP8 cache, or of an FP8 output: a number is its code times it.
#[derive(Clone, Copy)]
pub struct TensorScale<'a>(Way, PhantomData<&'a ()>);

impl<'a> TensorScale<'a> {
    /// Codes are the numbers.
    pub const ONE: Self = Self(Way::Multiplies(1.0), PhantomData);

    /// A scale that the host knows.
    ///
    /// # Errors
    /// One of 0 or below, or one that is not finite.
    pub fn value(scale: f32) -> Result<Self, Error> {
        Ok(Self(Way::multiplies("tensor scale", scale)?, PhantomData))
    }

    /// The f32 at the begin of `span`, read when a kernel runs.
    ///
    /// # Errors
    /// Fewer than 4 bytes, or an address that is no multiple of 4.
    pub fn on_device(span: impl Into<DeviceSpan<'a>>) -> Result<Self, Error> {
        Ok(Self(Way::MultipliesAt(Way::at("tensor scale", span.into())?), PhantomData))
    }

    pub(crate) const fn factor(self) -> Factor {
        self.0.factor()
    }
}

impl fmt::Debug for TensorScale<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorScale::{:?}", self.0)
    }
}

/// The one factor of all of K or all of V in an NVFP4 cache, beside the block scales.
///
/// Libraries mean either of two numbers by "the global scale", each the other's reciprocal. There is no constructor that
/// does not say which: [`GlobalScale::multiplies`] takes what codes are multiplied by when they are read (vLLM's and
/// FlashInfer's `k_scale`), [`GlobalScale::divides`] what numbers were multiplied by when they were stored (the
/// `448 / amax` of quantisers).
///
/// ```
/// use qkv::GlobalScale;
/// # fn main() -> Result<(), qkv::Error> {
/// assert_eq!(format!("{:?}", GlobalScale::multiplies(0.25)?), "GlobalScale::Multiplies(0.25)");
/// assert_eq!(format!("{:?}", GlobalScale::divides(0.25)?), "GlobalScale::Divides(0.25)");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct GlobalScale<'a>(Way, PhantomData<&'a ()>);

impl<'a> GlobalScale<'a> {
    /// `x = e2m1 * block_scale * scale`.
    ///
    /// # Errors
    /// A scale of 0 or below, or one that is not finite.
    pub fn multiplies(scale: f32) -> Result<Self, Error> {
        Ok(Self(Way::multiplies("global scale", scale)?, PhantomData))
    }

    /// `x = e2m1 * block_scale / scale`.
    ///
    /// # Errors
    /// A scale of 0 or below, or one that is not finite, and so its reciprocal.
    pub fn divides(scale: f32) -> Result<Self, Error> {
        Ok(Self(Way::divides("global scale", scale)?, PhantomData))
    }

    /// As [`GlobalScale::multiplies`], by the f32 at the begin of `span`, read when a kernel runs.
    ///
    /// # Errors
    /// Fewer than 4 bytes, or an address that is no multiple of 4.
    pub fn multiplies_on_device(span: impl Into<DeviceSpan<'a>>) -> Result<Self, Error> {
        Ok(Self(Way::MultipliesAt(Way::at("global scale", span.into())?), PhantomData))
    }

    /// As [`GlobalScale::divides`], by the f32 at the begin of `span`, read when a kernel runs.
    ///
    /// # Errors
    /// Fewer than 4 bytes, or an address that is no multiple of 4.
    pub fn divides_on_device(span: impl Into<DeviceSpan<'a>>) -> Result<Self, Error> {
        Ok(Self(Way::DividesAt(Way::at("global scale", span.into())?), PhantomData))
    }

    pub(super) const fn factor(self) -> Factor {
        self.0.factor()
    }
}

impl fmt::Debug for GlobalScale<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GlobalScale::{:?}", self.0)
    }
}

/// Scales of K or of V, one f32 a token and head: `[pages, page_size, kv_heads]`.
#[derive(Clone, Copy, Debug)]
pub struct TokenScales<'a> {
    span: DeviceSpan<'a>,
    /// In elements; `None`: contiguous.
    strides: Option<[usize; 3]>,
}

impl<'a> TokenScales<'a> {
    /// Contiguous scales. What `span` must have is checked when the cache is made.
    pub fn new(span: impl Into<DeviceSpan<'a>>) -> Self {
        Self { span: span.into(), strides: None }
    }

    /// Scales whose `[page, token, head]` strides are given, in elements.
    pub fn with_strides(span: impl Into<DeviceSpan<'a>>, strides: [usize; 3]) -> Self {
        Self { span: span.into(), strides: Some(strides) }
    }

    fn resolve(&self, names: [&'static str; 4], shape: &CacheShape) -> Result<SideScaling, Error> {
        let contiguous = shape.strides(1, 1, true)?;
        if self.strides.is_none() {
            let expected = shape.bytes(contiguous[0], 32, names[0])?;
            side::exact(names[0], self.span.bytes(), expected)?;
        }
        let packing = Packing { bits: 32, align: side::SCALE_BYTES };
        let view = shape.side(names, self.span, self.strides.unwrap_or(contiguous), 1, packing)?;
        Ok(SideScaling { factor: TensorScale::ONE.factor(), view: Some(view) })
    }
}

/// The scales of an FP8 cache: `k = k_scale * code`, and V likewise.
#[derive(Clone, Copy, Debug)]
pub struct Fp8Scales<'a>(Fp8<'a>);

#[derive(Clone, Copy, Debug)]
enum Fp8<'a> {
    PerTensor { k: TensorScale<'a>, v: TensorScale<'a> },
    PerTokenHead { k: TokenScales<'a>, v: TokenScales<'a> },
}

impl<'a> Fp8Scales<'a> {
    /// One scale of all of K, one of all of V.
    pub const fn per_tensor(k: TensorScale<'a>, v: TensorScale<'a>) -> Self {
        Self(Fp8::PerTensor { k, v })
    }

    /// A scale for every token and KV head of K, and of V.
    pub const fn per_token_head(k: TokenScales<'a>, v: TokenScales<'a>) -> Self {
        Self(Fp8::PerTokenHead { k, v })
    }
}

impl Resolve for Fp8Scales<'_> {
    fn resolve(&self, shape: &CacheShape) -> Result<Scaling, Error> {
        let of = |k, v| Scaling { k, v, ..Scaling::NONE };
        let tensor = |scale: TensorScale<'_>| SideScaling { factor: scale.factor(), view: None };
        match self.0 {
            Fp8::PerTensor { k, v } => Ok(of(tensor(k), tensor(v))),
            Fp8::PerTokenHead { k, v } => Ok(of(k.resolve(side::K_SCALES, shape)?, v.resolve(side::V_SCALES, shape)?)),
        }
    }
}
