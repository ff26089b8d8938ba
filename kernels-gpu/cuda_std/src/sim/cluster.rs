//! Clusters: blocks that run together and reach each other's shared memory.
//!
//! The blocks of a cluster are one [`Block`] here: their threads are numbered through, as are the bytes of their shared
//! memory, so one set of clocks finds races between them.
use super::block::{Block, Checked, SHARED_ORIGIN, Thread, shared_stride};
use super::error::Kind;

/// Of an address in the cluster's window, the block's rank plus 1; 0 is the executing thread's own block.
const RANK_SHIFT: u32 = 24;

/// The last access of a thread to another block's shared memory.
pub(super) struct Remote {
    rank: u32,
    thread: u32,
    clock: u32,
    site: u16,
}

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

impl Block<'_> {
    /// The rank of the block that a byte of shared memory belongs to.
    pub fn rank_of_offset(&self, offset: usize) -> u32 {
        if self.launch.grid.cluster == 1 { 0 } else { (offset / shared_stride(self.launch.grid)) as u32 }
    }

    /// The offset of `len` bytes at a multiple of `align` in the shared memory of any block of the cluster, for the
    /// current thread.
    pub fn cluster_range(&self, address: u32, align: usize, len: usize) -> Checked<usize> {
        if !(address as usize).is_multiple_of(align) {
            return Err(self.misaligned(self.current, "shared", u64::from(address), align));
        }
        let window = address >> RANK_SHIFT;
        let rank = if window == 0 { self.rank_of(self.current) } else { window - 1 };
        let offset = (address & ((1 << RANK_SHIFT) - 1)).wrapping_sub(SHARED_ORIGIN) as usize;
        let all = self.launch.grid.shared_bytes as usize;
        if rank >= self.launch.grid.cluster || offset.saturating_add(len) > all {
            let cluster = self.launch.grid.cluster;
            let detail =
                format!("{len} bytes at shared {address:#x}, in no block's {all} of the cluster's {cluster} blocks");
            return Err(self.error(Kind::OutOfBounds, detail));
        }
        let offset = rank as usize * shared_stride(self.launch.grid) + offset;
        self.check_alive(rank)?;
        Ok(offset)
    }

    /// Checks that the block of that rank has not ended.
    fn check_alive(&self, rank: u32) -> Checked<()> {
        if self.launch.grid.cluster > 1 && self.block_threads(rank).all(|thread| thread.exited) {
            let detail = format!("all threads of block {} have exited", self.index * self.launch.grid.cluster + rank);
            return Err(self.error(Kind::Exited, detail));
        }
        Ok(())
    }

    /// Notes that the current thread accesses a byte of shared memory, which may be another block's.
    pub fn note_remote(&mut self, site: u16, offset: usize) {
        let rank = self.rank_of_offset(offset);
        if rank != self.rank_of(self.current) {
            let clock = self.clocks.accessor(self.index, self.current, site).access.clock();
            let own = Remote { rank, thread: self.current, clock, site };
            match self.remote.iter_mut().find(|other| (other.rank, other.thread) == (rank, self.current)) {
                Some(last) => *last = own,
                None => self.remote.push(own),
            }
        }
    }

    /// The last thread of a block has exited: what others do to its shared memory must have happened before.
    pub fn check_block_exit(&self) -> Checked<()> {
        let rank = self.rank_of(self.current);
        let threads = self.launch.grid.threads;
        if !self.block_threads(rank).all(|thread| thread.exited) {
            return Ok(());
        }
        let stride = shared_stride(self.launch.grid);
        let bytes = rank as usize * stride..(rank as usize + 1) * stride;
        let unobserved = self.unobserved(rank).map(|object| object.issuer);
        if let Some((thread, site)) = self.bulk.writer(bytes).or(unobserved) {
            let detail = "the block ends, and none of its threads has observed that the bytes have arrived".to_owned();
            return Err(self.error_at(thread, site, Kind::Leak, detail));
        }
        let seen = |remote: &&Remote| {
            let own = rank * threads..(rank + 1) * threads;
            own.into_iter().any(|t| self.clocks.accessor(self.index, t, 0).has_seen(remote.thread, remote.clock))
        };
        if let Some(remote) = self.remote.iter().filter(|remote| remote.rank == rank).find(|remote| !seen(remote)) {
            let detail = format!(
                "nothing orders it before the end of block {}, whose memory it is",
                self.block_of(self.current)
            );
            return Err(self.error_at(remote.thread, remote.site, Kind::Exited, detail));
        }
        Ok(())
    }
}
