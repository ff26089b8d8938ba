//! Who does what in a block.
use super::block::Block;
use super::product::Product;
use super::shape::{PrefillShape, WARPGROUP};
use super::{keys, multiply, queries, slots, transpose};
use crate::abi::PrefillParams;
use crate::memory::TensorMapAddress;
use crate::ptx::registers::{setmaxnreg_dec, setmaxnreg_inc};
use crate::ptx::sync::uniform;
use crate::ptx::wgmma::Accumulator;
use cuda_std::thread;

/// One block: its share of the items. `HELD` are the steps of query rows in registers, `STEPS` products over a tile's keys; `MULTIPLY` and `COPY` are the registers that a
/// thread of a warpgroup of either kind has.
///
/// # Safety
/// The addresses in `params` are of live buffers of the sizes that [`crate::abi`] says, its items are what the host's planner
/// made for this entry, of which `shape` is the shape, `maps` is the address of its maps, and the launch has the entry's threads and shared memory.
#[inline(always)]
pub unsafe fn prefill<
    const D: u32,
    const HELD: usize,
    const STEPS: usize,
    const MULTIPLY: u32,
    const COPY: u32,
    Q: Product,
    S: Accumulator,
    O: Accumulator,
>(
    params: &PrefillParams,
    maps: TensorMapAddress,
    shape: &PrefillShape,
) {
    let block = &Block::here(shape);
    let thread = thread::thread_idx_x();
    let warpgroup = uniform(thread / WARPGROUP);
    // SAFETY: the caller's promise.
    unsafe {
        block.begin::<Q>(params, thread, |_| {}, shape);
        if warpgroup == shape.consumers {
            setmaxnreg_dec::<COPY>();
            let warp = uniform(thread / 32) % (WARPGROUP / 32);
            if warp < 2 && shape.pair() {
                slots::copy(params, maps, block, [warp, thread % 32], shape);
            } else if warp < 2 {
                keys::copy(params, maps, block, [warp, thread % 32], shape);
            } else if warp >= WARPGROUP / 32 - shape.transposers() {
                transpose::values::<D>(block, thread % 32, shape);
            } else {
                queries::copy(params, maps, block, thread % WARPGROUP - 64, shape);
            }
        } else {
            setmaxnreg_inc::<MULTIPLY>();
            if shape.pair() {
                Q::pair(params, block, warpgroup, shape);
            } else {
                multiply::multiply::<D, HELD, STEPS, Q, S, O>(params, block, warpgroup, shape);
            }
        }
        // A block of a pair may end: whatever the other sends it has waited for.
    }
}
