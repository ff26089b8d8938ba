//! Prefill on Blackwell (10.0 and 10.3): accumulators are in tensor memory, so that one thread issues all products
//! (`multiply`), a warpgroup makes P of every tile of S (`softmax`), another corrects O and stores it (`correct`), and the last
//! copies keys and values (`copy`) and query rows. Where O of 128 rows would fill tensor memory, at D = 512, two blocks have 64 rows each:
//! their products are one block's to issue, half of the keys of K and half of the columns of V each block's to copy.
mod block;
mod copy;
mod correct;
mod mask;
mod multiply;
mod product;
mod softmax;

use super::queries;
use super::shape::{PrefillShape, TENSOR_COLUMNS, WARPGROUP};
use crate::abi::PrefillParams;
use crate::fault::{Fault, planted};
use crate::memory::TensorMapAddress;
use crate::ptx::cluster::{cluster_arrive, cluster_wait};
use crate::ptx::registers::{setmaxnreg_dec, setmaxnreg_inc};
use crate::ptx::sync::{elect_sync, uniform};
use crate::ptx::tcgen05::{tcgen05_alloc, tcgen05_dealloc, tcgen05_relinquish_alloc_permit};
use block::TensorBlock;
use cuda_std::thread;
use product::TensorProduct;

/// One block: its share of the items. `KEYS` are of a tile those that a thread of softmax has, `GROUP` the blocks that multiply
/// together, `SOFTMAX`, `COPY` and `CORRECT` the registers that a thread of the warpgroups has.
///
/// # Safety
/// As for [`super::prefill`].
#[inline(always)]
pub unsafe fn prefill<
    const GROUP: u32,
    const KEYS: usize,
    const SOFTMAX: u32,
    const COPY: u32,
    const CORRECT: u32,
    Q: TensorProduct,
>(
    params: &PrefillParams,
    maps: TensorMapAddress,
    shape: &PrefillShape,
) {
    let block = TensorBlock::here(shape);
    let thread = thread::thread_idx_x();
    let (warpgroup, warp) = (uniform(thread / WARPGROUP), uniform(thread / 32));
    let issuer = shape.threads() / 32 - 1;
    // SAFETY: the caller's promise.
    unsafe {
        // No fence of tensor memory around the barriers here and in the end: those order what is asynchronous, and neither allocation nor
        // release is. What is done in between has a fence or a commit behind it in each thread, and one before it.
        let allocate = || {
            if warp == issuer {
                tcgen05_alloc::<GROUP>(block.allocated(), TENSOR_COLUMNS);
                tcgen05_relinquish_alloc_permit::<GROUP>();
            }
        };
        if !shape.pair() {
            allocate();
        }
        block.block.begin::<Q>(params, thread, |_| block.init(), shape);
        if shape.pair() {
            // Together, so both must have begun.
            allocate();
            if !planted(Fault::AllocatedFull) {
                thread::sync_threads();
            }
        }
        let block = &block.with_tensor_memory();
        if warpgroup < shape.consumers {
            setmaxnreg_inc::<SOFTMAX>();
            softmax::softmax::<KEYS, Q>(params, block, warpgroup);
        } else if warpgroup == shape.consumers {
            setmaxnreg_dec::<CORRECT>();
            correct::correct::<Q>(params, block);
        } else {
            setmaxnreg_dec::<COPY>();
            let warp = warp % (WARPGROUP / 32);
            if warp < 2 {
                copy::copy(params, maps, block, [warp, thread % 32]);
            } else if warp == 2 {
                queries::copy(params, maps, &block.block, thread % WARPGROUP - 64, shape);
            } else {
                multiply::multiply::<GROUP, Q>(block, elect_sync());
            }
        }
        if !planted(Fault::ReleasedFull) {
            if shape.pair() {
                // The blocks release tensor memory together, and nothing says that the first to do so waits for the other's loads.
                cluster_arrive();
                cluster_wait();
            } else {
                thread::sync_threads();
            }
        }
        if warp == issuer {
            tcgen05_dealloc::<GROUP>(block.tensor, TENSOR_COLUMNS);
        }
    }
}
