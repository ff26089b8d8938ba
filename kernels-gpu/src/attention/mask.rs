//! What is done to the logits of edge tiles, between their scale and the softmax: soft cap, ALiBi, and the keys that a row
//! does not see replaced by -inf (by select: adding -inf to NaN or +inf would not hide it). Which tiles are looked at at all
//! is a matter of [`super::work::Tiles`].
//!
//! Rows that see different keys have a record each in shared memory, made once an item: an edge tile reads it, and the
//! loop of the others keeps no register for it.
use super::visible::{Interval, Seen, Visible, before_queries};
use super::work::{QueryRow, Work, rows};
use crate::abi::{DecodeParams, MaskFlags, WorkItem};
use crate::config::{ROW_RECORD_BYTES, Shape, TILE_ROWS};
use crate::fault::{Fault, planted};
use crate::layout::fragment::{accumulator_column, accumulator_rows};
use crate::layout::place::Place;
use crate::memory::{Global, Shared};
use crate::ptx::math::{ex2_approx_ftz, lg2_approx_ftz};
use crate::ptx::memory::{ld_global_b32, ld_shared_v4_b32, st_shared_v4_b32};
use crate::tile::{Scores, TILE_COLUMNS, key_tiles};
use core::f32::consts::LOG2_E;
use cuda_std::thread;

/// The tiles that are copied and masked key by key; all others are seen whole by every row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edges {
    /// The first that is whole.
    pub first_whole: u32,
    /// Behind the last that is whole.
    pub end_whole: u32,
}

impl Edges {
    /// The edges of what an item's rows see. Logits that are capped or that depend on their key's place make every tile one.
    #[inline(always)]
    pub fn new(params: &DecodeParams, seen: &Seen, tile_keys: u32) -> Self {
        // Slopes are of another line of the parameters, which a call would wait for before its first copy.
        let every = params.softcap_log2 > 0.0 || params.flags & MaskFlags::ROWS != 0 && !params.slopes.is_null();
        Self {
            first_whole: seen.all.begin.div_ceil(tile_keys),
            end_whole: if every { 0 } else { seen.all.end / tile_keys },
        }
    }

    /// Whether tile `tile` is one.
    #[inline(always)]
    pub const fn cover(&self, tile: u32) -> bool {
        tile < self.first_whole || tile >= self.end_whole
    }
}

/// The records of an item's rows in shared memory, [`ROW_RECORD_BYTES`] each.
#[derive(Clone, Copy)]
pub struct Records {
    base: Shared<u8>,
}

impl Records {
    /// Records at `base`, a multiple of 16.
    #[inline(always)]
    pub const fn at(base: Shared<u8>) -> Self {
        Self { base }
    }

    #[inline(always)]
    const fn row(self, row: u32) -> Shared<u32> {
        self.base.byte_offset(row * ROW_RECORD_BYTES).cast()
    }

    /// Writes that of row `row` of the item.
    ///
    /// # Safety
    /// As for the entry; nobody else uses the record before a barrier.
    #[inline(always)]
    unsafe fn write(self, params: &DecodeParams, work: &Work, row: u32) {
        // SAFETY: handed on to the caller.
        unsafe { st_shared_v4_b32(self.row(row), record(params, &work.item, work.length, row)) };
    }
}

/// The record of row `row` of the item, whose sequence has `length` keys; past the item's last row, as that: the first key, the
/// end, ALiBi's slope times log2(e), the position.
///
/// # Safety
/// As for the entry.
#[inline(always)]
unsafe fn record(params: &DecodeParams, item: &WorkItem, length: u32, row: u32) -> [u32; 4] {
    let row = row.min(rows(params, item) - item.first_row - 1);
    let QueryRow { token, head } = QueryRow::of(params, item, row);
    // SAFETY: the row is one of the sequence's.
    unsafe {
        let Visible { keys, position } = Visible::of(params, item, length, token);
        let mut slope = 0.0;
        if !params.slopes.is_null() {
            let [bits] = ld_global_b32(params.slopes.at(item.kv_head * params.group + head).cast());
            slope = f32::from_bits(bits) * LOG2_E;
        }
        [keys.begin, keys.end, slope.to_bits(), position as u32]
    }
}

/// Writes the records of the item's rows, where rows have them; all threads of the block take part.
///
/// # Safety
/// As for the entry; nobody has used the records' shared memory yet.
#[inline(always)]
pub unsafe fn write_records(params: &DecodeParams, work: &Work, records: Records, place: &Place, shape: &Shape) {
    if params.flags & MaskFlags::ROWS == 0 {
        return;
    }
    let own = 32 * place.warp + place.lane;
    if own < shape.rows() {
        // SAFETY: a record of this thread's own, which others read behind the barrier.
        unsafe { records.write(params, work, own) };
    }
    if !planted(Fault::RowRecords) {
        thread::sync_threads();
    }
}

