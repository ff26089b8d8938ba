//! The append: new tokens' K and V into the pages of a cache, in the cache's format.
//!
//! It moves bytes once and computes little, for some 15 to 90 µs in all: what counts is that a thread asks for everything it
//! needs in its first trip to memory. A thread has 16 consecutive elements (a chunk: one block of NVFP4, one 16-byte store
//! of FP8) of one token and KV head, of K and of V: four loads of 16 bytes and the slot are under way before any is used.
//! D / 16 neighbouring lanes have a row, so that a row's largest element is found by shuffles.
//!
//! A token whose slot is negative or past the cache is skipped: its row is read and nothing is written.
pub mod codes;
pub mod division;
pub mod ties;

use crate::abi::{AppendParams, CacheFlags, CacheSide, Rows};
use crate::config::APPEND_THREADS;
use crate::element::{Bf16, CacheElement, CacheKind, Element, F16, Fp8E4M3, Fp8E5M2, NvFp4};
use crate::layout::nvfp4::INTERLEAVED_TOKENS;
use crate::memory::Global;
use crate::ptx::memory::{
    ld_global_b32, ld_global_v2_b32, ld_global_v4_b32, st_global_b8, st_global_b32, st_global_v2_b32, st_global_v4_b32,
};
use crate::ptx::sync::shfl_bfly;
use codes::{Chunk, Fp8};
use cuda_std::thread;

/// Elements of a row that a thread has.
pub const CHUNK: u32 = 16;

/// A format of a cache that elements `S` are appended to.
pub trait AppendElement<S: Element>: CacheElement {}

/// The elements are copied.
impl AppendElement<Self> for Bf16 {}
impl AppendElement<Self> for F16 {}
impl<S: Element> AppendElement<S> for Fp8E4M3 {}
impl<S: Element> AppendElement<S> for Fp8E5M2 {}
impl<S: Element> AppendElement<S> for NvFp4 {}

/// Which chunk a thread has, and where it goes.
struct Place {
    head: u32,
    /// Chunk of the row.
    lane: u32,
    /// Chunks of a row, a power of two up to 32.
    lanes: u32,
    page: u32,
    /// Token of the page.
    slot: u32,
    /// Whether it goes anywhere.
    stored: bool,
}

/// K or V: what is written, and by what scale.
struct Side<'a> {
    cache: &'a CacheSide,
    scales: &'a CacheSide,
    /// The whole tensor's factor.
    scale: f32,
    interleaved: bool,
}

/// Appends the chunk of K and of V that this thread has.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn append<S: Element, K: AppendElement<S>>(params: &AppendParams) {
    let index = thread::block_idx_x() * APPEND_THREADS + thread::thread_idx_x();
    let lanes = params.head_dim / CHUNK;
    let row = index >> lanes.trailing_zeros();
    // What the host promises anyway; said to the compiler, which would call for help at a division by 0 otherwise.
    let token = row / params.kv_heads.max(1);
    let (head, lane) = (row - token * params.kv_heads, index & (lanes - 1));
    let (mut slot, mut k, mut v) = (-1, [0; 8], [0; 8]);
    // Threads past the last row have no chunk, but take part in the shuffles.
    // SAFETY: the token is one of the request's, and the head and the chunk are.
    let [k_factor, v_factor] = unsafe {
        if token < params.tokens {
            let [low, high] = ld_global_v2_b32(params.slots.at(token).cast());
            k = load::<K>(&params.k, token, head, lane, lanes);
            v = load::<K>(&params.v, token, head, lane, lanes);
            slot = (u64::from(high) << 32 | u64::from(low)) as i64;
        }
        [params.k_scale_at, params.v_scale_at].map(|at| factor::<K>(at))
    };
    let k_scale =
        if params.flags & CacheFlags::K_DIVIDES == 0 { params.k_scale * k_factor } else { params.k_scale / k_factor };
    let v_scale =
        if params.flags & CacheFlags::V_DIVIDES == 0 { params.v_scale * v_factor } else { params.v_scale / v_factor };
    let stored = slot >= 0 && slot < params.cache_slots;
    // Pages of a cache have 31-bit numbers.
    let (page, slot) = ((slot >> params.page_shift) as u32, slot as u32 & ((1 << params.page_shift) - 1));
    let place = Place { head, lane, lanes, page, slot, stored };
    let interleaved = params.flags & CacheFlags::V_INTERLEAVED != 0;
    let key = Side { cache: &params.k_cache, scales: &params.k_scales, scale: k_scale, interleaved: false };
    let value = Side { cache: &params.v_cache, scales: &params.v_scales, scale: v_scale, interleaved };
    // SAFETY: the slot is one of the cache's where the place is stored to.
    unsafe {
        store::<S, K>(&key, &place, k);
        store::<S, K>(&value, &place, v);
    }
}

/// What of a row lane `lane` copies in its load (and store) `part` of 16 bytes: its offset in bytes.
#[inline(always)]
const fn part_offset<K: CacheElement>(lane: u32, lanes: u32, part: u32) -> u32 {
    match K::CACHE {
        // A copy does not care which elements it has: neighbouring lanes take neighbouring 16 bytes, half a row at a time.
        CacheKind::Bf16 | CacheKind::F16 => 16 * (lane + part * lanes),
        _ => 32 * lane + 16 * part,
    }
}

