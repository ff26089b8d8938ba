//! Sixteen elements to FP8 or to a block of NVFP4: the arithmetic of an append, bit for bit that of the library's reference
//! quantiser.
//!
//! A quotient is one of f32, rounded to nearest even, and then rounded to its code, to nearest even: infinite and too large
//! ones saturate, NaN is 0x7F in both FP8 formats. e2m1 has no NaN: one becomes 6, and counts for nothing in its block's
//! scale.
use super::division::Divisor;
use crate::element::Element;
use crate::narrow::{e4m3x2_to_f16x2, f32x2_to_e4m3x2, f32x2_to_e5m2x2};
use crate::ptx::convert::cvt_f32_f16;
use crate::ptx::math::{fma_rn, lop3_b32};

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
pub fn nvfp4(numbers: Numbers, global: f32) -> (u32, [u32; 2]) {
    let scale = f32x2_to_e4m3x2(0.0, Divisor::SIX.quotient(largest(&numbers)) / global);
    let step = cvt_f32_f16(e4m3x2_to_f16x2(scale)) * global;
    let divisor = Divisor::new(step);
    let numbers = divisor.prepare(numbers);
    let mut codes = [0; 2];
    for index in 0..16 {
        let near = divisor.near(numbers[index]);
        codes[index / 8] |= e2m1(near, divisor.corrected(numbers[index], near)) << (4 * (index % 8));
    }
    // Not 0 / 0, and no sign either.
    if step == 0.0 { (scale, [0; 2]) } else { (scale, codes) }
}

/// [`f32x2_to_e2m1x2`](crate::narrow::f32x2_to_e2m1x2) of one quotient, in 8 operations: no chip before Blackwell has the
/// conversion. `near` has the sign, and a NaN as arithmetic makes it, without one; where it is infinite the corrected
/// quotient is NaN, which becomes 6 like any other.
///
/// The numbers are 0.5 apart below 2, then 1, then 2. A sum with 2^22 and 2 of those steps, whose last place is a step,
/// is rounded as the hardware rounds sums, to nearest even, and its last bits are the number of steps and 2. With 2 for
/// each doubling of the step that is the code: twice the exponent with its bias, 254, is 2 short of a multiple of 8.
#[inline(always)]
#[track_caller]
fn e2m1(near: f32, corrected: f32) -> u32 {
    // The minimum with a NaN is the other number.
    let magnitude = corrected.abs().min(6.0);
    let power = magnitude.max(1.0).to_bits() & 0x7F80_0000;
    // The step is half the power: 2^22 and 2 steps in twice the power's halves.
    let steps = fma_rn(f32::from_bits(power), 4_194_305.0, magnitude).to_bits();
    // The first's low three bits, the second's fourth.
    lop3_b32::<0xCA>(7, steps.wrapping_add(power >> 22), near.to_bits() >> 28)
}
