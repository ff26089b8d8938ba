//! The end of an item: O normalised and stored, to the output where the item has all the keys, else as a partial result.
use super::exchange::Merged;
use super::join::{Cluster, join, leave};
use super::softmax::{OnlineSoftmax, finite, lse_log2, reciprocal};
use super::work::{QueryRow, rows};
use super::{output, scale};
use crate::abi::{DecodeParams, WorkItem};
use crate::config::{Shape, TILE_ROWS, Tiling};
use crate::element::Element;
use crate::layout::fragment::{accumulator_column, output_columns};
use crate::layout::place::Place;
use crate::memory::{Global, Shared};
use crate::ptx::memory::st_global_b32;
use crate::ptx::sync::shfl_bfly;
use crate::tile::operand::KvElement;
use crate::tile::{Accumulator, ROW_TILES, column_tiles};

/// Stores this warp's columns of its rows, and one warp of each row's its log-sum-exp; where the blocks of a cluster have the
/// item together, this block's part of the columns.
///
/// # Safety
/// As for the entry; `ring` is the warp's own.
#[inline(always)]
pub unsafe fn store<Q: Element, K: KvElement<Q>>(
    params: &DecodeParams,
    item: &WorkItem,
    o: &Accumulator,
    merged: &Merged,
    ring: Shared<u8>,
    place: &Place,
    shape: &Shape,
) {
    // SAFETY: handed on to the caller.
    unsafe {
        if shape.row_warps > 1 {
            let stored = Stored::new::<Q, K>(params, item, &merged.softmax, place, shape);
            for product in 0..column_tiles(shape) {
                for rows in 0..shape.row_tiles as usize {
                    stored.store::<Q, K>(product as u32, rows, o[product][rows], place, shape);
                }
            }
            if place.column_warp == 0 {
                store_lses(params, item, &merged.softmax, place, shape);
            }
            return;
        }
        let cluster = &Cluster::here();
        let joined = if cluster.blocks > 1 { Some(join(cluster, merged, ring, place, shape)) } else { None };
        let (first, each) = Merged::products(place, shape);
        let mut product = cluster.rank;
        if product < each {
            let softmax = joined.as_ref().map_or(&merged.softmax, |joined| &joined.softmax);
            let stored = Stored::new::<Q, K>(params, item, softmax, place, shape);
            // Not unrolled: a copy for each fragment would be instructions that are fetched for one use.
            while product < each {
                let fragments = match &joined {
                    Some(joined) => joined.fragments(product, place, shape),
                    None => [0, 1].map(|rows| match rows < shape.row_tiles as usize {
                        true => merged.fragment(product, rows, place, shape),
                        false => [0.0; 4],
                    }),
                };
                for rows in 0..shape.row_tiles as usize {
                    stored.store::<Q, K>(first + product, rows, fragments[rows], place, shape);
                }
                product += cluster.blocks;
            }
            // Of the warps that have the rows, the first one. Behind the loop, whose shuffles want all lanes together.
            if cluster.rank == 0 && place.team == 0 && place.column_warp == 0 {
                store_lses(params, item, softmax, place, shape);
            }
        }
        if joined.is_some() {
            leave();
        }
    }
}

/// Where a warp's rows go, and by what they are multiplied.
struct Stored {
    rows: [[Row; 2]; ROW_TILES],
    scale: f32,
    factor: f32,
}

impl Stored {
    /// Of the item's rows that this warp has, with the softmax of all their keys.
    ///
    /// # Safety
    /// As for the entry.
    #[inline(always)]
    unsafe fn new<Q: Element, K: KvElement<Q>>(
        params: &DecodeParams,
        item: &WorkItem,
        softmax: &OnlineSoftmax,
        place: &Place,
        shape: &Shape,
    ) -> Self {
        let whole = item.partial == WorkItem::WHOLE;
        // SAFETY: handed on to the caller.
        let (scale, factor) =
            unsafe { (scale::of_output::<Q, K>(params), if whole { output::factor(&params.out) } else { 1.0 }) };
        let rows = [0, 1].map(|tile| {
            [0, 1].map(|of_tile| {
                if tile >= shape.row_tiles as usize {
                    return Row::NONE;
                }
                let row = 2 * tile + of_tile;
                // SAFETY: handed on to the caller.
                unsafe { Row::finish(params, item, number(row, place, shape), sums(softmax, row), &shape.tiling()) }
            })
        });
        Self { rows, scale, factor }
    }

