//! What the arithmetic instructions compute.
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A 16-bit format of matrix elements.
pub(super) trait Element: Copy + Default {
    fn from_bits(bits: u16) -> Self;
    fn widen<const N: usize>(values: &[Self; N]) -> [f32; N];
}

impl Element for bf16 {
    fn from_bits(bits: u16) -> Self {
        Self::from_bits(bits)
    }
    fn widen<const N: usize>(values: &[Self; N]) -> [f32; N] {
        values.map(|value| f32::from_bits(u32::from(value.to_bits()) << 16))
    }
}

impl Element for f16 {
    fn from_bits(bits: u16) -> Self {
        Self::from_bits(bits)
    }
    fn widen<const N: usize>(values: &[Self; N]) -> [f32; N] {
        let mut wide = [0.0; N];
        values.convert_to_f32_slice(&mut wide);
        wide
    }
}

/// One lane's operands of `mma.m16n8k16`: the accumulator's four f32, A's four and B's two packed pairs.
pub(super) type MmaOperands = [u32; 10];

/// `mma.m16n8k16` of a warp: D = A B + C, A 16 × 16 row-major, B 16 × 8 column-major, as PTX ISA spreads them over lanes.
///
/// Products are exact; they and the accumulator are summed in f64 and rounded to f32 once, to nearest. The ISA leaves
/// order and rounding open, and the hardware's adder keeps fewer bits: the last bits of a result may differ there.
pub(super) fn mma_m16n8k16<E: Element>(lanes: &[MmaOperands; 32]) -> [[u32; 4]; 32] {
    let (mut a, mut b) = ([E::default(); 256], [E::default(); 128]);
    for (lane, operands) in lanes.iter().enumerate() {
        let (group, pair) = (lane / 4, lane % 4 * 2);
        // A: registers 0 to 3 are (row g, left half), (g + 8, left), (g, right), (g + 8, right).
        for (register, &packed) in operands[4..8].iter().enumerate() {
            let at = (group + register % 2 * 8) * 16 + register / 2 * 8 + pair;
            a[at] = E::from_bits(packed as u16);
            a[at + 1] = E::from_bits((packed >> 16) as u16);
        }
        // B: registers 0 and 1 are rows k of the upper and lower half, column g. Kept k-major, 8 columns a row.
        for (register, &packed) in operands[8..10].iter().enumerate() {
            let at = (register * 8 + pair) * 8 + group;
            b[at] = E::from_bits(packed as u16);
            b[at + 8] = E::from_bits((packed >> 16) as u16);
        }
    }
    let (a, b) = (E::widen(&a).map(f64::from), E::widen(&b).map(f64::from));
    let mut d = [[0.0f64; 8]; 16];
    for (row, sums) in d.iter_mut().enumerate() {
        for k in 0..16 {
            let factor = a[row * 16 + k];
            for (sum, value) in sums.iter_mut().zip(&b[k * 8..k * 8 + 8]) {
                *sum += factor * value;
            }
        }
    }
    let mut results = [[0; 4]; 32];
    for (lane, (result, operands)) in results.iter_mut().zip(lanes).enumerate() {
        for (register, out) in result.iter_mut().enumerate() {
            let sum = d[lane / 4 + register / 2 * 8][lane % 4 * 2 + register % 2];
            *out = canonical((sum + f64::from(f32::from_bits(operands[register]))) as f32).to_bits();
        }
    }
    results
}

/// Two f32 to bf16, to nearest even, `high` in the upper half; a NaN becomes 0x7FFF.
pub(super) fn cvt_rn_bf16x2(high: f32, low: f32) -> u32 {
    let round = |x: f32| if x.is_nan() { 0x7FFF } else { u32::from(bf16::from_f32(x).to_bits()) };
    round(high) << 16 | round(low)
}

/// Two f32 to f16, to nearest even, `high` in the upper half; a NaN becomes 0x7FFF.
pub(super) fn cvt_rn_f16x2(high: f32, low: f32) -> u32 {
    let round = |x: f32| if x.is_nan() { 0x7FFF } else { u32::from(f16::from_f32(x).to_bits()) };
    round(high) << 16 | round(low)
}

