//! Probes of what computes: operands are as many words as the instruction has registers, lane by lane.
use super::Trial;
use crate::narrow;
use crate::ptx::convert::{cvt_f32_f16, cvt_rn_bf16x2, cvt_rn_f16x2, cvt_rz_f16x2, prmt_b32};
use crate::ptx::convert::{mov_b32_high_twice, mov_b32_low_twice, mov_b64};
use crate::ptx::math::{ex2_approx_ftz, fma_rn, fma_rz, lg2_approx_ftz, lop3_b32, mul_rn_f16x2};
use crate::ptx::mma::{mma_m16n8k16_bf16, mma_m16n8k16_f16, movmatrix_trans};

/// Words of a lane: d (4), a (4), b (2); results: d (4).
#[inline(always)]
unsafe fn mma(trial: &Trial, product: impl Fn([f32; 4], [u32; 4], [u32; 2]) -> [f32; 4]) {
    let mut words = [0; 10];
    for (index, word) in words.iter_mut().enumerate() {
        // SAFETY: below 32 * 10.
        *word = unsafe { trial.load(10 * trial.thread + index as u32) };
    }
    let [d0, d1, d2, d3, a0, a1, a2, a3, b0, b1] = words;
    let d = product([d0, d1, d2, d3].map(f32::from_bits), [a0, a1, a2, a3], [b0, b1]);
    for (index, element) in d.iter().enumerate() {
        // SAFETY: this lane's.
        unsafe { trial.store(4 * trial.thread + index as u32, element.to_bits()) };
    }
}

/// [`mma_m16n8k16_bf16`]: 10 words a lane (d, a, b), results 4 (d).
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn mma_bf16(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { mma(trial, mma_m16n8k16_bf16) }
}

/// [`mma_m16n8k16_f16`]: 10 words a lane (d, a, b), results 4 (d).
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn mma_f16(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { mma(trial, mma_m16n8k16_f16) }
}

#[inline(always)]
unsafe fn pack(trial: &Trial, convert: impl Fn(f32, f32) -> u32) {
    // SAFETY: this lane's words.
    unsafe {
        let (high, low) = (trial.load(2 * trial.thread), trial.load(2 * trial.thread + 1));
        trial.store(trial.thread, convert(f32::from_bits(high), f32::from_bits(low)));
    }
}

/// [`cvt_rn_bf16x2`]: 2 words a lane (high, low), 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn cvt_bf16x2(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { pack(trial, cvt_rn_bf16x2) }
}

/// [`cvt_rn_f16x2`]: 2 words a lane (high, low), 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn cvt_f16x2(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { pack(trial, cvt_rn_f16x2) }
}

/// [`cvt_rz_f16x2`]: 2 words a lane (high, low), 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn cut_f16x2(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { pack(trial, cvt_rz_f16x2) }
}

#[inline(always)]
unsafe fn unary(trial: &Trial, function: impl Fn(f32) -> f32) {
    // SAFETY: this lane's words.
    unsafe { trial.store(trial.thread, function(f32::from_bits(trial.load(trial.thread))).to_bits()) }
}

/// [`ex2_approx_ftz`]: 1 word a lane, 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn ex2(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { unary(trial, ex2_approx_ftz) }
}

/// [`lg2_approx_ftz`]: 1 word a lane, 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn lg2(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { unary(trial, lg2_approx_ftz) }
}

/// [`cvt_f32_f16`]: 1 word a lane (its low half), 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn cvt_f32(trial: &Trial) {
    // SAFETY: this lane's words.
    unsafe { trial.store(trial.thread, cvt_f32_f16(trial.load(trial.thread)).to_bits()) }
}

/// Tables of [`lop3`]: the append's choice by mask, a majority, one without symmetry, and a, b and c of which c is not.
pub const TABLES: [u32; 4] = [0xCA, 0xE8, 0x2D, 0x40];

/// [`lop3_b32`] with each of [`TABLES`]: 3 words a lane (a, b, c), 4 results.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn lop3(trial: &Trial) {
    // SAFETY: this lane's words.
    unsafe {
        let [a, b, c] = [0, 1, 2].map(|word| trial.load(3 * trial.thread + word));
        trial.store(4 * trial.thread, lop3_b32::<{ TABLES[0] }>(a, b, c));
        trial.store(4 * trial.thread + 1, lop3_b32::<{ TABLES[1] }>(a, b, c));
        trial.store(4 * trial.thread + 2, lop3_b32::<{ TABLES[2] }>(a, b, c));
        trial.store(4 * trial.thread + 3, lop3_b32::<{ TABLES[3] }>(a, b, c));
    }
}

