//! What a warp holds in registers of one tile, and the two products.
//!
//! Arrays have the size that the widest slice needs (128 columns); a narrower kernel leaves the rest untouched, and the
//! compiler drops it. Every index is constant after unrolling, so that they are registers.
pub mod operand;
pub mod product;
pub mod scales;

use crate::config::Shape;
use crate::layout::swizzle::CHUNK_BYTES;
use crate::memory::Shared;

/// Keys or columns of one `mma` tile.
pub const TILE_COLUMNS: u32 = 8;

/// q as A operands: 16 rows by the warp's slice, one operand for 16 columns.
pub type Query = [[u32; 4]; 8];

/// S or P: 16 rows by the keys of a tile, 8 keys an element.
pub type Scores = [[f32; 4]; 4];

/// O: 16 rows by the warp's slice, 8 columns an element.
pub type Accumulator = [[f32; 4]; 16];

/// A tile of K or of V in the ring.
#[derive(Clone, Copy)]
pub struct RingTile {
    /// Its rows, swizzled.
    pub data: Shared<u8>,
    /// Its scales, if it has any.
    pub scales: Option<Shared<u8>>,
}

/// Elements of [`Scores`] in use.
#[inline(always)]
pub const fn key_tiles(shape: &Shape) -> usize {
    (shape.tile_keys / TILE_COLUMNS) as usize
}

/// Elements of [`Accumulator`] in use.
#[inline(always)]
pub const fn column_tiles(shape: &Shape) -> usize {
    (shape.slice / TILE_COLUMNS) as usize
}

/// Chunks of 16 bytes in a row of a tile.
#[inline(always)]
pub const fn chunks(shape: &Shape) -> u32 {
    shape.row_bytes / CHUNK_BYTES
}

/// Multiplies the accumulator's two rows.
#[inline(always)]
pub fn scale_rows(o: &mut Accumulator, factor: [f32; 2], column_tiles: usize) {
    for tile in o.iter_mut().take(column_tiles) {
        *tile = [tile[0] * factor[0], tile[1] * factor[0], tile[2] * factor[1], tile[3] * factor[1]];
    }
}
