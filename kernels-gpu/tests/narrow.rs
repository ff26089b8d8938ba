//! FP8 and e2m1 as the kernels unpack them, every code against the format's definition.
use half::f16;
use kernels_gpu::narrow::{e2m1x8_to_e5m2x4, f32x2_to_e2m1x2};

/// What an e2m1 nibble is (OCP, "Microscaling formats specification").
const E2M1: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// All pairs of a byte, in each of the word's four places.
#[test]
fn every_pair_of_e2m1_is_exact_in_e5m2() {
    for byte in 0..=255u8 {
        for place in 0..4 {
            let words = e2m1x8_to_e5m2x4(u32::from(byte) << (8 * place));
            for (nibble, word) in [byte & 15, byte >> 4].into_iter().zip(words) {
                let magnitude = E2M1[usize::from(nibble & 7)] / 16384.0;
                let expected = if nibble & 8 == 0 { magnitude } else { -magnitude };
                let bytes = word.to_le_bytes();
                // The upper byte of an f16.
                let got = f16::from_bits(u16::from(bytes[place]) << 8).to_f64();
                assert!(got == expected && got.is_sign_negative() == expected.is_sign_negative(), "{byte:#04x}: {got}");
                assert!((0..4).all(|other| other == place || bytes[other] == 0), "{byte:#04x}: {word:#010x}");
            }
        }
    }
}

/// Every number, every tie and the f32 beside them, both signs, in both nibbles: the nearest code, the even one of two.
#[test]
fn f32_becomes_the_nearest_e2m1() {
    let ties = E2M1.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
    let numbers = E2M1.into_iter().chain(ties).chain([6.5, 7.0, 1e30, f64::INFINITY]).map(|x| (x as f32).to_bits());
    let around = numbers.flat_map(|bits| [bits.saturating_sub(1), bits, (bits + 1).min(f32::INFINITY.to_bits())]);
    for bits in around.flat_map(|bits| [bits, bits | 1 << 31]) {
        let x = f32::from_bits(bits);
        let distance = |code: usize| (f64::from(x.abs()).min(1e9) - E2M1[code]).abs();
        let nearest = (0..8).min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a % 2).cmp(&(b % 2))));
        let expected = nearest.unwrap_or_default() as u32 | if x.is_sign_negative() { 8 } else { 0 };
        assert_eq!(f32x2_to_e2m1x2(x, 1.0), expected << 4 | 2, "{x}");
        assert_eq!(f32x2_to_e2m1x2(1.0, x), 2 << 4 | expected, "{x}");
    }
    assert_eq!(f32x2_to_e2m1x2(f32::NAN, -f32::NAN), 0x77);
}
