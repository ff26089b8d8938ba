//! What the blocks of a cluster that have an item together need.
use super::{STATS_BYTES, Shape};

/// Blocks of a cluster from which on each sends its results to those that finish them. Two read each other's: they are of large batches, whose
/// blocks have no room for what they would be sent.
pub const GATHERING_BLOCKS: u32 = 4;

/// One warp's part of an item's results: 8 rows by 16 columns, 16 bytes a lane.
pub const FRAGMENT_BYTES: u32 = 32 * 16;

impl Shape {
    /// Fragments that a warp has of a block's results.
    pub const fn fragments(&self) -> u32 {
        self.slice / 16 / self.teams * self.row_tiles
    }

    /// Those that a block of a cluster finishes; the last blocks none where there are fewer.
    pub const fn fragments_of(&self, blocks: u32) -> u32 {
        self.fragments().div_ceil(blocks)
    }

    /// Whether the blocks of a cluster send their results.
    pub const fn gathers(&self, blocks: u32) -> bool {
        self.row_warps == 1 && blocks >= GATHERING_BLOCKS
    }

    /// Bytes that a warp is sent them in: an mbarrier, in 16, each block's statistics, and its part of each fragment.
    pub const fn gather_bytes(&self, blocks: u32) -> u32 {
        16 + blocks * (STATS_BYTES + self.fragments_of(blocks) * FRAGMENT_BYTES)
    }

    /// Dynamic shared memory of a block of a cluster of so many: behind all else what its warps are sent.
    pub const fn shared_bytes_of(&self, blocks: u32) -> u32 {
        self.shared_bytes() + if self.gathers(blocks) { self.warps() * self.gather_bytes(blocks) } else { 0 }
    }
}
