//! Softmax: a thread has a row of S, all keys of a tile, or in a pair half of them. It reads S from tensor memory and leaves P in its
//! place (of a pair in shared memory), and the factors of O to who corrects it.
use super::block::{BUFFERS, Phase, TensorBlock};
use super::mask;
use super::product::TensorProduct;
use crate::abi::PrefillParams;
use crate::attention::softmax::{SLACK, finite};
use crate::fault::{Fault, planted};
use crate::layout::swizzle::{CHUNK_BYTES, chunk_offset};
use crate::memory::{Shared, TensorMemory};
use crate::prefill::block::release;
use crate::prefill::item;
use crate::prefill::shape::{COLUMNS_BYTES, TENSOR_ROWS, WARPGROUP};
use crate::ptx::math::{ex2_approx_ftz, fma_rn};
use crate::ptx::mbarrier::mbarrier_wait_parity;
use crate::ptx::memory::{ld_shared_b32, st_shared_b32, st_shared_v4_b32};
use crate::ptx::sync::{bar_sync, fence_proxy_async_shared};
use crate::ptx::tcgen05::{
    tcgen05_fence_after_thread_sync, tcgen05_fence_before_thread_sync, tcgen05_ld_32x32b, tcgen05_st_32x32b,
    tcgen05_wait_ld, tcgen05_wait_st,
};
use cuda_std::thread;

/// Columns of tensor memory of a load, and keys that exponentials are made of at a time.
const COLUMNS: usize = 32;

/// The named barrier of a pair's softmax.
const EXCHANGE: u32 = 1;

/// A row's softmax, in base 2.
#[derive(Clone, Copy)]
struct Row {
    /// The largest scaled logit so far, or what it exceeds by at most [`SLACK`].
    maximum: f32,
    /// The sum of exponentials of this thread's keys.
    sum: f32,
}

impl Row {
    /// Before any key.
    const NONE: Self = Self { maximum: f32::NEG_INFINITY, sum: 0.0 };

    /// Raises what exponentials are relative to where the row's logits, the largest of which is `maximum`, exceed it by too much, so
    /// that that of the maximum is `2^top`; gives the factor of what was summed so far.
    #[inline(always)]
    fn raise(&mut self, maximum: f32, top: f32) -> f32 {
        // Not so where both are -inf, whose difference is NaN.
        if maximum - self.maximum > SLACK {
            let to = maximum - top;
            let factor = ex2_approx_ftz(self.maximum - to);
            (self.maximum, self.sum) = (to, self.sum * factor);
            return factor;
        }
        1.0
    }

    /// Makes logits, which are still to be multiplied by `scale`, P.
    #[inline(always)]
    fn exponentials(&mut self, s: &mut [f32], scale: f32) {
        let subtrahend = -finite(self.maximum);
        // Two sums: a chain of additions half as long.
        let mut sums = [self.sum, 0.0];
        for index in 0..s.len() {
            s[index] = ex2_approx_ftz(fma_rn(s[index], scale, subtrahend));
            sums[index % 2] += s[index];
        }
        self.sum = sums[0] + sums[1];
    }
}

/// The largest of a thread's logits.
#[inline(always)]
fn largest(s: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; 4];
    for index in 0..s.len() {
        largest[index % 4] = largest[index % 4].max(s[index]);
    }
    largest[0].max(largest[1]).max(largest[2].max(largest[3]))
}

