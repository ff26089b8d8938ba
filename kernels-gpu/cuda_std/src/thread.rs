//! Where a thread is in its grid, and the barrier of its block. One-dimensional: the kernels use no other shape.

macro_rules! index {
    ($($(#[$doc:meta])* $name:ident = $intrinsic:ident;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name() -> u32 {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: reading a special register has no precondition.
            return unsafe { core::arch::nvptx::$intrinsic() as u32 };
            #[cfg(all(not(target_arch = "nvptx64"), feature = "sim"))]
            return crate::sim::op::$name();
            #[cfg(all(not(target_arch = "nvptx64"), not(feature = "sim")))]
            unimplemented!("kernels run on the host through the feature `sim`")
        }
    )*};
}

index! {
    /// This thread's index in its block.
    thread_idx_x = _thread_idx_x;
    /// This block's index in the grid.
    block_idx_x = _block_idx_x;
    /// Threads in a block.
    block_dim_x = _block_dim_x;
    /// Blocks in the grid.
    grid_dim_x = _grid_dim_x;
}

/// `bar.sync 0`: waits for all threads of the block; their memory operations before it are visible after it.
#[inline(always)]
#[track_caller]
pub fn sync_threads() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition of memory; that all threads reach it is the caller's duty, and the simulator's check.
    unsafe {
        core::arch::nvptx::_syncthreads();
    }
    #[cfg(all(not(target_arch = "nvptx64"), feature = "sim"))]
    crate::sim::op::sync_threads();
    #[cfg(all(not(target_arch = "nvptx64"), not(feature = "sim")))]
    unimplemented!("kernels run on the host through the feature `sim`")
}
