//! Columns of tensor memory: who has them, who waits for them.
use super::{COLUMNS, LANES, cell};
use crate::sim::block::{Block, Checked};
use crate::sim::clock::{Access, Accessor};
use crate::sim::error::Kind;
use crate::sim::site::Operation;
use std::ops::Range;

/// Columns that were given to a block.
#[derive(Clone)]
struct Allocation {
    columns: Range<u32>,
    thread: u32,
    site: u16,
}

/// A warp that waits: for columns, or for its peer's.
#[derive(Clone, Copy)]
struct Waiting {
    warp: u32,
    operation: Operation,
    group: u32,
    /// Of an allocation the offset in shared memory that is written to, of a release the first column.
    place: usize,
    columns: u32,
}

/// A block's columns.
#[derive(Default)]
pub(super) struct Allocations {
    all: Vec<Allocation>,
    waiting: Vec<Waiting>,
    relinquished: Option<(u32, u16)>,
    /// Columns of the last allocation: later ones ask for no more.
    last: Option<u32>,
}

impl Allocations {
    /// Thread, site and columns of an allocation that was not released.
    pub fn first(&self) -> Option<(u32, u16, u32)> {
        self.all.first().map(|all| (all.thread, all.site, all.columns.len() as u32))
    }

    /// Whether an allocation holds all of the columns.
    pub fn holds(&self, columns: &Range<u32>) -> bool {
        self.all.iter().any(|all| all.columns.start <= columns.start && columns.end <= all.columns.end)
    }

    fn is_free(&self, columns: Range<u32>) -> bool {
        self.all.iter().all(|all| all.columns.end <= columns.start || columns.end <= all.columns.start)
    }
}

