//! Which element of a tile a lane holds, for `mma.m16n8k16` with 16-bit operands and f32 accumulators (PTX ISA,
//! "Matrix fragments for mma.m16n8k16 with floating point type").
//!
//! With `g = lane / 4` and `t = lane % 4`: accumulator elements 0 and 1 are row `g`, 2 and 3 row `g + 8`, columns
//! `2 t` and `2 t + 1`. S and O are transposed ([`crate::tile`]): rows are keys or columns of V, columns are query rows.

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

/// Columns of the output that a lane's accumulators of product `product` are in, elements 0 and 1 in the first, 2 and 3 in
/// the second. `products` is how many an `ldmatrix.x4` of V makes ([`crate::tile::operand`]): with 1 its operand has two
/// chunks of 8 columns in order; with more each chunk has `products / 2`, of two neighbouring columns of every `products`.
#[inline(always)]
pub const fn output_columns(lane: u32, product: u32, products: u32) -> [u32; 2] {
    let group = lane / 4;
    if products == 1 {
        return [16 * product + group, 16 * product + group + 8];
    }
    let of_chunk = products / 2;
    let first = product / of_chunk * 8 * products + group * products + 2 * (product % of_chunk);
    [first, first + 1]
}
