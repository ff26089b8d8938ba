//! Numbers of eight and four bits, to and from what the tensor cores multiply: the arithmetic of FP8 and NVFP4 caches.
//!
//! | format | sign, exponent, fraction | bias | largest | smallest | infinities | NaN |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | e4m3 | 1, 4, 3 | 7 | 448 | 2^-9 | none | 0x7F, 0xFF |
//! | e5m2 | 1, 5, 2 | 15 | 57344 | 2^-16 | 0x7C, 0xFC | 0x7D to 0x7F, 0xFD to 0xFF |
//! | e2m1 | 1, 2, 1 | 1 | 6 | 0.5 | none | none |
//!
//! (OCP, "8-bit floating point specification" and "Microscaling formats specification".) All of them are exact in f16.
//! Chips before sm_89 have no conversions: those of the names in `_software` run on all.
use crate::ptx::convert::prmt_b32;
#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
use crate::ptx::convert::{cvt_rn_f16x2_e4m3x2, cvt_rn_satfinite_e4m3x2, cvt_rn_satfinite_e5m2x2};
#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
use crate::ptx::math::max_u16x2;
use crate::ptx::math::mul_rn_f16x2;

/// 2^8 in both halves.
const F16X2_256: u32 = 0x5C00_5C00;

/// Two e4m3 in the low half of `pair`, as f16: the lower byte in the lower half.
#[inline(always)]
#[track_caller]
pub fn e4m3x2_to_f16x2(pair: u32) -> u32 {
    #[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
    {
        cvt_rn_f16x2_e4m3x2(pair)
    }
    #[cfg(all(target_arch = "nvptx64", qkv_sm = "80"))]
    e4m3x2_to_f16x2_software(pair)
}

/// [`e4m3x2_to_f16x2`] without the conversion: exponent and fraction moved to their places in f16 are x / 256, whose bias
/// is larger by 8; NaN, which would be 480, is put in by bits.
#[inline(always)]
#[track_caller]
pub fn e4m3x2_to_f16x2_software(pair: u32) -> u32 {
    let spread = pair & 0xFF | (pair & 0xFF00) << 8;
    let small = (spread << 7) & 0x3F80_3F80 | (spread << 8) & 0x8000_8000;
    // The one magnitude whose increment reaches bit 7.
    let nan = (((spread & 0x007F_007F) + 0x0001_0001) & 0x0080_0080) >> 7;
    (mul_rn_f16x2(small, F16X2_256) & !(nan << 15)) | (nan * 0x7FFF)
}

/// The larger of the lower halves, and of the upper ones, without signs.
#[inline(always)]
#[track_caller]
pub fn larger_u16x2(a: u32, b: u32) -> u32 {
    #[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
    {
        max_u16x2(a, b)
    }
    #[cfg(all(target_arch = "nvptx64", qkv_sm = "80"))]
    {
        a.max(b) & 0xFFFF_0000 | (a & 0xFFFF).max(b & 0xFFFF)
    }
}

/// The e5m2 in bytes `LOW` and `HIGH` of `word`, as f16: each is its f16's upper byte. A NaN stays one, with its bits.
#[inline(always)]
#[track_caller]
pub fn e5m2x2_to_f16x2<const LOW: u32, const HIGH: u32>(word: u32) -> u32 {
    // Byte 4 is the first of zero.
    prmt_b32(word, 0, const { 0x0404 | LOW << 4 | HIGH << 12 })
}

/// Eight e2m1, the lowest nibble first, as two words of four e5m2 that are exactly x / 2^14: those of the even nibbles and
/// those of the odd ones, each in order. A smaller bias is a power of two, so bits only move.
#[inline(always)]
pub const fn e2m1x8_to_e5m2x4(word: u32) -> [u32; 2] {
    [(word << 4) & 0x8080_8080 | (word << 1) & 0x0E0E_0E0E, word & 0x8080_8080 | (word >> 3) & 0x0E0E_0E0E]
}

/// Four columns of e2m1 of two keys, the second key's in the upper half of `word`, as four bytes: byte `i` has column `i` of
/// both, the second key's in the upper nibble.
#[inline(always)]
#[track_caller]
pub fn e2m1_of_columns(word: u32) -> u32 {
    // Columns 1 and 3 of the first key and 0 and 2 of the second change nibbles.
    let moved = word << 4;
    let (first, second) = (prmt_b32(word, moved, 0x6150), prmt_b32(word, moved, 0x3726));
    first & 0x0F0F_0F0F | second & 0xF0F0_F0F0
}

