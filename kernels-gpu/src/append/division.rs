//! Many numbers over one: quotients of f32 as IEEE 754 has them, rounded once, for 4 instructions each in place of a
//! division's 10 and its branch (an append divides 32 numbers a thread, beside 64 bytes that it loads).
//!
//! With `y` the divisor's reciprocal rounded to nearest, and `q` within one place of the quotient, `q + (x - q b) y` rounded
//! once is the quotient rounded to nearest (Markstein, "Computation of elementary functions on the IBM RISC System/6000
//! processor", 1990): the remainder is exact in one fused operation, and so is the correction but for its one rounding.
//! `x y` alone may be one and a half places off, so what `y` lacks is added to it: `x below + x rest` is within a half.
//!
//! The theorem wants numbers away from the exponent's ends: a divisor below 2^-60 or above 2^60 is brought nearer by a
//! power of two, and the dividends with it. A dividend that leaves the range in that (or is there before) has a quotient
//! that is too large or too small for any 8-bit format by far, and keeps its sign.
use crate::ptx::math::fma_rn;

/// Quotients from here on are not corrected: above the largest number of any 8-bit format, 57344.
const LIMIT: f32 = 1_048_576.0;

/// A number to divide by.
#[derive(Clone, Copy, Debug)]
pub struct Divisor {
    /// What dividends are multiplied by first: a power of two with the divisor's sign.
    factor: f32,
    /// The divisor times that, not negative.
    divisor: f32,
    /// Its reciprocal to nearest.
    reciprocal: f32,
    /// Its reciprocal rounded down.
    below: f32,
    /// What that lacks; not 0, as infinity times 0 is not infinity, nor negative, so that zeros keep their sign.
    rest: f32,
    /// Quotients below it are corrected.
    limit: f32,
}

impl Divisor {
    /// For rows of zeros, whose scale is 0: a zero of either sign becomes +0, and NaN stays NaN.
    pub const OF_ZEROS: Self = Self { factor: 1.0, divisor: 0.0, reciprocal: 0.0, below: 0.0, rest: -0.0, limit: -1.0 };

    /// 6, e2m1's largest number, for dividends of 16 bits: all their quotients are IEEE 754's (a test has every one).
    pub const SIX: Self = {
        // 1 / 6 lies two thirds of a place above the lower of its neighbours.
        let (below, reciprocal) = (f32::from_bits(0x3E2A_AAAA), f32::from_bits(0x3E2A_AAAB));
        let rest = (1.0 - 6.0 * below as f64) as f32 * reciprocal;
        Self { factor: 1.0, divisor: 6.0, reciprocal, below, rest, limit: f32::MAX }
    };

    /// Any f32: of 0, infinity and NaN the quotients are IEEE 754's too.
    #[inline(always)]
    pub fn new(divisor: f32) -> Self {
        const SMALL: f32 = f32::from_bits((127 - 60) << 23);
        const LARGE: f32 = f32::from_bits((127 + 60) << 23);
        const NEARER: f32 = f32::from_bits((127 + 90) << 23);
        let magnitude = divisor.abs();
        let power = if magnitude < SMALL {
            NEARER
        } else if magnitude > LARGE {
            1.0 / NEARER
        } else {
            1.0
        };
        let factor = if divisor.is_sign_negative() { -power } else { power };
        let divisor = divisor * factor;
        let reciprocal = 1.0 / divisor;
        // Both exact. Above the reciprocal there is at most half a place.
        let below =
            if fma_rn(-divisor, reciprocal, 1.0) < 0.0 { f32::from_bits(reciprocal.to_bits() - 1) } else { reciprocal };
        let rest = (fma_rn(-divisor, below, 1.0) * reciprocal).max(f32::MIN_POSITIVE);
        let (rest, limit) = if divisor == f32::INFINITY { (0.0, -1.0) } else { (rest, LIMIT) };
        Self { factor, divisor, reciprocal, below, rest, limit }
    }

    /// What comes before any quotient: dividends where the divisor is. (Seldom anything to do.)
    #[inline(always)]
    pub fn prepare<const N: usize>(&self, mut dividends: [f32; N]) -> [f32; N] {
        if self.factor != 1.0 {
            for x in &mut dividends {
                *x *= self.factor;
            }
        }
        dividends
    }

    /// The quotient of a prepared dividend within a half and a little of its last place, with the quotient's sign; infinite
    /// where that is too large, NaN where it is none.
    #[inline(always)]
    #[track_caller]
    pub fn near(&self, x: f32) -> f32 {
        fma_rn(x, self.below, x * self.rest)
    }

    /// The quotient rounded to nearest even, from one that is [`near`](Self::near); NaN where that is infinite.
    #[inline(always)]
    #[track_caller]
    pub fn corrected(&self, x: f32, near: f32) -> f32 {
        // The remainder's negative: with x - q b a zero of the wrong sign would be added to -0.
        let over = fma_rn(near, self.divisor, -x);
        fma_rn(over, -self.reciprocal, near)
    }

    /// A prepared dividend's IEEE 754 quotient to nearest even where that is from 2^-18 to 2^20, any NaN, and zero with its
    /// sign; and else a number of its sign that is as small or as large to every 8-bit format.
    #[inline(always)]
    #[track_caller]
    pub fn quotient(&self, x: f32) -> f32 {
        let near = self.near(x);
        let corrected = self.corrected(x, near);
        if near.abs() < self.limit { corrected } else { near }
    }
}
