//! What all of K and all of V are multiplied by: what the host knows comes with the parameters, the rest is read here.
use crate::abi::{CacheFlags, DecodeParams};
use crate::element::Element;
use crate::memory::Global;
use crate::ptx::memory::ld_global_b32;
use crate::tile::operand::KvElement;

/// What the scores are multiplied by, in base 2.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn of_scores<Q: Element, K: KvElement<Q>>(params: &DecodeParams) -> f32 {
    if K::PRODUCTS == 1 {
        return params.scale_log2;
    }
    // SAFETY: handed on to the caller.
    unsafe { times(params.scale_log2 * K::DIVISOR, params.k_scale, params.flags & CacheFlags::K_DIVIDES != 0) }
}

/// What the output is multiplied by.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn of_output<Q: Element, K: KvElement<Q>>(params: &DecodeParams) -> f32 {
    if K::PRODUCTS == 1 {
        return 1.0;
    }
    // SAFETY: handed on to the caller.
    unsafe { times(params.value_scale * K::DIVISOR, params.v_scale, params.flags & CacheFlags::V_DIVIDES != 0) }
}

/// `known` times what is at `scale`, or divided by it; NULL: as it is.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn times(known: f32, scale: Global<f32>, divides: bool) -> f32 {
    if scale.is_null() {
        return known;
    }
    // SAFETY: one f32, where there is one.
    let [bits] = unsafe { ld_global_b32(scale.cast()) };
    let scale = f32::from_bits(bits);
    if divides { known / scale } else { known * scale }
}
