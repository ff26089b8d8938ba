//! The two proxies of shared and global memory: what the generic one wrote and the asynchronous one may not see yet, and
//! what the asynchronous one is reading.
//!
//! Bulk copies, tensor copies and `wgmma` reach memory through the asynchronous proxy. A generic write shows there once its
//! own thread has executed `fence.proxy.async` after it, and that fence happened before the operation. What the
//! asynchronous proxy wrote shows everywhere to whoever has observed its completion. Its reads own their bytes until their
//! completion is observed: a write in between is an error.
use super::block::{Block, Checked};
use super::clock::{Access, Accessor};
use super::error::Kind;
use std::ops::Range;

/// The memory that a proxy fence is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Shared,
    Global,
    /// Initialisations of mbarriers.
    Mbarrier,
}

/// The number of an asynchronous read of shared memory that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticket(u64);

/// Ranges of shared memory that an asynchronous operation reads.
struct Reading {
    ticket: Ticket,
    thread: u32,
    site: u16,
    /// Holds all of `ranges`.
    hull: Range<usize>,
    ranges: Vec<Range<usize>>,
}

/// A block's (a cluster's) state between the proxies. Empty, and asked for nothing but that, where a kernel uses neither.
#[derive(Default)]
pub(super) struct Proxies {
    /// By space and thread, the clocks at which the thread executed a fence of it, rising.
    fences: [Vec<Vec<u32>>; 3],
    reading: Vec<Reading>,
    tickets: u64,
}

impl Proxies {
    pub fn clear(&mut self) {
        self.fences.iter_mut().flatten().for_each(Vec::clear);
        self.reading.clear();
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

    /// The thread and site of an asynchronous operation that reads from the range of shared memory.
    #[inline(always)]
    pub fn reader(&self, offset: usize, len: usize) -> Option<(u32, u16)> {
        if self.reading.is_empty() {
            return None;
        }
        self.find_reader(offset..offset + len)
    }

    #[cold]
    fn find_reader(&self, range: Range<usize>) -> Option<(u32, u16)> {
        let meet = |other: &Range<usize>| range.start < other.end && other.start < range.end;
        let mut reading = self.reading.iter().filter(|reading| meet(&reading.hull));
        reading.find(|reading| reading.ranges.iter().any(meet)).map(|reading| (reading.thread, reading.site))
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

    /// Checks that an asynchronous operation which `thread` issues may read the ranges (offsets) of shared memory, and
    /// gives it them until [`Self::end_async_read`].
    pub fn begin_async_read(&mut self, thread: u32, site: u16, ranges: Vec<Range<usize>>) -> Checked<Ticket> {
        for range in &ranges {
            let who = self.clocks.accessor(self.index, thread, site);
            if let Err(conflict) = self.shared.check_read(&who, range.start, range.len()) {
                return Err(self.shared_conflict(thread, conflict, range.start));
            }
            self.check_shown(thread, site, range.clone())?;
        }
        let start = ranges.iter().map(|range| range.start).min().unwrap_or(0);
        let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
        self.proxies.tickets += 1;
        let ticket = Ticket(self.proxies.tickets);
        self.proxies.reading.push(Reading { ticket, thread, site, hull: start..end, ranges });
        Ok(ticket)
    }

    /// The read counts as made by its thread, now.
    pub fn end_async_read(&mut self, ticket: Ticket) -> Checked<()> {
        let Some(index) = self.proxies.reading.iter().position(|reading| reading.ticket == ticket) else {
            return Ok(());
        };
        let Reading { thread, site, ranges, .. } = self.proxies.reading.remove(index);
        for range in ranges {
            let who = self.clocks.accessor(self.index, thread, site);
            if let Err(conflict) = self.shared.read(&who, range.start, range.len()) {
                return Err(self.shared_conflict(thread, conflict, range.start));
            }
        }
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

    /// A write to shared memory that an asynchronous operation is reading from.
    #[cold]
    pub fn being_read(&self, thread: u32, offset: usize, reader: (u32, u16)) -> Box<super::Error> {
        let detail = format!("shared {:#x} is being read asynchronously", self.shared_address(offset));
        self.against(self.error_of(thread, Kind::InFlight, detail), reader.0, reader.1)
    }
}