    /// Stores a fragment of product `product` of V.
    ///
    /// # Safety
    /// As for the entry.
    #[inline(always)]
    unsafe fn store<Q: Element, K: KvElement<Q>>(
        &self,
        product: u32,
        rows: usize,
        fragment: [f32; 4],
        place: &Place,
        shape: &Shape,
    ) {
        let columns = output_columns(place.lane, product, K::PRODUCTS);
        let (column, pairs) = neighbours(fragment, columns, place.lane);
        let column = place.column_warp * shape.slice + column;
        for of_tile in 0..2 {
            let row = &self.rows[rows][of_tile];
            if row.exists {
                let values = pairs[of_tile].map(|value| value * (self.scale * row.inverse) * self.factor);
                // SAFETY: the row is one of the item's, the columns are this warp's.
                unsafe { row.to.store_pair(column, values) };
            }
        }
    }
}

/// The item's number of a lane's row.
#[inline(always)]
const fn number(row: usize, place: &Place, shape: &Shape) -> u32 {
    let of_tile = accumulator_column(place.lane) + row as u32 % 2;
    place.row_warp * shape.warp_rows() + TILE_ROWS * (row as u32 / 2) + of_tile
}

/// Maximum and sum of a lane's row.
#[inline(always)]
const fn sums(softmax: &OnlineSoftmax, row: usize) -> [f32; 2] {
    [softmax.maximum[row], softmax.sum[row]]
}

/// Stores the log-sum-exps of the warp's rows.
///
/// # Safety
/// As for the entry.
#[inline(always)]
unsafe fn store_lses(params: &DecodeParams, item: &WorkItem, softmax: &OnlineSoftmax, place: &Place, shape: &Shape) {
    // One lane of the eight that have a row.
    if place.lane < 4 {
        for row in 0..2 * shape.row_tiles as usize {
            // SAFETY: handed on to the caller.
            unsafe { store_lse(params, item, number(row, place, shape), sums(softmax, row), &shape.tiling()) };
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
    /// No row.
    const NONE: Self = Self { exists: false, to: output::Row::of_partials(Global::NULL, 0, 0), inverse: 0.0 };

    /// The item's row `number`, of which the softmax has that maximum and sum.
    ///
    /// # Safety
    /// As for the entry.
    #[inline(always)]
    pub unsafe fn finish(
        params: &DecodeParams,
        item: &WorkItem,
        number: u32,
        [maximum, mut sum]: [f32; 2],
        tiling: &Tiling,
    ) -> Self {
        let exists = item.first_row + number < rows(params, item);
        let [token, head] = place_of(params, item, number);
        if exists && item.partial == WorkItem::WHOLE {
            // SAFETY: the row is one of the item's.
            sum += unsafe { output::sink(params.sinks, head, finite(maximum)) };
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

/// The token and head, of all, of the item's row `number`.
#[inline(always)]
fn place_of(params: &DecodeParams, item: &WorkItem, number: u32) -> [u32; 2] {
    let QueryRow { token, head } = QueryRow::of(params, item, number);
    [item.q_start + token, item.kv_head * params.group + head]
}

/// Stores the log-sum-exp of the item's row `number`, if there is such a row.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn store_lse(
    params: &DecodeParams,
    item: &WorkItem,
    number: u32,
    [maximum, sum]: [f32; 2],
    tiling: &Tiling,
) {
    if item.first_row + number >= rows(params, item) {
        return;
    }
    let lse = lse_log2(maximum, sum);
    // SAFETY: the row is one of the item's, the slot one of the plan's.
    unsafe {
        if item.partial == WorkItem::WHOLE {
            let [token, head] = place_of(params, item, number);
            output::store_lse(params.lse, params.q_heads, token, head, lse);
        } else {
            let slot_row = item.partial as i64 * tiling.rows as i64 + number as i64;
            st_global_b32(params.partial_lse.byte_offset(4 * slot_row).cast(), [lse.to_bits()]);
        }
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
        let (own, other) = swapped(odd, fragment[row], fragment[2 + row]);
        let other = f32::from_bits(shfl_bfly(other.to_bits(), 4));
        let (first, second) = swapped(odd, own, other);
        [first, second]
    };
    (if odd { second - 1 } else { first }, [pair(0), pair(1)])
}

/// Two values, in the other order where `yes`. By bits: of a choice the compiler makes two branches with a shuffle each, for which lanes
/// then wait for each other in the assembler's slow form.
#[inline(always)]
fn swapped(yes: bool, a: f32, b: f32) -> (f32, f32) {
    let exchanged = (a.to_bits() ^ b.to_bits()) & 0u32.wrapping_sub(yes.into());
    (f32::from_bits(a.to_bits() ^ exchanged), f32::from_bits(b.to_bits() ^ exchanged))
}
