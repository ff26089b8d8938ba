//! Bulk and tensor copies by the asynchronous proxy (sm_90 and later).
//!
//! A copy to shared memory completes its bytes on an mbarrier; who has observed the phase may touch them. A copy to global
//! memory belongs to the issuing thread's groups. Generic writes that a copy reads, or overwrites, want
//! [`fence_proxy_async_shared`](super::sync::fence_proxy_async_shared) by the writer first.
#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
use crate::memory::{Global, Mbarrier, Shared, TensorMapAddress};
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;

/// `cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes`: copies `bytes`, a multiple of 16.
///
/// # Safety
/// Both addresses are multiples of 16; `from` has `bytes` readable bytes; `to` has as many that nothing else touches
/// meanwhile; `barrier` is initialised, and that is fenced.
#[inline(always)]
#[track_caller]
pub unsafe fn cp_async_bulk(to: Shared<u8>, from: Global<u8>, bytes: u32, barrier: Shared<Mbarrier>) {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{}], [{}], {}, [{}];",
            in(reg32) to.address, in(reg64) from.address, in(reg32) bytes, in(reg32) barrier.address,
            options(nostack)
        );
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(cp_async_bulk(to.address, from.address, bytes, barrier.address));
}

macro_rules! tensor_copies {
    ($($n:literal, $load:ident, $multicast:ident, $store:ident: $places:literal: $($i:literal)*;)*) => {$(
        #[doc = concat!("`cp.async.bulk.tensor.", $n, "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes`: copies the box at `coordinates` (of its first element, the innermost dimension first: of that a multiple of 16 bytes, or the chip reports an illegal instruction; of others any number) to the tile at `to`.")]
        /// What is outside of the tensor is zeros, which complete their bytes too.
        ///
        /// # Safety
        #[doc = concat!("`map` is of a live tensor of ", $n, " dimensions; `to` is a multiple of 128, and of 1024, 512 or 256 with a swizzle of 128, 64 or 32 bytes if the tile is to begin with a pattern; nothing else touches the tile meanwhile; `barrier` is initialised, and that is fenced.")]
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $load(to: Shared<u8>, map: TensorMapAddress, coordinates: [i32; $n], barrier: Shared<Mbarrier>) {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    concat!("cp.async.bulk.tensor.", $n, "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [{to}], [{map}, {{", $places, "}}], [{barrier}];"),
                    $(in(reg32) coordinates[$i],)*
                    to = in(reg32) to.address, map = in(reg64) map.address, barrier = in(reg32) barrier.address,
                    options(nostack)
                );
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                // SAFETY: a simulated parameter's address is that of the host's struct.
                let words = unsafe { map.words() };
                twin!(cp_async_bulk_tensor::<$n>(to.address, words, coordinates, barrier.address));
            }
        }

        #[doc = concat!("[`", stringify!($load), "`] with `.multicast::cluster`: to the same place in every block of the cluster whose bit of `ranks` is set, completing on the mbarrier at the same place there.")]
        ///
        /// # Safety
        #[doc = concat!("As for [`", stringify!($load), "`], in each of the blocks, all of which have begun and do not end before.")]
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $multicast(to: Shared<u8>, map: TensorMapAddress, coordinates: [i32; $n], barrier: Shared<Mbarrier>, ranks: u32) {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    concat!("cp.async.bulk.tensor.", $n, "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [{to}], [{map}, {{", $places, "}}], [{barrier}], {ranks};"),
                    $(in(reg32) coordinates[$i],)*
                    to = in(reg32) to.address, map = in(reg64) map.address, barrier = in(reg32) barrier.address,
                    ranks = in(reg16) ranks as u16,
                    options(nostack)
                );
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                // SAFETY: as above.
                let words = unsafe { map.words() };
                twin!(cp_async_bulk_tensor_multicast::<$n>(to.address, words, coordinates, barrier.address, ranks));
            }
        }

        #[doc = concat!("`cp.async.bulk.tensor.", $n, "d.global.shared::cta.tile.bulk_group`: copies the tile at `from` to the box at `coordinates`; what is outside of the tensor is not written.")]
        ///
        /// # Safety
        #[doc = concat!("`map` is of a live tensor of ", $n, " dimensions; `from` is a multiple of 128; the tile is written and fenced (`fence.proxy.async`), and nobody writes to it, nor touches the box, until a wait of this thread.")]
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $store(map: TensorMapAddress, coordinates: [i32; $n], from: Shared<u8>) {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    concat!("cp.async.bulk.tensor.", $n, "d.global.shared::cta.tile.bulk_group [{map}, {{", $places, "}}], [{from}];"),
                    $(in(reg32) coordinates[$i],)*
                    map = in(reg64) map.address, from = in(reg32) from.address,
                    options(nostack)
                );
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                // SAFETY: as above.
                let words = unsafe { map.words() };
                twin!(cp_async_bulk_tensor_store::<$n>(words, coordinates, from.address));
            }
        }
    )*};
}

