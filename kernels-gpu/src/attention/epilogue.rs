//! The end of an item: O normalised and stored, to the output where the item has all the keys, else as a partial result.
use super::exchange::Merged;
use super::softmax::{lse_log2, reciprocal};
use crate::abi::{DecodeParams, WorkItem};
use crate::config::{Shape, WARP_ROWS};
use crate::element::Element;
use crate::layout::fragment::{accumulator_column, accumulator_rows};
use crate::layout::place::Place;
use crate::ptx::memory::{st_global_b32, st_global_v2_b32};
use crate::tile::{Accumulator, TILE_COLUMNS};

/// Stores this warp's columns of its rows, and one warp of each row's its log-sum-exp.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn store<Q: Element>(
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
    let first_column = place.column_warp * shape.slice + first_tile * TILE_COLUMNS + accumulator_column(place.lane);
    let inverse = softmax.sum.map(reciprocal);
    let writes_lse = place.column_warp == 0 && place.team == 0 && place.lane.is_multiple_of(4);
    let rows = accumulator_rows(place.lane).map(|row| place.row_warp * WARP_ROWS + row);
    for index in 0..tiles {
        let tile = merged.tile(o, index, place, shape);
        let column = first_column + index as u32 * TILE_COLUMNS;
        for half in 0..2 {
            let row = item.first_row + rows[half];
            if row < params.group {
                let pair = [tile[2 * half] * inverse[half], tile[2 * half + 1] * inverse[half]];
                // SAFETY: the row is one of the group's, and the slot one of the plan's.
                unsafe {
                    if whole {
                        let head = item.kv_head * params.group + row;
                        let at = params.out.base.byte_offset(
                            item.sequence as i64 * params.out.token_stride
                                + head as i64 * params.out.head_stride
                                + 2 * column as i64,
                        );
                        st_global_b32(at.cast(), [Q::pack(pair[0], pair[1])]);
                    } else {
                        let slot_row = item.partial as u64 * shape.rows() as u64 + rows[half] as u64;
                        let at = (slot_row * shape.head_dim as u64 + column as u64) * 4;
                        st_global_v2_b32(params.partial_o.byte_offset(at as i64).cast(), pair.map(f32::to_bits));
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