/// [`mov_b32_low_twice`] and [`mov_b32_high_twice`] of the first of 2 words a lane, [`mov_b64`] of both: 4 results.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn moves(trial: &Trial) {
    // SAFETY: this lane's words.
    unsafe {
        let [low, high] = [0, 1].map(|word| trial.load(2 * trial.thread + word));
        let both = mov_b64(low, high);
        trial.store(4 * trial.thread, mov_b32_low_twice(low));
        trial.store(4 * trial.thread + 1, mov_b32_high_twice(low));
        trial.store(4 * trial.thread + 2, both as u32);
        trial.store(4 * trial.thread + 3, (both >> 32) as u32);
    }
}

/// [`fma_rn`]: 3 words a lane (a, b, c), 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn fma(trial: &Trial) {
    // SAFETY: this lane's words.
    unsafe {
        let [a, b, c] = [0, 1, 2].map(|word| f32::from_bits(trial.load(3 * trial.thread + word)));
        trial.store(trial.thread, fma_rn(a, b, c).to_bits());
    }
}

/// [`fma_rz`]: 3 words a lane (a, b, c), 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn fma_cut(trial: &Trial) {
    // SAFETY: this lane's words.
    unsafe {
        let [a, b, c] = [0, 1, 2].map(|word| f32::from_bits(trial.load(3 * trial.thread + word)));
        trial.store(trial.thread, fma_rz(a, b, c).to_bits());
    }
}

/// [`narrow::larger_u16x2`]: 2 words a lane, 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn larger(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { pack(trial, |a, b| narrow::larger_u16x2(a.to_bits(), b.to_bits())) }
}

/// [`mul_rn_f16x2`]: 2 words a lane, 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn mul_f16x2(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { pack(trial, |a, b| mul_rn_f16x2(a.to_bits(), b.to_bits())) }
}

/// [`prmt_b32`]: 3 words a lane (a, b, selector), 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn prmt(trial: &Trial) {
    // SAFETY: this lane's words.
    unsafe {
        let [a, b, selector] = [0, 1, 2].map(|word| trial.load(3 * trial.thread + word));
        trial.store(trial.thread, prmt_b32(a, b, selector));
    }
}

#[inline(always)]
unsafe fn widened(trial: &Trial, convert: impl Fn(u32) -> u32) {
    // SAFETY: this lane's words.
    unsafe { trial.store(trial.thread, convert(trial.load(trial.thread))) }
}

/// [`movmatrix_trans`]: 1 word a lane, 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn movmatrix(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { widened(trial, movmatrix_trans) }
}

/// [`narrow::e4m3x2_to_f16x2`]: 1 word a lane, 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn e4m3_to_f16(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { widened(trial, |pair| narrow::e4m3x2_to_f16x2(pair)) }
}

/// [`narrow::e4m3x2_to_f16x2_software`]: 1 word a lane, 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn e4m3_to_f16_software(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { widened(trial, |pair| narrow::e4m3x2_to_f16x2_software(pair)) }
}

/// [`narrow::e5m2x2_to_f16x2`]: 1 word a lane, 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn e5m2_to_f16(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { widened(trial, narrow::e5m2x2_to_f16x2::<0, 1>) }
}

/// [`narrow::f32x2_to_e4m3x2`]: 2 words a lane (high, low), 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn f32_to_e4m3(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { pack(trial, narrow::f32x2_to_e4m3x2) }
}

/// [`narrow::f32x2_to_e4m3x2_software`]: 2 words a lane (high, low), 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn f32_to_e4m3_software(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { pack(trial, narrow::f32x2_to_e4m3x2_software) }
}

/// [`narrow::f32x2_to_e5m2x2`]: 2 words a lane (high, low), 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn f32_to_e5m2(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { pack(trial, narrow::f32x2_to_e5m2x2) }
}

/// [`narrow::f32x2_to_e5m2x2_software`]: 2 words a lane (high, low), 1 result.
///
/// # Safety
/// As for the probe.
#[inline(always)]
pub unsafe fn f32_to_e5m2_software(trial: &Trial) {
    // SAFETY: the caller's.
    unsafe { pack(trial, narrow::f32x2_to_e5m2x2_software) }
}