/// The chunk's elements as they are in memory.
///
/// # Safety
/// As for the entry; the row is one of the request's.
#[inline(always)]
unsafe fn load<K: CacheElement>(rows: &Rows, token: u32, head: u32, lane: u32, lanes: u32) -> Chunk {
    let row = rows.base.byte_offset(i64::from(token) * rows.token_stride + i64::from(head) * rows.head_stride);
    let part = |part| row.byte_offset(i64::from(part_offset::<K>(lane, lanes, part))).cast();
    // SAFETY: the row's D elements are 16-bit, and its strides multiples of 16 bytes.
    let ([a, b, c, d], [e, f, g, h]) = unsafe { (ld_global_v4_b32(part(0)), ld_global_v4_b32(part(1))) };
    [a, b, c, d, e, f, g, h]
}

/// The factor of a whole tensor that is read at launch, where there is one.
///
/// # Safety
/// `at` is NULL or an f32.
#[inline(always)]
unsafe fn factor<K: CacheElement>(at: Global<f32>) -> f32 {
    if K::CACHE.bits() == 16 || at.is_null() {
        return 1.0;
    }
    // SAFETY: the caller's.
    f32::from_bits(unsafe { ld_global_b32(at.cast()) }[0])
}

/// Where the place's row of `side` begins.
#[inline(always)]
const fn row_of(side: &CacheSide, place: &Place, slot: u32) -> Global<u8> {
    side.base.byte_offset(
        place.page as i64 * side.page_stride + slot as i64 * side.token_stride + place.head as i64 * side.head_stride,
    )
}

/// Stores a chunk in the cache's format.
///
/// # Safety
/// As for the entry; where the place is stored to, its slot is one of the cache's.
#[inline(always)]
unsafe fn store<S: Element, K: AppendElement<S>>(side: &Side<'_>, place: &Place, chunk: Chunk) {
    // SAFETY: the caller's.
    unsafe {
        match K::CACHE {
            CacheKind::Bf16 | CacheKind::F16 => {
                if place.stored {
                    let row = row_of(side.cache, place, place.slot);
                    let part =
                        |part| row.byte_offset(i64::from(part_offset::<K>(place.lane, place.lanes, part))).cast();
                    let [a, b, c, d, e, f, g, h] = chunk;
                    st_global_v4_b32(part(0), [a, b, c, d]);
                    st_global_v4_b32(part(1), [e, f, g, h]);
                }
            }
            CacheKind::Fp8E4M3 => store_fp8::<S>(side, place, chunk, Fp8::E4M3),
            CacheKind::Fp8E5M2 => store_fp8::<S>(side, place, chunk, Fp8::E5M2),
            CacheKind::NvFp4 => store_nvfp4::<S>(side, place, chunk),
        }
    }
}

/// Stores a chunk as FP8, by the tensor's scale or, where scales a token and head are there, by the row's own.
///
/// # Safety
/// As [`store`].
#[inline(always)]
unsafe fn store_fp8<S: Element>(side: &Side<'_>, place: &Place, chunk: Chunk, format: Fp8) {
    let numbers = codes::unpack::<S>(chunk);
    // SAFETY: 16 bytes of the row are this thread's, and the row's scale is its first thread's.
    unsafe {
        let divisor = if side.scales.base.is_null() {
            division::Divisor::new(side.scale)
        } else {
            let scale = row_maximum(codes::largest(&numbers), place.lanes) / format.largest();
            if place.stored && place.lane == 0 {
                st_global_b32(row_of(side.scales, place, place.slot).cast(), [scale.to_bits()]);
            }
            // Only a row of zeros has a scale of 0: the smallest 16-bit number is 2^-133, and 2^-149 is not 0.
            if scale == 0.0 { division::Divisor::OF_ZEROS } else { division::Divisor::new(scale) }
        };
        let codes = codes::fp8(numbers, &divisor, format);
        if place.stored {
            let row = row_of(side.cache, place, place.slot);
            st_global_v4_b32(row.byte_offset(i64::from(16 * place.lane)).cast(), codes);
        }
    }
}

/// The largest of a row's chunks' maxima.
#[inline(always)]
fn row_maximum(own: f32, lanes: u32) -> f32 {
    let mut maximum = own;
    let mut lane_mask = lanes / 2;
    while lane_mask > 0 {
        maximum = maximum.max(f32::from_bits(shfl_bfly(maximum.to_bits(), lane_mask)));
        lane_mask /= 2;
    }
    maximum
}

/// Stores a chunk as a block of NVFP4, and its scale.
///
/// # Safety
/// As [`store`].
#[inline(always)]
unsafe fn store_nvfp4<S: Element>(side: &Side<'_>, place: &Place, chunk: Chunk) {
    let (scale, codes) = codes::nvfp4::<S>(chunk, side.scale);
    if place.stored {
        // SAFETY: 8 bytes of the row and one of its scales are this thread's.
        unsafe {
            let row = row_of(side.cache, place, place.slot);
            st_global_v2_b32(row.byte_offset(i64::from(8 * place.lane)).cast(), codes);
            // As `layout::nvfp4` has it, with the strides that there are.
            let at = if side.interleaved {
                let (four, rest) =
                    (place.slot / INTERLEAVED_TOKENS * INTERLEAVED_TOKENS, place.slot % INTERLEAVED_TOKENS);
                row_of(side.scales, place, four).byte_offset(i64::from(INTERLEAVED_TOKENS * place.lane + rest))
            } else {
                row_of(side.scales, place, place.slot).byte_offset(i64::from(place.lane))
            };
            st_global_b8(at, scale);
        }
    }
}