tensor_copies! {
    2, cp_async_bulk_tensor_2d, cp_async_bulk_tensor_2d_multicast, cp_async_bulk_tensor_2d_store: "{0}, {1}": 0 1;
    3, cp_async_bulk_tensor_3d, cp_async_bulk_tensor_3d_multicast, cp_async_bulk_tensor_3d_store: "{0}, {1}, {2}": 0 1 2;
    4, cp_async_bulk_tensor_4d, cp_async_bulk_tensor_4d_multicast, cp_async_bulk_tensor_4d_store: "{0}, {1}, {2}, {3}": 0 1 2 3;
    5, cp_async_bulk_tensor_5d, cp_async_bulk_tensor_5d_multicast, cp_async_bulk_tensor_5d_store: "{0}, {1}, {2}, {3}, {4}": 0 1 2 3 4;
}

/// `cp.async.bulk.commit_group`: the stores that this thread issued since the last one are a group (maybe an empty one).
#[inline(always)]
#[track_caller]
pub fn cp_async_bulk_commit_group() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition.
    unsafe {
        asm!("cp.async.bulk.commit_group;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(cp_async_bulk_commit_group());
}

/// `cp.async.bulk.wait_group N`: until at most the N newest of this thread's groups are under way; the others' writes are this
/// thread's.
#[inline(always)]
#[track_caller]
pub fn cp_async_bulk_wait_group<const N: u32>() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition.
    unsafe {
        asm!("cp.async.bulk.wait_group {};", const N, options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(cp_async_bulk_wait_group(N));
}

/// `cp.async.bulk.wait_group.read N`: until at most the N newest of this thread's groups still read their tiles.
#[inline(always)]
#[track_caller]
pub fn cp_async_bulk_wait_group_read<const N: u32>() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition.
    unsafe {
        asm!("cp.async.bulk.wait_group.read {};", const N, options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(cp_async_bulk_wait_group_read(N));
}

/// `prefetch.tensormap`: fetches the map ahead of the first copy by it.
///
/// # Safety
/// `map` is a tensor map among the kernel's parameters.
#[inline(always)]
#[track_caller]
pub unsafe fn prefetch_tensormap(map: TensorMapAddress) {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: the caller's promise.
    unsafe {
        asm!("prefetch.tensormap [{}];", in(reg64) map.address, options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        // SAFETY: a simulated parameter's address is that of the host's struct.
        let words = unsafe { map.words() };
        twin!(prefetch_tensormap(words));
    }
}

/// The [`TensorMapAddress`] of the first map in the parameters of the entry in whose body it stands: of entry `$entry`, whose
/// only parameter `$params` is a struct that begins with its tensor maps.
///
/// The builder raises the parameter's alignment to the 64 that a map wants, in entries that take their parameter's address.
#[allow(unused_macros)] // but by entries that take tensor maps
macro_rules! tensor_maps {
    ($entry:ident, $params:expr) => {{
        #[cfg(target_arch = "nvptx64")]
        {
            let _ = &$params;
            let address: u64;
            // SAFETY: takes an address.
            unsafe {
                core::arch::asm!(
                    concat!("{{ .reg .u64 maps; mov.b64 maps, ", stringify!($entry), "_param_0; cvta.param.u64 {}, maps; }}"),
                    out(reg64) address,
                    options(pure, nomem, nostack)
                );
            }
            $crate::memory::TensorMapAddress::new(address)
        }
        #[cfg(not(target_arch = "nvptx64"))]
        $crate::memory::TensorMapAddress::new(core::ptr::from_ref(&$params).expose_provenance() as u64)
    }};
}
#[allow(unused_imports)]
pub(crate) use tensor_maps;