/// Two f32 to f16, toward zero, `high` in the upper half; a NaN becomes 0x7FFF.
pub(super) fn cvt_rz_f16x2(high: f32, low: f32) -> u32 {
    let cut = |x: f32| {
        let nearest = f16::from_f32(x);
        match x.is_nan() {
            true => 0x7FFF,
            // The one before, where the nearest is larger: of infinity the largest number.
            false => u32::from(nearest.to_bits()) - u32::from(nearest.to_f32().abs() > x.abs()),
        }
    };
    cut(high) << 16 | cut(low)
}

/// Two products of f16, to nearest even; a NaN becomes 0x7FFF. In f32 they are exact: 22 bits, and 2^-48 at least.
pub(super) fn mul_rn_f16x2(a: u32, b: u32) -> u32 {
    let half = |packed: u32, shift: u32| f16::from_bits((packed >> shift) as u16).to_f32();
    cvt_rn_f16x2(half(a, 16) * half(b, 16), half(a, 0) * half(b, 0))
}

/// The low half's f16.
pub(super) fn cvt_f32_f16(half: u32) -> f32 {
    canonical(f16::from_bits(half as u16).to_f32())
}

/// The bits whose a, b and c the table has: an and of those three, or their complements, for each of its bits.
pub(super) fn lop3_b32(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let term = |index: u32| {
        let of = |word: u32, bit: u32| if index >> bit & 1 == 1 { word } else { !word };
        if table >> index & 1 == 1 { of(a, 2) & of(b, 1) & of(c, 0) } else { 0 }
    };
    (0..8).fold(0, |bits, index| bits | term(index))
}

/// a * b + c, rounded once.
pub(super) fn fma_rn(a: f32, b: f32, c: f32) -> f32 {
    canonical(a.mul_add(b, c))
}

/// a * b + c, rounded once, toward zero.
pub(super) fn fma_rz(a: f32, b: f32, c: f32) -> f32 {
    let nearest = a.mul_add(b, c);
    // The product is exact in f64; the sum is `sum` and `rest`, exactly.
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let part = sum - product;
    let rest = (product - (sum - part)) + (c - part);
    let beyond = (f64::from(nearest) - sum) - rest;
    let larger = sum.is_finite() && if nearest.is_sign_negative() { beyond < 0.0 } else { beyond > 0.0 };
    canonical(if larger { f32::from_bits(nearest.to_bits() - 1) } else { nearest })
}

/// The larger halves, without signs.
pub(super) fn max_u16x2(a: u32, b: u32) -> u32 {
    (a >> 16).max(b >> 16) << 16 | (a & 0xFFFF).max(b & 0xFFFF)
}

/// Byte `i` of the result is the byte of `b:a` that nibble `i` of the selector names, or with the nibble's bit 3 that
/// byte's sign in all bits.
pub(super) fn prmt_b32(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let byte = |i: u32| {
        let choice = (selector >> (4 * i)) as usize;
        let byte = bytes[choice & 7];
        if choice & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 }
    };
    u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
}

/// The one NaN that the hardware's f32 arithmetic returns.
pub(super) fn canonical(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(0x7FFF_FFFF) } else { x }
}

/// Subnormals become zeros of their sign.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// 2^x, correctly rounded but for rare ties (the hardware: within 2 ulp), subnormals flushed on both sides.
pub(super) fn ex2_approx_ftz(x: f32) -> f32 {
    canonical(flush(f64::from(flush(x)).exp2() as f32))
}

/// log2 x likewise; log2 of a zero or a subnormal is -inf, of a negative number NaN.
pub(super) fn lg2_approx_ftz(x: f32) -> f32 {
    let x = flush(x);
    if x == 0.0 { f32::NEG_INFINITY } else { canonical(flush(f64::from(x).log2() as f32)) }
}
