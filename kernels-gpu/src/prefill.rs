//! Prefill on Hopper (sm_90a): many query tokens of each sequence, of prompts and of chunks, against its paged cache. Bound by
//! arithmetic: all that matters is that the tensor cores always have a product to do, so one warp copies keys and values
//! ahead by tensor copies, and the others multiply.
pub mod shape;

use crate::abi::PrefillParams;
use crate::memory::TensorMapAddress;

/// One block (under construction on this branch).
///
/// # Safety
/// As for the entries.
#[inline(always)]
pub unsafe fn prefill<const D: u32, const STEPS: usize, Q, S, O>(params: &PrefillParams, maps: TensorMapAddress) {
    let _ = (params, maps);
}
