//! What instructions that leave no choice make of a word or two, by plain arithmetic.
use super::NAN;
use super::Unwritten;
use kernels_gpu::probe::arithmetic;

/// An f16 as an f32, field by field.
pub fn f16_as_f32(half: u32) -> u32 {
    let (sign, exponent, fraction) = ((half >> 15) << 31, half >> 10 & 31, half & 0x3FF);
    match (exponent, fraction) {
        (31, 0) => sign | 0x7F80_0000,
        (31, _) => NAN,
        (0, 0) => sign,
        // f * 2^-24: normalised, with the leading bit's place as exponent.
        (0, f) => sign | (127 - 24 + f.ilog2()) << 23 | (f << (23 - f.ilog2())) & 0x7F_FFFF,
        (e, f) => sign | (e + 112) << 23 | f << 13,
    }
}

/// Bit by bit: a's is worth 4, b's 2 and c's 1 in the number of the table's bit.
pub fn looked_up([a, b, c]: [u32; 3], table: usize) -> u32 {
    let bit = |word: u32, at: u32| word >> at & 1;
    (0..32).fold(0, |bits, at| {
        let index = 4 * bit(a, at) + 2 * bit(b, at) + bit(c, at);
        bits | bit(arithmetic::TABLES[table], index) << at
    })
}

/// a * b + c rounded once. The product is exact in f64; the sum there is rounded to odd, so that rounding it again to f32
/// is as if it had been exact.
pub fn fused(operands: [f32; 3]) -> u32 {
    let odd = to_odd(operands);
    if odd.is_nan() { NAN } else { (odd as f32).to_bits() }
}

/// The same toward zero: the largest f32 that is not beyond.
pub fn cut(operands: [f32; 3]) -> u32 {
    let odd = to_odd(operands);
    if odd.is_nan() {
        return NAN;
    }
    let bits = (odd as f32).to_bits();
    if odd.is_finite() && f64::from(f32::from_bits(bits)).abs() > odd.abs() { bits - 1 } else { bits }
}

/// An f32's largest f16 that is not beyond it, searched for; NaN is 0x7FFF.
pub fn below(bits: u32) -> u32 {
    let x = f32::from_bits(bits);
    let number = |half: u32| f32::from_bits(f16_as_f32(half));
    match (x.is_nan(), x.is_infinite()) {
        (true, _) => 0x7FFF,
        (_, true) => (bits >> 31) << 15 | 0x7C00,
        _ => {
            let (mut low, mut high) = (0, 0x7C00);
            while high - low > 1 {
                let middle = (low + high) / 2;
                *(if number(middle) <= x.abs() { &mut low } else { &mut high }) = middle;
            }
            (bits >> 31) << 15 | low
        }
    }
}

/// a * b + c in f64, rounded to odd; any NaN.
fn to_odd([a, b, c]: [f32; 3]) -> f64 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    if sum.is_nan() {
        return sum;
    }
    // Knuth's two-sum: what the rounding of the sum left out, exactly.
    let part = sum - product;
    let rest = (product - (sum - part)) + (c - part);
    match rest == 0.0 || sum.to_bits() % 2 == 1 || sum.is_infinite() {
        true => sum,
        // The neighbour on the side of what was left out has an odd last bit, or the sum itself has.
        false if (rest > 0.0) == (sum > 0.0) => f64::from_bits(sum.to_bits() + 1),
        false => f64::from_bits(sum.to_bits() - 1),
    }
}

/// Of two words, the first or the second after the bytes of `word` went to their bytes 1, 2, 4 and 7.
pub fn scattered(word: u32, index: usize, unwritten: Unwritten) -> u32 {
    let [a, b, c, d] = word.to_le_bytes();
    let before = unwritten.to_le_bytes();
    let after = [before[0], a, b, before[3], c, before[1], before[2], d];
    u32::from_le_bytes([after[4 * index], after[4 * index + 1], after[4 * index + 2], after[4 * index + 3]])
}

/// The selector's nibbles: bits 0 to 2 choose one of eight bytes, bit 3 its sign eight times.
pub fn permuted(a: u32, b: u32, selector: u32) -> u32 {
    (0..4).fold(0, |word, byte| {
        let nibble = selector >> (4 * byte) & 15;
        let source = if nibble & 4 == 0 { a } else { b };
        let chosen = source >> (8 * (nibble & 3)) & 0xFF;
        word | (if nibble & 8 == 0 { chosen } else { chosen >> 7 & 1 } * if nibble & 8 == 0 { 1 } else { 0xFF })
            << (8 * byte)
    })
}

/// The lower halves' and the upper halves' products, to nearest even; NaN is 0x7FFF.
pub fn multiplied(a: u32, b: u32) -> u32 {
    let product = |shift: u32| {
        let half = |word: u32| half::f16::from_bits((word >> shift) as u16).to_f64();
        let product = half(a) * half(b);
        if product.is_nan() { 0x7FFF } else { u32::from(half::f16::from_f64(product).to_bits()) }
    };
    product(16) << 16 | product(0)
}

/// Two bytes to two halves.
pub fn both(pair: u32, wide: fn(u8) -> u32) -> u32 {
    wide((pair >> 8) as u8) << 16 | wide(pair as u8)
}

/// An e5m2 as f16 by its definition.
pub fn e5m2_as_f16(code: u8) -> u32 {
    let (exponent, fraction) = (i32::from(code >> 2 & 31), f64::from(code & 3));
    let magnitude = match exponent {
        0 => fraction * f64::exp2(-16.0),
        31 if fraction == 0.0 => f64::INFINITY,
        // A NaN keeps its bits.
        31 => return u32::from(code) << 8,
        _ => (4.0 + fraction) * f64::exp2(f64::from(exponent - 17)),
    };
    u32::from(half::f16::from_f64(magnitude).to_bits()) | u32::from(code & 0x80) << 8
}

/// An e4m3 as f16 by its bits.
pub fn e4m3_as_f16(byte: u8) -> u32 {
    let (sign, exponent, fraction) = (u32::from(byte & 0x80) << 8, u32::from(byte >> 3 & 15), u32::from(byte & 7));
    match (exponent, fraction) {
        (15, 7) => 0x7FFF,
        (0, 0) => sign,
        // f * 2^-9: normalised, with the leading bit's place as exponent.
        (0, f) => sign | (15 - 9 + f.ilog2()) << 10 | (f << (10 - f.ilog2())) & 0x3FF,
        (e, f) => sign | (e + 8) << 10 | f << 7,
    }
}
