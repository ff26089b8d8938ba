//! Where results go: rows of any output format, the sink, the log-sum-exp. Written once, for decode and for the merge.
use super::scale::times;
use crate::abi::{Output, OutputKind};
use crate::element::{Bf16, Element, F16};
use crate::memory::Global;
use crate::narrow::f32x2_to_e4m3x2;
use crate::ptx::math::ex2_approx_ftz;
use crate::ptx::memory::{ld_global_b32, st_global_b8, st_global_b32, st_global_v2_b32, st_global_v4_b32};
use crate::ptx::sync::shfl_bfly;
use core::f32::consts::{LN_2, LOG2_E};

const BF16: u32 = OutputKind::Bf16 as u32;
const F32: u32 = OutputKind::F32 as u32;
const _: () = assert!(OutputKind::F16 as u32 | 1 == 1 && F32 & 2 != 0 && FP8_E4M3 & 2 != 0);
const FP8_E4M3: u32 = OutputKind::Fp8E4M3 as u32;

/// What results are multiplied by before they are rounded.
///
/// # Safety
/// As for the entries.
#[inline(always)]
pub unsafe fn factor(out: &Output) -> f32 {
    if out.kind != FP8_E4M3 {
        return 1.0;
    }
    // SAFETY: handed on to the caller.
    1.0 / unsafe { times(out.scale, out.scale_at, false) }
}

/// Where a row of D numbers goes.
#[derive(Clone, Copy)]
pub struct Row {
    base: Global<u8>,
    kind: u32,
}

impl Row {
    /// The output's row of a query token and head.
    #[inline(always)]
    pub const fn of_output(out: &Output, token: u32, head: u32) -> Self {
        let at = token as i64 * out.rows.token_stride + head as i64 * out.rows.head_stride;
        Self { base: out.rows.base.byte_offset(at), kind: out.kind }
    }

    /// Row `slot_row` of partial results, f32.
    #[inline(always)]
    pub const fn of_partials(partials: Global<f32>, slot_row: u64, head_dim: u32) -> Self {
        Self { base: partials.byte_offset((slot_row * head_dim as u64 * 4) as i64).cast(), kind: F32 }
    }

    /// The same row from column `column` on.
    #[inline(always)]
    pub const fn from_column(&self, column: u32) -> Self {
        let bytes = match self.kind {
            F32 => 4,
            FP8_E4M3 => 1,
            _ => 2,
        };
        Self { base: self.base.byte_offset((column * bytes) as i64), kind: self.kind }
    }

    /// Stores two neighbouring columns, the first of them even.
    ///
    /// # Safety
    /// The row and the columns are there, and no other thread's.
    #[inline(always)]
    pub unsafe fn store_pair(&self, column: u32, values: [f32; 2]) {
        // SAFETY: the caller's.
        unsafe { self.store_pairs(1, |_| (column, values)) };
    }

    /// Stores `count` pairs of neighbouring columns, each given as its first column, an even one, and the values.
    ///
    /// # Safety
    /// As for [`Row::store_pair`].
    #[inline(always)]
    pub unsafe fn store_pairs(&self, count: usize, pair: impl Fn(usize) -> (u32, [f32; 2])) {
        // SAFETY: the caller's.
        unsafe {
            if self.is_16_bit() {
                self.each(2, count, pair, |at, values| st_global_b32(at.cast(), [self.pack(values)]));
            } else if self.kind == F32 {
                self.each(4, count, pair, |at, values| st_global_v2_b32(at.cast(), values.map(f32::to_bits)));
            } else {
                self.each(1, count, pair, |at, [low, high]| {
                    let codes = f32x2_to_e4m3x2(high, low);
                    st_global_b8(at, codes);
                    st_global_b8(at.byte_offset(1), codes >> 8);
                });
            }
        }
    }

    /// Whether elements have 16 bits. By a bit of the number: of one comparison a kind the assembler makes a table of addresses, which a
    /// launch finds in no cache.
    #[inline(always)]
    const fn is_16_bit(&self) -> bool {
        self.kind & 2 == 0
    }

    /// Two elements of 16 bits.
    #[inline(always)]
    fn pack(&self, [low, high]: [f32; 2]) -> u32 {
        if self.kind == BF16 { Bf16::pack(low, high) } else { F16::pack(low, high) }
    }

