//! What the blocks of a cluster that have an item together need.
use super::{STATS_BYTES, Shape};

/// Blocks of a cluster from which on each sends its results to those that finish them. Two read each other's: they are of large batches, whose
/// blocks have no room for what they would be sent.
pub const GATHERING_BLOCKS: u32 = 4;

/// One warp's part of an item's results: 8 rows by 16 columns, 16 bytes a lane.
pub const FRAGMENT_BYTES: u32 = 32 * 16;

/// Bytes of the mbarrier by which a warp waits for what it is sent, in 16, and of each block's statistics behind it.
pub const fn told_bytes(blocks: u32) -> u32 {
    16 + blocks * STATS_BYTES
}

/// Whether so many blocks of so many bytes fit the 228 KiB that a multiprocessor of Hopper has; each costs 1 KiB besides.
pub const fn fit(blocks: u32, bytes: u32) -> bool {
    blocks * (bytes + 1024) <= 228 * 1024
}

impl Shape {
    /// Fragments that a warp has of a block's results.
    pub const fn fragments(&self) -> u32 {
        self.slice / 16 / self.teams * self.row_tiles
    }

    /// Those that a block of a cluster finishes; the last blocks none where there are fewer.
    pub const fn fragments_of(&self, blocks: u32) -> u32 {
        // Both are powers of two.
        let each = self.fragments() >> blocks.trailing_zeros();
        if each > 0 { each } else { 1 }
    }

    /// Bytes of a warp's O, which goes through the begin of its ring.
    pub const fn output_bytes(&self) -> u32 {
        self.slice / 16 * self.row_tiles * FRAGMENT_BYTES
    }

    /// Whether the blocks of a cluster send their results.
    pub const fn gathers(&self, blocks: u32) -> bool {
        self.row_warps == 1 && blocks >= GATHERING_BLOCKS
    }

    /// Whether a warp sends its O from registers: where its team is the only one, whose O is nobody else's to merge. Otherwise O goes through its ring.
    pub const fn sent_from_registers(&self, blocks: u32) -> bool {
        self.teams == 1 && self.gathers(blocks)
    }

    /// Bytes of the fragments that a warp is sent by all blocks.
    pub const fn sent_bytes(&self, blocks: u32) -> u32 {
        blocks * self.fragments_of(blocks) * FRAGMENT_BYTES
    }

    /// Whether they go to its ring, behind O, whose pieces have been read by then. Memory of their own saves the wait for that, 0.1 us at D = 128
    /// and 0.3 at 256 (docs/decode.md), but two blocks have to fit a multiprocessor: the sixteenth cluster of 8 of an H100 has no other place,
    /// and behind the others it took a call of 97 us to 139.
    pub const fn sent_to_ring(&self, blocks: u32) -> bool {
        let of_warp = told_bytes(blocks) + self.sent_bytes(blocks);
        !fit(2, self.shared_bytes() + self.warps() * of_warp)
    }

    /// Bytes that a warp has for nothing but what it is sent: [`told_bytes`], and the fragments unless they go to its ring.
    pub const fn gather_bytes(&self, blocks: u32) -> u32 {
        told_bytes(blocks) + if self.sent_to_ring(blocks) { 0 } else { self.sent_bytes(blocks) }
    }

    /// Dynamic shared memory of a block of a cluster of so many: behind all else what its warps are sent.
    pub const fn shared_bytes_of(&self, blocks: u32) -> u32 {
        self.shared_bytes() + if self.gathers(blocks) { self.warps() * self.gather_bytes(blocks) } else { 0 }
    }
}
