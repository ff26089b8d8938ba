//! Clusters: blocks that run together and reach each other's shared memory.
//!
//! The blocks of a cluster are one [`Block`] here: their threads are numbered through, as are the bytes of their shared
//! memory, so one set of clocks finds races between them.
use super::block::{Block, Checked, SHARED_ORIGIN, Thread, shared_stride};
use super::error::Kind;
use std::ops::Range;

/// Of an address in the cluster's window, the block's rank plus 1; 0 is the executing thread's own block.
const RANK_SHIFT: u32 = 24;

/// The last access of a kind of a thread to another block's shared memory.
pub(super) struct Remote {
    rank: u32,
    thread: u32,
    clock: u32,
    site: u16,
    /// A load, whose value is in a register: done, whatever memory is ordered later.
    load: bool,
    /// The phase of the cluster's barrier at which the thread has arrived since; 0 is none.
    arrived: u32,
}

impl Block<'_> {
    /// The rank in the cluster of the block of a thread.
    #[inline(always)]
    pub fn rank_of(&self, thread: u32) -> u32 {
        if self.cluster == 1 { 0 } else { thread / self.width % self.cluster }
    }

    /// A thread's index in its block.
    #[inline(always)]
    pub fn index_of(&self, thread: u32) -> u32 {
        if self.cluster == 1 { thread } else { thread % self.width }
    }

    /// The number in the grid of the block of a thread.
    #[inline(always)]
    pub fn block_of(&self, thread: u32) -> u32 {
        self.index * self.cluster + self.rank_of(thread)
    }

    /// The threads of the block of that rank.
    pub fn block_threads(&self, rank: u32) -> std::slice::Iter<'_, Thread> {
        let threads = self.width as usize;
        self.threads[rank as usize * threads..][..threads].iter()
    }

    /// The address of a byte of shared memory: in the current thread's own block, or in the cluster's window.
    pub fn shared_address(&self, offset: usize) -> u32 {
        let stride = shared_stride(self.launch.grid);
        if self.cluster == 1 || offset.wrapping_sub(self.shared_base) < stride {
            return SHARED_ORIGIN + (offset - self.shared_base) as u32;
        }
        ((offset / stride) as u32 + 1) << RANK_SHIFT | (SHARED_ORIGIN + (offset % stride) as u32)
    }
}

