//! The end of an item: O normalised and stored, to the output where the item has all the keys, else as a partial result.
use super::exchange::Merged;
use super::softmax::{finite, lse_log2, reciprocal};
use super::work::{QueryRow, rows};
use super::{output, scale};
use crate::abi::{DecodeParams, WorkItem};
use crate::config::{Shape, TILE_ROWS, Tiling};
use crate::element::Element;
use crate::layout::fragment::{accumulator_column, output_columns};
use crate::layout::place::Place;
use crate::ptx::memory::st_global_b32;
use crate::ptx::sync::shfl_bfly;
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
    // SAFETY: handed on to the caller.
    let (scale, factor) =
        unsafe { (scale::of_output::<Q, K>(params), if whole { output::factor(&params.out) } else { 1.0 }) };
    let (first_product, products) = Merged::products(place, shape);
    for tile in 0..shape.row_tiles as usize {
        let rows = [0, 1].map(|of_tile| {
            let of_warp = TILE_ROWS * tile as u32 + accumulator_column(place.lane) + of_tile as u32;
            let number = place.row_warp * shape.warp_rows() + of_warp;
            let sums = [merged.softmax.maximum, merged.softmax.sum].map(|of_rows| of_rows[2 * tile + of_tile]);
            // One lane of the eight that have this row, of the warps that have it one.
            let tells = place.column_warp == 0 && place.team == 0 && place.lane < 4;
            // SAFETY: handed on to the caller.
            unsafe { Row::finish(params, item, number, sums, tells, &shape.tiling()) }
        });
        for product in 0..products {
            let fragment = merged.fragment(o, product, tile, place, shape);
            let columns = output_columns(place.lane, first_product + product as u32, K::PRODUCTS);
            let (column, pairs) = neighbours(fragment, columns, place.lane);
            let column = place.column_warp * shape.slice + column;
            for of_tile in 0..2 {
                let row = &rows[of_tile];
                if row.exists {
                    let values = pairs[of_tile].map(|value| value * (scale * row.inverse) * factor);
                    // SAFETY: the row is one of the item's, the columns are this warp's.
                    unsafe { row.to.store_pair(column, values) };
                }
            }
        }
    }
}

/// A row of the item at its end.
pub struct Row {
    /// Whether it is one of the sequence's.
    pub exists: bool,
    /// Where it goes.
    pub to: output::Row,
    /// 1 over the softmax's denominator.
    pub inverse: f32,
}

impl Row {
    /// The item's row `number`, of which the softmax has that maximum and sum; its log-sum-exp is stored if this lane `tells` it.
    ///
    /// # Safety
    /// As for the entry.
    #[inline(always)]
    pub unsafe fn finish(
        params: &DecodeParams,
        item: &WorkItem,
        number: u32,
        [maximum, mut sum]: [f32; 2],
        tells: bool,
        tiling: &Tiling,
    ) -> Self {
        let exists = item.first_row + number < rows(params, item);
        let QueryRow { token, head } = QueryRow::of(params, item, number);
        let (token, head) = (item.q_start + token, item.kv_head * params.group + head);
        // SAFETY: the row is one of the item's, the slot one of the plan's.
        unsafe {
            if exists && tells {
                let lse = lse_log2(maximum, sum);
                if item.partial == WorkItem::WHOLE {
                    output::store_lse(params.lse, params.q_heads, token, head, lse);
                } else {
                    let slot_row = item.partial as i64 * tiling.rows as i64 + number as i64;
                    st_global_b32(params.partial_lse.byte_offset(4 * slot_row).cast(), [lse.to_bits()]);
                }
            }
            if exists && item.partial == WorkItem::WHOLE {
                sum += output::sink(params.sinks, head, finite(maximum));
            }
        }
        let to = match item.partial {
            WorkItem::WHOLE => output::Row::of_output(&params.out, token, head),
            slot => output::Row::of_partials(
                params.partial_o,
                slot as u64 * tiling.rows as u64 + number as u64,
                tiling.head_dim,
            ),
        };
        Self { exists, to, inverse: reciprocal(sum) }
    }
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
