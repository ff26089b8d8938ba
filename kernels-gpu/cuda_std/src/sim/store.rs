//! Tensor copies from shared to global memory, in groups of the thread that issues them.
//!
//! A store owns its tile for reading until a wait for its group, of either kind, and its box for writing until a wait that is
//! not `.read`, or until its thread exits. Tiles must be waited for before that: shared memory ends with the block.
use super::Delivery;
use super::block::{Block, Checked};
use super::bulk::{Piece, chunks};
use super::error::Kind;
use super::proxy::{Space, Ticket};
use std::collections::VecDeque;

/// One store.
struct Store {
    site: u16,
    /// Commits of this thread before it.
    group: u32,
    /// Of global memory from shared memory.
    pieces: Vec<Piece>,
    /// Its hold on the tile.
    tile: Option<Ticket>,
    /// What it has read and not written yet.
    bytes: Vec<u8>,
}

/// A thread's stores that it has not waited for, oldest first.
#[derive(Default)]
pub(super) struct Stores {
    pending: VecDeque<Store>,
    committed: u32,
}

impl Stores {
    /// The site of the oldest store whose tile was not waited for, and how many there are.
    pub fn outstanding(&self) -> Option<(u16, usize)> {
        let mut reading = self.pending.iter().filter(|store| store.tile.is_some());
        reading.next().map(|store| (store.site, 1 + reading.count()))
    }
}

impl Block<'_> {
    /// Starts a store of the current thread: each piece's `to`, in shared memory, is copied to its `from`, if any.
    pub fn start_store(&mut self, site: u16, mut pieces: Vec<Piece>) -> Checked<()> {
        pieces.retain(|piece| piece.from.is_some());
        let thread = self.current;
        let ranges = pieces.iter().map(|piece| piece.to..piece.to + piece.len).collect();
        let tile = Some(self.begin_async_read(thread, site, ranges)?);
        let threads = self.threads.len() as u32;
        for piece in &pieces {
            let address = piece.from.unwrap_or(0);
            self.check_not_read(address, piece.len)?;
            for (done, part) in chunks(address, piece.len) {
                let who = self.clocks.accessor(self.index, thread, site);
                self.with_global(address + done as u64, part, true, |segment, at| {
                    segment.check_ordered(&who, at, part)?;
                    segment.check_shown(at, part, |write| self.proxies.shows(Space::Global, &who, write, threads))?;
                    segment.claim(&who, at, part)
                })?;
            }
        }
        let stores = self.threads[thread as usize].stores.get_or_insert_default();
        let group = stores.committed;
        let mut store = Store { site, group, pieces, tile, bytes: Vec::new() };
        if self.launch.options.delivery == Delivery::Earliest {
            self.read_tile(&mut store);
            self.write_box(&store, false)?;
        }
        self.threads[thread as usize].stores.get_or_insert_default().pending.push_back(store);
        Ok(())
    }

    /// `cp.async.bulk.commit_group`.
    pub fn commit_stores(&mut self) {
        self.threads[self.current as usize].stores.get_or_insert_default().committed += 1;
    }

    /// `cp.async.bulk.wait_group`, of all but the `newest` groups of the current thread: their tiles are free, and if
    /// `written` their boxes too.
    pub fn wait_stores(&mut self, newest: u32, written: bool) -> Checked<()> {
        let thread = self.current as usize;
        let Some(stores) = &mut self.threads[thread].stores else { return Ok(()) };
        let committed = stores.committed;
        let mut pending = std::mem::take(&mut stores.pending);
        let mut left = VecDeque::new();
        while let Some(mut store) = pending.pop_front() {
            if store.group < committed && committed - store.group > newest {
                self.release_tile(&mut store)?;
                if written {
                    self.write_box(&store, true)?;
                    continue;
                }
            }
            left.push_back(store);
        }
        self.threads[thread].stores.get_or_insert_default().pending = left;
        Ok(())
    }

    /// The current thread exits: its boxes are written.
    pub fn finish_stores(&mut self) -> Checked<()> {
        let Some(stores) = self.threads[self.current as usize].stores.take() else { return Ok(()) };
        for store in stores.pending {
            self.write_box(&store, true)?;
        }
        Ok(())
    }

    fn release_tile(&mut self, store: &mut Store) -> Checked<()> {
        if let Some(ticket) = store.tile.take() {
            if self.launch.options.delivery == Delivery::Latest {
                self.read_tile(store);
            }
            self.end_async_read(ticket)?;
        }
        Ok(())
    }

    fn read_tile(&self, store: &mut Store) {
        store.bytes.clear();
        let tile = store.pieces.iter().flat_map(|piece| self.shared.bytes(piece.to, piece.len));
        store.bytes.extend(tile);
    }

    /// Writes a store's box; with `done` the write counts as made now.
    fn write_box(&mut self, store: &Store, done: bool) -> Checked<()> {
        let who = self.clocks.accessor(self.index, self.current, store.site);
        let mut bytes = &store.bytes[..];
        for piece in &store.pieces {
            let address = piece.from.unwrap_or(0);
            for (done_before, part) in chunks(address, piece.len) {
                self.with_global(address + done_before as u64, part, true, |segment, at| {
                    segment.store(at, &bytes[done_before..done_before + part]);
                    if done {
                        segment.settle(&who, at, part);
                    }
                    Ok(())
                })?;
            }
            bytes = &bytes[piece.len..];
        }
        Ok(())
    }

    /// Checks that no copy reads from the range of global memory, which the current thread writes to.
    #[inline(always)]
    pub fn check_not_read(&self, address: u64, len: usize) -> Checked<()> {
        let reader = self.owned.find(&self.threads, address, len);
        match reader.or_else(|| self.bulk.reader(address, len)) {
            None => Ok(()),
            Some((thread, site)) => {
                let detail = format!("global {address:#x} is being copied from");
                Err(self.against(self.error(Kind::InFlight, detail), thread, site))
            }
        }
    }
}
