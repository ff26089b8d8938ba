//! Logits of 8 bits whose sums have to be better than `wgmma`'s, which have about 14 bits on Hopper: of the largest product and of what was
//! summed before. A logit is so wrong by some 2^-13 of the sum of |q k| for each 32 columns; where logits are large, that is more
//! than the rounding of P. A warp then works its rows' logits out again, in 16 bits, whose sums are f32's: from the tile on that makes a row's
//! maximum large ([`any_so_far`]), and where it masks, before that, each tile that has a large one ([`any`]).
use super::fragments::Fragments;
use super::mask::move_on;
use super::shape::{COLUMNS_BYTES, LARGE_LOGIT, PATTERN_ROWS, PrefillShape};
use super::softmax::{RowSoftmax, largest};
use crate::memory::Shared;
use crate::narrow::e4m3x2_to_f16x2;
use crate::ptx::math::renewed;
use crate::ptx::mma::mma_m16n8k16_f16;
use crate::ptx::sync::vote_any;
use cuda_std::thread;

/// Whether the warp has large logits in the tile, which are still to be multiplied by `scale`.
#[inline(always)]
pub fn any(s: &[f32], scale: f32) -> bool {
    let [a, b] = largest(s, scale);
    vote_any(a.abs().max(b.abs()) > LARGE_LOGIT)
}

/// Whether the largest logits so far are large in one of the warp's rows, where exponentials of them are `2^top`: then those of other tiles that
/// have any weight are.
#[inline(always)]
pub fn any_so_far(softmax: &RowSoftmax, top: f32) -> bool {
    let large = |maximum: f32| maximum > f32::NEG_INFINITY && (maximum + top).abs() > LARGE_LOGIT;
    vote_any(large(softmax.maximum[0]) | large(softmax.maximum[1]))
}

/// Four e4m3 as f16: the lower two, then the upper.
#[inline(always)]
fn halves(word: u32) -> [u32; 2] {
    [e4m3x2_to_f16x2(word & 0xFFFF), e4m3x2_to_f16x2(word >> 16)]
}

/// Q K^T of the warp's 16 query rows and the tile of keys at `keys`, into its part of the accumulator.
/// Which columns a product has is as they come, of both alike.
///
/// # Safety
/// Both tiles are there and are observed; the warp's lanes call it together.
#[inline(always)]
pub unsafe fn scores<const D: u32>(s: &mut [f32], rows: &Fragments, keys: Shared<u8>, shape: &PrefillShape) {
    let lane = renewed(thread::thread_idx_x()) % 32;
    let (mut key, all) = (0, renewed(shape.tile_keys));
    while key < all {
        let sixteen = keys.byte_offset(key / PATTERN_ROWS * shape.parts() * PATTERN_ROWS * COLUMNS_BYTES);
        let keys = Fragments::of_keys(sixteen, shape.parts(), lane);
        let mut sums = [[0.0; 4]; 2];
        let (mut step, steps) = (0, renewed(D / 32));
        while step < steps {
            // SAFETY: handed on to the caller.
            let (a, b) = unsafe { (rows.step(step).map(halves), keys.step(step).map(halves)) };
            for chunk in 0..2 {
                let [[a0, a2], [a1, a3]] = [a[2 * chunk], a[2 * chunk + 1]];
                for (eight, sum) in sums.iter_mut().enumerate() {
                    *sum = mma_m16n8k16_f16(*sum, [a0, a1, a2, a3], b[2 * eight + chunk]);
                }
            }
            step += 1;
        }
        s[..4].copy_from_slice(&sums[0]);
        s[4..8].copy_from_slice(&sums[1]);
        move_on(s);
        key += 16;
    }
}
