//! Tiles of 8 bits transposed by a warp: where lanes load and store, and in which order keys are then.
//!
//! A tile arrives as a tensor copy leaves it, `[keys / 8][D / 128][8][128]` (at D = 64 with half of each row unused), and is stored as `[keys / 128][D][128]`: rows of 128 keys of
//! one column. Both have the 128-byte swizzle ([`super::swizzle`]) and begin at a multiple of 1024. An instruction does 16 keys of
//! 32 columns; the next columns and keys are an exclusive or of chunks and an addition of whole patterns further.
use super::swizzle::{CHUNK_BYTES, chunk_offset};

/// Bytes of a row of either.
const ROW_BYTES: u32 = 128;
/// Bytes of eight rows.
const PATTERN_BYTES: u32 = 8 * ROW_BYTES;

/// Where the row begins that `lane` names to `ldmatrix.x4.trans`, of keys 0 to 16 and columns 0 to 32 of a tile with `parts` parts of
/// 128 columns. Matrices are the first and the second eight keys of the first chunk of columns, then of the second.
#[inline(always)]
pub const fn loaded(lane: u32, parts: u32) -> u32 {
    lane / 8 % 2 * parts * PATTERN_BYTES + chunk_offset(lane % 8, lane / 16, ROW_BYTES)
}

/// The column that the row has that `lane` names to `stmatrix.x4`. Matrices are the columns that lanes store first, and those that they
/// store second, of the first chunk of columns, then of the second.
///
/// Lanes below 16 store the even one of their two columns first, the others the odd one: a matrix's rows are so 0, 2, 4, 6,
/// 1, 3, 5, 7 modulo 8, and in different chunks of the swizzle.
#[inline(always)]
pub const fn column(lane: u32) -> u32 {
    let (row, second) = (lane % 8, lane / 8 % 2);
    lane / 16 * CHUNK_BYTES + 2 * row + ((row / 4) ^ second)
}

/// Where that row begins, its keys 0 to 16.
#[inline(always)]
pub const fn stored(lane: u32) -> u32 {
    chunk_offset(column(lane), 0, ROW_BYTES)
}

/// The key, of 16, at a position of a stored row: what a lane loads of two eights, side by side.
pub const fn key(position: u32) -> u32 {
    let (lane, of_lane) = (position / 4, position % 4);
    8 * (of_lane / 2) + 2 * lane + of_lane % 2
}
