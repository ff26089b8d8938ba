//! Sixteen elements to FP8 or to a block of NVFP4: the arithmetic of an append, bit for bit that of the library's reference
//! quantiser.
//!
//! A quotient is one of f32, rounded to nearest even, and then rounded to its code, to nearest even: infinite and too large
//! ones saturate, NaN is 0x7F in both FP8 formats. e2m1 has no NaN: one becomes 6, and counts for nothing in its block's
//! scale.
use super::division::Divisor;
use crate::element::Element;
use crate::narrow::{e4m3x2_to_f16x2, f32x2_to_e2m1x2, f32x2_to_e4m3x2, f32x2_to_e5m2x2};
use crate::ptx::convert::cvt_f32_f16;

/// 16 elements of 16 bits.
pub type Chunk = [u32; 8];

/// An FP8 format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fp8 {
    /// 4 exponent bits, largest 448.
    E4M3,
    /// 5 exponent bits, largest 57344.
    E5M2,
}

impl Fp8 {
    /// The largest finite number.
    #[inline(always)]
    pub const fn largest(self) -> f32 {
        match self {
            Self::E4M3 => 448.0,
            Self::E5M2 => 57344.0,
        }
    }
}

/// The largest magnitude of a chunk; a NaN counts for nothing.
#[inline(always)]
pub fn largest<S: Element>(chunk: Chunk) -> f32 {
    chunk.into_iter().fold(0.0f32, |most, word| {
        let [low, high] = S::unpack(word);
        most.max(low.abs()).max(high.abs())
    })
}

/// The codes of a chunk's elements over the divisor, the first in the lowest byte.
#[inline(always)]
pub fn fp8<S: Element>(chunk: Chunk, divisor: &Divisor, format: Fp8) -> [u32; 4] {
    let pair = |word: u32| {
        let [low, high] = S::unpack(word).map(|x| divisor.quotient(x));
        match format {
            Fp8::E4M3 => f32x2_to_e4m3x2(high, low),
            Fp8::E5M2 => f32x2_to_e5m2x2(high, low),
        }
    };
    let mut codes = [0; 4];
    for word in 0..4 {
        codes[word] = pair(chunk[2 * word]) | pair(chunk[2 * word + 1]) << 16;
    }
    codes
}

/// A block's scale (e4m3) and codes, the first in the lowest nibble; `global` multiplies what is read.
#[inline(always)]
pub fn nvfp4<S: Element>(chunk: Chunk, global: f32) -> (u32, [u32; 2]) {
    let scale = f32x2_to_e4m3x2(0.0, largest::<S>(chunk) / 6.0 / global);
    let step = cvt_f32_f16(e4m3x2_to_f16x2(scale)) * global;
    let divisor = Divisor::new(step);
    let mut codes = [0; 2];
    for index in 0..8 {
        let [low, high] = S::unpack(chunk[index]).map(|x| divisor.quotient(x));
        codes[index / 4] |= f32x2_to_e2m1x2(high, low) << (8 * (index % 4));
    }
    // Not 0 / 0, and no sign either.
    if step == 0.0 { (scale, [0; 2]) } else { (scale, codes) }
}
