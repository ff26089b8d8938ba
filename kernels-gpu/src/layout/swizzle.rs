//! How a tile of K or V lies in shared memory: rows of 32 to 256 bytes in chunks of 16. `ldmatrix` reads one chunk of eight
//! consecutive rows, which are to cover all 32 banks once: chunk `c` of row `r` is stored as chunk `c ^ (r % 8)` where a
//! row has all the banks; rows that share the banks, 128 bytes of them, are moved alike.
use crate::memory::Shared;

/// Bytes of a chunk: one `cp.async`, one row of an `ldmatrix` tile.
pub const CHUNK_BYTES: u32 = 16;

/// Bytes of all banks.
const BANKS_BYTES: u32 = 128;

/// What a row's chunks are moved by.
const fn twist(row: u32, row_bytes: u32) -> u32 {
    if row_bytes < BANKS_BYTES {
        row / (BANKS_BYTES / row_bytes) % (row_bytes / CHUNK_BYTES)
    } else {
        row % (BANKS_BYTES / CHUNK_BYTES)
    }
}

/// Byte offset of chunk `chunk` of row `row` in a tile with rows of `row_bytes`, a power of two.
#[inline(always)]
pub const fn chunk_offset(row: u32, chunk: u32, row_bytes: u32) -> u32 {
    row * row_bytes + (chunk ^ twist(row, row_bytes)) * CHUNK_BYTES
}

/// A lane's place in a tile, from which the places it needs next are an exclusive or and an addition of constants: the
/// sixteen addresses of a step would otherwise be kept in registers through the loop (352 bytes of spills at D = 512).
#[derive(Clone, Copy)]
pub struct SwizzledPointer {
    address: u32,
    row_bytes: u32,
}

impl SwizzledPointer {
    /// Chunk `chunk` of row `row` of the tile at `tile`, which is aligned to 128 bytes and to a row.
    #[inline(always)]
    pub const fn new(tile: Shared<u8>, row: u32, chunk: u32, row_bytes: u32) -> Self {
        Self { address: tile.address + chunk_offset(row, chunk, row_bytes), row_bytes }
    }

    /// `rows` and `chunks` further on: numbers that share no bit with the pointer's own row and chunk, so that adding
    /// them is an exclusive or, which commutes with the swizzle's.
    #[inline(always)]
    pub const fn step(&self, rows: u32, chunks: u32) -> Shared<u8> {
        let moved = (twist(rows, self.row_bytes) ^ chunks) * CHUNK_BYTES;
        Shared::new((self.address ^ moved) + rows * self.row_bytes)
    }
}
