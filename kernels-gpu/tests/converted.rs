//! NVFP4 by Blackwell's conversion from e2m1: the numbers of every code, operands against those of the other chips, and whole
//! decodes against plain loops.
mod common;
use common::cache::Scaling;
use common::{Problem, group_of};
use cuda_std::sim::{Delivery, Grid, Memory, Options, launch};
use half::f16;
use kernels_gpu::abi::DecodeParams;
use kernels_gpu::attention::decode::decode;
use kernels_gpu::config::RowClass;
use kernels_gpu::element::{Bf16, ConvertedNvFp4, F16, NvFp4};
use kernels_gpu::narrow::{e2m1_of_columns, e2m1x8_to_e5m2x4, e4m3x2_to_f16x2, e5m2x2_to_f16x2};
use kernels_gpu::ptx::convert::cvt_rn_f16x2_e2m1x2;
use kernels_gpu::tile::operand::{KvElement, Operands};
use std::sync::Mutex;

/// What a simulated lane makes of each input.
fn simulated<T: Sync, R: Send>(inputs: &[T], make: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let grid = Grid { name: "conversions", blocks: 1, threads: 32, shared_bytes: 0, early: false, cluster: 1 };
    let made = Mutex::new(Vec::new());
    let options = Options { max_operations: 1 << 26, ..Options::default() };
    let body = || {
        if cuda_std::thread::thread_idx_x() != 0 {
            return;
        }
        let all = inputs.iter().map(&make).collect();
        *made.lock().expect("no panic") = all;
    };
    launch(&Memory::new(), &grid, &options, &body).unwrap_or_else(|error| panic!("{error}"));
    made.into_inner().expect("no panic")
}

/// What an e2m1 nibble is (OCP, "Microscaling formats specification").
fn e2m1(nibble: u32) -> f16 {
    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][nibble as usize & 7];
    f16::from_f32(if nibble & 8 == 0 { magnitude } else { -magnitude })
}

fn halves(word: u32) -> [f16; 2] {
    [f16::from_bits(word as u16), f16::from_bits((word >> 16) as u16)]
}

/// All pairs, in each of a word's places, among other bits: the format's numbers, and 64 times those of the other chips' way.
#[test]
fn every_pair_of_e2m1_is_its_number() {
    let words: Vec<u32> =
        (0..256u32).flat_map(|byte| [0, 0xFFFF_FFFF].map(|others| (byte, others))).flat_map(place_all).collect();
    let made = simulated(&words, |&word| {
        let cvt = [
            cvt_rn_f16x2_e2m1x2::<0>(word),
            cvt_rn_f16x2_e2m1x2::<1>(word),
            cvt_rn_f16x2_e2m1x2::<2>(word),
            cvt_rn_f16x2_e2m1x2::<3>(word),
        ];
        let spread = e2m1x8_to_e5m2x4(word).map(|e5m2| [e5m2x2_to_f16x2::<0, 1>(e5m2), e5m2x2_to_f16x2::<2, 3>(e5m2)]);
        (cvt, spread)
    });
    for (word, (cvt, [even, odd])) in words.into_iter().zip(made) {
        for nibble in 0..8 {
            let expected = e2m1(word >> (4 * nibble));
            let got = halves(cvt[nibble / 2])[nibble % 2];
            assert_eq!(got.to_bits(), expected.to_bits(), "{word:#010x}, {nibble}");
            let spread = halves([even, odd][nibble % 2][nibble / 4])[nibble / 2 % 2];
            assert_eq!((spread * f16::from_f32(16384.0)).to_bits(), expected.to_bits(), "{word:#010x}, {nibble}");
        }
    }
}

/// A byte in each of a word's places, others beside it.
fn place_all((byte, others): (u32, u32)) -> [u32; 4] {
    [0, 8, 16, 24].map(|shift| others & !(0xFF << shift) | byte << shift)
}

#[test]
fn columns_of_two_keys_meet_in_a_byte() {
    // Every nibble another number.
    for (word, bytes) in simulated(&[0x7654_3210, 0xFEDC_BA98], |&word| (word, e2m1_of_columns(word))) {
        let nibble = |index: u32| word >> (4 * index) & 15;
        for column in 0..4 {
            assert_eq!(bytes >> (8 * column) & 0xFF, nibble(column) | nibble(4 + column) << 4, "{word:#x}, {column}");
        }
    }
}

/// f16's numbers of the operands, as f32: of K by word, then by column; of V by place.
fn numbers<K: KvElement<F16>>(operands: &Operands) -> [[f32; 8]; 4] {
    operands.map(|registers| {
        let pairs = registers.map(|register| halves(register).map(|half| half.to_f32() * K::DIVISOR));
        [0, 1, 2, 3, 4, 5, 6, 7].map(|index| pairs[index / 2][index % 2])
    })
}

