//! Bulk and tensor copies from global to shared memory, and stores to other blocks, which complete on an mbarrier.
//!
//! A copy owns its source for reading and its destination for writing from issue until its completion is observed. Its bytes
//! move when it is issued or, delivered late, when no thread can go on without them: in their order or, by the seed, the
//! latest first, since the ISA orders no two.
use super::Delivery;
use super::block::{Block, Checked};
use super::clock::Access;
use super::error::Kind;
use super::memory::CHUNK;
use super::proxy::Space;
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes that one copy moves together: from global memory to shared memory, or zeros where there is no source.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub from: Option<u64>,
    /// Offset in shared memory.
    pub to: usize,
    pub len: usize,
}

/// One copy to one block.
struct Bulk {
    thread: u32,
    site: u16,
    mbarrier: usize,
    pieces: Vec<Piece>,
    /// Addresses that hold all sources.
    sources: Range<u64>,
    /// What a store brings, to its only piece.
    stored: Option<Vec<u8>>,
    /// Bytes that it completes.
    bytes: u32,
}

/// A block's (a cluster's) copies that have not arrived, oldest first.
#[derive(Default)]
pub(super) struct Bulks(VecDeque<Bulk>);

impl Bulks {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether a copy completes on the mbarrier of that number.
    pub fn completes_on(&self, mbarrier: usize) -> bool {
        self.0.iter().any(|bulk| bulk.mbarrier == mbarrier)
    }

    /// The thread and site of a copy under way that reads from the range of global memory.
    #[inline(always)]
    pub fn reader(&self, address: u64, len: usize) -> Option<(u32, u16)> {
        if self.0.is_empty() { None } else { self.find_reader(address..address + len as u64) }
    }

    #[cold]
    fn find_reader(&self, range: Range<u64>) -> Option<(u32, u16)> {
        let meet = |from: u64, len: usize| from < range.end && range.start < from + len as u64;
        let within = |bulk: &&Bulk| bulk.sources.start < range.end && range.start < bulk.sources.end;
        let reads = |piece: &Piece| piece.from.is_some_and(|from| meet(from, piece.len));
        let mut bulks = self.0.iter().filter(within);
        bulks.find(|bulk| bulk.pieces.iter().any(reads)).map(|bulk| (bulk.thread, bulk.site))
    }

    /// The thread and site of a copy under way whose destination is in the range of shared memory.
    pub fn writer(&self, range: Range<usize>) -> Option<(u32, u16)> {
        let within = |piece: &Piece| range.contains(&piece.to);
        self.0.iter().find(|bulk| bulk.pieces.iter().any(within)).map(|bulk| (bulk.thread, bulk.site))
    }
}

/// `len` bytes at `address` in parts that lie in one chunk of global memory each: offset in the `len`, and length.
pub(super) fn chunks(address: u64, len: usize) -> impl Iterator<Item = (usize, usize)> {
    // Allocations begin 256 bytes into a chunk's multiple.
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = (address as usize + done).wrapping_sub(super::memory::ORIGIN as usize) % CHUNK;
        let part = (CHUNK - at).min(len - done);
        done += part;
        (part > 0).then_some((done - part, part))
    })
}