/// Makes P of the block's units of softmax `softmax`, `KEYS` a thread.
///
/// # Safety
/// As for the entry; one warpgroup of the block calls it, a multiple of 128 threads from its first.
#[inline(always)]
pub unsafe fn softmax<const KEYS: usize, Q: TensorProduct>(
    params: &PrefillParams,
    block: &TensorBlock<'_>,
    softmax: u32,
) {
    let TensorBlock { block: shared, shape, rank, .. } = *block;
    let thread = thread::thread_idx_x() % WARPGROUP;
    let lanes = thread / 32 * 32;
    // Of the item's rows, and of a tile's keys.
    let (row, first_key) = if shape.pair() {
        (TENSOR_ROWS / 2 * rank + thread % (TENSOR_ROWS / 2), thread / (TENSOR_ROWS / 2) * KEYS as u32)
    } else {
        (TENSOR_ROWS * softmax + thread, 0)
    };
    let (mut number, mut turn) = (softmax, 0);
    while shared.has(turn, shape) {
        // SAFETY: S is waited for; P takes its place, which nothing reads until it is told of, and factors and sums places that have
        // been read, of the unit two before as S is there, of the item before as is waited for.
        unsafe {
            let item = shared.wait_for_item(turn, shape);
            let span = item::span(item);
            let mut of_row = Row::NONE;
            for tile in span.tiles.first..span.tiles.end {
                let Phase { buffer, parity } = Phase::of(number);
                if !planted(Fault::ScoresWait) {
                    mbarrier_wait_parity(block.scores_full(buffer), parity);
                }
                if !planted(Fault::ScoresAfter) {
                    tcgen05_fence_after_thread_sync();
                }
                let scores = block.scores(buffer).at_lane(lanes);
                let mut scale = Q::score_scale(&params.decode, shared.scale(shape));
                if span.edges.cover(tile) {
                    let keys = [tile * shape.tile_keys + first_key, KEYS as u32];
                    mask::apply(&params.decode, scale, item, scores, keys, row);
                    scale = 1.0;
                }
                let mut s = load::<KEYS>(scores);
                let own = largest(&s) * scale;
                let maximum = if shape.pair() { joint(block, number, thread, own) } else { own };
                let factor = of_row.raise(maximum, Q::TOP);
                st_shared_b32(block.factors(buffer).at(thread), [factor.to_bits()]);
                if !planted(Fault::FactorsArrival) {
                    release(block.factors_full(buffer));
                }
                if shape.pair() && number > 0 && !planted(Fault::WeightsRead) {
                    mbarrier_wait_parity(block.output_full(0), (number - 1) & 1);
                }
                for (chunk, s) in s.chunks_exact_mut(COLUMNS).enumerate() {
                    of_row.exponentials(s, scale);
                    if shape.pair() {
                        store_shared::<Q>(
                            block.weights(),
                            first_key + (chunk * COLUMNS) as u32,
                            row % (TENSOR_ROWS / 2),
                            s,
                        );
                    } else {
                        store::<Q>(scores.at_column((chunk * COLUMNS) as u32 * Q::BYTES / 4), s);
                    }
                }
                if shape.pair() {
                    if !planted(Fault::WeightsFence) {
                        fence_proxy_async_shared();
                    }
                } else if !planted(Fault::WeightsStore) {
                    tcgen05_wait_st();
                }
                if !planted(Fault::WeightsBefore) {
                    tcgen05_fence_before_thread_sync();
                }
                if !planted(Fault::WeightsArrival) {
                    block.release_at_first(block.weights_full(buffer));
                }
                number += shape.consumers;
            }
            if !planted(Fault::SumsEmpty) {
                mbarrier_wait_parity(block.sums_empty(softmax), (turn & 1) ^ 1);
            }
            let sums = block.sums(softmax).at(thread);
            st_shared_b32(sums, [of_row.maximum.to_bits()]);
            st_shared_b32(sums.at(WARPGROUP), [of_row.sum.to_bits()]);
            if !planted(Fault::SumsArrival) {
                release(block.sums_full(softmax));
            }
            if !planted(Fault::ItemDone) {
                release(shared.item_empty(turn, shape));
            }
        }
        turn += 1;
    }
}

/// The logits in `KEYS` columns.
#[inline(always)]
unsafe fn load<const KEYS: usize>(from: TensorMemory) -> [f32; KEYS] {
    let mut s = [0.0; KEYS];
    // SAFETY: handed on to the caller.
    let at = |chunk: usize| unsafe { tcgen05_ld_32x32b::<COLUMNS>(from.at_column((chunk * COLUMNS) as u32)) };
    let mut give = |words: &[u32]| (0..KEYS).for_each(|index| s[index] = f32::from_bits(words[index]));
    if KEYS == 4 * COLUMNS {
        give(tcgen05_wait_ld([at(0), at(1), at(2), at(3)]).as_flattened());
    } else {
        give(tcgen05_wait_ld([at(0), at(1)]).as_flattened());
    }
    s
}

/// P of [`COLUMNS`] keys, to tensor memory.
#[inline(always)]
unsafe fn store<Q: TensorProduct>(to: TensorMemory, p: &[f32]) {
    let per_word = 4 / Q::BYTES as usize;
    let word = |index: usize| Q::word(&p[per_word * index..]);
    // SAFETY: handed on to the caller.
    unsafe {
        if Q::BYTES == 2 {
            tcgen05_st_32x32b::<16>(to, core::array::from_fn(word));
        } else {
            tcgen05_st_32x32b::<8>(to, core::array::from_fn(word));
        }
    }
}

/// P of [`COLUMNS`] keys from `key` on, to row `row` of a pair's block in shared memory.
#[inline(always)]
unsafe fn store_shared<Q: TensorProduct>(weights: Shared<u8>, key: u32, row: u32, p: &[f32]) {
    let (per_word, column) = (4 / Q::BYTES as usize, key * Q::BYTES);
    let part = weights.byte_offset(column / COLUMNS_BYTES * (TENSOR_ROWS / 2) * COLUMNS_BYTES);
    let first = column % COLUMNS_BYTES / CHUNK_BYTES;
    for chunk in 0..COLUMNS / (4 * per_word) {
        let words = [0, 1, 2, 3].map(|word| Q::word(&p[(4 * chunk + word) * per_word..]));
        let to = part.byte_offset(chunk_offset(row, first + chunk as u32, COLUMNS_BYTES));
        // SAFETY: handed on to the caller.
        unsafe { st_shared_v4_b32(to.cast(), words) };
    }
}

/// The largest logit of a row of which two threads of a pair's block have the keys.
#[inline(always)]
unsafe fn joint(block: &TensorBlock<'_>, number: u32, thread: u32, own: f32) -> f32 {
    let maxima = block.maxima(number % BUFFERS);
    // SAFETY: of the tile two before all have read, as they met at the barrier of the one between.
    unsafe {
        st_shared_b32(maxima.at(thread), [own.to_bits()]);
        if !planted(Fault::MaximaFull) {
            bar_sync(EXCHANGE, WARPGROUP);
        }
        let [other] = ld_shared_b32(maxima.at(thread ^ (TENSOR_ROWS / 2)));
        own.max(f32::from_bits(other))
    }
}
