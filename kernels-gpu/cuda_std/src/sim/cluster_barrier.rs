//! The barrier of a cluster (`barrier.cluster`): each thread arrives, and later waits until all have.
use super::block::{Block, Checked};
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
    /// The same of shared memory alone: of arrivals that order nothing themselves, by what their threads' fences have.
    released_of_shared: Vec<u32>,
    completed_of_shared: Vec<u32>,
    /// By thread: what its last `fence.release.sync_restrict::shared::cta.cluster` is behind.
    fenced: Vec<Vec<u32>>,
    /// Warps that wait.
    warps: Vec<u32>,
    /// By thread: the last phase that it has waited for, 0 before the first.
    passed: Vec<u32>,
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
            let ClusterBarrier { fenced, released_of_shared, .. } = &mut self.cluster_barrier;
            if let Some(fenced) = fenced.get(thread as usize) {
                released_of_shared.resize(released_of_shared.len().max(fenced.len()), 0);
                released_of_shared.iter_mut().zip(fenced).for_each(|(most, &other)| *most = (*most).max(other));
            }
        }
        self.note_arrival(warp * 32..warp * 32 + 32, own);
        self.turn_cluster_barrier();
        Ok(())
    }

    /// `fence.release.sync_restrict::shared::cta.cluster`: what the current thread did in shared memory is before its later arrivals.
    pub fn fence_release_shared(&mut self) -> Checked<()> {
        let (thread, threads) = (self.current, self.threads.len());
        let fenced = &mut self.cluster_barrier.fenced;
        fenced.resize(threads, Vec::new());
        if self.clocks.release(thread, &mut fenced[thread as usize]) { Ok(()) } else { Err(self.out_of_clocks()) }
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
            self.clocks.acquire_of_shared(thread, &self.cluster_barrier.completed_of_shared);
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
        barrier.completed_of_shared.clone_from(&barrier.released_of_shared);
        for warp in std::mem::take(&mut barrier.warps) {
            self.pass_cluster_barrier(warp);
            self.release(warp);
        }
    }
}