impl Block<'_> {
    /// The operands of a whole warp, alike in all lanes.
    pub(super) fn alike<const N: usize>(&self, warp: u32) -> Checked<[u32; N]> {
        let operands = &self.warps[warp as usize].operands;
        let lead: [u32; N] = std::array::from_fn(|i| operands[0][i]);
        if let Some(lane) = (0..32).find(|&lane| operands[lane][..N] != lead) {
            let detail = "operands that are not the same in the warp".to_owned();
            return Err(self.error_of(warp * 32 + lane as u32, Kind::BadOperand, detail));
        }
        Ok(lead)
    }

    /// `tcgen05.alloc`, `.dealloc` and `.relinquish_alloc_permit` of a whole warp. False: it waits.
    pub fn tensor_columns(&mut self, operation: Operation, warp: u32) -> Checked<bool> {
        let [group, place, columns] = self.alike(warp)?;
        self.tensor_group(group)?;
        let (rank, thread) = (self.rank_of(warp * 32) as usize, warp * 32);
        let site = self.threads[thread as usize].site;
        if operation == Operation::Tcgen05RelinquishAllocPermit {
            self.tensor.allocations[rank].relinquished.get_or_insert((thread, site));
            self.release(warp);
            return Ok(true);
        }
        if !columns.is_power_of_two() || !(32..=COLUMNS).contains(&columns) {
            let detail = format!("{columns} columns; allowed are powers of two from 32 to {COLUMNS}");
            return Err(self.error(Kind::BadOperand, detail));
        }
        let mut waiting = Waiting { warp, operation, group, place: 0, columns };
        if operation == Operation::Tcgen05Alloc {
            self.check_may_allocate(rank, columns)?;
            waiting.place = self.shared_range(thread, place, 4)?;
        } else {
            waiting.place = place as usize;
            self.check_release(rank, warp, place, columns)?;
        }
        self.tensor.allocations[rank].waiting.push(waiting);
        self.turn_columns()?;
        let still = self.tensor.allocations[rank].waiting.iter().any(|other| other.warp == warp);
        Ok(!still)
    }

    fn check_may_allocate(&mut self, rank: usize, columns: u32) -> Checked<()> {
        let own = &mut self.tensor.allocations[rank];
        let (relinquished, last) = (own.relinquished, own.last.replace(columns));
        if let Some((thread, site)) = relinquished {
            let detail = "the block has given up the right to allocate".to_owned();
            return Err(self.against(self.error(Kind::BadOperand, detail), thread, site));
        }
        if let Some(last) = last.filter(|&last| last < columns) {
            let detail = format!("{columns} columns after an allocation of {last}; they may not increase");
            return Err(self.error(Kind::BadOperand, detail));
        }
        Ok(())
    }

    /// Checks that the columns are an allocation, and that all that was done to them has ended and happened before.
    fn check_release(&mut self, rank: usize, warp: u32, at: u32, columns: u32) -> Checked<()> {
        let range = at..at.saturating_add(columns);
        if !self.tensor.allocations[rank].all.iter().any(|all| all.columns == range) {
            let detail = format!("{columns} columns at {at:#x}, which are no allocation of the block");
            return Err(self.error(Kind::BadOperand, detail));
        }
        self.check_no_load(rank as u32, 0..LANES, &range)?;
        let slot = self.moves_of(warp)?;
        let seen = (warp * 32..warp * 32 + 32).map(|thread| self.clocks.seen_with_own(thread));
        let mut seen: Vec<u32> = seen
            .reduce(|one, other| {
                let longer = one.len().max(other.len());
                (0..longer).map(|i| one.get(i).max(other.get(i)).copied().unwrap_or(0)).collect()
            })
            .unwrap_or_default();
        // Nothing is read or written, so a barrier after the others' waits is enough: no fence of tensor memory is asked for.
        for moves in self.tensor.moves.values() {
            let slot = moves.slot() as usize;
            seen.resize(seen.len().max(slot + 1), 0);
            seen[slot] = moves.ended_before(|thread, clock| clock <= seen[thread as usize]);
        }
        let access = Access::new(self.index, slot, 1, self.threads[warp as usize * 32].site);
        let who = Accessor::new(access, &seen);
        for lane in 0..LANES {
            let (start, len) = (cell(lane, range.start), columns as usize * 4);
            for column in range.clone() {
                if let Err(conflict) = self.tensor.memory[rank].write(&who, cell(lane, column), 4) {
                    return Err(self.tensor_conflict(warp * 32, conflict, rank as u32, cell(lane, column)));
                }
            }
            self.tensor.memory[rank].forget(start, len);
            self.tensor.memory[rank].forget_contents(start, len);
        }
        Ok(())
    }

    /// Serves those that wait, as long as one can be.
    fn turn_columns(&mut self) -> Checked<()> {
        while let Some(served) = self.first_servable() {
            for waiting in served {
                self.serve(waiting)?;
            }
        }
        Ok(())
    }

    /// One that waits, or a pair: with what it waits for there.
    fn first_servable(&self) -> Option<Vec<(Waiting, u32)>> {
        let all = self.tensor.allocations.iter().enumerate();
        let mut waiting = all.flat_map(|(rank, own)| own.waiting.iter().map(move |&waiting| (rank, waiting)));
        waiting.find_map(|(rank, waiting)| {
            let mut ranks = vec![(rank, waiting)];
            if waiting.group == 2 {
                let alike = |other: &&Waiting| (other.operation, other.columns) == (waiting.operation, waiting.columns);
                let peer = self.tensor.allocations[rank ^ 1].waiting.iter().find(alike)?;
                ranks.push((rank ^ 1, *peer));
            }
            let mut start = 0;
            if waiting.operation == Operation::Tcgen05Alloc {
                let free = |start: &u32| {
                    ranks
                        .iter()
                        .all(|&(rank, _)| self.tensor.allocations[rank].is_free(*start..start + waiting.columns))
                };
                start = (0..COLUMNS / waiting.columns).map(|i| i * waiting.columns).find(free)?;
            }
            Some(ranks.into_iter().map(|(_, waiting)| (waiting, start)).collect())
        })
    }

    fn serve(&mut self, (waiting, start): (Waiting, u32)) -> Checked<()> {
        let Waiting { warp, operation, place, columns, .. } = waiting;
        let thread = warp * 32;
        let (rank, site) = (self.rank_of(thread) as usize, self.threads[thread as usize].site);
        let own = &mut self.tensor.allocations[rank];
        own.waiting.retain(|other| other.warp != warp);
        if operation == Operation::Tcgen05Alloc {
            own.all.push(Allocation { columns: start..start + columns, thread, site });
            self.store_at_for(thread, site, place, &start.to_le_bytes())?;
        } else {
            own.all.retain(|all| all.columns.start != place as u32);
        }
        self.release(warp);
        Ok(())
    }

    /// What a thread's warp waits for.
    pub fn describe_columns(&self, thread: u32) -> Option<String> {
        let own = self.tensor.allocations.get(self.rank_of(thread) as usize)?;
        let waiting = own.waiting.iter().find(|waiting| waiting.warp == thread / 32)?;
        let taken: usize = own.all.iter().map(|all| all.columns.len()).sum();
        let (columns, group) = (waiting.columns, waiting.group);
        Some(match (waiting.operation, group) {
            (Operation::Tcgen05Alloc, 1) => {
                format!("{columns} columns of tensor memory, of which the block has {taken} of {COLUMNS}")
            }
            _ => format!("a warp of the peer at the same operation of {columns} columns, or columns (it has {taken})"),
        })
    }
}
