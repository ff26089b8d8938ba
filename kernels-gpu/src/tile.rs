//! What a warp holds in registers of one tile, and the two products.
//!
//! Both are transposed: S^T = K Q^T and O^T = V^T P^T. Keys, then columns of V, are the 16 rows of an `mma`, query rows its 8
//! columns, so that a group of 8 wastes nothing, and a warp's rows are 1 or 2 such tiles. With `g = lane / 4` and
//! `t = lane % 4` a lane has query rows `2 t` and `2 t + 1` of each tile everywhere, in S, in O and in their statistics.
//!
//! Arrays have the size that the widest slice needs (128 columns) and the most rows; a smaller kernel leaves the rest
//! untouched, and the compiler drops it. Every index is constant after unrolling, so that they are registers.
pub mod operand;
pub mod product;
pub mod scales;

use crate::config::Shape;
use crate::layout::swizzle::CHUNK_BYTES;
use crate::memory::Shared;

/// Keys of a product of K, or columns of one of V.
pub const TILE_COLUMNS: u32 = 16;

/// Tiles of 8 query rows, at most.
pub const ROW_TILES: usize = 2;

/// Query rows of which a lane has elements: two of each tile.
pub type OfRows<T> = [T; 2 * ROW_TILES];

/// q as B operands: 16 columns an element, then 8 rows.
pub type Query = [[[u32; 2]; ROW_TILES]; 8];

/// S^T or P^T of a warp's keys: 16 keys an element, then 8 query rows. Elements 0 and 1 of a fragment are of key `g`, 2 and 3 of key
/// `g + 8`; 0 and 2 of row `2 t`, 1 and 3 of row `2 t + 1`.
pub type Scores = [[[f32; 4]; ROW_TILES]; 2];

/// P^T of a panel's keys as B operands: 16 keys an element, then 8 query rows.
pub type Weights = [[[u32; 2]; ROW_TILES]; 2];

/// O^T: the columns of a product of V an element, then 8 query rows; fragments as in [`Scores`], columns in place of keys.
pub type Accumulator = [[[f32; 4]; ROW_TILES]; 8];

/// A panel of K or of V in the ring: some keys' columns of a slice.
#[derive(Clone, Copy)]
pub struct Panel {
    /// Its rows, swizzled.
    pub data: Shared<u8>,
    /// Its scales, if it has any.
    pub scales: Option<Shared<u8>>,
}

/// Elements of [`Scores`] and [`Weights`] in use.
#[inline(always)]
pub const fn key_tiles(shape: &Shape) -> usize {
    (shape.panel_keys / TILE_COLUMNS) as usize
}

/// Elements of [`Accumulator`] in use.
#[inline(always)]
pub const fn column_tiles(shape: &Shape) -> usize {
    (shape.slice / TILE_COLUMNS) as usize
}

/// Chunks of 16 bytes in a row of a panel.
#[inline(always)]
pub const fn chunks(shape: &Shape) -> u32 {
    shape.row_bytes / CHUNK_BYTES
}

/// Sums that S is kept in while products are added.
#[inline(always)]
const fn sums(shape: &Shape) -> usize {
    if shape.column_warps > 1 && shape.row_tiles == 1 { 2 } else { 1 }
}

/// S of its two sums.
#[inline(always)]
pub fn added([mut s, other]: [Scores; 2], shape: &Shape) -> Scores {
    if sums(shape) > 1 {
        for (keys, others) in s.iter_mut().zip(&other).take(key_tiles(shape)) {
            for element in 0..4 {
                keys[0][element] += others[0][element];
            }
        }
    }
    s
}

/// Multiplies the scores of each row.
#[inline(always)]
pub fn scale_scores(s: &mut Scores, scale: &OfRows<f32>, shape: &Shape) {
    for keys in s.iter_mut().take(key_tiles(shape)) {
        scale_fragments(keys, scale, shape);
    }
}

/// Multiplies the accumulator's rows.
#[inline(always)]
pub fn scale_rows(o: &mut Accumulator, factor: &OfRows<f32>, shape: &Shape) {
    for tile in o.iter_mut().take(column_tiles(shape)) {
        scale_fragments(tile, factor, shape);
    }
}

#[inline(always)]
fn scale_fragments(fragments: &mut [[f32; 4]; ROW_TILES], factor: &OfRows<f32>, shape: &Shape) {
    for (rows, fragment) in fragments.iter_mut().take(shape.row_tiles as usize).enumerate() {
        for (element, value) in fragment.iter_mut().enumerate() {
            *value *= factor[2 * rows + element % 2];
        }
    }
}
