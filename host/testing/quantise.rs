//! The reference quantiser: what an append into an FP8 or NVFP4 cache must store, bit for bit, and what a cache's codes
//! mean. The formats are tables of their numbers, searched for the nearest; of the kernels it has the block's size alone.
//!
//! FP8: `code = rn(x / scale)`, with a scale of the tensor, or one of a token and head: `amax / 448` (57344 in e5m2). NVFP4, a block of 16 elements: `sf = rn_e4m3(amax / 6 / global)`, then `rn_e2m1(x / (sf *
//! global))`; each operation is one of f32, rounded to nearest even. Too large and infinite saturate.
use kernels_gpu::layout::nvfp4::BLOCK;

/// Elements of a block.
const ELEMENTS: usize = BLOCK as usize;

/// A format of sign and magnitude, at most 8 bits.
#[derive(Clone, Debug)]
pub struct Codes {
    /// The numbers of the codes without a sign, ascending; from 0 to the largest finite one.
    magnitudes: Vec<f32>,
    /// The sign's bit.
    sign: u8,
    /// What a NaN becomes.
    nan: u8,
    /// The infinity, which is read but never written.
    infinity: Option<u8>,
}

impl Codes {
    /// e4m3: largest 448, no infinities, NaN 0x7F.
    pub fn e4m3() -> Self {
        Self { magnitudes: magnitudes(0x7E, 3, 7), sign: 0x80, nan: 0x7F, infinity: None }
    }

    /// e5m2: largest 57344; infinities 0x7C, NaN 0x7F.
    pub fn e5m2() -> Self {
        Self { magnitudes: magnitudes(0x7B, 2, 15), sign: 0x80, nan: 0x7F, infinity: Some(0x7C) }
    }

    /// e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6; a NaN becomes 6.
    pub fn e2m1() -> Self {
        Self { magnitudes: magnitudes(7, 1, 1), sign: 8, nan: 7, infinity: None }
    }

    /// The code nearest to `x`; of two equally near, the even one.
    pub fn encode(&self, x: f32) -> u8 {
        if x.is_nan() {
            return self.nan;
        }
        let largest = self.magnitudes.len() - 1;
        let above = self.magnitudes.partition_point(|&m| m < x.abs());
        if above > largest {
            return self.signed(largest, x);
        }
        let below = above.saturating_sub(1);
        // Differences of f32 from its neighbours here need more bits than f32 has.
        let distance = |code: usize| (f64::from(self.magnitudes[code]) - f64::from(x.abs())).abs();
        let takes_below = distance(below) < distance(above) || (distance(below) == distance(above) && below % 2 == 0);
        self.signed(if takes_below { below } else { above }, x)
    }

    /// A magnitude's code with the sign of `x`.
    fn signed(&self, magnitude: usize, x: f32) -> u8 {
        if x.is_sign_negative() { magnitude as u8 | self.sign } else { magnitude as u8 }
    }

    /// The number of a code: behind the largest finite one an infinity, where the format has one, then NaN.
    pub fn decode(&self, code: u8) -> f32 {
        let magnitude = match code & (self.sign - 1) {
            code if Some(code) == self.infinity => f32::INFINITY,
            code => self.magnitudes.get(usize::from(code)).copied().unwrap_or(f32::NAN),
        };
        if code & self.sign == 0 { magnitude } else { -magnitude }
    }
}

/// A row of FP8 with a scale of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Fp8Row {
    /// A code an element.
    pub codes: Vec<u8>,
    /// What they are multiplied by.
    pub scale: f32,
}