/// Does to the logits of tile `tile`, an edge, what is to be done; keys from `end` on do not exist.
///
/// # Safety
/// As for the entry, behind [`write_records`].
#[inline(always)]
pub unsafe fn apply(
    params: &DecodeParams,
    s: &mut Scores,
    tile: u32,
    end: u32,
    records: Records,
    place: &Place,
    shape: &Shape,
) {
    if params.softcap_log2 > 0.0 {
        for keys in s.iter_mut().take(key_tiles(shape)) {
            for fragment in keys.iter_mut().take(shape.row_tiles as usize) {
                for score in fragment {
                    *score = capped(*score, params.softcap_log2, params.softcap_inverse);
                }
            }
        }
    }
    let first_key = tile * shape.tile_keys + place.column_warp * shape.panel_keys + accumulator_rows(place.lane)[0];
    for index in 0..2 * shape.row_tiles as usize {
        let (rows, of_tile) = (index / 2, index % 2);
        let number = place.row_warp * shape.warp_rows()
            + TILE_ROWS * rows as u32
            + accumulator_column(place.lane)
            + of_tile as u32;
        // SAFETY: handed on to the caller.
        let row = unsafe { Row::load(params, number, end, records) };
        for (tile, keys) in s.iter_mut().take(key_tiles(shape)).enumerate() {
            for element in [of_tile, of_tile + 2] {
                let key = first_key + tile as u32 * TILE_COLUMNS + 8 * (element as u32 / 2);
                let score = &mut keys[rows][element];
                // SAFETY: handed on to the caller.
                *score = if unsafe { row.sees(key, end) } { row.biased(*score, key) } else { f32::NEG_INFINITY };
            }
        }
    }
}

/// What a query row sees.
pub struct Row {
    /// Keys that it sees; with a tree those before the query tokens.
    pub keys: Interval,
    /// ALiBi's slope, times log2(e).
    slope: f32,
    position: i32,
    /// Its bits of the tree, and the key of the first; NULL without a tree.
    tree: Global<u32>,
    first_query: i32,
}

impl Row {
    /// Row `number` of the block's item, where `end` ends the keys that the item's rows see.
    ///
    /// # Safety
    /// As for [`apply`].
    #[inline(always)]
    unsafe fn load(params: &DecodeParams, number: u32, end: u32, records: Records) -> Self {
        if params.flags & MaskFlags::ROWS == 0 {
            return Self::to(end);
        }
        // SAFETY: written before the barrier; the item is read once more, as in the epilogue.
        let (record, item) =
            unsafe { (ld_shared_v4_b32(records.row(number)), || Work::item(params, thread::block_idx_x())) };
        Self::of(params, item, number, end, record)
    }

    /// Row `number` of `item`, whose sequence has `length` keys, found anew.
    ///
    /// # Safety
    /// As for the entry.
    #[inline(always)]
    pub unsafe fn find(params: &DecodeParams, item: &WorkItem, length: u32, number: u32, end: u32) -> Self {
        if params.flags & MaskFlags::ROWS == 0 {
            return Self::to(end);
        }
        // SAFETY: handed on to the caller.
        Self::of(params, || *item, number, end, unsafe { record(params, item, length, number) })
    }

    /// A row that sees all keys to `end`.
    const fn to(end: u32) -> Self {
        Self { keys: Interval { begin: 0, end }, slope: 0.0, position: 0, tree: Global::NULL, first_query: 0 }
    }

    /// Row `number` of `item`, with its record.
    #[inline(always)]
    fn of(
        params: &DecodeParams,
        item: impl FnOnce() -> WorkItem,
        number: u32,
        end: u32,
        [begin, end_of_row, slope, position]: [u32; 4],
    ) -> Self {
        let mut row = Self::to(end_of_row);
        row.keys.begin = begin;
        (row.slope, row.position) = (f32::from_bits(slope), position as i32);
        if !params.tree.is_null() {
            let item = item();
            let token = QueryRow::of(params, &item, number).token;
            let word = (item.q_start + token.min(item.q_len - 1)) as i64 * params.tree_words as i64;
            row.tree = params.tree.byte_offset(4 * word);
            // With a tree an item sees keys to its sequence's end.
            row.first_query = before_queries(&item, end);
        }
        row
    }

    /// Whether it sees key `key`.
    ///
    /// # Safety
    /// As for [`apply`].
    #[inline(always)]
    pub unsafe fn sees(&self, key: u32, end: u32) -> bool {
        if key < self.keys.end || self.tree.is_null() || key >= end {
            return self.keys.has(key);
        }
        let query = (key as i32 - self.first_query) as u32;
        // SAFETY: one of the sequence's query tokens, as keys end with them.
        let [bits] = unsafe { ld_global_b32(self.tree.at(query / 32)) };
        bits >> (query % 32) & 1 == 1
    }

    /// The logit with ALiBi, both in base 2.
    #[inline(always)]
    pub fn biased(&self, score: f32, key: u32) -> f32 {
        score + self.slope * (key as i32).saturating_sub(self.position) as f32
    }
}

/// `c * tanh(x / c)`, given `1 / c` too.
///
/// Away from 0 as `1 - 2 / (1 + e^2y)`, the quotient as a power of two like the rest (3e-7 of 1, at both ends exact); near 0,
/// where that would lose what a large c multiplies, as the series up to y^9, within 1e-7 of y at 1/4.
#[inline(always)]
pub fn capped(x: f32, c: f32, inverse: f32) -> f32 {
    let y = x * inverse;
    let square = y * y;
    let series =
        y + y * square * (-1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0 + square * (62.0 / 2835.0))));
    let quotient = ex2_approx_ftz(1.0 - lg2_approx_ftz(1.0 + ex2_approx_ftz(2.0 * LOG2_E * y)));
    c * if square < 1.0 / 16.0 { series } else { 1.0 - quotient }
}
