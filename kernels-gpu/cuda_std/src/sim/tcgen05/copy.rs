//! `tcgen05.cp.128x256b`: 128 rows of 32 bytes from shared memory to the lanes of tensor memory, in the order of products.
use super::commit::Item;
use super::{LANES, cell};
use crate::sim::Delivery;
use crate::sim::block::{Block, Checked};
use crate::sim::clock::{Access, Accessor};
use crate::sim::descriptor::{CHUNK, Descriptor, Major};
use crate::sim::error::Kind;
use std::ops::Range;

/// Columns that it writes.
const WIDTH: u32 = 8;

/// A copy under way.
pub(super) struct Copy {
    ranks: Range<u32>,
    column: u32,
    /// By rank, the offsets of the chunks, two a lane.
    chunks: Vec<Vec<usize>>,
}

impl Block<'_> {
    /// `tcgen05.cp.128x256b` of the current thread: each block of the group from its own shared memory.
    pub fn copy_cells(&mut self, site: u16, group: u32, to: u32, bits: u64) -> Checked<()> {
        self.tensor_group(group)?;
        let (thread, time) = (self.current, self.issue_time()?);
        let access = Access::new(self.index, self.issuer_slot(thread)?, time, site);
        let (seen, view) = (self.clocks.seen_with_own(thread), self.issue_view(thread)?);
        let (memory, shared) = (Accessor::new(access, &view), Accessor::new(access, &seen));
        let chunks = Descriptor::decode_tcgen05(bits).and_then(|descriptor| descriptor.chunks(Major::K, LANES, 8));
        let addresses = chunks.map_err(|(kind, detail)| self.error(kind, detail))?;
        let (lane, column) = (to >> 16, to & 0xFFFF);
        if lane != 0 {
            let detail = format!("128 lanes from lane {lane}; allowed is 0");
            return Err(self.error(Kind::BadOperand, detail));
        }
        let mut copy = Copy { ranks: self.tensor_ranks(group), column, chunks: Vec::new() };
        for rank in copy.ranks.clone() {
            copy.chunks.push(self.smem_chunks(&shared, rank, &addresses)?);
            self.check_allocated(rank, &(column..column + WIDTH))?;
            self.check_no_load(rank, 0..LANES, &(column..column + WIDTH))?;
            for lane in 0..LANES {
                let (at, len) = (cell(lane, column), WIDTH as usize * 4);
                if let Err(conflict) = self.tensor.memory[rank as usize].write(&memory, at, len) {
                    return Err(self.tensor_conflict(thread, conflict, rank, at));
                }
                self.tensor.memory[rank as usize].mark_written(at, len);
            }
        }
        if self.launch.options.delivery == Delivery::Earliest {
            self.copy_to_lanes(&copy);
            return self.issued(site, None);
        }
        self.issued(site, Some(Item::Copy(copy)))
    }

    /// Moves a copy's bytes.
    pub(super) fn copy_to_lanes(&mut self, copy: &Copy) {
        for (rank, chunks) in copy.ranks.clone().zip(&copy.chunks) {
            for (lane, offsets) in (0..).zip(chunks.chunks_exact(2)) {
                for (half, &offset) in (0..).zip(offsets) {
                    let at = cell(lane, copy.column + 4 * half);
                    self.tensor.memory[rank as usize].store(at, self.shared.bytes(offset, CHUNK as usize));
                }
            }
        }
    }
}
