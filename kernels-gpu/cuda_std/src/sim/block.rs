//! A block under way: its threads' clocks, shared memory, rendezvous and counters, and its accesses to memory.
use super::Grid;
use super::asynchronous::{Copies, OwnedSources};
use super::bulk::Bulks;
use super::clock::Clocks;
use super::cluster::Remote;
use super::cluster_barrier::ClusterBarrier;
use super::error::{Error, Kind};
use super::launch::Launch;
use super::mbarrier::Mbarriers;
use super::memory::{CHUNK, Chunk, locate};
use super::proxy::Proxies;
use super::registers::Registers;
use super::segment::{Conflict, Segment};
use super::site::{Operation, SiteCache};
use super::store::Stores;
use super::tcgen05::Tensor;
use super::warp::{Barrier, Warp};
use super::warpgroup::Warpgroup;
use corosensei::Yielder;
use std::collections::VecDeque;
use std::panic::Location;

/// Where dynamic shared memory begins in the shared window: a multiple of 1024, and not 0, so that a forgotten base shows.
pub(super) const SHARED_ORIGIN: u32 = 1024;

/// From one block's shared memory to the next one's of a cluster.
pub(super) fn shared_stride(grid: &Grid<'_>) -> usize {
    match grid.cluster {
        1 => grid.shared_bytes as usize,
        _ => (grid.shared_bytes as usize).next_multiple_of(128),
    }
}

/// What a violation costs to carry: errors are rare and large.
pub(super) type Checked<T> = Result<T, Box<Error>>;

/// A simulated thread.
pub(super) struct Thread {
    /// How it suspends itself; null before it starts.
    pub yielder: *const Yielder<(), ()>,
    /// Where it is: its operation of the moment, or the one it waits at.
    pub site: u16,
    pub waiting: bool,
    pub exited: bool,
    /// It, or one that a barrier ordered before it, executed `griddepcontrol.wait`.
    pub grid_waited: bool,
    pub copies: Copies,
    /// Apart: what switches and barriers look at stays close together.
    pub stores: Option<Box<Stores>>,
    /// The mbarrier and phase that it has tried to wait for, or waits for.
    pub tried: Option<(u32, u32)>,
}

impl Thread {
    fn new() -> Self {
        Self {
            yielder: std::ptr::null(),
            site: 0,
            waiting: false,
            exited: false,
            grid_waited: false,
            copies: Copies::default(),
            stores: None,
            tried: None,
        }
    }
}

/// One block, or the blocks of one cluster, whose threads and shared memory are numbered through. A worker keeps one and
/// runs block after block in it.
pub(super) struct Block<'a> {
    pub launch: &'a Launch<'a>,
    /// Its number, or the cluster's.
    pub index: u32,
    /// Blocks of the cluster, threads and bytes of shared memory of each.
    pub cluster: u32,
    pub width: u32,
    pub shared_bytes: usize,
    /// The thread that runs.
    pub current: u32,
    /// Where the shared memory of its block begins.
    pub shared_base: usize,
    pub threads: Vec<Thread>,
    pub clocks: Clocks,
    pub shared: Segment,
    pub owned: OwnedSources,
    pub proxies: Proxies,
    pub mbarriers: Mbarriers,
    pub bulk: Bulks,
    pub registers: Registers,
    pub tensor: Tensor,
    pub cluster_barrier: ClusterBarrier,
    /// What threads last did to other blocks' shared memory.
    pub remote: Vec<Remote>,
    pub warps: Vec<Warp>,
    /// 16 a block.
    pub barriers: Vec<Barrier>,
    pub warpgroups: Vec<Warpgroup>,
    /// Threads that can run, in order.
    pub runnable: VecDeque<u32>,
    pub operations: u64,
    pub counts: [u64; Operation::ALL.len()],
    pub failure: Option<Box<Error>>,
    sites: SiteCache,
}

