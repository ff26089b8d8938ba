//! `mma`, `ldmatrix`, conversions and special functions against plain loops, on data with no symmetry to hide behind.
mod common;

use common::{assert_fails, block, run};
use cuda_std::sim::op::*;
use cuda_std::sim::{Kind, Memory, Options, launch};
use half::{bf16, f16};

const SOURCE: &str = include_str!("matrices.rs");

/// Small integers over 8, exact in bf16 and f16; their sums of 16 products are exact in f32.
fn a(row: usize, k: usize) -> f32 {
    ((row * 37 + k * 11 + row * k) % 61) as f32 / 8.0 - 3.0
}

fn b(k: usize, column: usize) -> f32 {
    ((k * 29 + column * 53 + k * column * 3) % 59) as f32 / 8.0 - 4.0
}

fn c(row: usize, column: usize) -> f32 {
    (row * 100 + column) as f32 + 0.25
}

type Pack = fn(f32, f32) -> u32;
type Mma = fn([f32; 4], [u32; 4], [u32; 2]) -> [f32; 4];

/// The fragments by the tables of the PTX ISA ("Matrix Fragments for mma.m16n8k16 with floating point type").
fn multiply(pack: Pack, mma: Mma) {
    run(2, &|| {
        let lane = (thread_idx_x() % 32) as usize;
        let (group, in_group) = (lane >> 2, lane % 4);
        let a_pair = |i: usize| {
            let row = if (0..2).contains(&i) || (4..6).contains(&i) { group } else { group + 8 };
            let column = |i: usize| in_group * 2 + (i & 1) + if i >= 4 { 8 } else { 0 };
            pack(a(row, column(i + 1)), a(row, column(i)))
        };
        let b_pair = |i: usize| {
            let row = |i: usize| in_group * 2 + (i & 1) + if i >= 2 { 8 } else { 0 };
            pack(b(row(i + 1), group), b(row(i), group))
        };
        let place = |i: usize| (if i < 2 { group } else { group + 8 }, in_group * 2 + (i & 1));
        let accumulator = [0, 1, 2, 3].map(|i| c(place(i).0, place(i).1));
        let d = mma(accumulator, [0, 2, 4, 6].map(a_pair), [0, 2].map(b_pair));
        for (i, found) in d.into_iter().enumerate() {
            let (row, column) = place(i);
            let expected = c(row, column) + (0..16).map(|k| a(row, k) * b(k, column)).sum::<f32>();
            assert_eq!(found, expected, "row {row} column {column}");
        }
    })
    .unwrap();
}

#[test]
fn products_of_bf16_are_those_of_a_plain_loop() {
    multiply(cvt_rn_bf16x2, mma_m16n8k16_bf16);
}

#[test]
fn products_of_f16_are_those_of_a_plain_loop() {
    multiply(cvt_rn_f16x2, mma_m16n8k16_f16);
}

#[test]
fn a_product_with_nan_or_infinity_is_nan() {
    run(1, &|| {
        let infinity = cvt_rn_bf16x2(f32::INFINITY, f32::INFINITY);
        let d = mma_m16n8k16_bf16([0.0; 4], [0; 4], [infinity; 2]);
        assert_eq!(d.map(f32::to_bits), [0x7FFF_FFFF; 4]);
        let nan = cvt_rn_f16x2(f32::NAN, f32::NAN);
        assert!(mma_m16n8k16_f16([0.0; 4], [0; 4], [nan; 2]).iter().all(|x| x.is_nan()));
    })
    .unwrap();
}

/// The 16-bit element (row, column) of matrix i, all different.
fn element(matrix: u32, row: u32, column: u32) -> u32 {
    0x1000 + matrix * 64 + row * 8 + column
}

fn load(transposed: bool) {
    run(2, &|| {
        let (warp, lane) = (thread_idx_x() / 32, thread_idx_x() % 32);
        // Rows lie scattered, each warp's elsewhere: row r of matrix i in slot (i * 8 + r) * 5 mod 32.
        let slot = |i: u32| dynamic_shared() + warp * 512 + (i * 5 % 32) * 16;
        let pair = |p: u32| {
            let (matrix, row) = (lane / 8, lane % 8);
            element(matrix, row, p * 2) | element(matrix, row, p * 2 + 1) << 16
        };
        st_shared_v4_b32(slot(lane), [0, 1, 2, 3].map(pair));
        bar_warp_sync(u32::MAX);
        let found = if transposed { ldmatrix_x4_trans(slot(lane)) } else { ldmatrix_x4(slot(lane)) };
        let (row, column) = (lane / 4, lane % 4 * 2);
        for (matrix, found) in (0..).zip(found) {
            let [low, high] = if transposed {
                [element(matrix, column, row), element(matrix, column + 1, row)]
            } else {
                [element(matrix, row, column), element(matrix, row, column + 1)]
            };
            assert_eq!(found, low | high << 16, "matrix {matrix}, lane {lane}");
        }
    })
    .unwrap();
}

