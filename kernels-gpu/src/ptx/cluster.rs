//! Clusters of blocks (sm_90 and later): where a block is in its own, their barrier, each other's shared memory.
#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
use crate::memory::{Mbarrier, Peer, Shared};
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;

#[cfg(target_arch = "nvptx64")]
unsafe extern "C" {
    #[link_name = "llvm.nvvm.barrier.cluster.arrive.aligned"]
    fn llvm_cluster_arrive();
    #[link_name = "llvm.nvvm.barrier.cluster.arrive.relaxed.aligned"]
    fn llvm_cluster_arrive_relaxed();
    #[link_name = "llvm.nvvm.barrier.cluster.wait.aligned"]
    fn llvm_cluster_wait();
}

macro_rules! ranks {
    ($($(#[$doc:meta])* $name:ident = $register:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[track_caller]
        pub fn $name() -> u32 {
            #[cfg(target_arch = "nvptx64")]
            {
                let value: u32;
                // SAFETY: reads a special register.
                unsafe { asm!(concat!("mov.u32 {}, ", $register, ";"), out(reg32) value, options(pure, nomem, nostack)) };
                value
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name())
        }
    )*};
}

ranks! {
    /// `%cluster_ctarank`: this block's rank in its cluster.
    cluster_ctarank = "%cluster_ctarank";
    /// `%cluster_nctarank`: blocks of the cluster.
    cluster_nctarank = "%cluster_nctarank";
}

macro_rules! barriers {
    ($($(#[$doc:meta])* $name:ident = $intrinsic:ident;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[track_caller]
        pub fn $name() {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: no precondition of memory; who reaches it is the caller's duty, and the simulator's check.
            unsafe {
                $intrinsic();
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name());
        }
    )*};
}

barriers! {
    /// `barrier.cluster.arrive.aligned` (`.release`): arrives at the cluster's barrier, and goes on.
    cluster_arrive = llvm_cluster_arrive;
    /// `barrier.cluster.arrive.relaxed.aligned`: as [`cluster_arrive`], and orders nothing.
    cluster_arrive_relaxed = llvm_cluster_arrive_relaxed;
    /// `barrier.cluster.wait.aligned` (`.acquire`): waits until all threads of the cluster that have not exited have arrived.
    cluster_wait = llvm_cluster_wait;
}

/// `fence.release.sync_restrict::shared::cta.cluster`: what this thread did in its own block's shared memory is before the arrivals at the
/// cluster's barrier that follow it, those too that order nothing themselves ([`cluster_arrive_relaxed`]). [`cluster_arrive`] orders global
/// memory besides, which takes a fence of the whole GPU (`MEMBAR.ALL.GPU`, 0.3 us on an H100).
#[inline(always)]
#[track_caller]
pub fn fence_release_shared() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: orders accesses; there is nothing to promise.
    unsafe {
        asm!("fence.release.sync_restrict::shared::cta.cluster;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(fence_release_shared());
}

/// `mapa.shared::cluster.u32`: what is at `address` here, in the block of that rank.
#[inline(always)]
#[track_caller]
#[cfg_attr(not(feature = "sim"), allow(unreachable_code))] // the twin is a panic then
pub fn mapa<T>(address: Shared<T>, rank: u32) -> Peer<T> {
    #[cfg(target_arch = "nvptx64")]
    {
        let mapped: u32;
        // SAFETY: maps an address.
        unsafe {
            asm!("mapa.shared::cluster.u32 {}, {}, {};", out(reg32) mapped, in(reg32) address.address, in(reg32) rank, options(pure, nomem, nostack))
        };
        Peer::new(mapped)
    }
    #[cfg(not(target_arch = "nvptx64"))]
    Peer::new(twin!(mapa(address.address, rank)))
}

macro_rules! access {
    ($load:ident = $load_text:literal; $store:ident = $store_text:literal; $n:tt: $places:literal: $($r:ident)*) => {
        #[doc = concat!("`", $load_text, "`.")]
        ///
        /// # Safety
        /// The address is a multiple of the width in a block that has begun and does not end before, and its bytes are
        /// written before in an order observed here.
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $load(from: Peer<u32>) -> [u32; $n] {
            #[cfg(target_arch = "nvptx64")]
            {
                $(let $r: u32;)*
                // SAFETY: the caller's promise.
                unsafe { asm!(concat!($load_text, " ", $places, ", [{from}];"), $(out(reg32) $r,)* from = in(reg32) from.address, options(nostack, readonly)) };
                [$($r),*]
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($load(from.address))
        }

        #[doc = concat!("`", $store_text, "`.")]
        ///
        /// # Safety
        /// The address is a multiple of the width in a block that has begun and does not end before, and nothing else
        /// touches its bytes meanwhile.
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $store(to: Peer<u32>, value: [u32; $n]) {
            #[cfg(target_arch = "nvptx64")]
            {
                let [$($r),*] = value;
                // SAFETY: the caller's promise.
                unsafe { asm!(concat!($store_text, " [{to}], ", $places, ";"), $(in(reg32) $r,)* to = in(reg32) to.address, options(nostack)) };
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($store(to.address, value));
        }
    };
}

access!(ld_shared_cluster_b32 = "ld.shared::cluster.b32"; st_shared_cluster_b32 = "st.shared::cluster.b32"; 1: "{0}": a);
access!(ld_shared_cluster_v4_b32 = "ld.shared::cluster.v4.b32"; st_shared_cluster_v4_b32 = "st.shared::cluster.v4.b32"; 4: "{{{0}, {1}, {2}, {3}}}": a b c d);

macro_rules! asynchronous {
    ($store:ident = $text:literal; $n:tt: $places:literal: $($r:ident)*) => {
        #[doc = concat!("`", $text, "`: stores to a block of the cluster, completing the bytes on an mbarrier there. Whoever observes the phase sees them, and what this thread did before.")]
        ///
        /// # Safety
        /// The address is a multiple of the width; nothing else touches its bytes until the phase is observed; `barrier`, in the same
        /// block, is initialised, and that is fenced; the block has begun and does not end before.
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $store(to: Peer<u32>, value: [u32; $n], barrier: Peer<Mbarrier>) {
            #[cfg(target_arch = "nvptx64")]
            {
                let [$($r),*] = value;
                // SAFETY: the caller's promise.
                unsafe { asm!(concat!($text, " [{to}], ", $places, ", [{barrier}];"), $(in(reg32) $r,)* to = in(reg32) to.address, barrier = in(reg32) barrier.address, options(nostack)) };
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($store(to.address, value, barrier.address));
        }
    };
}

asynchronous!(st_async_v2_b32 = "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32"; 2: "{{{0}, {1}}}": a b);
asynchronous!(st_async_v4_b32 = "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32"; 4: "{{{0}, {1}, {2}, {3}}}": a b c d);
