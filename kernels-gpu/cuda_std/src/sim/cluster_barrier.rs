//! The barrier of a cluster (`barrier.cluster`): each thread arrives, and later waits until all have.
use super::block::{Block, Checked};
use super::clock::Clocks;
use super::error::Kind;

/// The one barrier that a cluster has.
#[derive(Default)]
pub(super) struct ClusterBarrier {
    /// Phases completed.
    phase: u32,
    /// By thread: the phase that it has arrived at and not yet waited for, counted from 1; 0 is none.
    arrived: Vec<u32>,
    /// Clocks of arrivals; of those of the phase before.
    released: Vec<u32>,
    completed: Vec<u32>,
    /// The same of shared memory alone, and of mbarriers' initialisations alone, by what threads' fences have: of arrivals that order nothing
    /// themselves too.
    of_shared: Fenced,
    of_inits: Fenced,
    /// Warps that wait.
    warps: Vec<u32>,
    /// By thread: the last phase that it has waited for, 0 before the first.
    passed: Vec<u32>,
}

/// What fences of one kind hand on by the barrier.
#[derive(Default)]
struct Fenced {
    /// By thread: what its last fence is behind.
    by_thread: Vec<Vec<u32>>,
    /// Clocks of arrivals; of those of the phase before.
    released: Vec<u32>,
    completed: Vec<u32>,
}

impl Fenced {
    fn arrive(&mut self, thread: u32) {
        if let Some(fenced) = self.by_thread.get(thread as usize) {
            self.released.resize(self.released.len().max(fenced.len()), 0);
            self.released.iter_mut().zip(fenced).for_each(|(most, &other)| *most = (*most).max(other));
        }
    }

    /// A fence of `thread`. False: its clock has run out.
    fn fence(&mut self, thread: u32, threads: usize, clocks: &mut Clocks) -> bool {
        self.by_thread.resize(threads, Vec::new());
        clocks.release(thread, &mut self.by_thread[thread as usize])
    }
}

impl ClusterBarrier {
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Block<'_> {
    /// `barrier.cluster.arrive` of a whole warp: `.release` or `.relaxed`.
    pub fn arrive_at_cluster(&mut self, warp: u32, release: bool) -> Checked<()> {
        let own = self.cluster_barrier.phase + 1;
        self.cluster_barrier.arrived.resize(self.threads.len(), 0);
        for thread in warp * 32..warp * 32 + 32 {
            if self.cluster_barrier.arrived[thread as usize] != 0 {
                let detail = "the thread has arrived before, and not waited since".to_owned();
                return Err(self.error_of(thread, Kind::BarrierMismatch, detail));
            }
            self.cluster_barrier.arrived[thread as usize] = own;
            if release && !self.clocks.release(thread, &mut self.cluster_barrier.released) {
                return Err(self.out_of_clocks());
            }
            self.cluster_barrier.of_shared.arrive(thread);
            self.cluster_barrier.of_inits.arrive(thread);
        }
        self.note_arrival(warp * 32..warp * 32 + 32, own);
        self.turn_cluster_barrier();
        Ok(())
    }

    /// `fence.release.sync_restrict::shared::cta.cluster`: what the current thread did in shared memory is before its later arrivals.
    pub fn fence_release_shared(&mut self) -> Checked<()> {
        let threads = self.threads.len();
        let done = self.cluster_barrier.of_shared.fence(self.current, threads, &mut self.clocks);
        if done { Ok(()) } else { Err(self.out_of_clocks()) }
    }

    /// `fence.mbarrier_init.release.cluster`: the current thread's initialisations are before its later arrivals.
    pub fn fence_inits(&mut self) -> Checked<()> {
        let threads = self.threads.len();
        let done = self.cluster_barrier.of_inits.fence(self.current, threads, &mut self.clocks);
        if done { Ok(()) } else { Err(self.out_of_clocks()) }
    }

    /// `barrier.cluster.wait.acquire` of a whole warp. False: it waits.
    pub fn wait_for_cluster(&mut self, warp: u32) -> Checked<bool> {
        self.cluster_barrier.arrived.resize(self.threads.len(), 0);
        let lanes = warp * 32..warp * 32 + 32;
        if let Some(thread) = lanes.clone().find(|&thread| self.cluster_barrier.arrived[thread as usize] == 0) {
            let detail = "the thread waits, and has not arrived".to_owned();
            return Err(self.error_of(thread, Kind::BarrierMismatch, detail));
        }
        if self.cluster_barrier.arrived[lanes.start as usize] > self.cluster_barrier.phase {
            self.cluster_barrier.warps.push(warp);
            return Ok(false);
        }
        self.pass_cluster_barrier(warp);
        Ok(true)
    }

    fn pass_cluster_barrier(&mut self, warp: u32) {
        self.cluster_barrier.passed.resize(self.threads.len(), 0);
        for thread in warp * 32..warp * 32 + 32 {
            let arrived = std::mem::take(&mut self.cluster_barrier.arrived[thread as usize]);
            self.cluster_barrier.passed[thread as usize] = arrived;
            self.clocks.acquire(thread, &self.cluster_barrier.completed);
            self.clocks.acquire_of_shared(thread, &self.cluster_barrier.of_shared.completed);
            self.clocks.acquire_of_inits(thread, &self.cluster_barrier.of_inits.completed);
        }
    }

    /// The last phase that a thread has waited for.
    pub fn passed_cluster_barrier(&self, thread: u32) -> u32 {
        self.cluster_barrier.passed.get(thread as usize).copied().unwrap_or(0)
    }

    /// Completes the phase if all threads have arrived that have not exited.
    pub fn turn_cluster_barrier(&mut self) {
        let barrier = &mut self.cluster_barrier;
        let next = barrier.phase + 1;
        let there = |(thread, &arrived): (usize, &u32)| arrived == next || self.threads[thread].exited;
        if barrier.arrived.is_empty() || !barrier.arrived.contains(&next) {
            return;
        }
        if !barrier.arrived.iter().enumerate().all(there) {
            return;
        }
        barrier.phase = next;
        barrier.completed.clone_from(&barrier.released);
        for fenced in [&mut barrier.of_shared, &mut barrier.of_inits] {
            fenced.completed.clone_from(&fenced.released);
        }
        for warp in std::mem::take(&mut barrier.warps) {
            self.pass_cluster_barrier(warp);
            self.release(warp);
        }
    }
}
