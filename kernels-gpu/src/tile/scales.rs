//! Scales in the ring: NVFP4's beside a panel, one for 16 columns of a key, and FP8's where each key of a warp has one.
use super::{Scores, TILE_COLUMNS, key_tiles};
use crate::config::Shape;
use crate::layout::nvfp4::INTERLEAVED_TOKENS;
use crate::memory::Shared;
use crate::narrow::e4m3x2_to_f16x2;
use crate::ptx::convert::{mov_b32_high_twice, mov_b32_low_twice, prmt_b32};
use crate::ptx::math::{ex2_approx_ftz, lg2_approx_ftz};
use crate::ptx::memory::ld_shared_b32;

/// Where a lane's words have their block scales in a panel's: K's by key, V's in either order.
#[derive(Clone, Copy)]
pub struct BlockScales {
    /// Byte of the lane's first word of V's scales.
    value: u32,
    /// Bytes to the second, of the next key or of the next chunk.
    second: u32,
    /// Bytes to those of the next two chunks.
    chunks: u32,
    /// Selector of the two keys' bytes for the first chunk of two, then for the second.
    select: u32,
    lane: u32,
}

/// 1 in each of two selector nibbles.
const BOTH: u32 = 0x11;

/// A chunk's two selector nibbles, and those of the chunk whose bytes are `step` of both further.
const fn both_chunks(nibbles: u32, step: u32) -> u32 {
    nibbles | (nibbles + step) << 8
}

/// Keys of a word of `ldmatrix`.
const WORD_KEYS: u32 = 8;

impl BlockScales {
    /// For panels of `shape`; V's scales in the interleaved order or not.
    #[inline(always)]
    pub const fn new(interleaved: bool, lane: u32, shape: &Shape) -> Self {
        let (group, thread) = (lane / 4, lane % 4);
        // Its keys are 2 t and 2 t + 1 of a word's, its columns 4 g to 4 g + 4 of a chunk of 32: block g / 4.
        if interleaved {
            // A word has one block of four tokens, so the first two words are two chunks, of one of which the lane takes
            // two neighbouring bytes.
            let word = 2 * (thread % 2);
            Self {
                value: thread / 2 * INTERLEAVED_TOKENS * shape.scale_bytes + group / 4 * INTERLEAVED_TOKENS,
                second: 2 * INTERLEAVED_TOKENS,
                chunks: 4 * INTERLEAVED_TOKENS,
                select: both_chunks(word * BOTH + 0x10, 4 * BOTH),
                lane,
            }
        } else {
            // A word has four blocks of one token, so the first two words are two keys, of each of which it takes a byte.
            Self {
                value: 2 * thread * shape.scale_bytes,
                second: shape.scale_bytes,
                chunks: 4,
                select: both_chunks(group / 4 * BOTH + 0x40, 2 * BOTH),
                lane,
            }
        }
    }

    /// K's scales of the four words of an x4, of key tile `tile` and chunks `2 pair` and `2 pair + 1`: each in both halves.
    ///
    /// # Safety
    /// `scales` are a whole panel's in the ring, complete and visible to this warp.
    #[inline(always)]
    #[track_caller]
    pub unsafe fn key(&self, scales: Shared<u8>, tile: u32, pair: u32, shape: &Shape) -> [u32; 4] {
        let mut words = [0; 4];
        // The lane's columns 8 t to 8 t + 8 are in block t / 2 of a chunk's two: byte t / 2, and 2 more for the second chunk.
        let blocks_of_chunks = self.lane % 4 / 2 * BOTH + 0x20;
        for half in 0..2 {
            let key = TILE_COLUMNS * tile + WORD_KEYS * half as u32 + self.lane / 4;
            // SAFETY: a key of the panel, a word of its scales.
            let [blocks] = unsafe { ld_shared_b32(scales.byte_offset(key * shape.scale_bytes + 4 * pair).cast()) };
            let chunks = e4m3x2_to_f16x2(prmt_b32(blocks, 0, blocks_of_chunks));
            words[half] = mov_b32_low_twice(chunks);
            words[2 + half] = mov_b32_high_twice(chunks);
        }
        words
    }

    /// V's likewise: each of the word's two keys that the lane has.
    ///
    /// # Safety
    /// As for [`BlockScales::key`].
    #[inline(always)]
    #[track_caller]
    pub unsafe fn value(&self, scales: Shared<u8>, tile: u32, pair: u32, shape: &Shape) -> [u32; 4] {
        let mut words = [0; 4];
        for half in 0..2 {
            let first_key = TILE_COLUMNS * tile + WORD_KEYS * half as u32;
            let at = scales.byte_offset(self.value + first_key * shape.scale_bytes + pair * self.chunks);
            // SAFETY: keys of the panel.
            let ([first], [second]) =
                unsafe { (ld_shared_b32(at.cast()), ld_shared_b32(at.byte_offset(self.second).cast())) };
            let chunks = prmt_b32(first, second, self.select);
            words[half] = e4m3x2_to_f16x2(chunks);
            words[2 + half] = e4m3x2_to_f16x2(chunks >> 16);
        }
        words
    }
}

/// One scale a key: multiplies S by K's.
///
/// # Safety
/// `scales` are those of the warp's keys, complete and visible to it.
#[inline(always)]
#[track_caller]
pub unsafe fn scale_keys(s: &mut Scores, scales: Shared<u8>, lane: u32, shape: &Shape) {
    for (tile, keys) in s.iter_mut().take(key_tiles(shape)).enumerate() {
        // SAFETY: handed on to the caller.
        let scale = unsafe { of_keys(scales, tile, lane) };
        for fragment in keys.iter_mut().take(shape.row_tiles as usize) {
            for element in 0..4 {
                fragment[element] *= scale[element / 2];
            }
        }
    }
}

/// V's scales of the lane's two keys of key tile `tile`, in base 2, and their reciprocals.
///
/// P V is in f16, which a scale may leave: so it goes into the exponent, where the running maximum takes care of it, and
/// comes out again where P is summed. A key with scale 0 has no part in O and its full part in the sum; 2^-64 stands
/// for 0, because its reciprocal has to stay finite.
///
/// # Safety
/// As for [`scale_keys`].
#[inline(always)]
#[track_caller]
pub unsafe fn value_scales(scales: Shared<u8>, tile: usize, lane: u32) -> [[f32; 2]; 2] {
    const LEAST: f32 = f32::from_bits((127 - 64) << 23);
    // SAFETY: handed on to the caller.
    let scales = unsafe { of_keys(scales, tile, lane) };
    let log2 = scales.map(|scale| lg2_approx_ftz(if scale < LEAST { LEAST } else { scale }));
    [log2, log2.map(|x| ex2_approx_ftz(-x))]
}

/// The scales of the lane's keys `g` and `g + 8` of key tile `tile`.
#[inline(always)]
#[track_caller]
unsafe fn of_keys(scales: Shared<u8>, tile: usize, lane: u32) -> [f32; 2] {
    let at = scales.byte_offset(4 * (tile as u32 * TILE_COLUMNS + lane / 4)).cast::<u32>();
    // SAFETY: the caller's.
    unsafe { [ld_shared_b32(at), ld_shared_b32(at.at(WORD_KEYS))] }.map(|[bits]| f32::from_bits(bits))
}
