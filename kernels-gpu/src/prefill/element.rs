//! Elements of queries and caches that are multiplied as they are.
use crate::abi::{CacheFlags, DecodeParams};
use crate::attention::scale::times;
use crate::element::{Bf16, F16, Fp8E4M3};
use crate::memory::Shared;
use crate::ptx::memory::{ld_shared_b32, st_shared_b32};

/// What logits and outputs of an element are multiplied by, and what P is rounded to.
pub trait PrefillElement: Copy + 'static {
    /// Bytes of an element.
    const BYTES: u32;
    /// log2 of the exponential of a row's maximum at the time that it becomes what exponentials are relative to.
    const TOP: f32;

    /// Leaves what logits are multiplied by, in base 2, at `to`, where that is not among the parameters.
    ///
    /// # Safety
    /// As for the entry; nobody else uses the word.
    unsafe fn tell_scale(params: &DecodeParams, to: Shared<u32>);

    /// What logits are multiplied by, in base 2; `from` is where it was told.
    ///
    /// # Safety
    /// What was stored there is observed.
    unsafe fn score_scale(params: &DecodeParams, from: Shared<u32>) -> f32;

    /// What the output is multiplied by.
    ///
    /// # Safety
    /// As for the entry.
    unsafe fn output_scale(params: &DecodeParams) -> f32;
}

macro_rules! wide {
    ($($element:ident)*) => {$(
        impl PrefillElement for $element {
            const BYTES: u32 = 2;
            // As many digits at any size.
            const TOP: f32 = 0.0;

            #[inline(always)]
            unsafe fn tell_scale(_: &DecodeParams, _: Shared<u32>) {}

            #[inline(always)]
            unsafe fn score_scale(params: &DecodeParams, _: Shared<u32>) -> f32 {
                params.scale_log2
            }

            #[inline(always)]
            unsafe fn output_scale(_: &DecodeParams) -> f32 {
                1.0
            }
        }
    )*};
}

wide! { Bf16 F16 }

impl PrefillElement for Fp8E4M3 {
    const BYTES: u32 = 1;
    // A number is normal from 2^-6 on and 0 below 2^-10: with the maximum at 2^8, the largest power, what is down to 2^-14 of it keeps
    // its four digits, and what is down to 2^-18 is not lost. The maximum is so the exact one (the slack is 8, too).
    const TOP: f32 = 8.0;

    #[inline(always)]
    unsafe fn tell_scale(params: &DecodeParams, to: Shared<u32>) {
        // SAFETY: handed on to the caller.
        unsafe {
            let scale = times(params.scale_log2, params.k_scale, params.flags & CacheFlags::K_DIVIDES != 0);
            st_shared_b32(to, [scale.to_bits()]);
        }
    }

    // Read in each step: a register less through the loop, which at D = 256 has none left.
    #[inline(always)]
    unsafe fn score_scale(_: &DecodeParams, from: Shared<u32>) -> f32 {
        // SAFETY: handed on to the caller.
        let [bits] = unsafe { ld_shared_b32(from) };
        f32::from_bits(bits)
    }

    #[inline(always)]
    unsafe fn output_scale(params: &DecodeParams) -> f32 {
        // SAFETY: handed on to the caller.
        unsafe { times(params.value_scale, params.v_scale, params.flags & CacheFlags::V_DIVIDES != 0) }
    }
}