impl Block<'_> {
    /// Gives `len` bytes of shared memory to a write by the current thread that owns them, as `owner`: an asynchronous
    /// operation's, or an mbarrier's.
    pub fn claim_shared(&mut self, thread: u32, site: u16, offset: usize, len: usize, owner: Access) -> Checked<()> {
        if let Some(reader) = self.proxies.reader(offset, len) {
            return Err(self.being_read(thread, offset, reader));
        }
        let who = self.clocks.accessor_of_shared(self.index, thread, site);
        match self.shared.claim_as(&who, owner, offset, len) {
            Ok(()) => Ok(()),
            Err(conflict) => Err(self.shared_conflict(thread, conflict, offset)),
        }
    }

    /// `cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes`.
    pub fn bulk_copy(&mut self, site: u16, to: u32, from: u64, bytes: u32, mbarrier: u32) -> Checked<()> {
        if !bytes.is_multiple_of(16) || bytes == 0 {
            return Err(self.error(Kind::BadOperand, format!("{bytes} bytes; multiples of 16 are allowed")));
        }
        if !from.is_multiple_of(16) {
            return Err(self.misaligned(self.current, "global", from, 16));
        }
        let to = self.cluster_range(to, 16, bytes as usize)?;
        let pieces = vec![Piece { from: Some(from), to, len: bytes as usize }];
        let mbarrier = self.cluster_range(mbarrier, super::mbarrier::BYTES, super::mbarrier::BYTES)?;
        self.start_bulk(site, mbarrier, pieces)
    }

    /// `st.async.shared::cluster.mbarrier::complete_tx::bytes`. Its completion releases what its thread did before: so the ISA's
    /// `.release` is read, and a load's value is in a register, where all that follows in its warp can rely on it.
    pub fn store_async(&mut self, site: u16, to: u32, bytes: Vec<u8>, mbarrier: u32) -> Checked<()> {
        let pieces =
            vec![Piece { from: None, to: self.cluster_range(to, bytes.len(), bytes.len())?, len: bytes.len() }];
        let mbarrier = self.cluster_range(mbarrier, super::mbarrier::BYTES, super::mbarrier::BYTES)?;
        // Before the release, so that who observes the phase has seen it.
        self.note_remote(site, pieces[0].to, false);
        self.release_to(site, mbarrier)?;
        self.start(site, mbarrier, pieces, Some(bytes))
    }

    /// Starts a copy of the current thread that completes on the mbarrier at an offset of shared memory, in the block that
    /// the pieces go to.
    pub fn start_bulk(&mut self, site: u16, mbarrier: usize, pieces: Vec<Piece>) -> Checked<()> {
        self.start(site, mbarrier, pieces, None)
    }

    fn start(&mut self, site: u16, mbarrier: usize, pieces: Vec<Piece>, stored: Option<Vec<u8>>) -> Checked<()> {
        let index = self.mbarrier_for_async(site, mbarrier)?;
        let (slot, time) = self.arrival(index);
        let owner = Access::new(self.index, slot, time, site);
        let thread = self.current;
        let (mut first, mut end, mut bytes) = (u64::MAX, 0, 0);
        for &Piece { from, to, len } in &pieces {
            if self.rank_of_offset(to) != self.rank_of_offset(mbarrier) {
                let detail = "the mbarrier is not in the block that the bytes go to".to_owned();
                return Err(self.error(Kind::BadOperand, detail));
            }
            if let Some(from) = from {
                self.check_source(site, from, len)?;
                (first, end) = (first.min(from), end.max(from + len as u64));
            }
            if stored.is_none() {
                self.check_claim(thread, site, to..to + len)?;
                self.note_remote(site, to, false);
            }
            self.claim_shared(thread, site, to, len, owner)?;
            bytes += len as u32;
        }
        let bulk = Bulk { thread, site, mbarrier: index, pieces, sources: first..end, stored, bytes };
        if self.launch.options.delivery == Delivery::Earliest {
            return self.arrive_bulk(bulk);
        }
        self.bulk.0.push_back(bulk);
        Ok(())
    }

    /// Checks that an asynchronous write finds no generic one that its proxy does not see; others are the claim's to find.
    fn check_claim(&mut self, thread: u32, site: u16, range: Range<usize>) -> Checked<()> {
        let who = self.clocks.accessor(self.index, thread, site);
        match self.shared.check_ordered(&who, range.start, range.len()) {
            Ok(()) => self.check_shown(thread, site, range),
            Err(conflict) => Err(self.shared_conflict(thread, conflict, range.start)),
        }
    }

    /// Checks that the asynchronous proxy may read the range of global memory for the current thread.
    fn check_source(&mut self, site: u16, from: u64, len: usize) -> Checked<()> {
        let threads = self.threads.len() as u32;
        for (done, part) in chunks(from, len) {
            let who = self.clocks.accessor(self.index, self.current, site);
            self.with_global(from + done as u64, part, false, |segment, at| {
                segment.check_read(&who, at, part)?;
                segment.check_shown(at, part, |write| self.proxies.shows(Space::Global, &who, write, threads))
            })?;
        }
        Ok(())
    }

    /// No thread can run: brings the bytes of one copy. False: there is none.
    pub fn arrive_late(&mut self) -> bool {
        let newest = self.launch.options.seed % 2 == 1;
        let bulk = if newest { self.bulk.0.pop_back() } else { self.bulk.0.pop_front() };
        let Some(bulk) = bulk else { return false };
        let (current, thread) = (self.current, bulk.thread);
        let site = std::mem::replace(&mut self.threads[thread as usize].site, bulk.site);
        self.current = thread;
        if let Err(error) = self.arrive_bulk(bulk) {
            self.failure.get_or_insert(error);
            return false;
        }
        self.threads[thread as usize].site = site;
        self.current = current;
        true
    }

    /// Moves a copy's bytes, which count as read and written in the current phase of its mbarrier.
    fn arrive_bulk(&mut self, bulk: Bulk) -> Checked<()> {
        let (slot, time) = self.arrival(bulk.mbarrier);
        let access = Access::new(self.index, slot, time, bulk.site);
        let mut bytes = Vec::new();
        for &Piece { from, to, len } in &bulk.pieces {
            bytes.clear();
            match &bulk.stored {
                Some(stored) => bytes.extend(stored),
                None => bytes.resize(len, 0),
            }
            if let Some(from) = from {
                for (done, part) in chunks(from, len) {
                    // With what its thread had seen at issue, and no more; the sources were its own since.
                    let who = self.clocks.accessor(self.index, bulk.thread, bulk.site);
                    self.with_global(from + done as u64, part, false, |segment, at| {
                        segment.read_as(&who, access, at, part)?;
                        bytes[done..done + part].copy_from_slice(segment.bytes(at, part));
                        Ok(())
                    })?;
                }
            }
            self.shared.store(to, &bytes);
            self.shared.settle_as(access, to, len);
        }
        self.complete_bytes(bulk.mbarrier, bulk.bytes)
    }
}
