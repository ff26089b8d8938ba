//! The products of an element.
use crate::element::{Bf16, Element, F16, Fp8E4M3};
use crate::layout::descriptor::{KMajor, Major, MnMajor};
use crate::layout::tcgen05::{Format8, Format16, InstructionDescriptor, SmemDescriptor};
use crate::memory::TensorMemory;
use crate::prefill::element::PrefillElement;
use crate::ptx::convert::cvt_rn_satfinite_e4m3x2;
use crate::ptx::tcgen05::{tcgen05_mma_f8f6f4_ss, tcgen05_mma_f8f6f4_ts, tcgen05_mma_f16_ss, tcgen05_mma_f16_ts};

/// An element that `tcgen05.mma` multiplies.
pub trait TensorProduct: PrefillElement {
    /// What an instruction is told of a product of `m` rows and `n` columns.
    fn instruction<const GROUP: u32, B: Major>(m: u32, n: u32) -> InstructionDescriptor;

    /// `tcgen05.mma` of this element, both operands in shared memory.
    ///
    /// # Safety
    /// As for [`tcgen05_mma_f16_ss`].
    unsafe fn ss<const GROUP: u32, B: Major>(
        d: TensorMemory,
        a: SmemDescriptor<KMajor>,
        b: SmemDescriptor<B>,
        instruction: InstructionDescriptor,
        add: bool,
    );

    /// `tcgen05.mma` of this element, A in tensor memory.
    ///
    /// # Safety
    /// As for [`tcgen05_mma_f16_ts`].
    unsafe fn ts<const GROUP: u32>(
        d: TensorMemory,
        a: TensorMemory,
        b: SmemDescriptor<MnMajor>,
        instruction: InstructionDescriptor,
        add: bool,
    );

    /// Four bytes of P, of the first keys of `p`.
    fn word(p: &[f32]) -> u32;
}

macro_rules! products {
    ($($element:ident: $kind:ident $format:path, $ss:ident $ts:ident $p:ident => $word:expr;)*) => {$(
        impl TensorProduct for $element {
            #[inline(always)]
            fn instruction<const GROUP: u32, B: Major>(m: u32, n: u32) -> InstructionDescriptor {
                InstructionDescriptor::$kind::<GROUP, KMajor, B>(m, n, $format, $format)
            }

            #[inline(always)]
            unsafe fn ss<const GROUP: u32, B: Major>(
                d: TensorMemory,
                a: SmemDescriptor<KMajor>,
                b: SmemDescriptor<B>,
                instruction: InstructionDescriptor,
                add: bool,
            ) {
                // SAFETY: handed on to the caller.
                unsafe { $ss::<GROUP, KMajor, B>(d, a, b, instruction, add) }
            }

            #[inline(always)]
            unsafe fn ts<const GROUP: u32>(
                d: TensorMemory,
                a: TensorMemory,
                b: SmemDescriptor<MnMajor>,
                instruction: InstructionDescriptor,
                add: bool,
            ) {
                // SAFETY: handed on to the caller.
                unsafe { $ts::<GROUP, MnMajor>(d, a, b, instruction, add) }
            }

            #[inline(always)]
            fn word($p: &[f32]) -> u32 {
                $word
            }
        }
    )*};
}

products! {
    Bf16: f16 Format16::Bf16, tcgen05_mma_f16_ss tcgen05_mma_f16_ts p => Self::pack(p[0], p[1]);
    F16: f16 Format16::F16, tcgen05_mma_f16_ss tcgen05_mma_f16_ts p => Self::pack(p[0], p[1]);
    Fp8E4M3: f8f6f4 Format8::E4m3, tcgen05_mma_f8f6f4_ss tcgen05_mma_f8f6f4_ts
        p => cvt_rn_satfinite_e4m3x2(p[1], p[0]) | cvt_rn_satfinite_e4m3x2(p[3], p[2]) << 16;
}