impl<'a> Block<'a> {
    pub fn new(launch: &'a Launch<'a>) -> Self {
        let cluster = launch.grid.cluster;
        let threads = launch.grid.threads * cluster;
        Self {
            launch,
            index: 0,
            cluster,
            width: launch.grid.threads,
            shared_bytes: launch.grid.shared_bytes as usize,
            current: 0,
            shared_base: 0,
            threads: (0..threads).map(|_| Thread::new()).collect(),
            clocks: Clocks::new(threads),
            shared: Segment::new(shared_stride(launch.grid) * cluster as usize),
            owned: OwnedSources::default(),
            proxies: Proxies::default(),
            mbarriers: Mbarriers::default(),
            bulk: Bulks::default(),
            registers: Registers::default(),
            tensor: Tensor::default(),
            cluster_barrier: ClusterBarrier::default(),
            remote: Vec::new(),
            warps: (0..threads / 32).map(|_| Warp::default()).collect(),
            warpgroups: (0..threads / 128).map(|_| Warpgroup::default()).collect(),
            barriers: (0..16 * cluster).map(|_| Barrier::default()).collect(),
            runnable: VecDeque::with_capacity(threads as usize),
            operations: 0,
            counts: [0; Operation::ALL.len()],
            failure: None,
            sites: SiteCache::new(),
        }
    }

    /// Makes it block `index`, before its first operation; `first` runs first.
    pub fn begin(&mut self, index: u32, first: u32) {
        self.index = index;
        self.threads.fill_with(Thread::new);
        self.clocks.reset();
        self.shared.clear();
        self.owned.clear();
        self.proxies.clear();
        self.mbarriers.clear();
        self.bulk.clear();
        self.registers.clear();
        self.tensor.clear();
        self.cluster_barrier.clear();
        self.remote.clear();
        self.warps.iter_mut().for_each(Warp::clear);
        self.barriers.iter_mut().for_each(Barrier::clear);
        self.warpgroups.iter_mut().for_each(Warpgroup::clear);
        self.operations = 0;
        self.runnable.clear();
        self.runnable.extend(0..self.threads.len() as u32);
        self.runnable.rotate_left(first as usize);
    }

    /// The thread that runs next: none after an error, or where none can.
    pub fn next(&mut self) -> Option<u32> {
        if self.failure.is_some() {
            return None;
        }
        while self.runnable.is_empty() {
            // Copies and commits are ordered with nothing but by their mbarriers.
            let mut bring = [Self::arrive_late, Self::commit_late];
            bring.rotate_left((self.launch.options.seed % 2) as usize);
            if !bring.iter().any(|bring| bring(self)) {
                return None;
            }
        }
        self.current = self.runnable.pop_front()?;
        if self.cluster > 1 {
            self.shared_base = self.rank_of(self.current) as usize * shared_stride(self.launch.grid);
        }
        Some(self.current)
    }

    /// Counts an operation of the current thread and numbers its site.
    #[inline(always)]
    pub fn enter(&mut self, operation: Operation, location: &'static Location<'static>) -> Checked<u16> {
        self.counts[operation as usize] += 1;
        self.operations += 1;
        let site = self.sites.number(&self.launch.sites, operation, location);
        self.threads[self.current as usize].site = site;
        if self.operations > self.launch.options.max_operations {
            let most = self.launch.options.max_operations;
            return Err(self.error(Kind::BoundExceeded, format!("the block made {most} operations")));
        }
        Ok(site)
    }

    /// The offset of `len` bytes at `address` in shared memory, for `thread`.
    #[inline(always)]
    pub fn shared_range(&self, thread: u32, address: u32, len: usize) -> Checked<usize> {
        if !(address as usize).is_multiple_of(len) {
            return Err(self.misaligned(thread, "shared", u64::from(address), len));
        }
        let offset = address.wrapping_sub(SHARED_ORIGIN) as usize;
        if offset + len > self.shared_bytes {
            let all = self.shared_bytes;
            let at = i64::from(address) - i64::from(SHARED_ORIGIN);
            let detail = format!("{len} bytes at shared {address:#x}, byte {at} of the block's {all}");
            return Err(self.error_of(thread, Kind::OutOfBounds, detail));
        }
        Ok(self.shared_base + offset)
    }

    /// Loads N bytes of shared memory for the current thread.
    #[inline(always)]
    pub fn load_shared<const N: usize>(&mut self, site: u16, address: u32) -> Checked<[u8; N]> {
        self.load_shared_for(self.current, site, address)
    }

    /// Loads N bytes of shared memory for `thread`.
    #[inline(always)]
    pub fn load_shared_for<const N: usize>(&mut self, thread: u32, site: u16, address: u32) -> Checked<[u8; N]> {
        let offset = self.shared_range(thread, address, N)?;
        let who = self.clocks.accessor_of_shared(self.index, thread, site);
        match self.shared.read(&who, offset, N) {
            Ok(()) => Ok(self.shared.bytes(offset, N).try_into().unwrap_or([0; N])),
            Err(conflict) => Err(self.shared_conflict(thread, conflict, offset)),
        }
    }

