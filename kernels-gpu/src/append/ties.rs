//! Sixteen elements to e2m1 without their quotients: each is compared, as the 16 bits that it is, with seven numbers of its
//! block, between which the code does not change.
//!
//! The code of `q = rn(x / step)` is the number of ties below it: 0.25, 0.75, 1.25, 1.75, 2.5, 3.5 and 5, of which 0.75,
//! 1.75 and 3.5 go up to their even neighbour, and the others down. With `u` the distance of f32 at a tie `t` (2^-23 of its
//! power of two), and as `t`'s last bit is even:
//!
//! * `q > t` where `x / step > t + u / 2`, and
//! * `q >= t` where `x / step >= t - u / 2` (none of those three is a power of two, below which `u` would be another).
//!
//! `step (t + u / 2)` is no f32: `t + u / 2` has 25 bits, the last of them 1, and the product's odd part has no fewer. So for
//! no element are both sides equal, both cases are `|x| > step (t ± u / 2)`, and that is `|x| >` what the product is when cut
//! to any format that has `x`: to f32 by one `fma.rz(step, t, ± step u / 2)`, whose addend is exact, then to 16 bits. The
//! ties 2.5, 3.5 and 5 are 2, 2 and 4 times others, their `u` too.
//!
//! Magnitudes of 15 bits are in the order of their numbers, and two are compared at a time: the top bit of each half of
//! `(2^15 + limit) - |x|` is whether `|x| <= limit`, and nothing is borrowed from the upper half.
use super::codes::Chunk;
use crate::element::{Element, ElementKind};
use crate::narrow::larger_u16x2;
use crate::ptx::convert::{cvt_rz_f16x2, prmt_b32};
use crate::ptx::math::{fma_rz, lop3_b32};

/// The bits of two numbers but for their signs.
const MAGNITUDES: u32 = 0x7FFF_7FFF;

/// One value in both halves.
#[inline(always)]
const fn twice(half: u32) -> u32 {
    half << 16 | half
}

/// The bits of a format's infinity; magnitudes beyond are NaN.
#[inline(always)]
pub const fn infinity<S: Element>() -> u32 {
    match S::KIND {
        ElementKind::Bf16 => 0x7F80,
        ElementKind::F16 => 0x7C00,
    }
}

/// The largest magnitude's bits: a NaN's where there is one.
#[inline(always)]
#[track_caller]
pub fn largest(words: &Chunk) -> u32 {
    let mut most = words[0] & MAGNITUDES;
    for index in 1..8 {
        most = larger_u16x2(most, words[index] & MAGNITUDES);
    }
    (most & 0xFFFF).max(most >> 16)
}

/// The elements, without the signs of those whose magnitude is above `limit`.
#[inline(always)]
pub fn unsigned_beyond(mut words: Chunk, limit: u32) -> Chunk {
    for word in &mut words {
        *word &= (twice(0x8000 | limit) - (*word & MAGNITUDES)) | MAGNITUDES;
    }
    words
}

/// Seven products of the step, negative as their sign is the bit that comparisons need. The step is from 2^-60 to 2^60.
#[inline(always)]
#[track_caller]
fn products(step: f32) -> [f32; 7] {
    /// Half of f32's distance at 1.
    const HALF: f32 = f32::from_bits((127 - 24) << 23);
    let (step, half) = (-step, step * HALF);
    let quarter = fma_rz(step, 0.25, -0.25 * half);
    let three_quarters = fma_rz(step, 0.75, 0.5 * half);
    let (low, high) = (fma_rz(step, 1.25, -half), fma_rz(step, 1.75, half));
    [quarter, three_quarters, low, high, 2.0 * low, 2.0 * high, 4.0 * low]
}

