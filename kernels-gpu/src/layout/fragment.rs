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

/// Columns of the output that a lane's accumulators of two neighbouring tiles are in: two pairs of neighbours, the first
/// column of each. `products` is how many tiles 16 bytes of a row of V are spread over ([`crate::tile::operand`]): with 1
/// a tile has the columns of its chunk in order; with more, tile `i` of a chunk has every `products`-th column from `i`
/// on, so that a pair has one column in each of the two tiles.
#[inline(always)]
pub const fn output_columns(lane: u32, pair_of_tiles: u32, products: u32) -> [u32; 2] {
    if products == 1 {
        let first = 16 * pair_of_tiles + accumulator_column(lane);
        [first, first + 8]
    } else {
        let pairs_a_chunk = products / 2;
        let chunk = pair_of_tiles / pairs_a_chunk * 8 * products;
        let first = chunk + accumulator_column(lane) * products + 2 * (pair_of_tiles % pairs_a_chunk);
        [first, first + products]
    }
}
