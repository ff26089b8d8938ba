//! Conversions from and to FP8, by the formats' definition: a table of what each code means, searched for the nearest.
use half::f16;
use std::sync::LazyLock;

/// An 8-bit format: its codes' magnitudes, in ascending order, up to the largest finite one.
struct Codes {
    fraction_bits: i32,
    bias: i32,
    largest: u8,
}

const E4M3: Codes = Codes { fraction_bits: 3, bias: 7, largest: 0x7E };
const E5M2: Codes = Codes { fraction_bits: 2, bias: 15, largest: 0x7B };

impl Codes {
    /// The magnitude of a code without its sign, of one up to the largest.
    fn magnitude(&self, code: u8) -> f64 {
        let (exponent, fraction) =
            (i32::from(code >> self.fraction_bits), i32::from(code) & ((1 << self.fraction_bits) - 1));
        let implicit = if exponent > 0 { 1 << self.fraction_bits } else { 0 };
        f64::from(implicit + fraction) * f64::from(exponent.max(1) - self.bias - self.fraction_bits).exp2()
    }

    /// The code nearest to `x`; of two equally near the even one. Too large is the largest, NaN 0x7F.
    fn nearest(&self, x: f32) -> u32 {
        if x.is_nan() {
            return 0x7F;
        }
        let magnitude = f64::from(x).abs();
        let (mut below, mut above) = (0, self.largest);
        while above - below > 1 {
            let middle = below + (above - below) / 2;
            if self.magnitude(middle) <= magnitude { below = middle } else { above = middle }
        }
        let (down, up) = (magnitude - self.magnitude(below), self.magnitude(above) - magnitude);
        let code = if up < down || up == down && above % 2 == 0 { above } else { below };
        u32::from(code) | if x.is_sign_negative() { 0x80 } else { 0 }
    }
}

/// The low half's two e4m3 as f16, the lower byte in the lower half; a NaN becomes 0x7FFF.
pub(super) fn cvt_rn_f16x2_e4m3x2(pair: u32) -> u32 {
    // Looked up, as a simulated kernel converts a cache number by number.
    static MAGNITUDES: LazyLock<[u16; 0x7F]> =
        LazyLock::new(|| std::array::from_fn(|code| f16::from_f64(E4M3.magnitude(code as u8)).to_bits()));
    let wide = |byte: u8| match MAGNITUDES.get(usize::from(byte & 0x7F)) {
        None => 0x7FFF,
        Some(&magnitude) => u32::from(magnitude) | u32::from(byte & 0x80) << 8,
    };
    wide((pair >> 8) as u8) << 16 | wide(pair as u8)
}

/// The lowest byte's two e2m1 as f16, the lower nibble in the lower half.
pub(super) fn cvt_rn_f16x2_e2m1x2(pair: u32) -> u32 {
    // 0, 0.5, 1, 1.5, 2, 3, 4, 6 (OCP, "Microscaling formats specification").
    const MAGNITUDES: [u32; 8] = [0, 0x3800, 0x3C00, 0x3E00, 0x4000, 0x4200, 0x4400, 0x4600];
    let wide = |nibble: u32| MAGNITUDES[(nibble & 7) as usize] | (nibble & 8) << 12;
    wide(pair >> 4) << 16 | wide(pair)
}

/// Two f32 to e4m3, `high` in the upper byte of the low half.
pub(super) fn cvt_rn_satfinite_e4m3x2(high: f32, low: f32) -> u32 {
    E4M3.nearest(high) << 8 | E4M3.nearest(low)
}

/// Two f32 to e5m2, `high` in the upper byte of the low half.
pub(super) fn cvt_rn_satfinite_e5m2x2(high: f32, low: f32) -> u32 {
    E5M2.nearest(high) << 8 | E5M2.nearest(low)
}