impl Fp8Row {
    /// Quantises a token's elements of one head. A NaN counts for nothing in the scale and is stored as one, also where the
    /// scale is 0 and all else is 0. An infinity makes the scale infinite: a reader has NaN for every element.
    pub fn quantise(codes: &Codes, values: &[f32]) -> Self {
        let largest = codes.magnitudes.last().copied().unwrap_or_default();
        let scale = values.iter().fold(0.0f32, |most, x| most.max(x.abs())) / largest;
        let code = |&x: &f32| if scale == 0.0 && !x.is_nan() { 0 } else { codes.encode(x / scale) };
        Self { codes: values.iter().map(code).collect(), scale }
    }
}

/// The numbers of the codes 0 to `largest`.
fn magnitudes(largest: u8, fraction_bits: i32, bias: i32) -> Vec<f32> {
    let number = |code: u8| {
        let (exponent, fraction) = (i32::from(code) >> fraction_bits, i32::from(code) % (1 << fraction_bits));
        let implicit = if exponent == 0 { 0 } else { 1 << fraction_bits };
        (fraction + implicit) as f32 * f32::exp2((exponent.max(1) - bias - fraction_bits) as f32)
    };
    (0..=largest).map(number).collect()
}

/// 16 elements as NVFP4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nvfp4Block {
    /// e2m1 codes, two a byte, the even element in the low nibble.
    pub elements: [u8; ELEMENTS / 2],
    /// The block's scale, e4m3.
    pub scale: u8,
}

impl Nvfp4Block {
    /// Quantises 16 elements. `global` is what elements are multiplied by when they are read (vLLM's `k_scale`), not its
    /// reciprocal. A NaN counts for nothing in the block's scale, and where that is 0 so are all elements.
    pub fn quantise(values: &[f32; ELEMENTS], global: f32) -> Self {
        let (e4m3, e2m1) = (Codes::e4m3(), Codes::e2m1());
        let largest = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = e4m3.encode(largest / 6.0 / global);
        let step = e4m3.decode(scale) * global;
        let code = |x: f32| if step == 0.0 { 0 } else { e2m1.encode(x / step) };
        let elements = core::array::from_fn(|i| code(values[2 * i]) | code(values[2 * i + 1]) << 4);
        Self { elements, scale }
    }

    /// The numbers that a reader has: `e2m1 * sf * global`.
    pub fn numbers(&self, global: f32) -> [f32; ELEMENTS] {
        let (e2m1, step) = (Codes::e2m1(), Codes::e4m3().decode(self.scale) * global);
        core::array::from_fn(|i| e2m1.decode(self.elements[i / 2] >> (4 * (i % 2)) & 15) * step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels_gpu::narrow::{f32x2_to_e2m1x2, f32x2_to_e4m3x2_software, f32x2_to_e5m2x2_software};

    /// All numbers of a format, and the f32 next to each number and to each tie.
    fn around(codes: &Codes) -> impl Iterator<Item = f32> {
        let ties = codes.magnitudes.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        let bits = codes.magnitudes.iter().copied().chain(ties).chain([1e30, f32::INFINITY]).map(f32::to_bits);
        let near = bits.flat_map(|b| [b.saturating_sub(1), b, (b + 1).min(f32::INFINITY.to_bits())]);
        near.flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)]).chain([f32::NAN]).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn the_kernels_arithmetic_stores_the_same_codes() {
        let same = |codes: &Codes, kernel: fn(f32, f32) -> u32| {
            for x in around(codes) {
                assert_eq!(u32::from(codes.encode(x)), kernel(0.0, x), "{x} in {codes:?}");
            }
        };
        same(&Codes::e4m3(), f32x2_to_e4m3x2_software);
        same(&Codes::e5m2(), f32x2_to_e5m2x2_software);
        same(&Codes::e2m1(), f32x2_to_e2m1x2);
    }

