//! What an append must store, by the formats' definition and plain search over all codes; shares nothing with the kernels.
use half::{bf16, f16};
use kernels_gpu::element::ElementKind;

/// A format of at most 8 bits: exponent and fraction bits, bias, and the largest finite code.
#[derive(Clone, Copy, Debug)]
pub struct Codes {
    fraction_bits: i32,
    bias: i32,
    largest: u8,
    sign: u8,
    nan: u8,
}

pub const E4M3: Codes = Codes { fraction_bits: 3, bias: 7, largest: 0x7E, sign: 0x80, nan: 0x7F };
pub const E5M2: Codes = Codes { fraction_bits: 2, bias: 15, largest: 0x7B, sign: 0x80, nan: 0x7F };
pub const E2M1: Codes = Codes { fraction_bits: 1, bias: 1, largest: 7, sign: 8, nan: 7 };

impl Codes {
    /// The number of a code without sign.
    pub fn number(&self, code: u8) -> f64 {
        let (exponent, fraction) = (i32::from(code) >> self.fraction_bits, i32::from(code) % (1 << self.fraction_bits));
        let leading = if exponent == 0 { 0 } else { 1 << self.fraction_bits };
        f64::from(leading + fraction) * f64::exp2(f64::from(exponent.max(1) - self.bias - self.fraction_bits))
    }

    /// The largest finite number.
    pub fn largest(&self) -> f32 {
        self.number(self.largest) as f32
    }

    /// The nearest code, of two the even one; NaN has a code of its own.
    pub fn encode(&self, x: f32) -> u8 {
        if x.is_nan() {
            return self.nan;
        }
        let distance = |code: u8| (f64::from(x.abs()).min(1e9) - self.number(code)).abs();
        let mut nearest = 0;
        for code in 1..=self.largest {
            let nearer = distance(code) < distance(nearest);
            if nearer || distance(code) == distance(nearest) && code % 2 == 0 {
                nearest = code;
            }
        }
        if x.is_sign_negative() { nearest | self.sign } else { nearest }
    }
}

/// The number of 16 bits.
pub fn number(kind: ElementKind, bits: u16) -> f32 {
    match kind {
        ElementKind::Bf16 => bf16::from_bits(bits).to_f32(),
        ElementKind::F16 => f16::from_bits(bits).to_f32(),
    }
}

/// The bits nearest to a number.
pub fn bits(kind: ElementKind, x: f32) -> u16 {
    match kind {
        ElementKind::Bf16 => bf16::from_f32(x).to_bits(),
        ElementKind::F16 => f16::from_f32(x).to_bits(),
    }
}

/// The largest magnitude; a NaN counts for nothing.
fn largest(row: &[f32]) -> f32 {
    row.iter().filter(|x| !x.is_nan()).fold(0.0, |most, x| if x.abs() > most { x.abs() } else { most })
}

/// A row's codes by one scale.
pub fn fp8(codes: &Codes, row: &[f32], scale: f32) -> Vec<u8> {
    row.iter().map(|x| codes.encode(x / scale)).collect()
}

/// A row's codes and its own scale.
pub fn fp8_row(codes: &Codes, row: &[f32]) -> (Vec<u8>, f32) {
    let scale = largest(row) / codes.largest();
    let zero = |x: &f32| if x.is_nan() { 0x7F } else { 0 };
    let stored = if scale == 0.0 { row.iter().map(zero).collect() } else { fp8(codes, row, scale) };
    (stored, scale)
}

/// A row's elements, two a byte, and a scale for each 16.
pub fn nvfp4(row: &[f32], global: f32) -> (Vec<u8>, Vec<u8>) {
    let (mut elements, mut scales) = (Vec::new(), Vec::new());
    for block in row.chunks_exact(16) {
        let scale = E4M3.encode(largest(block) / 6.0 / global);
        let magnitude = if scale & 0x7F == 0x7F { f64::NAN } else { E4M3.number(scale & 0x7F) };
        let step = if scale & 0x80 == 0 { magnitude as f32 } else { -magnitude as f32 } * global;
        let code = |x: f32| if step == 0.0 { 0 } else { E2M1.encode(x / step) };
        elements.extend(block.chunks_exact(2).map(|pair| code(pair[0]) | code(pair[1]) << 4));
        scales.push(scale);
    }
    (elements, scales)
}
