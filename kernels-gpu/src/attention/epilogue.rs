//! The end of an item: O normalised and stored, to the output where the item has all the keys, else as a partial result.
use super::exchange::Merged;
use super::scale;
use super::softmax::{lse_log2, reciprocal};
use crate::abi::{DecodeParams, WorkItem};
use crate::config::{Shape, TILE_ROWS};
use crate::element::Element;
use crate::layout::fragment::{accumulator_column, output_columns};
use crate::layout::place::Place;
use crate::ptx::memory::{st_global_b32, st_global_v2_b32};
use crate::ptx::sync::shfl_bfly;
use crate::tile::operand::KvElement;
use crate::tile::{Accumulator, OfRows};

/// Stores this warp's columns of its rows, and one warp of each row's its log-sum-exp.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn store<Q: Element, K: KvElement<Q>>(
    params: &DecodeParams,
    item: &WorkItem,
    o: &Accumulator,
    merged: &Merged,
    place: &Place,
    shape: &Shape,
) {
    let softmax = &merged.softmax;
    // SAFETY: handed on to the caller.
    let scale = unsafe { scale::of_output::<Q, K>(params) };
    let inverse = softmax.sum.map(|sum| scale * reciprocal(sum));
    let (first_product, products) = Merged::products(place, shape);
    for rows in 0..shape.row_tiles as usize {
        for product in 0..products {
            let fragment = merged.fragment(o, product, rows, place, shape);
            let columns = output_columns(place.lane, first_product + product as u32, K::PRODUCTS);
            let (column, pairs) = neighbours(fragment, columns, place.lane);
            for of_tile in 0..2 {
                let row = row(rows, of_tile, place, shape);
                if item.first_row + row < params.group {
                    let values = pairs[of_tile].map(|value| value * inverse[2 * rows + of_tile]);
                    // SAFETY: the row is one of the group's, the columns are this warp's.
                    unsafe {
                        store_pair::<Q>(params, item, row, place.column_warp * shape.slice + column, values, shape)
                    };
                }
            }
        }
        // One lane of the eight that have these rows, of the warps that have them one.
        if place.column_warp == 0 && place.team == 0 && place.lane < 4 {
            for of_tile in 0..2 {
                let row = row(rows, of_tile, place, shape);
                if item.first_row + row < params.group {
                    let of = |values: &OfRows<f32>| values[2 * rows + of_tile];
                    // SAFETY: the row is one of the group's.
                    unsafe { store_lse(params, item, row, lse_log2(of(&softmax.maximum), of(&softmax.sum)), shape) };
                }
            }
        }
    }
}

/// The item's row that the lane has of a tile, the first or the second.
#[inline(always)]
const fn row(rows: usize, of_tile: usize, place: &Place, shape: &Shape) -> u32 {
    place.row_warp * shape.warp_rows() + TILE_ROWS * rows as u32 + accumulator_column(place.lane) + of_tile as u32
}

/// A fragment as pairs of neighbouring columns, one of each of the lane's two rows, and the first column. Where its columns
/// are 8 apart, the lane with the next column gives one row of two for the other.
#[inline(always)]
fn neighbours(fragment: [f32; 4], [first, second]: [u32; 2], lane: u32) -> (u32, [[f32; 2]; 2]) {
    if second == first + 1 {
        return (first, [[fragment[0], fragment[2]], [fragment[1], fragment[3]]]);
    }
    let odd = lane / 4 % 2 == 1;
    let pair = |row: usize| {
        // By select: an index that is not constant would put the fragment into memory.
        let (own, other) = if odd { (fragment[2 + row], fragment[row]) } else { (fragment[row], fragment[2 + row]) };
        let other = f32::from_bits(shfl_bfly(other.to_bits(), 4));
        if odd { [other, own] } else { [own, other] }
    };
    (if odd { second - 1 } else { first }, [pair(0), pair(1)])
}

/// # Safety
/// As for the entry; `row` is one of the group's.
#[inline(always)]
unsafe fn store_pair<Q: Element>(
    params: &DecodeParams,
    item: &WorkItem,
    row: u32,
    column: u32,
    values: [f32; 2],
    shape: &Shape,
) {
    // SAFETY: the row is one of the group's, and the slot one of the plan's.
    unsafe {
        if item.partial == WorkItem::WHOLE {
            let head = item.kv_head * params.group + item.first_row + row;
            let at = params.out.base.byte_offset(
                item.sequence as i64 * params.out.token_stride
                    + head as i64 * params.out.head_stride
                    + 2 * column as i64,
            );
            st_global_b32(at.cast(), [Q::pack(values[0], values[1])]);
        } else {
            let slot_row = item.partial as u64 * shape.rows() as u64 + row as u64;
            let at = (slot_row * shape.head_dim as u64 + column as u64) * 4;
            st_global_v2_b32(params.partial_o.byte_offset(at as i64).cast(), values.map(f32::to_bits));
        }
    }
}

/// # Safety
/// As for the entry; `row` is one of the group's.
#[inline(always)]
unsafe fn store_lse(params: &DecodeParams, item: &WorkItem, row: u32, lse_log2: f32, shape: &Shape) {
    // SAFETY: as above; NULL is not written.
    unsafe {
        if item.partial != WorkItem::WHOLE {
            let slot_row = item.partial as i64 * shape.rows() as i64 + row as i64;
            st_global_b32(params.partial_lse.byte_offset(4 * slot_row).cast(), [lse_log2.to_bits()]);
        } else if !params.lse.is_null() {
            let head = item.kv_head * params.group + item.first_row + row;
            let at = item.sequence as i64 * params.q_heads as i64 + head as i64;
            let natural = lse_log2 * core::f32::consts::LN_2;
            st_global_b32(params.lse.byte_offset(4 * at).cast(), [natural.to_bits()]);
        }
    }
}
