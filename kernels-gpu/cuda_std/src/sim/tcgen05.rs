//! Tensor memory and `tcgen05`: who owns what in it, and what is under way.
//!
//! A block has 128 lanes of 512 columns of 32 bits, of which an allocation gives some columns to it. Two things reach them, each a
//! thread more in the clocks:
//!
//! * a warp, by its loads and stores. What they did is its own from its wait on; it is another's once the one has executed
//!   `fence::before_thread_sync`, which publishes the warp's time so far, a barrier ordered that before the other, and the
//!   other has executed `fence::after_thread_sync`, up to which it knows what happened.
//! * the tensor cores, for one issuing thread, in its order. Their time is its commits, which an mbarrier's phase brings; to
//!   reach tensor memory, who has observed it needs `fence::after_thread_sync` too. In shared memory they are the
//!   asynchronous proxy, as `wgmma` is: what they read must be fenced by its writer, and a later write must have
//!   observed the commit.
//!
//! Orders the simulator does not know, and reports: of two threads' products without a commit between them.
mod allocation;
mod commit;
mod copy;
mod movement;
mod operands;
mod product;

use super::block::{Block, Checked, shared_stride};
use super::clock::MAX_THREADS;
use super::error::{Error, Kind};
use super::segment::{Conflict, Segment};
use allocation::Allocations;
use commit::Issuer;
use movement::Moves;
pub(super) use product::Request;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Lanes and columns of a block's tensor memory.
const LANES: u32 = 128;
const COLUMNS: u32 = 512;

/// Where a cell is in its block's segment.
const fn cell(lane: u32, column: u32) -> usize {
    (lane * COLUMNS + column) as usize * 4
}

/// A block's (a cluster's) tensor memory. Empty where a kernel does not use it.
#[derive(Default)]
pub(super) struct Tensor {
    /// By rank.
    memory: Vec<Segment>,
    allocations: Vec<Allocations>,
    /// By warp; by issuing thread.
    moves: BTreeMap<u32, Moves>,
    issuers: BTreeMap<u32, Issuer>,
    /// What threads had seen when they last executed `fence::after_thread_sync`, by thread.
    views: Vec<Option<Rc<[u32]>>>,
    /// Whose each slot in the clocks is, in their order: a thread's.
    slots: Vec<(u32, u32)>,
    /// What the first instruction named: `cta_group`, thread, site.
    group: Option<(u32, u32, u16)>,
}

impl Tensor {
    pub fn clear(&mut self) {
        if self.group.is_some() || !self.memory.is_empty() {
            let mut memory = std::mem::take(&mut self.memory);
            memory.iter_mut().for_each(Segment::clear);
            *self = Self { memory, ..Self::default() };
        }
    }

    /// Whether nothing was done to it.
    pub fn is_unused(&self) -> bool {
        self.group.is_none()
    }

    /// The thread that issued what a slot in the clocks did.
    pub fn issuer(&self, slot: u32) -> Option<u32> {
        self.slots.iter().find(|&&(own, _)| own == slot).map(|&(_, thread)| thread)
    }

    /// How many slots it has.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }
}

