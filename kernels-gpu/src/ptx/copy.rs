//! Asynchronous copies from global to shared memory (`cp.async`, sm_80 and later).
#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
use crate::memory::{Global, Shared};
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;

macro_rules! copies {
    ($($name:ident = $text:literal, $width:literal;)*) => {$(
        #[doc = concat!("`", $text, " [to], [from], ", $width, ", bytes`: copies `bytes` (0 to ", $width, ") and fills up to ", $width, " with zeros.")]
        /// Where `bytes` is 0 nothing is read. The bytes belong to the copy until a wait of this thread has seen its group
        /// end.
        ///
        /// # Safety
        #[doc = concat!("Both addresses are multiples of ", $width, "; `from` has `bytes` readable bytes; `to` has ", $width, " that nothing else touches meanwhile.")]
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $name(to: Shared<u8>, from: Global<u8>, bytes: u32) {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: the caller's promise.
            unsafe {
                asm!(concat!($text, " [{}], [{}], ", $width, ", {};"), in(reg32) to.address, in(reg64) from.address, in(reg32) bytes, options(nostack));
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name(to.address, from.address, bytes));
        }
    )*};
}

copies! {
    cp_async_16 = "cp.async.cg.shared.global.L2::128B", 16;
    cp_async_4 = "cp.async.ca.shared.global.L2::128B", 4;
}

/// `cp.async.commit_group`: the copies that this thread issued since the last one are a group (maybe an empty one).
#[inline(always)]
#[track_caller]
pub fn cp_async_commit_group() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition.
    unsafe {
        asm!("cp.async.commit_group;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(cp_async_commit_group());
}

/// `cp.async.wait_group N`: until at most the N newest of this thread's groups are under way.
#[inline(always)]
#[track_caller]
pub fn cp_async_wait_group<const N: u32>() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition.
    unsafe {
        asm!("cp.async.wait_group {};", const N, options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(cp_async_wait_group(N));
}
