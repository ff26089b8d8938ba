//! S = Q K^T and O += P V, operands of K and V straight from the swizzled ring by `ldmatrix`.
use super::operand::KvElement;
use super::scales::{BlockScales, scale_keys};
use super::{Accumulator, Query, RingTile, Scores, chunks, key_tiles};
use crate::config::Shape;
use crate::element::Element;
use crate::layout::swizzle::SwizzledPointer;
use crate::ptx::mma::{ldmatrix_x4, ldmatrix_x4_trans};

/// The warp's part of S: its rows of q times a tile of keys, over the warp's slice of the head.
///
/// # Safety
/// `key` is a whole tile of the ring, its copies complete and visible to this warp.
#[inline(always)]
pub unsafe fn scores<Q: Element, K: KvElement<Q>>(
    q: &Query,
    key: RingTile,
    blocks: &BlockScales,
    lane: u32,
    shape: &Shape,
) -> Scores {
    // One ldmatrix.x4 has 4 chunks of 8 keys, or where a row has no more, 2 of 16.
    let (across, groups) = (chunks(shape).min(4), chunks(shape).div_ceil(4));
    let (matrix, keys) = (lane / 8, 4 / across);
    let pointer = SwizzledPointer::new(key.data, lane % 8 + 8 * (matrix / across), matrix % across, shape.row_bytes);
    let mut s = Scores::default();
    for step in 0..key_tiles(shape) as u32 / keys {
        for group in 0..groups {
            // SAFETY: inside the tile, which the caller vouches for.
            let words = unsafe { ldmatrix_x4(pointer.step(8 * keys * step, across * group)) };
            for half in 0..2 {
                let tile = (keys * step + 2 * half / across) as usize;
                let pair = (across * group + 2 * half % across) / 2;
                let scales = match key.scales {
                    // SAFETY: as above.
                    Some(scales) if shape.block_scales() => unsafe { blocks.key(scales, tile as u32, pair, shape) },
                    _ => [0; 2],
                };
                let operands = K::key([words[2 * half as usize], words[2 * half as usize + 1]], scales);
                for product in 0..K::PRODUCTS as usize {
                    let a = q[K::PRODUCTS as usize * pair as usize + product];
                    s[tile] = K::Product::mma(s[tile], a, operands[product]);
                }
            }
        }
    }
    if let (Some(scales), false) = (key.scales, shape.block_scales()) {
        // SAFETY: as above.
        unsafe { scale_keys(&mut s, scales, lane, key_tiles(shape)) };
    }
    s
}

/// O += P V over the warp's slice of the head. P is rounded to the products' element here.
///
/// # Safety
/// `value` is a whole tile of the ring, its copies complete and visible to this warp.
#[inline(always)]
pub unsafe fn accumulate<Q: Element, K: KvElement<Q>>(
    o: &mut Accumulator,
    p: &Scores,
    value: RingTile,
    blocks: &BlockScales,
    lane: u32,
    shape: &Shape,
) {
    let pointer = SwizzledPointer::new(value.data, lane % 16, lane / 16, shape.row_bytes);
    for block in 0..key_tiles(shape) / 2 {
        let pack = <K::Product as Element>::pack;
        let (low, high) = (p[2 * block], p[2 * block + 1]);
        // The accumulators of S are the A operand of this product, lane for lane.
        let a = [pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]), pack(high[2], high[3])];
        for pair in 0..chunks(shape) / 2 {
            // SAFETY: inside the tile, which the caller vouches for.
            let words = unsafe { ldmatrix_x4_trans(pointer.step(16 * block as u32, 2 * pair)) };
            let scales = match value.scales {
                // SAFETY: as above.
                Some(scales) if shape.block_scales() => unsafe { blocks.value(scales, block as u32, pair, shape) },
                _ => [[0; 2]; 2],
            };
            for half in 0..2 {
                let operands = K::value([words[2 * half], words[2 * half + 1]], scales[half]);
                for product in 0..K::PRODUCTS as usize {
                    let tile = K::PRODUCTS as usize * (2 * pair as usize + half) + product;
                    o[tile] = K::Product::mma(o[tile], a, operands[product]);
                }
            }
        }
    }
}
