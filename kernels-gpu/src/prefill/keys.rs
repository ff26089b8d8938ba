//! K and V, tile after tile and item after item, a warp each: tensor copies of a box of a page's tokens and all columns, which
//! the hardware leaves swizzled, eight rows of 64 columns together, as the products want it.
//!
//! Keys that no row sees arrive as zeros (0 × NaN would be NaN in P V, and before a window or behind the end there may be no
//! page): copied from a place outside of the tensor. A box with some of both, and pages of less than 8 tokens, are copied
//! token by token.
use super::block::{Block, Side, Turn, expect, release_item};
use super::item;
use super::shape::{COLUMNS_BYTES, PATTERN_ROWS, PrefillShape};
use crate::abi::PrefillParams;
use crate::attention::visible::Interval;
use crate::fault::{Fault, planted};
use crate::layout::paged::page_index;
use crate::memory::{Mbarrier, Shared, TensorMapAddress};
use crate::ptx::bulk::{cp_async_bulk_tensor_5d, prefetch_tensormap};
use crate::ptx::mbarrier::mbarrier_wait_parity;
use crate::ptx::memory::ld_global_b32;
use crate::ptx::sync::{bar_warp_sync, elect_sync, shfl_idx};

/// Copies one side's tiles of the block's items.
///
/// # Safety
/// As for the entry; one warp of the block calls it.
#[inline(always)]
pub unsafe fn copy(
    params: &PrefillParams,
    maps: TensorMapAddress,
    block: &Block,
    [side, lane]: [u32; 2],
    shape: &PrefillShape,
) {
    let leads = elect_sync();
    if leads {
        // SAFETY: the entry has four maps.
        unsafe {
            if params.box_shift >= PATTERN_ROWS.ilog2() {
                prefetch_tensormap(maps.at(side));
            }
            prefetch_tensormap(maps.at(side + 2));
        }
    }
    let of = Side::of(side);
    // By select: an index that is not constant would put the parameters into memory.
    let (steps, outside) = match of {
        Side::Key => (params.steps[0], params.outside[0]),
        _ => (params.steps[1], params.outside[1]),
    };
    let (mut slot, mut turn) = (Turn::FIRST, 0);
    while block.has(turn, shape) {
        // SAFETY: handed on to the caller.
        unsafe {
            let item = block.wait_for_item(turn, shape);
            let copier = Copier { params, maps, steps, outside, item, seen: item::seen(item), side, lane, leads };
            let tiles = item::span(item).tiles;
            let mut places = copier.places(tiles.first, 0, shape);
            for tile in tiles.first..tiles.end {
                let full = block.full(of, slot.slot, shape);
                if !planted(of.either(Fault::KeyTileEmpty, Fault::ValueTileEmpty)) {
                    mbarrier_wait_parity(block.empty(of, slot.slot, shape), slot.parity ^ 1);
                }
                if !planted(Fault::TileWarp) {
                    bar_warp_sync();
                }
                if leads {
                    expect(full, shape);
                }
                copier.tile(tile, block.tile(of, slot.slot, shape), full, places, shape);
                // On their way while a slot is waited for.
                places = copier.places(tile + 1, 0, shape);
                slot.advance(shape.stages);
            }
            release_item(block, turn, leads, shape);
        }
        turn += 1;
    }
}

/// One item's copies of one side.
struct Copier<'a> {
    params: &'a PrefillParams,
    maps: TensorMapAddress,
    /// Places from a page to the next and from a KV head to the next, and one outside.
    steps: [u32; 2],
    outside: u32,
    item: Shared<u32>,
    /// What its rows see together.
    seen: Interval,
    side: u32,
    lane: u32,
    /// Whether this lane issues those of edge tiles.
    leads: bool,
}

