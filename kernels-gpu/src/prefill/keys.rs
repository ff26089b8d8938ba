//! K and V, tile after tile and item after item, by one warp: tensor copies of a box of tokens of a page and 64 columns, which
//! the hardware leaves swizzled as the products want it.
//!
//! Keys that no row sees arrive as zeros (0 × NaN would be NaN in P V, and before a window or behind the end there may be no
//! page): a box without a key to see is copied from a page that is not the cache's, and one with some token by token.
use super::block::{Block, Items, Side, Turn};
use super::shape::{COLUMNS_BYTES, PrefillShape};
use crate::abi::PrefillParams;
use crate::attention::work::Work;
use crate::layout::paged::page_index;
use crate::memory::{Mbarrier, Shared, TensorMapAddress};
use crate::ptx::bulk::{cp_async_bulk_tensor_4d, prefetch_tensormap};
use crate::ptx::mbarrier::{mbarrier_arrive_expect_tx, mbarrier_wait_parity};
use crate::ptx::memory::ld_global_b32;
use crate::ptx::sync::{bar_warp_sync, elect_sync, shfl_idx};

/// Copies the tiles of `items`.
///
/// # Safety
/// As for the entry; one warp of the block calls it.
#[inline(always)]
pub unsafe fn copy(
    params: &PrefillParams,
    maps: TensorMapAddress,
    block: &Block,
    mut items: Items,
    lane: u32,
    shape: &PrefillShape,
) {
    let leads = elect_sync();
    if leads {
        for map in 0..4 {
            // SAFETY: the entry has four maps.
            unsafe { prefetch_tensormap(maps.at(map)) };
        }
    }
    let mut turn = Turn::FIRST;
    while items.next < items.end {
        // SAFETY: handed on to the caller.
        unsafe {
            if let Some(work) = Work::load(&params.decode, items.next, lane, &shape.tiling()) {
                let copier = Copier { params, maps, block, work: &work, lane, leads };
                for tile in work.tiles.first..work.tiles.end {
                    copier.tile(tile, turn, shape);
                    turn.advance(shape.stages);
                }
            }
        }
        items.next += items.step;
    }
}

/// One item's copies.
struct Copier<'a> {
    params: &'a PrefillParams,
    maps: TensorMapAddress,
    block: &'a Block,
    work: &'a Work,
    lane: u32,
    /// Whether this lane issues them.
    leads: bool,
}

impl Copier<'_> {
    /// Copies K and V of a tile.
    #[inline(always)]
    unsafe fn tile(&self, tile: u32, turn: Turn, shape: &PrefillShape) {
        // SAFETY: handed on to the caller.
        unsafe {
            // The ids are on their way while the slot is waited for.
            let first = self.page(tile, 0, shape);
            for side in [Side::Key, Side::Value] {
                let full = self.block.full(side, turn.slot, shape);
                mbarrier_wait_parity(self.block.empty(side, turn.slot, shape), turn.parity ^ 1);
                bar_warp_sync();
                if self.leads {
                    mbarrier_arrive_expect_tx(full, shape.tile_bytes());
                }
                self.side(tile, side, self.block.tile(side, turn.slot, shape), full, first, shape);
            }
        }
    }

    /// Tokens of a box.
    #[inline(always)]
    const fn box_tokens(&self) -> u32 {
        1 << self.params.box_shift
    }

    /// The page of the lane's box of a tile, of the 32 from `first_box` on.
    #[inline(always)]
    unsafe fn page(&self, tile: u32, first_box: u32, shape: &PrefillShape) -> u32 {
        let decode = &self.params.decode;
        let of_tile = (first_box + self.lane) << self.params.box_shift;
        let key = tile * shape.tile_keys + of_tile;
        let seen = self.work.seen.any;
        if of_tile >= shape.tile_keys || key >= seen.end || key + self.box_tokens() <= seen.begin {
            return self.params.pages;
        }
        let row = self.work.item.sequence as i64 * decode.block_table_stride;
        let index = row + page_index(key, decode.page_shift) as i64;
        // SAFETY: the block table has the pages of all keys that a row sees.
        let [page] = unsafe { ld_global_b32(decode.block_table.byte_offset(4 * index).cast()) };
        page
    }

    /// Copies one side of a tile; `page` is of the lane's box.
    #[inline(always)]
    unsafe fn side(
        &self,
        tile: u32,
        side: Side,
        to: Shared<u8>,
        full: Shared<Mbarrier>,
        mut page: u32,
        shape: &PrefillShape,
    ) {
        let seen = self.work.seen.any;
        let in_page = (1 << self.params.decode.page_shift) - 1;
        for index in 0..shape.tile_keys >> self.params.box_shift {
            if index % 32 == 0 && index > 0 {
                // SAFETY: handed on to the caller.
                page = unsafe { self.page(tile, index, shape) };
            }
            let of_box = shfl_idx(page, index % 32);
            let of_tile = index << self.params.box_shift;
            let key = tile * shape.tile_keys + of_tile;
            let to = to.byte_offset(of_tile * COLUMNS_BYTES);
            let whole = key >= seen.begin && key + self.box_tokens() <= seen.end || of_box == self.params.pages;
            if !self.leads {
                continue;
            }
            // SAFETY: the slot is free, the barrier expects the bytes; a page that is not the cache's reads as zeros.
            unsafe {
                if whole {
                    self.columns(side as u32, to, [key & in_page, of_box], full, shape);
                } else {
                    for token in 0..self.box_tokens() {
                        let page = if seen.has(key + token) { of_box } else { self.params.pages };
                        let to = to.byte_offset(token * COLUMNS_BYTES);
                        self.columns(side as u32 + 2, to, [(key + token) & in_page, page], full, shape);
                    }
                }
            }
        }
    }

    /// Copies a box, or a token, of all columns.
    #[inline(always)]
    unsafe fn columns(
        &self,
        map: u32,
        to: Shared<u8>,
        [token, page]: [u32; 2],
        full: Shared<Mbarrier>,
        shape: &PrefillShape,
    ) {
        for part in 0..shape.head_dim / 64 {
            let at = [64 * part, self.work.item.kv_head, token, page].map(|index| index as i32);
            let to = to.byte_offset(part * shape.tile_keys * COLUMNS_BYTES);
            // SAFETY: handed on to the caller.
            unsafe { cp_async_bulk_tensor_4d(to, self.maps.at(map), at, full) };
        }
    }
}