    #[test]
    fn every_number_of_a_format_keeps_its_code() {
        for codes in [Codes::e4m3(), Codes::e5m2(), Codes::e2m1()] {
            for code in (0..codes.magnitudes.len() as u8).flat_map(|code| [code, code | codes.sign]) {
                assert_eq!(codes.encode(codes.decode(code)), code);
            }
        }
        assert_eq!(Codes::e4m3().magnitudes.last(), Some(&448.0));
        assert_eq!(Codes::e5m2().magnitudes.last(), Some(&57344.0));
        assert_eq!(Codes::e2m1().magnitudes, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert!(Codes::e4m3().decode(0x7F).is_nan() && Codes::e5m2().decode(0x7D).is_nan());
        assert_eq!((Codes::e5m2().decode(0x7C), Codes::e5m2().decode(0xFC)), (f32::INFINITY, f32::NEG_INFINITY));
    }

    #[test]
    fn a_row_has_its_largest_number_at_the_end_of_the_format() {
        let values = [-3.5, 1.0, 0.0, -0.0, 1e-12, f32::NAN];
        for (codes, largest, last) in [(Codes::e4m3(), 448.0, 0x7E), (Codes::e5m2(), 57344.0, 0x7B)] {
            let row = Fp8Row::quantise(&codes, &values);
            assert_eq!((row.scale, row.codes[0], row.codes[5]), (3.5 / largest, 0x80 | last, 0x7F));
            assert_eq!((row.codes[2], row.codes[3], row.codes[4]), (0, 0x80, 0));
            let zeros = Fp8Row::quantise(&codes, &[0.0, -0.0, f32::NAN]);
            assert_eq!(zeros, Fp8Row { codes: vec![0, 0, 0x7F], scale: 0.0 });
            let infinite = Fp8Row::quantise(&codes, &[f32::INFINITY, -1.0]);
            assert_eq!(infinite, Fp8Row { codes: vec![0x7F, 0x80], scale: f32::INFINITY });
        }
    }

    /// Blocks of e2m1 numbers times a step that e4m3 has are kept exactly, whatever power of two the global scale is.
    #[test]
    fn a_block_of_its_own_numbers_is_exact() {
        for (global, sf) in [(1.0, 1.5), (0.25, 448.0), (2.0, f32::exp2(-9.0))] {
            let e2m1 = Codes::e2m1();
            let values = core::array::from_fn(|i| e2m1.decode(i as u8) * sf * global);
            let block = Nvfp4Block::quantise(&values, global);
            assert_eq!(block.elements, [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]);
            assert_eq!(Codes::e4m3().decode(block.scale), sf);
            assert_eq!(block.numbers(global), values);
        }
    }

    /// Taken for its reciprocal, a global scale that is no power of two within e4m3's reach leaves other numbers.
    #[test]
    fn a_global_scale_given_as_its_reciprocal_is_not_the_same() {
        let values = core::array::from_fn(|i| i as f32 - 8.0);
        let block = Nvfp4Block::quantise(&values, 1.0 / 300.0);
        let error = |global: f32| {
            let numbers = block.numbers(global);
            numbers.iter().zip(values).map(|(got, x)| (got - x).abs()).fold(0.0, f32::max)
        };
        // sf is 384, the even neighbour of 400, and a step 1.28: between 4 and 6 steps a number is at most one away.
        assert!(error(1.0 / 300.0) < 1.4, "{}", error(1.0 / 300.0));
        assert!(error(300.0) > 1e4);
    }

    #[test]
    fn extremes_of_a_block() {
        let zeros = Nvfp4Block::quantise(&[0.0; 16], 1.0);
        assert_eq!(zeros, Nvfp4Block { elements: [0; 8], scale: 0 });
        // Too small for the scale: zeros, signs and all.
        assert_eq!(Nvfp4Block::quantise(&[-1e-9; 16], 1.0), zeros);
        let mut values = [1.0; 16];
        (values[0], values[1], values[2]) = (f32::INFINITY, f32::NEG_INFINITY, f32::NAN);
        let block = Nvfp4Block::quantise(&values, 1.0);
        assert_eq!((block.scale, block.elements[0], block.elements[1]), (0x7E, 0xF7, 0x07));
    }
}
