//! S = Q K^T and O += P V, operands of K and V straight from the swizzled ring by `ldmatrix`.
use super::{Accumulator, Query, Scores, column_tiles, key_tiles};
use crate::config::Shape;
use crate::element::Element;
use crate::layout::swizzle::SwizzledPointer;
use crate::memory::Shared;
use crate::ptx::mma::{ldmatrix_x4, ldmatrix_x4_trans};

/// The warp's part of S: its rows of q times a tile of keys, over the warp's slice of the head.
///
/// # Safety
/// `key` is a whole tile of the ring, its copies complete and visible to this warp.
#[inline(always)]
pub unsafe fn scores<Q: Element>(q: &Query, key: Shared<u8>, lane: u32, shape: &Shape) -> Scores {
    let pointer = SwizzledPointer::new(key, lane % 8, lane / 8, 2 * shape.slice);
    let mut s = Scores::default();
    for tile in 0..key_tiles(shape) {
        // One ldmatrix.x4 has 8 keys by 32 columns: the B operands of two products.
        for pair in 0..shape.slice as usize / 32 {
            // SAFETY: inside the tile, which the caller vouches for.
            let k = unsafe { ldmatrix_x4(pointer.step(8 * tile as u32, 4 * pair as u32)) };
            s[tile] = Q::mma(s[tile], q[2 * pair], [k[0], k[1]]);
            s[tile] = Q::mma(s[tile], q[2 * pair + 1], [k[2], k[3]]);
        }
    }
    s
}

/// O += P V over the warp's slice of the head. P is rounded to q's element here.
///
/// # Safety
/// `value` is a whole tile of the ring, its copies complete and visible to this warp.
#[inline(always)]
pub unsafe fn accumulate<Q: Element>(o: &mut Accumulator, p: &Scores, value: Shared<u8>, lane: u32, shape: &Shape) {
    let pointer = SwizzledPointer::new(value, lane % 16, lane / 16, 2 * shape.slice);
    for block in 0..key_tiles(shape) / 2 {
        let (low, high) = (p[2 * block], p[2 * block + 1]);
        // The accumulators of S are the A operand of this product, lane for lane.
        let a =
            [Q::pack(low[0], low[1]), Q::pack(low[2], low[3]), Q::pack(high[0], high[1]), Q::pack(high[2], high[3])];
        for pair in 0..column_tiles(shape) / 2 {
            // SAFETY: inside the tile, which the caller vouches for.
            let v = unsafe { ldmatrix_x4_trans(pointer.step(16 * block as u32, 2 * pair as u32)) };
            o[2 * pair] = Q::mma(o[2 * pair], a, [v[0], v[1]]);
            o[2 * pair + 1] = Q::mma(o[2 * pair + 1], a, [v[2], v[3]]);
        }
    }
}
