//! Barriers, exchanges between lanes, and order between grids.
#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
#[cfg(all(target_arch = "nvptx64", not(qkv_sm = "80")))]
use core::arch::asm;

/// All lanes of a warp.
pub const FULL_WARP: u32 = u32::MAX;

#[cfg(target_arch = "nvptx64")]
unsafe extern "C" {
    #[link_name = "llvm.nvvm.barrier.cta.sync.aligned.count"]
    fn llvm_barrier_sync_count(barrier: i32, threads: i32);
    #[link_name = "llvm.nvvm.barrier.cta.arrive.aligned.count"]
    fn llvm_barrier_arrive_count(barrier: i32, threads: i32);
    #[link_name = "llvm.nvvm.bar.warp.sync"]
    fn llvm_bar_warp_sync(mask: i32);
    #[link_name = "llvm.nvvm.shfl.sync.bfly.i32"]
    fn llvm_shfl_bfly(mask: i32, value: i32, lane_mask: i32, clamp: i32) -> i32;
    #[link_name = "llvm.nvvm.shfl.sync.idx.i32"]
    fn llvm_shfl_idx(mask: i32, value: i32, lane: i32, clamp: i32) -> i32;
}

/// `barrier.sync.aligned barrier, threads`: waits until `threads` threads (whole warps) of the block are at this barrier
/// (0 to 15; 0 is [`cuda_std::thread::sync_threads`]'s); orders their memory operations.
#[inline(always)]
#[track_caller]
pub fn bar_sync(barrier: u32, threads: u32) {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition of memory; who reaches it is the caller's duty, and the simulator's check.
    unsafe {
        llvm_barrier_sync_count(barrier as i32, threads as i32);
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(bar_sync(barrier, threads));
}

/// `barrier.arrive.aligned barrier, threads`: counts this warp at a barrier that others wait at ([`bar_sync`]), and goes on;
/// what it did before is before what they do next.
#[inline(always)]
#[track_caller]
pub fn bar_arrive(barrier: u32, threads: u32) {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: as above.
    unsafe {
        llvm_barrier_arrive_count(barrier as i32, threads as i32);
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(bar_arrive(barrier, threads));
}

/// `bar.warp.sync`: waits for all lanes of the warp; orders their memory operations.
#[inline(always)]
#[track_caller]
pub fn bar_warp_sync() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: as above.
    unsafe {
        llvm_bar_warp_sync(FULL_WARP as i32);
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(bar_warp_sync(FULL_WARP));
}

/// `shfl.sync.bfly.b32`: the value of lane `own ^ lane_mask`. Orders no memory.
#[inline(always)]
#[track_caller]
pub fn shfl_bfly(value: u32, lane_mask: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: all lanes take part, as their callers' control flow is uniform.
    unsafe {
        llvm_shfl_bfly(FULL_WARP as i32, value as i32, lane_mask as i32, 31) as u32
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(shfl_bfly(FULL_WARP, value, lane_mask))
}

/// `shfl.sync.idx.b32`: the value of lane `lane`. Orders no memory.
#[inline(always)]
#[track_caller]
pub fn shfl_idx(value: u32, lane: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: as above.
    unsafe {
        llvm_shfl_idx(FULL_WARP as i32, value as i32, lane as i32, 31) as u32
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(shfl_idx(FULL_WARP, value, lane))
}

/// Lane 0's value, for one that all lanes have alike: tells the assembler so, which then keeps it in a uniform register
/// and its branches without divergence (loads and the thread's index are divergent to it otherwise).
#[inline(always)]
#[track_caller]
pub fn uniform(value: u32) -> u32 {
    shfl_idx(value, 0)
}

/// `griddepcontrol.wait` (sm_90 and later; nothing before, where a launch never starts early): until the grid that this
/// one was launched to follow has ended and its memory operations are visible.
#[inline(always)]
#[track_caller]
pub fn griddepcontrol_wait() {
    #[cfg(all(target_arch = "nvptx64", not(qkv_sm = "80")))]
    // SAFETY: no precondition.
    unsafe {
        asm!("griddepcontrol.wait;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(griddepcontrol_wait());
}

/// `fence.proxy.async.shared::cta` (sm_90 and later): this thread's writes to shared memory before it are seen by
/// asynchronous operations (bulk and tensor copies, `wgmma`) that it happens before.
#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
#[inline(always)]
#[track_caller]
pub fn fence_proxy_async_shared() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition.
    unsafe {
        asm!("fence.proxy.async.shared::cta;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(fence_proxy_async_shared());
}

/// `fence.proxy.async` (sm_90 and later): as [`fence_proxy_async_shared`], of global memory too.
#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
#[inline(always)]
#[track_caller]
pub fn fence_proxy_async() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition.
    unsafe {
        asm!("fence.proxy.async;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(fence_proxy_async());
}

/// `griddepcontrol.launch_dependents` (sm_90 and later; nothing before): the next grid may begin once all blocks of this one
/// have come here or ended. It still waits for what it must wait for ([`griddepcontrol_wait`]).
#[inline(always)]
#[track_caller]
pub fn griddepcontrol_launch_dependents() {
    #[cfg(all(target_arch = "nvptx64", not(qkv_sm = "80")))]
    // SAFETY: no precondition.
    unsafe {
        asm!("griddepcontrol.launch_dependents;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(griddepcontrol_launch_dependents());
}

/// `elect.sync` of all lanes (sm_90 and later): whether this lane is the one that is chosen. The chip chooses the same lane
/// each time, the simulator the lowest.
#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
#[inline(always)]
#[track_caller]
pub fn elect_sync() -> bool {
    #[cfg(target_arch = "nvptx64")]
    {
        let elected: u32;
        // SAFETY: registers only; the warp is converged, as its callers' control flow is uniform.
        unsafe {
            asm!("{{ .reg .pred elected; elect.sync _|elected, {1}; selp.u32 {0}, 1, 0, elected; }}", out(reg32) elected, in(reg32) FULL_WARP, options(nostack));
        }
        elected != 0
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(elect_sync(FULL_WARP))
}