impl Block<'_> {
    /// The rank of the block that a byte of shared memory belongs to.
    pub fn rank_of_offset(&self, offset: usize) -> u32 {
        if self.cluster == 1 { 0 } else { (offset / shared_stride(self.launch.grid)) as u32 }
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
        if rank >= self.cluster || offset.saturating_add(len) > all {
            let cluster = self.cluster;
            let detail =
                format!("{len} bytes at shared {address:#x}, in no block's {all} of the cluster's {cluster} blocks");
            return Err(self.error(Kind::OutOfBounds, detail));
        }
        let offset = rank as usize * shared_stride(self.launch.grid) + offset;
        self.check_alive(rank)?;
        Ok(offset)
    }

    /// Checks that the block of that rank, if it is another than the current thread's, has begun and not ended.
    pub fn check_alive(&self, rank: u32) -> Checked<()> {
        if rank == self.rank_of(self.current) {
            return Ok(());
        }
        let block = self.index * self.cluster + rank;
        if self.block_threads(rank).all(|thread| thread.exited) {
            return Err(self.error(Kind::Peer, format!("all threads of block {block} have exited")));
        }
        // Who has waited for the barrier has waited for all threads, whatever memory that orders.
        if self.passed_cluster_barrier(self.current) > 0 {
            return Ok(());
        }
        let who = self.clocks.accessor_of_shared(self.index, self.current, 0);
        let threads = self.width;
        if (rank * threads..(rank + 1) * threads).any(|thread| who.has_seen(thread, 1)) {
            return Ok(());
        }
        Err(self.error(Kind::Peer, format!("nothing orders the beginning of block {block} before it")))
    }

    /// Notes that the current thread accesses a byte of shared memory, which may be another block's.
    pub fn note_remote(&mut self, site: u16, offset: usize, load: bool) {
        let rank = self.rank_of_offset(offset);
        if rank != self.rank_of(self.current) {
            let clock = self.clocks.accessor(self.index, self.current, site).access.clock();
            let own = Remote { rank, thread: self.current, clock, site, load, arrived: 0 };
            let same = |other: &&mut Remote| (other.rank, other.thread, other.load) == (rank, own.thread, load);
            match self.remote.iter_mut().find(same) {
                Some(last) => *last = own,
                None => self.remote.push(own),
            }
        }
    }

    /// Notes that threads arrive at a phase of the cluster's barrier.
    pub fn note_arrival(&mut self, threads: Range<u32>, phase: u32) {
        for remote in self.remote.iter_mut().filter(|remote| threads.contains(&remote.thread) && remote.arrived == 0) {
            remote.arrived = phase;
        }
    }

    /// A thread has exited. If it was its block's last: what others do to its shared memory must have happened before.
    pub fn check_block_exit(&mut self) -> Checked<()> {
        if self.cluster > 1 {
            self.turn_cluster_barrier();
        }
        let rank = self.rank_of(self.current);
        let (threads, cluster) = (self.width, self.cluster);
        if self.mbarriers.all.is_empty() && self.registers.is_empty() && self.tensor.is_unused() && cluster == 1
            || !self.block_threads(rank).all(|thread| thread.exited)
        {
            return Ok(());
        }
        if let Some((thread, site)) = self.uneven_registers(rank) {
            let detail = "not all warps of its warpgroup came to it".to_owned();
            return Err(self.error_at(thread, site, Kind::BarrierMismatch, detail));
        }
        if let Some(error) = self.tensor_left(true) {
            return Err(error);
        }
        let stride = shared_stride(self.launch.grid);
        let bytes = rank as usize * stride..(rank as usize + 1) * stride;
        let unobserved = self.unobserved(rank).map(|object| object.issuer);
        if let Some((thread, site)) = self.bulk.writer(bytes).or(unobserved) {
            let detail = "the block ends, and none of its threads has observed what arrives at the mbarrier".to_owned();
            return Err(self.error_at(thread, site, Kind::Leak, detail));
        }
        let seen = |remote: &&Remote| {
            // Behind an arrival that orders no memory a load has been made all the same: its value was there before.
            let made = |t| remote.load && (1..=self.passed_cluster_barrier(t)).contains(&remote.arrived);
            let seen = |t| self.clocks.accessor_of_shared(self.index, t, 0).has_seen(remote.thread, remote.clock);
            (rank * threads..(rank + 1) * threads).any(|t| made(t) || seen(t))
        };
        if let Some(remote) = self.remote.iter().filter(|remote| remote.rank == rank).find(|remote| !seen(remote)) {
            let detail = format!(
                "nothing orders it before the end of block {}, whose memory it is",
                self.block_of(self.current)
            );
            return Err(self.error_at(remote.thread, remote.site, Kind::Peer, detail));
        }
        Ok(())
    }
}

impl Block<'_> {
    /// `mapa`: the address, in the cluster's window, of what is at `address` in the block of that rank.
    pub fn map_address(&self, address: u32, rank: u32) -> Checked<u32> {
        let cluster = self.cluster;
        if rank >= cluster {
            return Err(self.error(Kind::BadOperand, format!("rank {rank}; the cluster has {cluster} blocks")));
        }
        if address >> RANK_SHIFT != 0 {
            let detail = format!("{address:#x} is no address in the own block's window");
            return Err(self.error(Kind::BadOperand, detail));
        }
        Ok((rank + 1) << RANK_SHIFT | address)
    }

    /// Loads N bytes of any block's shared memory for the current thread.
    pub fn load_cluster<const N: usize>(&mut self, site: u16, address: u32) -> Checked<[u8; N]> {
        let offset = self.cluster_range(address, N, N)?;
        self.note_remote(site, offset, true);
        let who = self.clocks.accessor_of_shared(self.index, self.current, site);
        match self.shared.read(&who, offset, N) {
            Ok(()) => Ok(self.shared.bytes(offset, N).try_into().unwrap_or([0; N])),
            Err(conflict) => Err(self.shared_conflict(self.current, conflict, offset)),
        }
    }

    /// Stores bytes to any block's shared memory for the current thread.
    pub fn store_cluster(&mut self, site: u16, address: u32, bytes: &[u8]) -> Checked<()> {
        let offset = self.cluster_range(address, bytes.len(), bytes.len())?;
        self.note_remote(site, offset, false);
        self.store_at(site, offset, bytes)
    }
}
