//! Conversions and packing.
#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;

macro_rules! pack {
    ($($name:ident = $text:literal, $how:literal;)*) => {$(
        #[doc = concat!("`", $text, "`: two f32 rounded ", $how, "; `high` goes to the upper half.")]
        #[inline(always)]
        #[track_caller]
        pub fn $name(high: f32, low: f32) -> u32 {
            #[cfg(target_arch = "nvptx64")]
            {
                let packed: u32;
                // SAFETY: registers only.
                unsafe { asm!(concat!($text, " {}, {}, {};"), out(reg32) packed, in(reg32) high, in(reg32) low, options(pure, nomem, nostack)) };
                packed
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name(high, low))
        }
    )*};
}

pack! {
    cvt_rn_bf16x2 = "cvt.rn.bf16x2.f32", "to nearest even";
    cvt_rn_f16x2 = "cvt.rn.f16x2.f32", "to nearest even";
    cvt_rz_f16x2 = "cvt.rz.f16x2.f32", "toward zero (what is too large to the largest finite number)";
}

/// `cvt.f32.f16`: the f16 in the low half of `half`, exactly; a NaN becomes 0x7FFFFFFF.
#[inline(always)]
#[track_caller]
pub fn cvt_f32_f16(half: u32) -> f32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let wide: f32;
        // SAFETY: registers only.
        unsafe { asm!("cvt.f32.f16 {}, {};", out(reg32) wide, in(reg16) half as u16, options(pure, nomem, nostack)) };
        wide
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(cvt_f32_f16(half))
}

/// `prmt.b32`: byte `i` of the result is the byte that nibble `i` of `selector` names, 0 to 3 of `a`, 4 to 7 of `b`
/// (a nibble's bit 3 would replicate that byte's sign).
#[inline(always)]
#[track_caller]
pub fn prmt_b32(a: u32, b: u32, selector: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let bytes: u32;
        // SAFETY: registers only.
        unsafe {
            asm!("prmt.b32 {}, {}, {}, {};", out(reg32) bytes, in(reg32) a, in(reg32) b, in(reg32) selector, options(pure, nomem, nostack))
        };
        bytes
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(prmt_b32(a, b, selector))
}

/// `cvt.rn.f16x2.e4m3x2` (sm_89 and later): two e4m3 in the low half of `pair`, the lower byte to the lower f16, exactly;
/// a NaN becomes 0x7FFF. What every chip can run is [`crate::narrow::e4m3x2_to_f16x2`].
#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
#[inline(always)]
#[track_caller]
pub fn cvt_rn_f16x2_e4m3x2(pair: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let wide: u32;
        // SAFETY: registers only.
        unsafe {
            asm!("cvt.rn.f16x2.e4m3x2 {}, {};", out(reg32) wide, in(reg16) pair as u16, options(pure, nomem, nostack))
        };
        wide
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(cvt_rn_f16x2_e4m3x2(pair))
}

#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
macro_rules! narrow {
    ($($name:ident = $text:literal;)*) => {$(
        #[doc = concat!("`", $text, "` (sm_89 and later): two f32 rounded to nearest even into the low half, `high` to its upper byte;")]
        /// what is too large becomes the largest finite number of its sign, infinities too, and NaN 0x7F.
        #[inline(always)]
        #[track_caller]
        pub fn $name(high: f32, low: f32) -> u32 {
            #[cfg(target_arch = "nvptx64")]
            {
                let packed: u16;
                // SAFETY: registers only.
                unsafe { asm!(concat!($text, " {}, {}, {};"), out(reg16) packed, in(reg32) high, in(reg32) low, options(pure, nomem, nostack)) };
                packed as u32
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name(high, low))
        }
    )*};
}

#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
narrow! {
    cvt_rn_satfinite_e4m3x2 = "cvt.rn.satfinite.e4m3x2.f32";
    cvt_rn_satfinite_e5m2x2 = "cvt.rn.satfinite.e5m2x2.f32";
}