impl Block<'_> {
    /// One thread more in the clocks, for what `thread` issues.
    fn tensor_slot(&mut self, thread: u32) -> Checked<u32> {
        let slot = self.next_slot();
        if slot >= MAX_THREADS {
            let detail = format!("the block's threads, warps in tensor memory and mbarriers are {MAX_THREADS}");
            return Err(self.error(Kind::BoundExceeded, detail));
        }
        self.tensor.slots.push((slot, thread));
        Ok(slot)
    }

    /// Checks that all instructions name one `cta_group`, and that the block has a peer where that is 2.
    fn tensor_group(&mut self, group: u32) -> Checked<()> {
        let thread = self.current;
        let (first, other, at) = *self.tensor.group.get_or_insert((group, thread, self.threads[thread as usize].site));
        if first != group {
            let detail = format!("cta_group::{group} here and cta_group::{first} there, in one kernel");
            return Err(self.against(self.error(Kind::BadOperand, detail), other, at));
        }
        if !matches!(group, 1 | 2) || group > self.cluster {
            let detail = format!("cta_group::{group}, in a cluster of {}", self.cluster);
            return Err(self.error(Kind::BadOperand, detail));
        }
        if self.tensor.memory.len() < self.cluster as usize {
            let bytes = cell(LANES, 0);
            self.tensor.memory.resize_with(self.cluster as usize, || Segment::new(bytes));
            self.tensor.memory.iter_mut().for_each(Segment::clear);
        }
        self.tensor.allocations.resize_with(self.cluster as usize, Allocations::default);
        self.tensor.views.resize(self.threads.len(), None);
        if group == 2 {
            self.check_alive(self.rank_of(thread) ^ 1)?;
        }
        Ok(())
    }

    /// The ranks of the blocks that `group` blocks of the current thread's are.
    fn tensor_ranks(&self, group: u32) -> std::ops::Range<u32> {
        let first = self.rank_of(self.current) / group * group;
        first..first + group
    }

    /// `tcgen05.fence::before_thread_sync`.
    pub fn tensor_fence_before(&mut self) {
        let (thread, warp) = (self.current, self.current / 32);
        if let Some(moves) = self.tensor.moves.get_mut(&warp) {
            let (slot, time) = moves.publish();
            self.clocks.observe(thread..thread + 1, slot, time);
        }
    }

    /// `tcgen05.fence::after_thread_sync`.
    pub fn tensor_fence_after(&mut self) {
        self.tensor.views.resize(self.threads.len(), None);
        self.tensor.views[self.current as usize] = Some(self.clocks.seen(self.current));
    }

    /// What `thread` knows of tensor memory.
    fn tensor_view(&self, thread: u32) -> Rc<[u32]> {
        self.tensor.views[thread as usize].clone().unwrap_or_default()
    }

    /// The conflict of an access to a cell of tensor memory, by `thread` with what it has seen.
    #[cold]
    fn tensor_conflict(&self, thread: u32, conflict: Conflict, rank: u32, at: usize) -> Box<Error> {
        let place = |at: usize| {
            let other = if rank == self.rank_of(thread) { "" } else { " of the peer" };
            format!("lane {}, column {} of tensor memory{other}", at / 4 / COLUMNS as usize, at / 4 % COLUMNS as usize)
        };
        let (kind, earlier, detail) = match conflict {
            Conflict::Uninitialised(at) => {
                let detail = format!("nothing was written to {}", place(at));
                return self.error_of(thread, Kind::Uninitialised, detail);
            }
            Conflict::InFlight(earlier) => (Kind::InFlight, earlier, place(at)),
            Conflict::Race(earlier) | Conflict::Hidden(earlier) => {
                let who = self.clocks.accessor(self.index, thread, 0);
                let warp = self.tensor.moves.values().find(|moves| moves.slot() == earlier.thread());
                let ended = warp.and_then(|moves| moves.ended(earlier.clock()));
                if who.has_seen(earlier.thread(), earlier.clock()) {
                    let fence = "tcgen05.fence::after_thread_sync is missing after the barrier";
                    (Kind::MissingTcgen05Fence, earlier, format!("{fence}: {}", place(at)))
                } else if ended.is_some_and(|(lead, clock)| who.has_seen(lead, clock)) {
                    let fence = "tcgen05.fence::before_thread_sync is missing before the barrier";
                    (Kind::MissingTcgen05Fence, earlier, format!("{fence}: {}", place(at)))
                } else {
                    (if warp.is_some() { Kind::Race } else { Kind::InFlight }, earlier, place(at))
                }
            }
        };
        self.against(self.error_of(thread, kind, detail), self.issuer(earlier), earlier.site())
    }

    /// The current thread has exited, or its block: what it leaves behind.
    pub fn tensor_left(&self, whole_block: bool) -> Option<Box<Error>> {
        if self.tensor.is_unused() {
            return None;
        }
        let thread = self.current;
        let uncommitted = self.tensor.issuers.get(&thread).and_then(Issuer::uncommitted);
        if let Some((site, count)) = uncommitted {
            let detail = format!("{count} products or copies not committed, the oldest named here");
            return Some(self.error_at(thread, site, Kind::Leak, detail));
        }
        let moving = self.tensor.moves.get(&(thread / 32)).and_then(Moves::outstanding);
        if let Some((site, what)) = moving {
            return Some(self.error_at(thread, site, Kind::Leak, format!("{what} not waited for")));
        }
        if !whole_block {
            return None;
        }
        let rank = self.rank_of(thread);
        if let Some((thread, site, columns)) = self.tensor.allocations.get(rank as usize)?.first() {
            let detail = format!("the block ends, and has not released the {columns} columns");
            return Some(self.error_at(thread, site, Kind::Leak, detail));
        }
        let (thread, site) = self.commit_to_come(rank)?;
        let detail = "the block ends, and none of its threads has observed what arrives at the mbarrier".to_owned();
        Some(self.error_at(thread, site, Kind::Leak, detail))
    }
}
