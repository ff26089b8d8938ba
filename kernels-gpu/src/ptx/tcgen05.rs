//! Tensor memory and its products (`tcgen05`, compute capability 10.x): one thread issues, nobody's registers hold the result.
//!
//! D, and maybe A, are in tensor memory; other operands in shared memory, found by
//! [descriptors](crate::layout::tcgen05). `GROUP` is `cta_group`, 1, or 2 for the blocks of even and odd rank next to each
//! other in a cluster, which one thread of either multiplies with; all of a kernel's instructions name the same.
//!
//! What is issued is under way until it is waited for:
//! * products and copies of a thread, in their order, until an mbarrier has a [`tcgen05_commit`]'s arrival;
//! * [`tcgen05_ld_32x32b`] until [`tcgen05_wait_ld`], which alone gives its registers;
//! * [`tcgen05_st_32x32b`] until [`tcgen05_wait_st`].
//!
//! Between threads that order by a barrier: what is before it in tensor memory wants [`tcgen05_fence_before_thread_sync`], what
//! is after it [`tcgen05_fence_after_thread_sync`]. A commit is the first of these by itself.
mod movement;

#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
use crate::layout::descriptor::{KMajor, Major};
use crate::layout::tcgen05::{InstructionDescriptor, SmemDescriptor};
use crate::memory::{Mbarrier, Shared, TensorMemory};
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;
pub use movement::*;

/// `tcgen05.alloc.sync.aligned.shared::cta`: a whole warp (of each block of the pair) asks for `columns`, a power of two from 32 to 512,
/// waits until they are free, and has their address written to `to`.
///
/// # Safety
/// `to` is a multiple of 4 in this block's shared memory that nothing else touches; the columns are released before the
/// block ends.
#[inline(always)]
#[track_caller]
pub unsafe fn tcgen05_alloc<const GROUP: u32>(to: Shared<u32>, columns: u32) {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tcgen05.alloc.cta_group::{}.sync.aligned.shared::cta.b32 [{}], {};",
            const GROUP, in(reg32) to.address, in(reg32) columns,
            options(nostack)
        );
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(tcgen05_alloc(GROUP, to.address, columns));
}

/// `tcgen05.dealloc.sync.aligned`: a whole warp (of each block of the pair) releases what [`tcgen05_alloc`] gave.
///
/// # Safety
/// `at` and `columns` are an allocation's, and all that was done there has ended and happened before.
#[inline(always)]
#[track_caller]
pub unsafe fn tcgen05_dealloc<const GROUP: u32>(at: TensorMemory, columns: u32) {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tcgen05.dealloc.cta_group::{}.sync.aligned.b32 {}, {};",
            const GROUP, in(reg32) at.bits(), in(reg32) columns,
            options(nostack)
        );
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(tcgen05_dealloc(GROUP, at.bits(), columns));
}

/// `tcgen05.relinquish_alloc_permit.sync.aligned`: a whole warp says that its block allocates no more.
#[inline(always)]
#[track_caller]
pub fn tcgen05_relinquish_alloc_permit<const GROUP: u32>() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition of memory.
    unsafe {
        asm!("tcgen05.relinquish_alloc_permit.cta_group::{}.sync.aligned;", const GROUP, options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(tcgen05_relinquish_alloc_permit(GROUP));
}

macro_rules! products {
    ($($kind:literal: $ss:ident $ts:ident;)*) => {$(
        #[doc = concat!("`tcgen05.mma.kind::", $kind, "`, A and B from shared memory: D becomes `a b`, or with `add` `d + a b`. One thread issues it.")]
        ///
        /// # Safety
        /// `d` is allocated, and nothing else touches it until the product has ended; the operands are in the shared memory of the
        /// block (of the pair, each block its rows of A and its half of B), visible to the asynchronous proxy, and nothing
        /// writes there until the product has ended.
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $ss<const GROUP: u32, MA: Major, MB: Major>(
            d: TensorMemory,
            a: SmemDescriptor<MA>,
            b: SmemDescriptor<MB>,
            instruction: InstructionDescriptor,
            add: bool,
        ) {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    concat!("{{ .reg .pred p; setp.ne.b32 p, {add}, 0; tcgen05.mma.cta_group::{group}.kind::", $kind, " [{d}], {a}, {b}, {i}, p; }}"),
                    add = in(reg32) add as u32, group = const GROUP, d = in(reg32) d.bits(), a = in(reg64) a.bits, b = in(reg64) b.bits,
                    i = in(reg32) instruction.bits,
                    options(nostack)
                );
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($ss(GROUP, d.bits(), a.bits, b.bits, instruction.bits, add));
        }

        #[doc = concat!("`tcgen05.mma.kind::", $kind, "`, A from tensor memory (K-major, 32 bits a column, in the lanes of D's rows): D becomes `a b`, or with `add` `d + a b`. One thread issues it.")]
        ///
        /// # Safety
        /// As for A and B from shared memory.
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $ts<const GROUP: u32, MB: Major>(
            d: TensorMemory,
            a: TensorMemory,
            b: SmemDescriptor<MB>,
            instruction: InstructionDescriptor,
            add: bool,
        ) {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    concat!("{{ .reg .pred p; setp.ne.b32 p, {add}, 0; tcgen05.mma.cta_group::{group}.kind::", $kind, " [{d}], [{a}], {b}, {i}, p; }}"),
                    add = in(reg32) add as u32, group = const GROUP, d = in(reg32) d.bits(), a = in(reg32) a.bits(), b = in(reg64) b.bits,
                    i = in(reg32) instruction.bits,
                    options(nostack)
                );
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($ts(GROUP, d.bits(), a.bits(), b.bits, instruction.bits, add));
        }
    )*};
}