/// Words of random codes and e4m3 scales, NaN among them: V's operands are those of the other chips, number for number, and K's
/// two products of a word have its eight numbers, every one times the word's scale.
#[test]
fn operands_are_those_of_the_other_chips() {
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let cases: Vec<([u32; 4], [u32; 4])> =
        (0..4000).map(|_| ([0; 4].map(|_| random()), [0; 4].map(|_| random()))).collect();
    let made = simulated(&cases, |(words, codes)| {
        let scales = codes.map(|codes| e4m3x2_to_f16x2(codes));
        let both = codes.map(|codes| e4m3x2_to_f16x2(codes & 0xFF | codes << 8));
        let (spread, converted) = (
            (<NvFp4 as KvElement<F16>>::key(*words, both), <NvFp4 as KvElement<F16>>::value(*words, scales)),
            (
                <ConvertedNvFp4 as KvElement<F16>>::key(*words, both),
                <ConvertedNvFp4 as KvElement<F16>>::value(*words, scales),
            ),
        );
        (spread, converted)
    });
    for (case, (spread, converted)) in cases.iter().zip(made) {
        let value = (numbers::<NvFp4>(&spread.1), numbers::<ConvertedNvFp4>(&converted.1));
        assert_eq!(value.0.map(bits), value.1.map(bits), "V of {case:x?}");
        // Of a word's columns in order: products of two words each, registers of the lower k first.
        let [even, first] = [numbers::<NvFp4>(&spread.0), numbers::<ConvertedNvFp4>(&converted.0)];
        for word in 0..4 {
            let pick = |products: &[[f32; 8]; 4], product: usize, k: usize| {
                products[2 * (word / 2) + product][4 * (k / 2) + 2 * (word % 2) + k % 2].to_bits()
            };
            for column in 0..8 {
                let spread = pick(&even, column % 2, column / 2);
                assert_eq!(
                    pick(&first, column / 4, column % 4),
                    spread,
                    "K of {case:x?}, word {word}, column {column}"
                );
            }
        }
    }
}

fn bits(numbers: [f32; 8]) -> [u32; 8] {
    numbers.map(f32::to_bits)
}

macro_rules! bodies {
    ($($d:literal)*) => {
        /// Every decode entry of NVFP4 caches, by name, with the body that it has on Blackwell.
        const BODIES: &[(&str, unsafe fn(&DecodeParams))] = &[$(
            (concat!("decode_d", $d, "_bf16_nvfp4_eight"), decode::<{ RowClass::Eight as u32 }, $d, Bf16, ConvertedNvFp4>),
            (concat!("decode_d", $d, "_bf16_nvfp4_few"), decode::<{ RowClass::Few as u32 }, $d, Bf16, ConvertedNvFp4>),
            (concat!("decode_d", $d, "_bf16_nvfp4_many"), decode::<{ RowClass::Many as u32 }, $d, Bf16, ConvertedNvFp4>),
            (concat!("decode_d", $d, "_f16_nvfp4_eight"), decode::<{ RowClass::Eight as u32 }, $d, F16, ConvertedNvFp4>),
            (concat!("decode_d", $d, "_f16_nvfp4_few"), decode::<{ RowClass::Few as u32 }, $d, F16, ConvertedNvFp4>),
            (concat!("decode_d", $d, "_f16_nvfp4_many"), decode::<{ RowClass::Many as u32 }, $d, F16, ConvertedNvFp4>),
        )*];
    };
}

bodies! { 64 128 256 512 }

#[test]
fn decodes_are_right_in_both_orders_of_scales() {
    for (index, &(name, body)) in BODIES.iter().enumerate() {
        for scaling in [Scaling::DeviceReciprocal, Scaling::Interleaved] {
            let mut problem = Problem::new(name, group_of(name), &[77, 0, 321]);
            (problem.scaling, problem.body) = (scaling, Some(body));
            problem.splits = 1 + index as u32 % 3;
            problem.delivery = if index % 2 == 0 { Delivery::Latest } else { Delivery::Earliest };
            println!("{name} {scaling:?}");
            problem.check();
        }
    }
}

/// One key: S is a sum of products of few bits, P is 1 and O is V. Nothing is rounded before the output, so that both ways
/// give the same bits.
#[test]
fn where_no_sum_is_rounded_the_bits_are_those_of_the_other_chips() {
    for &(name, body) in BODIES {
        let mut problem = Problem::new(name, group_of(name), &[1]);
        let of_other_chips = problem.run().unwrap_or_else(|error| panic!("{error}"));
        problem.body = Some(body);
        let converted = problem.run().unwrap_or_else(|error| panic!("{error}"));
        assert!(of_other_chips.o.iter().any(|x| *x != 0.0), "{name}: an output of zeros shows nothing");
        assert_eq!(of_other_chips.o, converted.o, "{name}");
    }
}
