//! Which element of a tile a lane holds, for `mma.m16n8k16` with 16-bit operands and f32 accumulators (PTX ISA,
//! "Matrix fragments for mma.m16n8k16 with floating point type").
//!
//! With `g = lane / 4` and `t = lane % 4`: accumulator elements 0 and 1 are row `g`, 2 and 3 row `g + 8`, columns
//! `2 t` and `2 t + 1`. A lane so has two rows of S, of O and of the running maximum and sum.

/// Rows of the tile that a lane's accumulators are in: elements 0, 1 and elements 2, 3.
#[inline(always)]
pub const fn accumulator_rows(lane: u32) -> [u32; 2] {
    [lane / 4, lane / 4 + 8]
}

/// Column of a lane's accumulator elements 0 and 2; elements 1 and 3 are in the next one.
#[inline(always)]
pub const fn accumulator_column(lane: u32) -> u32 {
    2 * (lane % 4)
}

/// Row and first column (two neighbours) of register `register` (0 to 3) of a 16 × 16 A operand.
#[inline(always)]
pub const fn a_register(lane: u32, register: u32) -> (u32, u32) {
    (lane / 4 + 8 * (register % 2), 2 * (lane % 4) + 8 * (register / 2))
}

/// First k (two neighbours) and column of register `register` (0 or 1) of a 16 × 8 B operand.
#[inline(always)]
pub const fn b_register(lane: u32, register: u32) -> (u32, u32) {
    (2 * (lane % 4) + 8 * register, lane / 4)
}
