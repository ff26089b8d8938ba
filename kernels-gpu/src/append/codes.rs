//! Sixteen elements to FP8 or to a block of NVFP4: the arithmetic of an append, bit for bit that of the library's reference
//! quantiser.
//!
//! A quotient is one of f32, rounded to nearest even, and then rounded to its code, to nearest even: infinite and too large
//! ones saturate, NaN is 0x7F in both FP8 formats. e2m1 has no NaN: one becomes 6, and counts for nothing in its block's
//! scale.
use super::division::Divisor;
use super::ties;
use crate::element::Element;
use crate::narrow::{e4m3x2_to_f16x2, f32x2_to_e4m3x2, f32x2_to_e5m2x2};
use crate::ptx::convert::cvt_f32_f16;

/// 16 elements of 16 bits.
pub type Chunk = [u32; 8];

/// Their numbers.
pub type Numbers = [f32; 16];

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

/// The numbers of a chunk.
#[inline(always)]
#[track_caller]
pub fn unpack<S: Element>(chunk: Chunk) -> Numbers {
    let mut numbers = [0.0; 16];
    for word in 0..8 {
        [numbers[2 * word], numbers[2 * word + 1]] = S::unpack(chunk[word]);
    }
    numbers
}

/// The largest magnitude; a NaN counts for nothing.
#[inline(always)]
pub fn largest(numbers: &Numbers) -> f32 {
    let mut most = 0.0f32;
    for index in 0..16 {
        most = most.max(numbers[index].abs());
    }
    most
}

/// The codes of the numbers over the divisor, the first in the lowest byte.
#[inline(always)]
pub fn fp8(numbers: Numbers, divisor: &Divisor, format: Fp8) -> [u32; 4] {
    let numbers = divisor.prepare(numbers);
    let pair = |first: usize| {
        let [low, high] = [first, first + 1].map(|index| divisor.quotient(numbers[index]));
        match format {
            Fp8::E4M3 => f32x2_to_e4m3x2(high, low),
            Fp8::E5M2 => f32x2_to_e5m2x2(high, low),
        }
    };
    let mut codes = [0; 4];
    for word in 0..4 {
        codes[word] = pair(4 * word) | pair(4 * word + 2) << 16;
    }
    codes
}

/// A block's scale (e4m3) and codes, the first in the lowest nibble; `global` multiplies what is read.
#[inline(always)]
pub fn nvfp4<S: Element>(chunk: Chunk, global: f32) -> (u32, [u32; 2]) {
    let mut words = chunk;
    let most = ties::largest(&words);
    let largest = if most > ties::infinity::<S>() {
        // A NaN, which counts for nothing and has no sign.
        words = ties::unsigned_beyond(words, ties::infinity::<S>());
        largest(&unpack::<S>(chunk))
    } else {
        S::unpack(most)[0]
    };
    let scale = f32x2_to_e4m3x2(0.0, Divisor::SIX.quotient(largest) / global);
    let step = cvt_f32_f16(e4m3x2_to_f16x2(scale)) * global;
    (scale, ties::e2m1::<S>(words, step))
}
