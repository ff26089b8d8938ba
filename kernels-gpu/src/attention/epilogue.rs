//! The end of an item: O normalised and stored, to the output where the item has all the keys, else as a partial result.
use super::exchange::Merged;
use super::scale;
use super::softmax::{lse_log2, reciprocal};
use crate::abi::{DecodeParams, WorkItem};
use crate::config::{Shape, WARP_ROWS};
use crate::element::Element;
use crate::layout::fragment::{accumulator_rows, output_columns};
use crate::layout::place::Place;
use crate::ptx::memory::{st_global_b32, st_global_v2_b32};
use crate::tile::Accumulator;
use crate::tile::operand::KvElement;

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
    let whole = item.partial == WorkItem::WHOLE;
    let softmax = &merged.softmax;
    let (first_tile, tiles) = Merged::columns(place, shape);
    let first_column = place.column_warp * shape.slice;
    // SAFETY: handed on to the caller.
    let scale = unsafe { scale::of_output::<Q, K>(params) };
    let inverse = softmax.sum.map(|sum| scale * reciprocal(sum));
    let writes_lse = place.column_warp == 0 && place.team == 0 && place.lane.is_multiple_of(4);
    let rows = accumulator_rows(place.lane).map(|row| place.row_warp * WARP_ROWS + row);
    for pair in 0..tiles / 2 {
        let tiles = [merged.tile(o, 2 * pair, place, shape), merged.tile(o, 2 * pair + 1, place, shape)];
        let columns = output_columns(place.lane, first_tile / 2 + pair as u32, K::PRODUCTS);
        for half in 0..2 {
            let row = item.first_row + rows[half];
            for neighbours in 0..2 {
                if row < params.group {
                    // With one product a tile has both neighbours, with more each of two tiles has one.
                    let [left, right] = if K::PRODUCTS == 1 {
                        [tiles[neighbours][2 * half], tiles[neighbours][2 * half + 1]]
                    } else {
                        [tiles[0][2 * half + neighbours], tiles[1][2 * half + neighbours]]
                    };
                    let values = [left * inverse[half], right * inverse[half]];
                    let column = first_column + columns[neighbours];
                    // SAFETY: the row is one of the group's, and the slot one of the plan's.
                    unsafe {
                        if whole {
                            let head = item.kv_head * params.group + row;
                            let at = params.out.base.byte_offset(
                                item.sequence as i64 * params.out.token_stride
                                    + head as i64 * params.out.head_stride
                                    + 2 * column as i64,
                            );
                            st_global_b32(at.cast(), [Q::pack(values[0], values[1])]);
                        } else {
                            let slot_row = item.partial as u64 * shape.rows() as u64 + rows[half] as u64;
                            let at = (slot_row * shape.head_dim as u64 + column as u64) * 4;
                            st_global_v2_b32(params.partial_o.byte_offset(at as i64).cast(), values.map(f32::to_bits));
                        }
                    }
                }
            }
        }
    }
    for half in 0..2 {
        let row = item.first_row + rows[half];
        if writes_lse && row < params.group {
            let lse = lse_log2(softmax.maximum[half], softmax.sum[half]);
            // SAFETY: as above; NULL is not written.
            unsafe {
                if !whole {
                    let slot_row = item.partial as i64 * shape.rows() as i64 + rows[half] as i64;
                    st_global_b32(params.partial_lse.byte_offset(4 * slot_row).cast(), [lse.to_bits()]);
                } else if !params.lse.is_null() {
                    let head = item.kv_head * params.group + row;
                    let at = item.sequence as i64 * params.q_heads as i64 + head as i64;
                    let natural = lse * core::f32::consts::LN_2;
                    st_global_b32(params.lse.byte_offset(4 * at).cast(), [natural.to_bits()]);
                }
            }
        }
    }
}
