//! Probes of `tcgen05`: one product by one block, its operands' places in shared memory and its shape given at run time, so that one
//! probe is every shape, major, swizzle and stride.
//!
//! Operand words: of A and of B start (from where shared memory begins), leading and stride byte offset, and swizzle, its
//! number as the probes of `wgmma` have it: 0 none, 1 of 128 bytes, 2 of 64, 3 of 32; the instruction descriptor; whether to add; D's columns, a multiple of 8; whether D leaves the upper
//! half of each warp's lanes alone (M = 64), whose results are zeros then. Then A of tensor memory, `[128][8]`; D, `[128][256]`; and
//! [`IMAGE_WORDS`] of shared memory. Results: D, `[128][256]`, of which what is behind its columns is not written.
use super::Trial;
use crate::layout::descriptor::{KMajor, Swizzle};
use crate::layout::tcgen05::{InstructionDescriptor, SmemDescriptor};
use crate::memory::{Mbarrier, Shared, TensorMemory};
use crate::ptx::mbarrier::{fence_mbarrier_init, mbarrier_init, mbarrier_wait_parity};
use crate::ptx::memory::{dynamic_shared, ld_global_v4_b32, ld_shared_b32, st_shared_v4_b32};
use crate::ptx::sync::fence_proxy_async_shared;
use crate::ptx::tcgen05::*;
use cuda_std::thread;

/// Words of shared memory: 16 KiB for A, 32 for B.
pub const IMAGE_WORDS: u32 = 12288;
/// Words of a block's operands before A of tensor memory, and before D.
pub const HEAD: u32 = 12;
/// Where D begins.
pub const D: u32 = HEAD + LANES * A_WORDS;
/// Columns of a row of D among the operands and the results.
pub const COLUMNS: u32 = 256;

const LANES: u32 = 128;
const A_WORDS: u32 = 8;
/// Behind the image: the allocation's address, and an mbarrier.
const ADDRESS: u32 = 4 * IMAGE_WORDS;
const BARRIER: u32 = ADDRESS + 8;

/// The operand whose four words begin at `word`. Which dimension is contiguous is the instruction descriptor's to say.
#[inline(always)]
unsafe fn descriptor(trial: &Trial, word: u32) -> SmemDescriptor<KMajor> {
    // SAFETY: operands of the block.
    let [start, leading, stride, swizzle] = unsafe { [0, 1, 2, 3].map(|i| trial.load(word + i)) };
    let at = |swizzle| SmemDescriptor::new(dynamic_shared().byte_offset(start), leading, stride, swizzle);
    match swizzle {
        0 => at(Swizzle::None),
        1 => at(Swizzle::Bytes128),
        2 => at(Swizzle::Bytes64),
        _ => at(Swizzle::Bytes32),
    }
}

/// What is done in tensor memory before the next barrier is before what is done after it.
#[inline(always)]
fn meet() {
    tcgen05_fence_before_thread_sync();
    thread::sync_threads();
    tcgen05_fence_after_thread_sync();
}

/// One product, issued by `issue` to D from A in tensor memory, if from there.
#[inline(always)]
unsafe fn product(trial: &Trial, issue: impl Fn(TensorMemory, TensorMemory, InstructionDescriptor, bool)) {
    let shared = dynamic_shared();
    let (address, barrier): (Shared<u32>, Shared<Mbarrier>) =
        (shared.byte_offset(ADDRESS).cast(), shared.byte_offset(BARRIER).cast());
    // SAFETY: operands and results are this thread's; shared memory is written before it is fenced; columns are allocated before
    // they are used, and released after.
    unsafe {
        let image = trial.input(D + LANES * COLUMNS);
        let mut word = 4 * trial.thread;
        while word < IMAGE_WORDS {
            st_shared_v4_b32(shared.cast::<u32>().at(word), ld_global_v4_b32(image.at(word)));
            word += 4 * LANES;
        }
        if trial.thread == 0 {
            mbarrier_init(barrier, 1);
            fence_mbarrier_init();
        }
        if trial.thread < 32 {
            tcgen05_alloc::<1>(address, 512);
            tcgen05_relinquish_alloc_permit::<1>();
        }
        fence_proxy_async_shared();
        meet();
        let d = TensorMemory::from_bits(ld_shared_b32(address)[0]);
        let (a, own) = (d.at_column(COLUMNS), d.at_lane(trial.thread / 32 * 32));
        let words = |first: u32| core::array::from_fn::<u32, 8, _>(|i| trial.load(first + i as u32));
        tcgen05_st_32x32b::<8>(own.at_column(COLUMNS), words(HEAD + A_WORDS * trial.thread));
        let mut column = 0;
        while column < COLUMNS {
            tcgen05_st_32x32b::<8>(own.at_column(column), words(D + COLUMNS * trial.thread + column));
            column += 8;
        }
        tcgen05_wait_st();
        meet();
        if trial.thread == 0 {
            issue(d, a, InstructionDescriptor { bits: trial.load(8) }, trial.load(9) != 0);
            tcgen05_commit::<1>(barrier);
        }
        mbarrier_wait_parity(barrier, 0);
        tcgen05_fence_after_thread_sync();
        let (columns, alone) = (trial.load(10), trial.load(11) != 0 && trial.thread % 32 >= 16);
        let mut column = 0;
        while column < columns {
            let found = tcgen05_wait_ld(tcgen05_ld_32x32b::<8>(own.at_column(column)));
            for (i, value) in (0..).zip(found) {
                trial.store(COLUMNS * trial.thread + column + i, if alone { 0 } else { value });
            }
            column += 8;
        }
        meet();
        if trial.thread < 32 {
            tcgen05_dealloc::<1>(d, 512);
        }
    }
}

macro_rules! products {
    ($($ss:ident = $ss_instruction:ident, $ts:ident = $ts_instruction:ident;)*) => {$(
        #[doc = concat!("[`", stringify!($ss_instruction), "`].")]
        ///
        /// # Safety
        /// As for the probe.
        #[inline(always)]
        pub unsafe fn $ss(trial: &Trial) {
            // SAFETY: the caller's.
            unsafe {
                product(trial, |d, _, instruction, add| {
                    $ss_instruction::<1, _, _>(d, descriptor(trial, 0), descriptor(trial, 4), instruction, add)
                })
            }
        }

        #[doc = concat!("[`", stringify!($ts_instruction), "`].")]
        ///
        /// # Safety
        /// As for the probe.
        #[inline(always)]
        pub unsafe fn $ts(trial: &Trial) {
            // SAFETY: the caller's.
            unsafe {
                product(trial, |d, a, instruction, add| {
                    $ts_instruction::<1, _>(d, a, descriptor(trial, 4), instruction, add)
                })
            }
        }
    )*};
}

products! {
    f16_ss = tcgen05_mma_f16_ss, f16_ts = tcgen05_mma_f16_ts;
    f8_ss = tcgen05_mma_f8f6f4_ss, f8_ts = tcgen05_mma_f8f6f4_ts;
}
