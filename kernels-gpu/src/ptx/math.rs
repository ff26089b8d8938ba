//! Special functions.
#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[track_caller]
        pub fn $name(x: f32) -> f32 {
            #[cfg(target_arch = "nvptx64")]
            {
                let y: f32;
                // SAFETY: registers only.
                unsafe { asm!(concat!($text, " {}, {};"), out(reg32) y, in(reg32) x, options(pure, nomem, nostack)) };
                y
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name(x))
        }
    )*};
}

unary! {
    /// `ex2.approx.ftz.f32`: 2^x within 2 ulp; 2^-inf = +0.
    ex2_approx_ftz = "ex2.approx.ftz.f32";
    /// `lg2.approx.ftz.f32`: log2 x; log2 +0 = -inf.
    lg2_approx_ftz = "lg2.approx.ftz.f32";
}

/// `mov.b32`: the same value, which the compiler takes for a new one. What is derived from it behind a loop is so worked
/// out there, and not before the loop and kept in registers all through it.
#[inline(always)]
pub fn renewed(value: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let same: u32;
        // SAFETY: registers only.
        unsafe { asm!("mov.b32 {}, {};", out(reg32) same, in(reg32) value, options(nomem, nostack)) };
        same
    }
    #[cfg(not(target_arch = "nvptx64"))]
    value
}

/// `mul.rn.f16x2`: two products of f16, each rounded to nearest even, subnormals kept; a NaN becomes 0x7FFF.
#[inline(always)]
#[track_caller]
pub fn mul_rn_f16x2(a: u32, b: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let product: u32;
        // SAFETY: registers only.
        unsafe {
            asm!("mul.rn.f16x2 {}, {}, {};", out(reg32) product, in(reg32) a, in(reg32) b, options(pure, nomem, nostack))
        };
        product
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(mul_rn_f16x2(a, b))
}

/// `fma.rn.f32`: a * b + c, rounded once, to nearest even; subnormals are kept; a NaN becomes 0x7FFFFFFF.
#[inline(always)]
#[track_caller]
pub fn fma_rn(a: f32, b: f32, c: f32) -> f32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let sum: f32;
        // SAFETY: registers only.
        unsafe {
            asm!("fma.rn.f32 {}, {}, {}, {};", out(reg32) sum, in(reg32) a, in(reg32) b, in(reg32) c, options(pure, nomem, nostack))
        };
        sum
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(fma_rn(a, b, c))
}

/// `fma.rz.f32`: a * b + c, rounded once, toward zero (never to an infinity); subnormals are kept; a NaN becomes 0x7FFFFFFF.
#[inline(always)]
#[track_caller]
pub fn fma_rz(a: f32, b: f32, c: f32) -> f32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let sum: f32;
        // SAFETY: registers only.
        unsafe {
            asm!("fma.rz.f32 {}, {}, {}, {};", out(reg32) sum, in(reg32) a, in(reg32) b, in(reg32) c, options(pure, nomem, nostack))
        };
        sum
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(fma_rz(a, b, c))
}

/// `max.u16x2` (sm_90 and later): the larger of the lower halves, and of the upper ones, without signs.
#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
#[inline(always)]
#[track_caller]
pub fn max_u16x2(a: u32, b: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let larger: u32;
        // SAFETY: registers only.
        unsafe {
            asm!("max.u16x2 {}, {}, {};", out(reg32) larger, in(reg32) a, in(reg32) b, options(pure, nomem, nostack))
        };
        larger
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(max_u16x2(a, b))
}

/// `lop3.b32`: any function of three bits, for each of 32. Bit `4 a + 2 b + c` of the table is what bits a, b, c give: the
/// function of 0xF0, 0xCC and 0xAA. (The compiler makes one of two operations with two constants only by luck.)
#[inline(always)]
#[track_caller]
pub fn lop3_b32<const TABLE: u32>(a: u32, b: u32, c: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let bits: u32;
        // SAFETY: registers only.
        unsafe {
            asm!("lop3.b32 {}, {}, {}, {}, {};", out(reg32) bits, in(reg32) a, in(reg32) b, in(reg32) c, const TABLE, options(pure, nomem, nostack))
        };
        bits
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(lop3_b32(a, b, c, TABLE))
}