#[test]
fn ldmatrix_spreads_rows_over_lanes() {
    load(false);
}

#[test]
fn ldmatrix_trans_spreads_columns_over_lanes() {
    load(true);
}

#[test]
fn ldmatrix_checks_each_lane_of_its_rows() {
    let row = |misplace: fn(u32) -> u32| {
        run(1, &|| {
            let mine = dynamic_shared() + thread_idx_x() * 16;
            st_shared_v4_b32(mine, [1; 4]);
            bar_warp_sync(u32::MAX);
            ldmatrix_x4(mine + misplace(thread_idx_x())); // <- rows
        })
    };
    row(|_| 0).unwrap();
    let fails = |misplace, kind| assert_fails(row(misplace), kind, "ldmatrix_x4", SOURCE, "rows").thread;
    assert_eq!(fails(|lane| if lane == 21 { 8 } else { 0 }, Kind::Misaligned), 21);
    assert_eq!(fails(|lane| if lane == 22 { 4096 } else { 0 }, Kind::OutOfBounds), 22);
    assert_eq!(fails(|lane| if lane == 31 { 16 } else { 0 }, Kind::Uninitialised), 31);
    let unordered = run(1, &|| {
        st_shared_v4_b32(dynamic_shared() + thread_idx_x() * 16, [1; 4]);
        ldmatrix_x4_trans(dynamic_shared() + (thread_idx_x() ^ 1) * 16); // <- unordered rows
    });
    assert_fails(unordered, Kind::Race, "ldmatrix_x4_trans", SOURCE, "unordered rows");
}

#[test]
fn conversions_round_to_nearest_even() {
    run(1, &|| {
        assert_eq!(cvt_rn_bf16x2(1.0, -2.0), 0x3F80_C000);
        assert_eq!(cvt_rn_f16x2(1.0, -2.0), 0x3C00_C000);
        // Ties: 1 + 2^-8 and 1 + 3 × 2^-8 in bf16, 1 + 2^-11 and 1 + 3 × 2^-11 in f16.
        assert_eq!(cvt_rn_bf16x2(1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0), 0x3F80_3F82);
        assert_eq!(cvt_rn_f16x2(1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0), 0x3C00_3C02);
        assert_eq!(cvt_rn_bf16x2(f32::NAN, f32::NEG_INFINITY), 0x7FFF_FF80);
        assert_eq!(cvt_rn_f16x2(-f32::NAN, 65520.0), 0x7FFF_7C00);
        let x = f32::from_bits(0x3EAA_AAAB * (1 + thread_idx_x() % 2));
        assert_eq!(cvt_rn_bf16x2(0.0, x), u32::from(bf16::from_f32(x).to_bits()));
        assert_eq!(cvt_rn_f16x2(0.0, x), u32::from(f16::from_f32(x).to_bits()));
    })
    .unwrap();
}

#[test]
fn special_functions_have_their_special_values() {
    launch(&Memory::new(), &block(1), &Options::default(), &|| {
        let subnormal = f32::from_bits(0x0040_0000);
        for (x, expected) in [
            (f32::NEG_INFINITY, 0.0),
            (f32::INFINITY, f32::INFINITY),
            (subnormal, 1.0),
            (-0.0, 1.0),
            (-126.0, f32::MIN_POSITIVE),
            (-126.5, 0.0),
            (128.0, f32::INFINITY),
            (10.0, 1024.0),
            (0.5, std::f32::consts::SQRT_2),
        ] {
            assert_eq!(ex2_approx_ftz(x).to_bits(), expected.to_bits(), "2^{x}");
        }
        for (x, expected) in [
            (0.0, f32::NEG_INFINITY),
            (-0.0, f32::NEG_INFINITY),
            (subnormal, f32::NEG_INFINITY),
            (-subnormal, f32::NEG_INFINITY),
            (f32::INFINITY, f32::INFINITY),
            (1.0, 0.0),
            (1024.0, 10.0),
        ] {
            assert_eq!(lg2_approx_ftz(x).to_bits(), expected.to_bits(), "log2 {x}");
        }
        assert!(
            ex2_approx_ftz(f32::NAN).is_nan() && lg2_approx_ftz(-1.0).is_nan() && lg2_approx_ftz(f32::NAN).is_nan()
        );
    })
    .unwrap();
}