impl Copier<'_> {
    /// The place of the lane's box of a tile, of the 32 from `first_box` on.
    #[inline(always)]
    unsafe fn places(&self, tile: u32, first_box: u32, shape: &PrefillShape) -> u32 {
        let PrefillParams { decode, box_shift, .. } = self.params;
        let of_tile = (first_box + self.lane) << box_shift;
        let key = tile * shape.tile_keys + of_tile;
        let seen = self.seen;
        if of_tile >= shape.tile_keys || key >= seen.end || key + (1 << box_shift) <= seen.begin {
            return self.outside;
        }
        // SAFETY: handed on to the caller.
        let [sequence, kv_head] = unsafe { item::place(self.item) };
        let row = sequence as i64 * decode.block_table_stride;
        let index = row + page_index(key, decode.page_shift) as i64;
        // SAFETY: the block table has the pages of all keys that a row sees.
        let [page] = unsafe { ld_global_b32(decode.block_table.byte_offset(4 * index).cast()) };
        page * self.steps[0] + kv_head * self.steps[1]
    }

    /// Copies a tile; `places` are those of its first 32 boxes.
    #[inline(always)]
    unsafe fn tile(&self, tile: u32, to: Shared<u8>, full: Shared<Mbarrier>, mut places: u32, shape: &PrefillShape) {
        let PrefillParams { decode, box_shift, .. } = self.params;
        let (seen, tokens) = (self.seen, 1 << box_shift);
        let (first, in_page) = (tile * shape.tile_keys, (1 << decode.page_shift) - 1);
        let (boxes, has_boxes) = (shape.tile_keys >> box_shift, tokens >= PATTERN_ROWS);
        if has_boxes && first >= seen.begin && first + shape.tile_keys <= seen.end {
            // All tiles but the edges: each box by the lane that has its place. (One warp issues it all: a branch a box cost 20 % at
            // D = 128.)
            if self.lane < boxes {
                let row = self.lane << box_shift;
                // SAFETY: the slot is free, and the barrier expects the bytes.
                unsafe { self.of_page(to, row, (first + row) & in_page, places, full, shape) };
            }
            return;
        }
        for index in 0..boxes {
            if index % 32 == 0 && index > 0 {
                // SAFETY: handed on to the caller.
                places = unsafe { self.places(tile, index, shape) };
            }
            let place = shfl_idx(places, index % 32);
            let of_tile = index << box_shift;
            let key = first + of_tile;
            let alike = key >= seen.begin && key + tokens <= seen.end || place == self.outside;
            if !self.leads {
                continue;
            }
            // SAFETY: as above.
            unsafe {
                if has_boxes && alike {
                    self.of_page(to, of_tile, key & in_page, place, full, shape);
                } else {
                    for token in of_tile..of_tile + tokens {
                        let place = if seen.has(first + token) { place } else { self.outside };
                        self.token(to, token, (first + token) & in_page, place, full, shape);
                    }
                }
            }
        }
    }

    /// Where rows from `row` on, a multiple of 8, are in the tile at `to`.
    #[inline(always)]
    const fn rows(to: Shared<u8>, row: u32, shape: &PrefillShape) -> Shared<u8> {
        to.byte_offset(row / PATTERN_ROWS * (shape.parts() * PATTERN_ROWS * COLUMNS_BYTES))
    }

    /// Copies a box, from token `token` of a page on, to the rows from `row` on of the tile at `to`.
    #[inline(always)]
    unsafe fn of_page(
        &self,
        to: Shared<u8>,
        row: u32,
        token: u32,
        place: u32,
        full: Shared<Mbarrier>,
        shape: &PrefillShape,
    ) {
        let at = [0, 0, 0, (token / PATTERN_ROWS) as i32, place as i32];
        // SAFETY: handed on to the caller.
        unsafe { cp_async_bulk_tensor_5d(Self::rows(to, row, shape), self.maps.at(self.side), at, full) };
    }

    /// Copies token `token` of a page to row `row` of the tile at `to`.
    #[inline(always)]
    unsafe fn token(
        &self,
        to: Shared<u8>,
        row: u32,
        token: u32,
        place: u32,
        full: Shared<Mbarrier>,
        shape: &PrefillShape,
    ) {
        let in_group = PATTERN_ROWS.min(1 << self.params.decode.page_shift);
        let to = Self::rows(to, row, shape).byte_offset(row % PATTERN_ROWS * COLUMNS_BYTES);
        for part in 0..shape.parts() {
            let at = [0, token % in_group, part, token / in_group, place].map(|index| index as i32);
            let to = to.byte_offset(part * PATTERN_ROWS * COLUMNS_BYTES);
            // SAFETY: handed on to the caller.
            unsafe { cp_async_bulk_tensor_5d(to, self.maps.at(self.side + 2), at, full) };
        }
    }
}
