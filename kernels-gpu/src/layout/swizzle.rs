//! How a tile of K or V lies in shared memory: rows of 128 or 256 bytes in chunks of 16, chunk `c` of row `r` stored as
//! chunk `c ^ (r % 8)`. `ldmatrix` reads one chunk of eight consecutive rows: unswizzled they share 4 of the 32 banks,
//! swizzled they cover all 32 once.
use crate::memory::Shared;

/// Bytes of a chunk: one `cp.async`, one row of an `ldmatrix` tile.
pub const CHUNK_BYTES: u32 = 16;

/// Byte offset of chunk `chunk` of row `row` in a tile with rows of `row_bytes`.
#[inline(always)]
pub const fn chunk_offset(row: u32, chunk: u32, row_bytes: u32) -> u32 {
    row * row_bytes + (chunk ^ (row % 8)) * CHUNK_BYTES
}

/// A lane's place in a tile, from which the places it needs next are an exclusive or and an addition of constants: the
/// sixteen addresses of a step would otherwise be kept in registers through the loop (352 bytes of spills at D = 512).
#[derive(Clone, Copy)]
pub struct SwizzledPointer {
    address: u32,
    row_bytes: u32,
}

impl SwizzledPointer {
    /// Chunk `chunk` of row `row` of the tile at `tile`, which is aligned to 256 bytes.
    #[inline(always)]
    pub const fn new(tile: Shared<u8>, row: u32, chunk: u32, row_bytes: u32) -> Self {
        Self { address: tile.address + chunk_offset(row, chunk, row_bytes), row_bytes }
    }

    /// `rows` and `chunks` further on: numbers that share no bit with the pointer's own row and chunk, so that adding
    /// them is an exclusive or, which commutes with the swizzle's.
    #[inline(always)]
    pub const fn step(&self, rows: u32, chunks: u32) -> Shared<u8> {
        Shared::new((self.address ^ (((rows % 8) ^ chunks) * CHUNK_BYTES)) + rows * self.row_bytes)
    }
}
