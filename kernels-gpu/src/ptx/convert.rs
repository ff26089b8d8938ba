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

/// `cvt.rn.f16x2.e2m1x2` (sm_100a and its kin): the two e2m1 in byte `BYTE` of `word`, the lower nibble to the lower f16,
/// exactly. What every chip can run is [`crate::narrow::e2m1x8_to_e5m2x4`] and [`crate::narrow::e5m2x2_to_f16x2`].
#[cfg(not(all(target_arch = "nvptx64", any(qkv_sm = "80", qkv_sm = "90"))))]
#[inline(always)]
#[track_caller]
pub fn cvt_rn_f16x2_e2m1x2<const BYTE: u32>(word: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let wide: u32;
        macro_rules! of_byte {
            ($byte:literal) => {
                // The source is a register of 8 bits, which inline assembly has none of; taken from the word by a move, it is
                // the word's byte in the machine's instruction (`F2FP.F16.E2M1.UNPACK_B R0, R1.B2`).
                // SAFETY: registers only.
                unsafe {
                    asm!(
                        concat!("{{ .reg .b8 b<4>; mov.b32 {{b0, b1, b2, b3}}, {1}; cvt.rn.f16x2.e2m1x2 {0}, b", $byte, "; }}"),
                        out(reg32) wide,
                        in(reg32) word,
                        options(pure, nomem, nostack)
                    )
                }
            };
        }
        match BYTE {
            0 => of_byte!(0),
            1 => of_byte!(1),
            2 => of_byte!(2),
            _ => of_byte!(3),
        }
        wide
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(cvt_rn_f16x2_e2m1x2(word >> (8 * BYTE)))
}

macro_rules! twice {
    ($($name:ident = $half:literal, $which:literal;)*) => {$(
        #[doc = concat!("`mov.b32`: the ", $which, " half of `word`, twice. Not a `prmt`, which is an instruction: the assembler makes this a")]
        /// modifier of the operand of the product that takes it (`R0.H0_H0`).
        #[inline(always)]
        #[track_caller]
        pub fn $name(word: u32) -> u32 {
            #[cfg(target_arch = "nvptx64")]
            {
                let both: u32;
                // SAFETY: registers only.
                unsafe {
                    asm!(
                        concat!("{{ .reg .b16 h<2>; mov.b32 {{h0, h1}}, {1}; mov.b32 {0}, {{h", $half, ", h", $half, "}}; }}"),
                        out(reg32) both,
                        in(reg32) word,
                        options(pure, nomem, nostack)
                    )
                };
                both
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name(word))
        }
    )*};
}

twice! {
    mov_b32_low_twice = "0", "lower";
    mov_b32_high_twice = "1", "upper";
}

/// `mov.b64` of two registers, the lower word first.
#[inline(always)]
#[track_caller]
pub fn mov_b64(low: u32, high: u32) -> u64 {
    #[cfg(target_arch = "nvptx64")]
    {
        let words: u64;
        // SAFETY: registers only.
        unsafe {
            asm!("mov.b64 {}, {{{}, {}}};", out(reg64) words, in(reg32) low, in(reg32) high, options(pure, nomem, nostack))
        };
        words
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(mov_b64(low, high))
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
