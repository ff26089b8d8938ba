//! Page ids, one a lane: of the keys whose rows it copies.
use super::copies::Lanes;
use crate::abi::DecodeParams;
use crate::config::{MOST_COLUMN_WARPS, MOST_STAGES, Shape};
use crate::fault::{Fault, planted};
use crate::layout::paged::page_index;
use crate::layout::place::Place;
use crate::ptx::memory::ld_global_b32;

/// Tiles from a step of a team to its next.
#[inline(always)]
pub const fn stride(shape: &Shape) -> u32 {
    shape.teams
}

/// Pieces of K of a tile, and as many of V behind them.
#[inline(always)]
pub const fn key_pieces(shape: &Shape) -> u32 {
    shape.pieces() / 2
}

/// In how many tiles the piece `piece` is among the first `count` pieces or the next behind them of its kind.
#[inline(always)]
const fn tiles_begun(piece: u32, count: u32, shape: &Shape) -> u32 {
    (count + shape.pieces() - 1 - piece) / shape.pieces() + 1
}

/// The pages of some of a sequence's keys.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    /// Row of the block table.
    pub sequence: u32,
    /// Behind the last tile that is asked for.
    pub end: u32,
    /// Behind the last key: the block table may have no more pages.
    pub end_key: u32,
}

impl Pages {
    /// Those of the first sequence, before its length is known. Behind that a row of the block table has any ids, to which no copy goes.
    #[inline(always)]
    pub const fn foreseen(params: &DecodeParams) -> Self {
        Self { sequence: 0, end: u32::MAX, end_key: params.table_tokens }
    }

    /// The page of the lane's key. Nothing is read past the last key, and what is read before the first that any row sees may be anything.
    ///
    /// # Safety
    /// As for the entry; the block table has the pages of all keys before the last.
    #[inline(always)]
    pub unsafe fn id(&self, params: &DecodeParams, tile: u32, lanes: Lanes, place: &Place, shape: &Shape) -> i32 {
        let key = lanes.key(tile, place, shape);
        if tile >= self.end || key >= self.end_key {
            return 0;
        }
        let page = page_index(key, params.page_shift) as i64;
        // The first sequence's are asked for before the stride is there, a parameter of another line.
        let row = if self.sequence == 0 { 0 } else { self.sequence as i64 * params.block_table_stride };
        // SAFETY: the caller's promise.
        let [id] = unsafe { ld_global_b32(params.block_table.byte_offset(4 * (row + page)).cast()) };
        id as i32
    }
}

/// The ids that a ring begins with: of the pieces that it is filled with, and of the next of each kind.
#[derive(Clone, Copy)]
pub struct FirstPages {
    sequence: u32,
    /// The team's first tile.
    first: u32,
    of_keys: [i32; MOST_STAGES + 1],
    of_values: [[i32; MOST_COLUMN_WARPS]; MOST_STAGES + 1],
}

impl FirstPages {
    /// Pieces that a ring is filled with.
    #[inline(always)]
    pub const fn pieces(shape: &Shape) -> u32 {
        shape.slots - 1
    }

    /// In how many tiles those and the next of K are, and of V the `part`-th keys.
    #[inline(always)]
    const fn tiles(shape: &Shape) -> (u32, [u32; MOST_COLUMN_WARPS]) {
        let (count, mut of_values) = (Self::pieces(shape), [0; MOST_COLUMN_WARPS]);
        let mut part = 0;
        while part < key_pieces(shape) * Lanes::times(shape) {
            of_values[part as usize] = tiles_begun(key_pieces(shape) + part / Lanes::times(shape), count, shape);
            part += 1;
        }
        (tiles_begun(key_pieces(shape) - 1, count, shape), of_values)
    }

    /// Reads them, all in the same trip to memory, of the team whose first tile is `first`.
    ///
    /// # Safety
    /// As for [`Pages::id`].
    #[inline(always)]
    pub unsafe fn load(params: &DecodeParams, pages: &Pages, first: u32, place: &Place, shape: &Shape) -> Self {
        let mut ids = Self {
            sequence: pages.sequence,
            first,
            of_keys: [0; MOST_STAGES + 1],
            of_values: [[0; MOST_COLUMN_WARPS]; MOST_STAGES + 1],
        };
        let (of_keys, of_values) = Self::tiles(shape);
        // SAFETY: handed on to the caller.
        let id = |stage, lanes| unsafe { pages.id(params, first + stage * stride(shape), lanes, place, shape) };
        for stage in 0..of_keys {
            ids.of_keys[stage as usize] = id(stage, Lanes::of_keys(place, shape));
        }
        for part in 0..key_pieces(shape) * Lanes::times(shape) {
            for stage in 0..of_values[part as usize] {
                ids.of_values[stage as usize][part as usize] = if shape.column_warps == 1 {
                    ids.of_keys[stage as usize]
                } else {
                    id(stage, Lanes::of_values(part, shape))
                };
            }
        }
        ids
    }

    /// Whether they are those of `pages` from tile `first` on.
    #[inline(always)]
    pub fn are_of(&self, pages: &Pages, first: u32) -> bool {
        planted(Fault::Foreseen) || self.sequence == pages.sequence && self.first == first
    }

    /// K's and V's of the team's tile `stage`.
    #[inline(always)]
    pub const fn of_tile(&self, stage: u32) -> (i32, [i32; MOST_COLUMN_WARPS]) {
        (self.of_keys[stage as usize], self.of_values[stage as usize])
    }

    /// Of the pieces behind the first. K's turn with its last piece.
    #[inline(always)]
    pub fn next(&self, shape: &Shape) -> (i32, [i32; MOST_COLUMN_WARPS]) {
        let (of_keys, of_values) = Self::tiles(shape);
        let mut values = [0; MOST_COLUMN_WARPS];
        for part in 0..(key_pieces(shape) * Lanes::times(shape)) as usize {
            values[part] = self.of_values[of_values[part] as usize - 1][part];
        }
        (self.of_keys[of_keys as usize - 1], values)
    }
}
