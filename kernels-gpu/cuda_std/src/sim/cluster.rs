//! Clusters: blocks that run together and reach each other's shared memory.
//!
//! The blocks of a cluster are one [`Block`] here: their threads are numbered through, as are the bytes of their shared
//! memory, so one set of clocks finds races between them.
use super::block::{Block, SHARED_ORIGIN, Thread, shared_stride};

/// Of an address in the cluster's window, the block's rank plus 1; 0 is the executing thread's own block.
const RANK_SHIFT: u32 = 24;

impl Block<'_> {
    /// The rank in the cluster of the block of a thread.
    #[inline(always)]
    pub fn rank_of(&self, thread: u32) -> u32 {
        if self.launch.grid.cluster == 1 { 0 } else { thread / self.launch.grid.threads % self.launch.grid.cluster }
    }

    /// The number in the grid of the block of a thread.
    #[inline(always)]
    pub fn block_of(&self, thread: u32) -> u32 {
        self.index * self.launch.grid.cluster + self.rank_of(thread)
    }

    /// The threads of the block of that rank.
    pub fn block_threads(&self, rank: u32) -> std::slice::Iter<'_, Thread> {
        let threads = self.launch.grid.threads as usize;
        self.threads[rank as usize * threads..][..threads].iter()
    }

    /// The address of a byte of shared memory: in the current thread's own block, or in the cluster's window.
    pub fn shared_address(&self, offset: usize) -> u32 {
        let stride = shared_stride(self.launch.grid);
        if self.launch.grid.cluster == 1 || offset.wrapping_sub(self.shared_base) < stride {
            return SHARED_ORIGIN + (offset - self.shared_base) as u32;
        }
        ((offset / stride) as u32 + 1) << RANK_SHIFT | (SHARED_ORIGIN + (offset % stride) as u32)
    }
}
