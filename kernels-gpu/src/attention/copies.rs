//! What the lanes of a warp copy of K and V: keys of theirs, whose rows they tell each other, chunk by chunk.
use super::visible::Interval;
use crate::abi::CacheSide;
use crate::config::Shape;
use crate::layout::paged::key_offset;
use crate::layout::place::Place;
use crate::layout::swizzle::{CHUNK_BYTES, SwizzledPointer};
use crate::memory::{Global, Shared};
use crate::ptx::convert::mov_b64;
use crate::ptx::copy::cp_async_16;
use crate::ptx::math::renewed;
use crate::ptx::sync::shfl_idx;
use crate::tile::chunks;

/// Keys of a tile whose pages and rows a warp's lanes have, one each; lanes past them repeat them.
#[derive(Clone, Copy)]
pub struct Lanes {
    /// The first key, counted in the tile.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Lanes {
    /// Those of K: the warp's own.
    #[inline(always)]
    pub const fn of_keys(place: &Place, shape: &Shape) -> Self {
        Self { first: place.column_warp * shape.panel_keys, count: shape.panel_keys }
    }

    /// The `index`-th of V, of all keys.
    #[inline(always)]
    pub const fn of_values(index: u32, shape: &Shape) -> Self {
        let count = if shape.panels * shape.panel_keys < 32 { shape.panels * shape.panel_keys } else { 32 };
        Self { first: index * count, count }
    }

    /// How often V's lanes take a piece's keys.
    #[inline(always)]
    pub const fn times(shape: &Shape) -> u32 {
        shape.panels * shape.panel_keys / Self::of_values(0, shape).count
    }

    /// The lane's key.
    #[inline(always)]
    pub const fn key(&self, tile: u32, place: &Place, shape: &Shape) -> u32 {
        tile * shape.tile_keys + self.first + place.lane % self.count
    }
}

/// The key that a lane has of those that a warp copies.
#[derive(Clone, Copy)]
pub struct OwnKey {
    /// Its number in the sequence.
    pub key: u32,
    /// Its page.
    pub page: i32,
    /// The KV head.
    pub kv_head: u32,
    /// Keys that the item's rows see; the others are copied as zeros.
    pub seen: Interval,
    /// Keys that the lanes have; lanes past them repeat them.
    pub lanes: u32,
}

impl OwnKey {
    /// The key of the first lane.
    #[inline(always)]
    pub const fn first(&self, place: &Place) -> u32 {
        self.key - place.lane % self.lanes
    }

    /// The row of token `key` of the lane's page, or of `page`, on one side. A key that no row sees has any page, whose row is not read.
    #[inline(always)]
    pub const fn row_of(&self, side: &CacheSide, page: i32, key: u32, page_shift: u32) -> Global<u8> {
        side.base.byte_offset(key_offset(side, page, key, page_shift) + self.kv_head as i64 * side.head_stride)
    }

    /// Its own row.
    #[inline(always)]
    pub const fn row(&self, side: &CacheSide, page_shift: u32) -> Global<u8> {
        self.row_of(side, self.page, self.key, page_shift)
    }
}

/// A panel's rows in the cache, or the same rows of neighbouring slices.
pub struct Rows {
    /// The row of the lane's key.
    pub own: Global<u8>,
    /// The lane of the first row.
    pub first: u32,
    /// The first slice.
    pub slice: u32,
    /// How many slices, a panel each.
    pub panels: u32,
}

impl Rows {
    /// Copies the warp's share of them to the panels from `to` on; those of keys that no row sees as zeros, unless all are `WHOLE`.
    ///
    /// # Safety
    /// The rows that exist are in live pages, and nothing else touches the panels.
    #[inline(always)]
    pub unsafe fn copy<const WHOLE: bool>(&self, own: &OwnKey, to: Shared<u8>, place: &Place, shape: &Shape) {
        let (chunks, row_bytes) = (chunks(shape), shape.row_bytes);
        let (rows, copies) = (rows_a_copy(shape), copies_a_warp(shape));
        // Worked out anew each time where they would cost registers that sm_80 lacks, whose ptxas keeps more for its shuffles.
        let short = cfg!(qkv_sm = "80") && (shape.row_warps > 1 || shape.block_scales());
        let lane = if short { renewed(place.lane) } else { place.lane };
        let first_row = place.row_warp * copies * rows + lane / chunks;
        let column_bytes = self.slice * row_bytes + lane % chunks * CHUNK_BYTES;
        let pointer = SwizzledPointer::new(to, first_row, lane % chunks, row_bytes);
        let first_key = own.first(place) + self.first;
        // Where a panel has fewer copies than there are warps, the last ones have none.
        let copies = if first_row < shape.panel_keys { copies } else { 0 };
        for index in 0..copies {
            let row = first_row + index * rows;
            let low = shfl_idx(self.own.address as u32, self.first + row);
            let high = shfl_idx((self.own.address >> 32) as u32, self.first + row);
            let from = Global::<u8>::new(mov_b64(low, high)).byte_offset(column_bytes as i64);
            let bytes = if WHOLE || own.seen.has(first_key + row) { CHUNK_BYTES } else { 0 };
            let to = pointer.step(index * rows, 0);
            for panel in 0..self.panels {
                // SAFETY: handed on to the caller.
                unsafe {
                    let from = from.byte_offset((panel * row_bytes) as i64);
                    cp_async_16(to.byte_offset(panel * shape.panel_stride()), from, bytes);
                }
            }
        }
    }
}

/// Rows that one instruction of a warp copies, 32 chunks: 2 of 256 bytes to 16 of 32.
#[inline(always)]
pub const fn rows_a_copy(shape: &Shape) -> u32 {
    32 / chunks(shape)
}

/// Such instructions of a warp for a panel.
#[inline(always)]
pub const fn copies_a_warp(shape: &Shape) -> u32 {
    (shape.panel_keys / rows_a_copy(shape)).div_ceil(shape.row_warps)
}