    /// Stores a row of which lane `l % 4` of four lanes has columns `8 j + 2 (l % 4)` and the next as `pairs(j)`, for `j` below
    /// `count`, a multiple of 4: 16 bytes a lane where elements have 16 bits, whole sectors in any format but the narrow one.
    ///
    /// # Safety
    /// As for [`Row::store_pair`]; all lanes of the warp call it, those whose row does not `exist` store nothing.
    #[inline(always)]
    pub unsafe fn store_quads(&self, lane: u32, count: usize, exists: bool, pairs: impl Fn(usize) -> [f32; 2]) {
        if !self.is_16_bit() {
            if exists {
                // SAFETY: the caller's.
                unsafe { self.store_pairs(count, |j| (8 * j as u32 + lane % 4 * 2, pairs(j))) };
            }
            return;
        }
        for first in (0..count).step_by(4) {
            let mut words = [0; 4];
            for j in 0..4 {
                words[j] = self.pack(pairs(first + j));
            }
            let words = transposed(words, lane);
            if exists {
                let at = self.base.byte_offset(2 * (8 * (first as u32 + lane % 4)) as i64);
                // SAFETY: the caller's.
                unsafe { st_global_v4_b32(at.cast(), words) };
            }
        }
    }

    /// Stores neighbouring columns from the first on, a multiple of 8: 16 bytes at a time where elements have 16 bits.
    ///
    /// # Safety
    /// As for [`Row::store_pair`].
    #[inline(always)]
    pub unsafe fn store_run<const N: usize>(&self, values: &[f32; N]) {
        let pair = |j: usize| [values[2 * j], values[2 * j + 1]];
        // SAFETY: the caller's.
        unsafe {
            if !self.is_16_bit() {
                return self.store_pairs(N / 2, |j| (2 * j as u32, pair(j)));
            }
            for first in (0..N / 2).step_by(4) {
                let words = [0, 1, 2, 3].map(|j| self.pack(pair(first + j)));
                st_global_v4_b32(self.base.byte_offset(4 * first as i64).cast(), words);
            }
        }
    }

    /// Stores pairs of elements of `bytes` bytes.
    #[inline(always)]
    fn each(
        &self,
        bytes: u32,
        count: usize,
        pair: impl Fn(usize) -> (u32, [f32; 2]),
        store: impl Fn(Global<u8>, [f32; 2]),
    ) {
        for index in 0..count {
            let (column, values) = pair(index);
            store(self.base.byte_offset((bytes * column) as i64), values);
        }
    }
}

/// Word `j` of lane `i` of four as word `i` of lane `j`.
#[inline(always)]
fn transposed(words: [u32; 4], lane: u32) -> [u32; 4] {
    let mut words = words;
    for distance in [1, 2] {
        // All ones in the lanes above the diagonal. Exchanged by exclusive or: of a select the assembler makes two branches with a
        // shuffle each.
        let upper = 0_u32.wrapping_sub(lane / distance % 2);
        for low in 0..4 {
            if low & distance as usize == 0 {
                let high = low + distance as usize;
                let moved = (words[low] ^ words[high]) & upper;
                let (kept, got) = (words[low] ^ moved, shfl_bfly(words[high] ^ moved, distance));
                let moved = (kept ^ got) & upper;
                (words[low], words[high]) = (kept ^ moved, got ^ moved);
            }
        }
    }
    words
}

/// The sink's logit in base 2; -inf without one.
///
/// # Safety
/// As for the entries; `head` is a query head.
#[inline(always)]
pub unsafe fn sink(sinks: Global<f32>, head: u32) -> f32 {
    if sinks.is_null() {
        return f32::NEG_INFINITY;
    }
    // SAFETY: one f32 a query head.
    let [logit] = unsafe { ld_global_b32(sinks.at(head).cast()) };
    f32::from_bits(logit) * LOG2_E
}

/// Its part of a row's denominator, whose exponentials are relative to `maximum` (base 2, finite).
#[inline(always)]
pub fn weight_of_sink(sink: f32, maximum: f32) -> f32 {
    ex2_approx_ftz(sink - maximum)
}

/// Stores a row's log-sum-exp, as a natural logarithm, if it is asked for.
///
/// # Safety
/// As for the entries; the row is the output's.
#[inline(always)]
pub unsafe fn store_lse(lse: Global<f32>, q_heads: u32, token: u32, head: u32, lse_log2: f32) {
    if !lse.is_null() {
        let at = token as i64 * q_heads as i64 + head as i64;
        // SAFETY: the caller's.
        unsafe { st_global_b32(lse.byte_offset(4 * at).cast(), [(lse_log2 * LN_2).to_bits()]) };
    }
}
