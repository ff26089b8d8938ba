//! mbarrier objects (sm_90 and later): arrivals, bytes due, waits for a phase by its parity.
//!
//! An object is 8 bytes of shared memory between `init` and `inval`. Phases are numbered from 0; the parity of one is its
//! number's lowest bit, and the phase before the first counts as complete.
#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
use crate::memory::{Mbarrier, Peer, Shared};
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident($barrier:ident: $place:ident<Mbarrier> $(, $operand:ident: u32)*) = $text:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// The address is a multiple of 8 in live shared memory, and holds an mbarrier whose initialisation happened before
        /// (for `init` itself: bytes that nothing else touches).
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $name($barrier: $place<Mbarrier> $(, $operand: u32)*) {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: the caller's promise.
            unsafe {
                asm!($text, in(reg32) $barrier.address $(, in(reg32) $operand)*, options(nostack));
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name($barrier.address $(, $operand)*));
        }
    )*};
}

operations! {
    /// `mbarrier.init.shared::cta.b64`: phase 0 of an object with `arrivals` (1 to 2^20 - 1) a phase.
    mbarrier_init(barrier: Shared<Mbarrier>, arrivals: u32) = "mbarrier.init.shared::cta.b64 [{}], {};";
    /// `mbarrier.inval.shared::cta.b64`: its bytes are memory again.
    mbarrier_inval(barrier: Shared<Mbarrier>) = "mbarrier.inval.shared::cta.b64 [{}];";
    /// `mbarrier.arrive.release.cta`: an arrival; what this thread did happens before who waits for the phase.
    mbarrier_arrive(barrier: Shared<Mbarrier>) = "mbarrier.arrive.release.cta.shared::cta.b64 _, [{}];";
    /// `mbarrier.arrive.expect_tx.release.cta`: `bytes` (below 2^20) more are due in this phase, and then an arrival.
    mbarrier_arrive_expect_tx(barrier: Shared<Mbarrier>, bytes: u32) = "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [{}], {};";
    /// `mbarrier.expect_tx.relaxed.cta`: `bytes` (below 2^20) more are due in this phase.
    mbarrier_expect_tx(barrier: Shared<Mbarrier>, bytes: u32) = "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [{}], {};";
    /// `mbarrier.arrive.release.cluster.shared::cluster`: an arrival at an mbarrier of any block of the cluster.
    mbarrier_arrive_cluster(barrier: Peer<Mbarrier>) = "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [{}];";
}

macro_rules! tries {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// As for [`mbarrier_arrive`].
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $name(barrier: Shared<Mbarrier>, parity: u32) -> bool {
            #[cfg(target_arch = "nvptx64")]
            {
                let complete: u32;
                // SAFETY: the caller's promise.
                unsafe {
                    asm!(
                        concat!("{{ .reg .pred complete; ", $text, " complete, [{1}], {2}; selp.u32 {0}, 1, 0, complete; }}"),
                        out(reg32) complete, in(reg32) barrier.address, in(reg32) parity,
                        options(nostack)
                    );
                }
                complete != 0
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name(barrier.address, parity))
        }
    )*};
}

tries! {
    /// `mbarrier.try_wait.parity.acquire.cta`: whether the latest phase of that parity is complete, after waiting a while if
    /// it is the current one. If so, what its arrivals followed and the bytes that it was due are this thread's to see.
    mbarrier_try_wait_parity = "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64";
    /// `mbarrier.try_wait.parity.acquire.cluster`: the same where threads of other blocks arrive.
    mbarrier_try_wait_parity_cluster = "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64";
}

macro_rules! waits {
    ($($name:ident by $try:ident;)*) => {$(
        #[doc = concat!("Waits until the latest phase of that parity is complete: [`", stringify!($try), "`] until it is.")]
        ///
        /// # Safety
        /// As for [`mbarrier_arrive`].
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $name(barrier: Shared<Mbarrier>, parity: u32) {
            let mut tries = 0;
            // SAFETY: the caller's promise.
            while unsafe { !$try(barrier, parity) } {
                tries += 1;
                #[cfg(all(target_arch = "nvptx64", feature = "probe"))]
                if tries == MOST_TRIES {
                    trap();
                }
            }
            let _ = tries;
        }
    )*};
}

waits! {
    mbarrier_wait_parity by mbarrier_try_wait_parity;
    mbarrier_wait_parity_cluster by mbarrier_try_wait_parity_cluster;
}

/// As [`mbarrier_wait_parity`], and in code for tests without an end too: for threads that have no register for a count, where others
/// of the block, which have, wait for what these do next.
///
/// # Safety
/// As for [`mbarrier_arrive`].
#[inline(always)]
#[track_caller]
pub unsafe fn mbarrier_wait_parity_unbounded(barrier: Shared<Mbarrier>, parity: u32) {
    // SAFETY: the caller's promise.
    while unsafe { !mbarrier_try_wait_parity(barrier, parity) } {}
}

/// How often code for tests looks for a phase before it gives up, so that one that does not come is an error and no hang.
#[cfg(all(target_arch = "nvptx64", feature = "probe"))]
const MOST_TRIES: u32 = 1 << 22;

/// `trap`: ends the launch with an error.
#[cfg(all(target_arch = "nvptx64", feature = "probe"))]
fn trap() -> ! {
    // SAFETY: does not return.
    unsafe { asm!("trap;", options(noreturn, nostack)) }
}

/// As [`mbarrier_wait_parity`], but at most `tries` times: for looking for a phase that does not come. Whether it came.
///
/// # Safety
/// As for [`mbarrier_arrive`].
#[inline(always)]
#[track_caller]
pub unsafe fn mbarrier_wait_parity_bounded(barrier: Shared<Mbarrier>, parity: u32, tries: u32) -> bool {
    for _ in 0..tries {
        // SAFETY: the caller's promise.
        if unsafe { mbarrier_try_wait_parity(barrier, parity) } {
            return true;
        }
    }
    false
}

/// `fence.mbarrier_init.release.cluster`: this thread's initialisations of mbarriers before it are seen by copies, and by the
/// cluster's other blocks, that it happens before.
#[inline(always)]
#[track_caller]
pub fn fence_mbarrier_init() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition.
    unsafe {
        asm!("fence.mbarrier_init.release.cluster;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(fence_mbarrier_init());
}