products! {
    "f16": tcgen05_mma_f16_ss tcgen05_mma_f16_ts;
    "f8f6f4": tcgen05_mma_f8f6f4_ss tcgen05_mma_f8f6f4_ts;
}

/// `tcgen05.cp.128x256b`: 128 rows of 32 bytes, as a product's A has them, to 8 columns from `to` of 128 lanes; in each block of the
/// pair from its own shared memory. One thread issues it, in order with its products.
///
/// # Safety
/// As for a product: `to` as D, `from` as A.
#[inline(always)]
#[track_caller]
pub unsafe fn tcgen05_cp_128x256b<const GROUP: u32>(to: TensorMemory, from: SmemDescriptor<KMajor>) {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tcgen05.cp.cta_group::{}.128x256b [{}], {};",
            const GROUP, in(reg32) to.bits(), in(reg64) from.bits,
            options(nostack)
        );
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(tcgen05_cp_128x256b(GROUP, to.bits(), from.bits));
}

/// `tcgen05.commit.mbarrier::arrive::one`: an arrival at `barrier` once all products and copies that this thread issued have ended.
///
/// # Safety
/// As for [`mbarrier_arrive`](super::mbarrier::mbarrier_arrive); the initialisation is fenced.
#[inline(always)]
#[track_caller]
pub unsafe fn tcgen05_commit<const GROUP: u32>(barrier: Shared<Mbarrier>) {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tcgen05.commit.cta_group::{}.mbarrier::arrive::one.shared::cluster.b64 [{}];",
            const GROUP, in(reg32) barrier.address,
            options(nostack)
        );
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(tcgen05_commit(GROUP, barrier.address));
}

/// [`tcgen05_commit`] with `.multicast::cluster`: an arrival at the same place in every block of the cluster whose bit of `ranks` is set.
///
/// # Safety
/// As for [`tcgen05_commit`], in each of the blocks, all of which have begun and do not end before.
#[inline(always)]
#[track_caller]
pub unsafe fn tcgen05_commit_multicast<const GROUP: u32>(barrier: Shared<Mbarrier>, ranks: u16) {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tcgen05.commit.cta_group::{}.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [{}], {};",
            const GROUP, in(reg32) barrier.address, in(reg16) ranks,
            options(nostack)
        );
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(tcgen05_commit_multicast(GROUP, barrier.address, ranks));
}

macro_rules! fences {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[track_caller]
        pub fn $name() {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: no precondition.
            unsafe {
                asm!($text, options(nostack));
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name());
        }
    )*};
}

fences! {
    /// `tcgen05.fence::before_thread_sync`: what this thread did in tensor memory is before the barriers that follow.
    tcgen05_fence_before_thread_sync = "tcgen05.fence::before_thread_sync;";
    /// `tcgen05.fence::after_thread_sync`: what this thread does in tensor memory is after the barriers that it has passed.
    tcgen05_fence_after_thread_sync = "tcgen05.fence::after_thread_sync;";
}