    /// Stores bytes to shared memory for the current thread.
    #[inline(always)]
    pub fn store_shared(&mut self, site: u16, address: u32, bytes: &[u8]) -> Checked<()> {
        self.store_shared_for(self.current, site, address, bytes)
    }

    /// Stores bytes to shared memory for `thread`.
    #[inline(always)]
    pub fn store_shared_for(&mut self, thread: u32, site: u16, address: u32, bytes: &[u8]) -> Checked<()> {
        let offset = self.shared_range(thread, address, bytes.len())?;
        self.store_at_for(thread, site, offset, bytes)
    }

    /// Stores bytes at an offset of shared memory for the current thread.
    #[inline(always)]
    pub fn store_at(&mut self, site: u16, offset: usize, bytes: &[u8]) -> Checked<()> {
        self.store_at_for(self.current, site, offset, bytes)
    }

    /// Stores bytes at an offset of shared memory for `thread`.
    #[inline(always)]
    pub fn store_at_for(&mut self, thread: u32, site: u16, offset: usize, bytes: &[u8]) -> Checked<()> {
        if let Some(reader) = self.proxies.reader(offset, bytes.len()) {
            return Err(self.being_read(thread, offset, reader));
        }
        let who = self.clocks.accessor_of_shared(self.index, thread, site);
        match self.shared.write(&who, offset, bytes.len()) {
            Ok(()) => {
                self.shared.store(offset, bytes);
                Ok(())
            }
            Err(conflict) => Err(self.shared_conflict(thread, conflict, offset)),
        }
    }

    /// Finds `len` bytes of global memory, inside one chunk as they are aligned to a power of two that holds them, and
    /// lets `access` at them; `write` says what it means to do.
    #[inline(always)]
    pub fn with_global<R>(
        &self,
        address: u64,
        len: usize,
        write: bool,
        access: impl FnOnce(&mut Segment, usize) -> Result<R, Conflict>,
    ) -> Checked<R> {
        let thread = self.current;
        let (allocation, offset) = match locate(self.launch.slots, address, len) {
            Ok(found) => found,
            Err(detail) => return Err(self.error_of(thread, Kind::OutOfBounds, detail)),
        };
        let mut chunk = allocation.lock(offset / CHUNK);
        let at = offset % CHUNK;
        chunk.enter(self.launch.id);
        if self.launch.grid.early && !self.threads[thread as usize].grid_waited {
            self.check_early(&chunk, address, at, len, write)?;
        }
        access(chunk.enter(self.launch.id), at).map_err(|conflict| {
            // The bytes of a chunk count from where it begins.
            let start = if let Conflict::Uninitialised(_) = conflict { address - at as u64 } else { address };
            self.conflict(thread, conflict, "global", start)
        })
    }

    #[cold]
    fn check_early(&self, chunk: &Chunk, address: u64, offset: usize, len: usize, write: bool) -> Checked<()> {
        if !chunk.touched_before(offset, len, write) {
            return Ok(());
        }
        let verb = if write { "written" } else { "read" };
        let detail = format!("global {address:#x} is {verb}, which the previous launch may still be using");
        Err(self.error(Kind::MissingGridWait, detail))
    }

    /// Loads N bytes of global memory for the current thread.
    #[inline(always)]
    pub fn load_global<const N: usize>(&mut self, site: u16, address: u64) -> Checked<[u8; N]> {
        if !(address as usize).is_multiple_of(N) {
            return Err(self.misaligned(self.current, "global", address, N));
        }
        let who = self.clocks.accessor(self.index, self.current, site);
        self.with_global(address, N, false, |segment, offset| {
            segment.read(&who, offset, N)?;
            Ok(segment.bytes(offset, N).try_into().unwrap_or([0; N]))
        })
    }

    /// Stores bytes to global memory for the current thread.
    #[inline(always)]
    pub fn store_global(&mut self, site: u16, address: u64, bytes: &[u8]) -> Checked<()> {
        if !(address as usize).is_multiple_of(bytes.len()) {
            return Err(self.misaligned(self.current, "global", address, bytes.len()));
        }
        self.check_not_read(address, bytes.len())?;
        let who = self.clocks.accessor(self.index, self.current, site);
        self.with_global(address, bytes.len(), true, |segment, offset| {
            segment.write(&who, offset, bytes.len())?;
            segment.store(offset, bytes);
            Ok(())
        })
    }
}