/// Products cut to the source's format, in both halves.
#[inline(always)]
#[track_caller]
fn limits<S: Element>(products: [f32; 7]) -> [u32; 7] {
    let mut limits = [0; 7];
    for index in 0..7 {
        limits[index] = match S::KIND {
            ElementKind::Bf16 => prmt_b32(products[index].to_bits(), 0, 0x3232),
            ElementKind::F16 => cvt_rz_f16x2(products[index], products[index]),
        };
    }
    limits
}

/// Limits for a step outside of [`products`]' range, and the elements to compare with them.
#[inline(always)]
#[track_caller]
fn extreme<S: Element>(words: Chunk, step: f32) -> ([u32; 7], Chunk) {
    const NEARER: f32 = f32::from_bits((127 + 90) << 23);
    if step > 0.0 && step < f32::INFINITY {
        // Cut in f32 once more, where a subnormal has fewer bits: what is cut twice is cut once to the shorter.
        let (power, back) = if step < 1.0 { (NEARER, 1.0 / NEARER) } else { (1.0 / NEARER, NEARER) };
        let mut products = products(step * power);
        for product in &mut products {
            *product = fma_rz(*product, back, -0.0);
        }
        (limits::<S>(products), words)
    } else if step == 0.0 {
        // Not 0 / 0, and no sign either.
        ([twice(0x8000); 7], [0; 8])
    } else if step == f32::INFINITY {
        // Zeros, but for infinities, whose quotients are NaN.
        ([twice(0x8000 | (infinity::<S>() - 1)); 7], unsigned_beyond(words, infinity::<S>() - 1))
    } else {
        // NaN, all of them: above the number before 0.
        ([twice(0x7FFF); 7], [0; 8])
    }
}

/// The e2m1 codes of a block's elements over its step (which is not negative), the first in the lowest nibble. NaN is 6 with
/// its sign: who has one takes that away before.
#[inline(always)]
#[track_caller]
pub fn e2m1<S: Element>(mut words: Chunk, step: f32) -> [u32; 2] {
    const SMALL: f32 = f32::from_bits((127 - 60) << 23);
    const LARGE: f32 = f32::from_bits((127 + 60) << 23);
    let limits = if (SMALL..=LARGE).contains(&step) {
        limits::<S>(products(step))
    } else {
        let (limits, compared) = extreme::<S>(words, step);
        words = compared;
        limits
    };
    let [low, high] = [0, 4].map(|first| {
        let [a, b] = [first, first + 2].map(|first| four(words[first], words[first + 1], &limits));
        // The first element's nibble and the second's to one byte.
        lop3_b32::<0xCA>(0x0F0F_0F0F, prmt_b32(a, b, 0x6420), prmt_b32(a, b, 0x7531))
    });
    [low, high]
}

/// The codes of four elements, each in both nibbles of its byte.
#[inline(always)]
#[track_caller]
fn four(first: u32, second: u32, limits: &[u32; 7]) -> u32 {
    let [a, b] = [first, second].map(|word| {
        let mut not_above = *limits;
        for limit in &mut not_above {
            *limit = limit.wrapping_sub(word & MAGNITUDES);
        }
        // Ties passed are counted in binary: each changes the last bit, every second one the next. Of an odd number (3, 7)
        // the complement is that of complements.
        let [t1, t2, t3, t4, t5, t6, t7] = not_above;
        let twos = lop3_b32::<0x96>(t2, t4, t6);
        let ones = lop3_b32::<0x96>(lop3_b32::<0x96>(twos, t1, t3), t5, t7);
        [word, t4, twos, ones]
    });
    // Top bits of halves become bytes of ones or zeros.
    let [signs, fours, twos, ones] = [0, 1, 2, 3].map(|plane| prmt_b32(a[plane], b[plane], 0xFDB9));
    let upper = lop3_b32::<0xC5>(0x8888_8888, signs, fours);
    let lower = lop3_b32::<0x35>(0x2222_2222, twos, ones);
    lop3_b32::<0xCA>(0xCCCC_CCCC, upper, lower)
}
