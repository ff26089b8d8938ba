//! S^T = K Q^T and O^T += V^T P^T, operands of K and V straight from the swizzled ring by `ldmatrix`.
use super::operand::KvElement;
use super::scales::BlockScales;
use super::{Accumulator, Panel, Query, Scores, TILE_COLUMNS, Weights, chunks, key_tiles};
use crate::config::Shape;
use crate::element::Element;
use crate::layout::swizzle::SwizzledPointer;
use crate::ptx::mma::{ldmatrix_x4, ldmatrix_x4_trans, movmatrix_trans};

/// The lane's row of a panel for `ldmatrix`: 16 keys by two chunks.
#[inline(always)]
const fn pointer(panel: Panel, lane: u32, shape: &Shape) -> SwizzledPointer {
    SwizzledPointer::new(panel.data, lane % 16, lane / 16, shape.row_bytes)
}

/// S += K Q^T of a slice: the warp's rows of q times a panel of keys. S is the sum of both ([`tile::added`](super::added)): a product waits
/// for the one before that it adds to, so that where many are in a row, of one tile of rows, every other one adds to the second.
///
/// # Safety
/// `key` is a whole panel of the ring, its copies complete and visible to this warp.
#[inline(always)]
pub unsafe fn scores<Q: Element, K: KvElement<Q>>(
    s: &mut [Scores; 2],
    q: &Query,
    key: Panel,
    blocks: &BlockScales,
    lane: u32,
    shape: &Shape,
) {
    let pointer = pointer(key, lane, shape);
    for tile in 0..key_tiles(shape) {
        for pair in 0..chunks(shape) / 2 {
            // SAFETY: inside the panel, which the caller vouches for.
            let words = unsafe { ldmatrix_x4(pointer.step(TILE_COLUMNS * tile as u32, 2 * pair)) };
            let scales = match key.scales {
                // SAFETY: as above.
                Some(scales) if shape.block_scales() => unsafe { blocks.key(scales, tile as u32, pair, shape) },
                _ => [0; 4],
            };
            let operands = K::key(words, scales);
            for product in 0..K::PRODUCTS as usize {
                let index = K::PRODUCTS as usize * pair as usize + product;
                let sum = &mut s[index % super::sums(shape)][tile];
                for rows in 0..shape.row_tiles as usize {
                    sum[rows] = K::Product::mma(sum[rows], operands[product], q[index][rows]);
                }
            }
        }
    }
}

/// P as operands, rounded to the products' element. A lane has two rows of a key; the operand wants two keys of a row.
#[inline(always)]
pub fn weights<Q: Element, K: KvElement<Q>>(p: &Scores, shape: &Shape) -> Weights {
    let mut weights = Weights::default();
    for tile in 0..key_tiles(shape) {
        for rows in 0..shape.row_tiles as usize {
            let [p0, p1, p2, p3] = p[tile][rows];
            weights[tile][rows] =
                [[p0, p1], [p2, p3]].map(|[low, high]| movmatrix_trans(<K::Product as Element>::pack(low, high)));
        }
    }
    weights
}

/// O += P V of a panel of the warp's slice.
///
/// # Safety
/// `value` is a whole panel of the ring, its copies complete and visible to this warp.
#[inline(always)]
pub unsafe fn accumulate<Q: Element, K: KvElement<Q>>(
    o: &mut Accumulator,
    p: &Weights,
    value: Panel,
    blocks: &BlockScales,
    lane: u32,
    shape: &Shape,
) {
    let pointer = pointer(value, lane, shape);
    for tile in 0..key_tiles(shape) {
        for pair in 0..chunks(shape) / 2 {
            // SAFETY: inside the panel, which the caller vouches for.
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
                    o[rows] = K::Product::mma(o[rows], operands[product], p[tile][rows]);
                }
            }
        }
    }
}