/// Two f32 to e4m3 in the low half, `high` in its upper byte: to nearest even, too large and infinite to +-448, NaN to
/// 0x7F.
#[inline(always)]
#[track_caller]
pub fn f32x2_to_e4m3x2(high: f32, low: f32) -> u32 {
    #[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
    {
        cvt_rn_satfinite_e4m3x2(high, low)
    }
    #[cfg(all(target_arch = "nvptx64", qkv_sm = "80"))]
    f32x2_to_e4m3x2_software(high, low)
}

/// Two f32 to e5m2 in the low half, `high` in its upper byte: to nearest even, too large and infinite to +-57344, NaN to
/// 0x7F.
#[inline(always)]
#[track_caller]
pub fn f32x2_to_e5m2x2(high: f32, low: f32) -> u32 {
    #[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
    {
        cvt_rn_satfinite_e5m2x2(high, low)
    }
    #[cfg(all(target_arch = "nvptx64", qkv_sm = "80"))]
    f32x2_to_e5m2x2_software(high, low)
}

/// [`f32x2_to_e4m3x2`] without the conversion.
#[inline(always)]
pub const fn f32x2_to_e4m3x2_software(high: f32, low: f32) -> u32 {
    const E4M3: Narrow = Narrow { fraction_bits: 3, bias: 7, largest_value: 448.0 };
    E4M3.round(high) << 8 | E4M3.round(low)
}

/// [`f32x2_to_e5m2x2`] without the conversion.
#[inline(always)]
pub const fn f32x2_to_e5m2x2_software(high: f32, low: f32) -> u32 {
    const E5M2: Narrow = Narrow { fraction_bits: 2, bias: 15, largest_value: 57344.0 };
    E5M2.round(high) << 8 | E5M2.round(low)
}

/// Two f32 to e2m1 in one byte, `high` in its upper nibble: to nearest even, too large and infinite to +-6. There is no
/// NaN; one becomes 6, as `cvt.rn.satfinite.e2m1x2.f32` of Blackwell has it.
#[inline(always)]
pub const fn f32x2_to_e2m1x2(high: f32, low: f32) -> u32 {
    e2m1(high) << 4 | e2m1(low)
}

/// One f32 to e2m1, in few operations: no chip before Blackwell has the conversion, and an append does 32 a thread.
///
/// The numbers are 0.5 apart below 2, then 1, then 2: a sum with 2^22 of those steps, whose last place is a step, is
/// rounded as the hardware rounds sums, to nearest even, and its last places are the number of steps. That number and
/// 2 for each doubling of the step is the code.
#[inline(always)]
const fn e2m1(x: f32) -> u32 {
    // The minimum with a NaN is the other number.
    let magnitude = x.abs().min(6.0);
    let power = magnitude.max(1.0).to_bits() & 0x7F80_0000;
    let steps = (magnitude + f32::from_bits(power + (22 << 23))).to_bits();
    // The exponent's bias twice, 254, is 2 less than a multiple of 8.
    let code = (steps + (power >> 22) + 2) & 7;
    // Negative numbers and -0, not the NaN behind -infinity.
    if (x.to_bits() as i32) <= f32::NEG_INFINITY.to_bits() as i32 { code | 8 } else { code }
}

/// A format of 8 bits.
struct Narrow {
    fraction_bits: u32,
    bias: u32,
    /// The largest finite number.
    largest_value: f32,
}

impl Narrow {
    /// The code of `x`, rounded to nearest even; a NaN becomes 0x7F.
    ///
    /// As [`e2m1`]: the sum with 2^23 of the number's steps, whose last place is a step, is rounded as the hardware rounds
    /// sums, and its last places are the number of steps. Numbers below the smallest normal have its step.
    #[inline(always)]
    const fn round(&self, x: f32) -> u32 {
        // The minimum with a NaN is the other number.
        let magnitude = x.abs().min(self.largest_value);
        let smallest = f32::from_bits((128 - self.bias) << 23);
        let power = magnitude.max(smallest).to_bits() & 0x7F80_0000;
        let steps = f32::from_bits(power + ((23 - self.fraction_bits) << 23));
        let count = (magnitude + steps).to_bits() - steps.to_bits();
        let doublings = (power >> 23) - (128 - self.bias);
        let code = count + (doublings << self.fraction_bits);
        if x.is_nan() { 0x7F } else { x.to_bits() >> 31 << 7 | code }
    }
}
