//! Conversions and packing.
#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;

macro_rules! pack {
    ($($name:ident = $text:literal;)*) => {$(
        #[doc = concat!("`", $text, "`: two f32 rounded to nearest even; `high` goes to the upper half.")]
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
    cvt_rn_bf16x2 = "cvt.rn.bf16x2.f32";
    cvt_rn_f16x2 = "cvt.rn.f16x2.f32";
}
