//! The two proxies of shared and global memory: what the generic one wrote and the asynchronous one may not see yet, and
//! what the asynchronous one is reading.
//!
//! Bulk copies, tensor copies and `wgmma` reach memory through the asynchronous proxy. A generic write shows there once its
//! own thread has executed `fence.proxy.async` after it, and that fence happened before the operation. What the
//! asynchronous proxy wrote shows everywhere to whoever has observed its completion.
use super::block::{Block, Checked};
use super::clock::{Access, Accessor};
use std::ops::Range;

/// The memory that a proxy fence is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Shared,
    Global,
    /// Initialisations of mbarriers.
    Mbarrier,
}

/// A block's (a cluster's) state between the proxies. Empty, and asked for nothing but that, where a kernel uses neither.
#[derive(Default)]
pub(super) struct Proxies {
    /// By space and thread, the clocks at which the thread executed a fence of it, rising.
    fences: [Vec<Vec<u32>>; 3],
}

impl Proxies {
    pub fn clear(&mut self) {
        self.fences.iter_mut().flatten().for_each(Vec::clear);
    }

    fn fence(&mut self, space: Space, thread: u32, clock: u32) {
        let fences = &mut self.fences[space as usize];
        if fences.len() <= thread as usize {
            fences.resize_with(thread as usize + 1, Vec::new);
        }
        fences[thread as usize].push(clock);
    }

    /// Whether `write`, which happened before `who`, shows in the asynchronous proxy. `threads` are those that are real:
    /// a write by another is an asynchronous operation's.
    pub fn shows(&self, space: Space, who: &Accessor<'_>, write: Access, threads: u32) -> bool {
        let thread = write.thread();
        if write.is_none() || thread >= threads {
            return true;
        }
        let Some(fences) = self.fences[space as usize].get(thread as usize) else { return false };
        let first = fences.get(fences.partition_point(|&clock| clock < write.clock()));
        // One that comes later than what `who` has seen of the thread is ordered with nothing.
        first.is_some_and(|&clock| who.has_seen(thread, clock))
    }
}

impl Block<'_> {
    /// `fence.proxy.async` or `fence.mbarrier_init` of the current thread, for the spaces.
    pub fn fence_proxy(&mut self, spaces: &[Space]) -> Checked<()> {
        let thread = self.current;
        let Some(clock) = self.clocks.advance(thread) else { return Err(self.out_of_clocks()) };
        spaces.iter().for_each(|&space| self.proxies.fence(space, thread, clock));
        Ok(())
    }

    /// Checks that what generic writes left in the range of shared memory shows in the asynchronous proxy.
    pub fn check_shown(&mut self, thread: u32, site: u16, range: Range<usize>) -> Checked<()> {
        let who = self.clocks.accessor(self.index, thread, site);
        let (proxies, threads) = (&self.proxies, self.threads.len() as u32);
        let shown = |write| proxies.shows(Space::Shared, &who, write, threads);
        match self.shared.check_shown(range.start, range.len(), shown) {
            Ok(()) => Ok(()),
            Err(conflict) => Err(self.shared_conflict(thread, conflict, range.start)),
        }
    }
}
