//! Registers of warpgroups (`setmaxnreg`): a block's are shared out anew, warpgroup by warpgroup.
//!
//! A block is launched with as many registers a thread as its threads leave room for, one block a multiprocessor: the most
//! that a kernel can count on. What warps give back, others may take; who asks for more than is free waits.
use super::block::{Block, Checked};
use super::error::Kind;
use super::site::Operation;

/// Registers of a multiprocessor.
const REGISTERS: u32 = 65536;
/// Registers that a thread can have.
const MOST: u32 = 256;
/// Warps of a warpgroup.
const GROUP: u32 = 4;

/// A warp's registers.
#[derive(Clone)]
struct Share {
    /// A thread's.
    registers: u32,
    /// Changes made.
    changes: Vec<(Operation, u32, u16)>,
}

/// A block's (a cluster's) registers; empty before the first change.
#[derive(Default)]
pub(super) struct Registers {
    /// By warp.
    shares: Vec<Share>,
    /// By block of the cluster: registers that nobody has.
    free: Vec<u32>,
    /// Warps that wait for so many a thread, in order.
    waiting: Vec<(u32, u32)>,
}

impl Registers {
    pub fn clear(&mut self) {
        self.shares.clear();
        self.free.clear();
        self.waiting.clear();
    }

    /// Whether no warp changed anything.
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }
}

impl Block<'_> {
    /// Registers a thread that a block is launched with.
    fn registers_at_launch(&self) -> u32 {
        (REGISTERS / self.width / 8 * 8).min(MOST)
    }

    /// `setmaxnreg.inc` and `.dec` of a whole warp. False: it waits for registers.
    pub fn set_registers(&mut self, operation: Operation, warp: u32, wanted: u32) -> Checked<bool> {
        let at_launch = self.registers_at_launch();
        let (threads, rank) = (self.width, self.rank_of(warp * 32));
        if self.registers.shares.is_empty() {
            let share = Share { registers: at_launch, changes: Vec::new() };
            self.registers.shares = vec![share; self.warps.len()];
            self.registers.free = vec![0; self.cluster as usize];
        }
        let own = self.registers.shares[warp as usize].registers;
        let inc = operation == Operation::SetmaxnregInc;
        let direction = if inc { wanted >= own } else { wanted <= own };
        if !wanted.is_multiple_of(8) || !(24..=MOST).contains(&wanted) || !direction {
            let detail = format!(
                "{wanted} registers for a warp that has {own}; allowed are multiples of 8 from {} to {}",
                if inc { own } else { 24 },
                if inc { MOST } else { own }
            );
            return Err(self.error(Kind::BadOperand, detail));
        }
        let first = (warp - rank * threads / 32) / GROUP * GROUP;
        if (first + GROUP) * 32 > threads {
            let detail = format!("a warpgroup is {GROUP} warps, and the last one of {threads} threads is not whole");
            return Err(self.error(Kind::BadOperand, detail));
        }
        let first = first + rank * threads / 32;
        let site = self.threads[warp as usize * 32].site;
        let change = self.registers.shares[warp as usize].changes.len();
        for other in (first..first + GROUP).filter(|&other| other != warp) {
            let changes = &self.registers.shares[other as usize].changes;
            let detail = match changes.get(change) {
                _ if changes.len() < change => "a warp of its warpgroup has not come to the change before".to_owned(),
                Some(&(there, registers, at)) if (there, registers) != (operation, wanted) => {
                    let detail = format!("{registers} registers there, {wanted} here, in one warpgroup");
                    return Err(self.against(self.error(Kind::BarrierMismatch, detail), other * 32, at));
                }
                _ => continue,
            };
            let (.., at) = self.registers.shares[warp as usize].changes[change - 1];
            return Err(self.against(self.error(Kind::BarrierMismatch, detail), warp * 32, at));
        }
        self.registers.shares[warp as usize].changes.push((operation, wanted, site));
        if inc {
            self.registers.waiting.push((warp, wanted));
        } else {
            self.registers.shares[warp as usize].registers = wanted;
            self.registers.free[rank as usize] += (own - wanted) * 32;
        }
        self.hand_out();
        Ok(!self.registers.waiting.iter().any(|&(other, _)| other == warp))
    }

    /// Gives what is free to those that wait, where it is enough for one.
    fn hand_out(&mut self) {
        let mut waiting = std::mem::take(&mut self.registers.waiting);
        waiting.retain(|&(warp, wanted)| {
            let rank = self.rank_of(warp * 32) as usize;
            let share = &mut self.registers.shares[warp as usize];
            let more = (wanted - share.registers) * 32;
            if more > self.registers.free[rank] {
                return true;
            }
            share.registers = wanted;
            self.registers.free[rank] -= more;
            self.release(warp);
            false
        });
        self.registers.waiting = waiting;
    }

    /// What a thread's warp waits for.
    pub fn describe_registers(&self, thread: u32) -> Option<String> {
        let &(warp, wanted) = self.registers.waiting.iter().find(|&&(warp, _)| warp == thread / 32)?;
        let own = self.registers.shares[warp as usize].registers;
        let free = self.registers.free[self.rank_of(thread) as usize];
        let (launched, more) = (self.registers_at_launch(), (wanted - own) * 32);
        Some(format!("{more} registers more for its warp, of {free} that are free ({launched} a thread at launch)"))
    }

    /// A warpgroup of a block that has ended, of which one warp made a change that another did not: the first one's thread
    /// and site.
    pub fn uneven_registers(&self, rank: u32) -> Option<(u32, u16)> {
        let warps = self.width as usize / 32;
        let own = self.registers.shares.get(rank as usize * warps..(rank as usize + 1) * warps)?;
        own.chunks_exact(GROUP as usize).enumerate().find_map(|(group, shares)| {
            let least = shares.iter().map(|share| share.changes.len()).min()?;
            let (warp, share) = shares.iter().enumerate().find(|(_, share)| share.changes.len() > least)?;
            let thread = (rank as usize * warps + group * GROUP as usize + warp) * 32;
            Some((thread as u32, share.changes[least].2))
        })
    }
}
