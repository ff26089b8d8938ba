//! Asynchronous copies (`cp.async`): groups, delivery, and who owns which bytes until when.
//!
//! A copy owns its source for reading and its destination for writing from issue until its own thread has waited for
//! its group. Then the read and the write count as done by that thread at that moment: others need a barrier to see it.
use super::Delivery;
use super::block::{Block, Checked, Thread};
use super::error::Kind;
use super::segment::Conflict;
use std::collections::VecDeque;

/// One `cp.async`.
#[derive(Clone, Copy)]
struct Copy {
    /// Offset in shared memory.
    to: usize,
    from: u64,
    /// Bytes copied; zeros up to the width.
    bytes: usize,
    /// Bytes written: 4, 8 or 16.
    width: usize,
    /// Commits of this thread before it.
    group: u32,
    site: u16,
}

/// A thread's copies that it has not waited for, oldest first.
#[derive(Default)]
pub(super) struct Copies {
    pending: VecDeque<Copy>,
    committed: u32,
}

impl Copies {
    /// The site of the oldest copy not waited for, and how many there are.
    pub fn outstanding(&self) -> Option<(u16, usize)> {
        self.pending.front().map(|copy| (copy.site, self.pending.len()))
    }
}

/// The addresses that a block's copies are reading, as one range that holds them all: a store outside it, the rule,
/// conflicts with none; one inside searches the threads' copies.
#[derive(Default)]
pub(super) struct OwnedSources {
    pending: usize,
    first: u64,
    end: u64,
}

impl OwnedSources {
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn add(&mut self, from: u64, bytes: usize) {
        if self.pending == 0 {
            (self.first, self.end) = (from, from);
        }
        self.pending += 1;
        self.first = self.first.min(from);
        self.end = self.end.max(from + bytes as u64);
    }

    /// The thread and site of a copy that reads from the range.
    #[inline(always)]
    pub fn find(&self, threads: &[Thread], address: u64, len: usize) -> Option<(u32, u16)> {
        if self.pending == 0 || address >= self.end || address + len as u64 <= self.first {
            return None;
        }
        threads.iter().enumerate().find_map(|(thread, state)| {
            let overlaps = |copy: &&Copy| address < copy.from + copy.bytes as u64 && copy.from < address + len as u64;
            state.copies.pending.iter().find(overlaps).map(|copy| (thread as u32, copy.site))
        })
    }
}

impl Block<'_> {
    /// `cp.async`: `width` bytes to shared memory, of which `bytes` come from global memory and the rest are zeros.
    pub fn copy_async(&mut self, site: u16, width: usize, to: u32, from: u64, bytes: u32) -> Checked<()> {
        if bytes as usize > width {
            return Err(self.error(Kind::BadOperand, format!("{bytes} bytes; 0 to {width} are allowed")));
        }
        if !from.is_multiple_of(width as u64) {
            return Err(self.misaligned(self.current, "global", from, width));
        }
        let to = self.shared_range(self.current, to, width)?;
        let who = self.clocks.accessor(self.index, self.current, site);
        if let Err(conflict) = self.shared.claim(&who, to, width) {
            return Err(self.shared_conflict(self.current, conflict, to));
        }
        let group = self.threads[self.current as usize].copies.committed;
        let copy = Copy { to, from, bytes: bytes as usize, width, group, site };
        if bytes > 0 {
            let who = self.clocks.accessor(self.index, self.current, site);
            self.with_global(from, copy.bytes, false, |segment, at| segment.check_read(&who, at, copy.bytes))?;
            self.owned.add(from, copy.bytes);
        }
        if self.launch.options.delivery == Delivery::Earliest {
            self.deliver(&copy, false)?;
        }
        self.threads[self.current as usize].copies.pending.push_back(copy);
        Ok(())
    }

    /// `cp.async.commit_group`.
    pub fn commit_copies(&mut self) {
        self.threads[self.current as usize].copies.committed += 1;
    }

    /// `cp.async.wait_group`: completes all but the `newest` groups of the current thread.
    pub fn wait_copies(&mut self, newest: u32) -> Checked<()> {
        let thread = self.current as usize;
        loop {
            let copies = &mut self.threads[thread].copies;
            let Some(&copy) = copies.pending.front() else { return Ok(()) };
            if copy.group >= copies.committed || copies.committed - copy.group <= newest {
                return Ok(());
            }
            copies.pending.pop_front();
            self.owned.pending -= usize::from(copy.bytes > 0);
            self.deliver(&copy, true)?;
            let who = self.clocks.accessor(self.index, self.current, copy.site);
            self.shared.settle(&who, copy.to, copy.width);
        }
    }

    /// Moves a copy's bytes; with `done` its read counts as made now.
    fn deliver(&mut self, copy: &Copy, done: bool) -> Checked<()> {
        let mut bytes = [0; 16];
        if copy.bytes > 0 {
            let who = self.clocks.accessor(self.index, self.current, copy.site);
            self.with_global(copy.from, copy.bytes, false, |segment, at| -> Result<(), Conflict> {
                if done {
                    segment.read(&who, at, copy.bytes)?;
                }
                bytes[..copy.bytes].copy_from_slice(segment.bytes(at, copy.bytes));
                Ok(())
            })?;
        }
        if !done || self.launch.options.delivery == Delivery::Latest {
            self.shared.store(copy.to, &bytes[..copy.width]);
        }
        Ok(())
    }
}
