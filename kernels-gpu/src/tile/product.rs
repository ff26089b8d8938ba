//! S^T = K Q^T and O^T += V^T P^T, operands of K and V straight from the swizzled ring by `ldmatrix`.
use super::operand::KvElement;
use super::scales::{BlockScales, scale_keys};
use super::{Accumulator, Query, RingTile, Scores, TILE_COLUMNS, chunks, key_tiles};
use crate::config::Shape;
use crate::element::Element;
use crate::layout::swizzle::SwizzledPointer;
use crate::ptx::mma::{ldmatrix_x4, ldmatrix_x4_trans, movmatrix_trans};

/// The lane's row of a tile for `ldmatrix`: 16 keys by two chunks.
#[inline(always)]
const fn pointer(tile: RingTile, lane: u32, shape: &Shape) -> SwizzledPointer {
    SwizzledPointer::new(tile.data, lane % 16, lane / 16, shape.row_bytes)
}

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
    let pointer = pointer(key, lane, shape);
    let mut s = Scores::default();
    for tile in 0..key_tiles(shape) {
        for pair in 0..chunks(shape) / 2 {
            // SAFETY: inside the tile, which the caller vouches for.
            let words = unsafe { ldmatrix_x4(pointer.step(TILE_COLUMNS * tile as u32, 2 * pair)) };
            let scales = match key.scales {
                // SAFETY: as above.
                Some(scales) if shape.block_scales() => unsafe { blocks.key(scales, tile as u32, pair, shape) },
                _ => [0; 4],
            };
            let operands = K::key(words, scales);
            for product in 0..K::PRODUCTS as usize {
                let q = &q[K::PRODUCTS as usize * pair as usize + product];
                for rows in 0..shape.row_tiles as usize {
                    s[tile][rows] = K::Product::mma(s[tile][rows], operands[product], q[rows]);
                }
            }
        }
    }
    if let (Some(scales), false) = (key.scales, shape.block_scales()) {
        // SAFETY: as above.
        unsafe { scale_keys(&mut s, scales, lane, shape) };
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
    let pointer = pointer(value, lane, shape);
    for tile in 0..key_tiles(shape) {
        // A lane has two rows of a key; the operand wants two keys of a row.
        let mut b = [[0; 2]; super::ROW_TILES];
        for rows in 0..shape.row_tiles as usize {
            let [p0, p1, p2, p3] = p[tile][rows];
            b[rows] = [[p0, p1], [p2, p3]].map(|[low, high]| movmatrix_trans(<K::Product as Element>::pack(low, high)));
        }
        for pair in 0..chunks(shape) / 2 {
            // SAFETY: inside the tile, which the caller vouches for.
            let words = unsafe { ldmatrix_x4_trans(pointer.step(TILE_COLUMNS * tile as u32, 2 * pair)) };
            let scales = match value.scales {
                // SAFETY: as above.
                Some(scales) if shape.block_scales() => unsafe { blocks.value(scales, tile as u32, pair, shape) },
                _ => [0; 4],
            };
            let operands = K::value(words, scales);
            for product in 0..K::PRODUCTS as usize {
                let o = &mut o[K::PRODUCTS as usize * pair as usize + product];
                for rows in 0..shape.row_tiles as usize {
                    o[rows] = K::Product::mma(o[rows], operands[product], b[rows]);
                }
            }
        }
    }
}
