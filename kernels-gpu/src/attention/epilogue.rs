//! The end of an item: O normalised and stored, to the output where the item has all the keys, else as a partial result.
use super::exchange::Merged;
use super::gather::Gathering;
use super::join::{Cluster, Results};
use super::pair::{self, Pair};
use super::softmax::{OnlineSoftmax, finite, lse_log2, reciprocal};
use super::work::{QueryRow, rows};
use super::{output, scale};
use crate::abi::{DecodeParams, WorkItem};
use crate::config::{Shape, TILE_ROWS, Tiling};
use crate::element::Element;
use crate::layout::fragment::{accumulator_column, output_columns};
use crate::layout::place::Place;
use crate::memory::{Global, Shared};
use crate::ptx::math::renewed;
use crate::ptx::memory::st_global_b32;
use crate::ptx::sync::shfl_bfly;
use crate::tile::operand::KvElement;
use crate::tile::{Accumulator, ROW_TILES, column_tiles};

/// Stores this warp's columns of its rows, and one warp of each row's its log-sum-exp; where the blocks of a cluster have the
/// item together, this block's part of the columns.
///
/// # Safety
/// As for the entry; `shared` is the block's and `ring` the warp's own.
#[inline(always)]
pub unsafe fn store<Q: Element, K: KvElement<Q>>(
    params: &DecodeParams,
    item: &WorkItem,
    o: &Accumulator,
    merged: &Merged,
    [shared, ring]: [Shared<u8>; 2],
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
        let cluster = &merged.cluster;
        if shape.gathers(cluster.blocks) {
            let sent = Gathering::send(shared, *cluster, o, merged, place, shape);
            let wait = || sent.wait(place);
            return store_share::<_, Q, K>(params, item, cluster, place, shape, || (), wait);
        }
        if cluster.blocks > 1 {
            let base = pair::offer(merged, ring, place, shape);
            let read = || Pair::new(base, cluster.share(shape), place, shape);
            store_share::<_, Q, K>(params, item, cluster, place, shape, pair::wait, read);
            pair::leave();
            return;
        }
        let (first, each) = Merged::products(place, shape);
        let stored = Stored::new::<Q, K>(params, item, &merged.softmax, place, shape);
        // Not unrolled: a copy for each fragment would be instructions that are fetched for one use.
        let (mut product, end) = (0, renewed(each));
        while product < end {
            for rows in 0..shape.row_tiles as usize {
                let fragment = merged.fragment(product, rows, place, shape);
                stored.store::<Q, K>(first + product, rows, fragment, place, shape);
            }
            product += 1;
        }
        // Of the warps that have the rows, the first one. Behind the loop, whose shuffles want all lanes together.
        if place.team == 0 && place.column_warp == 0 {
            store_lses(params, item, &merged.softmax, place, shape);
        }
    }
}

/// Stores this block's share of what the blocks of a cluster have together: behind `wait`, what `results` gives if there is a share.
///
/// # Safety
/// As for [`store`].
#[inline(always)]
unsafe fn store_share<R: Results, Q: Element, K: KvElement<Q>>(
    params: &DecodeParams,
    item: &WorkItem,
    cluster: &Cluster,
    place: &Place,
    shape: &Shape,
    wait: impl FnOnce(),
    results: impl FnOnce() -> R,
) {
    let share = cluster.share(shape);
    let number = |of_tile: u32| TILE_ROWS * share.tile + accumulator_column(place.lane) + of_tile;
    // SAFETY: handed on to the caller.
    unsafe {
        // Beside the trip of the others' results.
        let (scale, factor) = factors::<Q, K>(params, item);
        let rows = [0, 1].map(|of_tile| Row::at(params, item, number(of_tile), &shape.tiling()));
        wait();
        if share.count == 0 {
            return;
        }
        let mut results = results();
        let sums = results.sums();
        let rows = [0, 1].map(|row| rows[row].finished(sums[row]));
        let stored = Stored { rows: [rows, [Row::NONE; 2]], scale, factor };
        let (first, _) = Merged::products(place, shape);
        let mut index = 0;
        while index < share.count {
            let fragment = results.fragment(index, place);
            stored.store::<Q, K>(first + share.first + index, 0, fragment, place, shape);
            index += 1;
        }
        // One warp of the block that has the first columns, and of it one lane of the eight that have a row.
        if share.first == 0 && place.team == 0 && place.column_warp == 0 && place.lane < 4 {
            for row in 0..2 {
                store_lse(params, item, number(row as u32), sums[row], &shape.tiling());
            }
        }
    }
}

/// What all results are multiplied by: the cache's scale, and the output's.
///
/// # Safety
/// As for the entry.
#[inline(always)]
unsafe fn factors<Q: Element, K: KvElement<Q>>(params: &DecodeParams, item: &WorkItem) -> (f32, f32) {
    let whole = item.partial == WorkItem::WHOLE;
    // SAFETY: handed on to the caller.
    unsafe { (scale::of_output::<Q, K>(params), if whole { output::factor(&params.out) } else { 1.0 }) }
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
        // SAFETY: handed on to the caller.
        let (scale, factor) = unsafe { factors::<Q, K>(params, item) };
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
#[derive(Clone, Copy)]
pub struct Row {
    /// Whether it is one of the sequence's.
    pub exists: bool,
    /// Where it goes.
    pub to: output::Row,
    /// 1 over the softmax's denominator.
    pub inverse: f32,
    /// Its sink, in base 2; -inf without one.
    sink: f32,
}

impl Row {
    /// No row.
    const NONE: Self =
        Self { exists: false, to: output::Row::of_partials(Global::NULL, 0, 0), inverse: 0.0, sink: 0.0 };

    /// The item's row `number`, of which the softmax has that maximum and sum.
    ///
    /// # Safety
    /// As for the entry.
    #[inline(always)]
    pub unsafe fn finish(params: &DecodeParams, item: &WorkItem, number: u32, sums: [f32; 2], tiling: &Tiling) -> Self {
        // SAFETY: handed on to the caller.
        unsafe { Self::at(params, item, number, tiling) }.finished(sums)
    }

    /// The same without its denominator.
    ///
    /// # Safety
    /// As for the entry.
    #[inline(always)]
    unsafe fn at(params: &DecodeParams, item: &WorkItem, number: u32, tiling: &Tiling) -> Self {
        let [token, head] = place_of(params, item, number);
        let exists = item.first_row + number < rows(params, item);
        let to = match item.partial {
            WorkItem::WHOLE => output::Row::of_output(&params.out, token, head),
            slot => output::Row::of_partials(
                params.partial_o,
                slot as u64 * tiling.rows as u64 + number as u64,
                tiling.head_dim,
            ),
        };
        let mut sink = f32::NEG_INFINITY;
        if exists && item.partial == WorkItem::WHOLE {
            // SAFETY: the row is one of the item's.
            sink = unsafe { output::sink(params.sinks, head) };
        }
        Self { exists, to, inverse: 0.0, sink }
    }

    /// With the denominator of that maximum and sum.
    #[inline(always)]
    fn finished(self, [maximum, sum]: [f32; 2]) -> Self {
        Self { inverse: reciprocal(sum + output::weight_of_sink(self.sink, finite(maximum))), ..self }
    }
}

/// The token and head, of all, of the item's row `number`.
#[inline(always)]
const fn place_of(params: &DecodeParams, item: &WorkItem, number: u32) -> [u32; 2] {
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
