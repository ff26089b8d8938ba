//! From global memory to where the products read: pages of K and V to a ring in shared memory.
//!
//! A ring is a queue of pieces, a piece some panels, a panel 16 or 32 keys by one slice of the head. A tile has for each warp the pieces of K
//! that are all slices of the warp's own keys, then those of V that are all keys of the warp's own slice; so a warp has S of its keys
//! alone, and O of its columns, and what warps tell each other is P. A ring belongs to the warps that read it (one, or all row warps of a
//! slice): they issue its copies, wait for their own, and meet at a barrier of theirs alone, behind which the slot of the piece before is
//! filled again. Each piece is a group of copies, whatever there is to copy, so the number that may be pending is a constant, `slots - 2`.
use super::copies::{Lanes, OwnKey, Rows};
use super::copy_scales::{BlockScaleCopy, KeyScales};
use super::mask::Edges;
use super::visible::Interval;
use super::work::Work;
use crate::abi::{CacheFlags, DecodeParams};
use crate::config::{MOST_COLUMN_WARPS, MOST_STAGES, Shape};
use crate::fault::{Fault, planted};
use crate::layout::paged::page_index;
use crate::layout::place::Place;
use crate::memory::Shared;
use crate::ptx::copy::{cp_async_commit_group, cp_async_wait_group};
use crate::ptx::memory::ld_global_b32;
use crate::ptx::sync::{bar_sync, bar_warp_sync};
use crate::tile::Panel;

/// A ring, seen by one of its warps at one step.
pub struct Ring {
    base: Shared<u8>,
    /// Slot of the tile's first piece, or where a ring has no whole tiles of the next piece.
    slot: u32,
    /// This step's tile.
    tile: u32,
    /// Behind the item's last tile.
    end: u32,
    edges: Edges,
    /// Keys that the item's rows see; the others are copied as zeros.
    keys: Interval,
    sequence: u32,
    kv_head: u32,
    /// Page ids of the lane's keys in the next piece of each kind to be copied.
    key_page: i32,
    value_pages: [i32; MOST_COLUMN_WARPS],
}

/// A piece in the ring, visible to the warp.
#[derive(Clone, Copy)]
pub struct Piece {
    base: Shared<u8>,
}

impl Piece {
    /// Its panel `index`.
    #[inline(always)]
    pub fn panel(&self, index: u32, shape: &Shape) -> Panel {
        let data = self.base.byte_offset(index * shape.panel_stride());
        Panel { data, scales: shape.block_scales().then(|| data.byte_offset(shape.panel_bytes())) }
    }
}

/// Tiles from a step of a team to its next.
#[inline(always)]
const fn stride(shape: &Shape) -> u32 {
    shape.teams
}

/// Pieces of K of a tile, and as many of V behind them.
#[inline(always)]
const fn key_pieces(shape: &Shape) -> u32 {
    shape.pieces() / 2
}

/// In how many tiles the piece `piece` is among the first `count` pieces or the next behind them of its kind.
#[inline(always)]
const fn tiles_begun(piece: u32, count: u32, shape: &Shape) -> u32 {
    (count + shape.pieces() - 1 - piece) / shape.pieces() + 1
}

impl Ring {
    /// Starts copying the first pieces of a warp's team.
    ///
    /// # Safety
    /// As for the entry; the shared memory at `shared` is the launch's, and no warp has used it yet.
    #[inline(always)]
    pub unsafe fn start(params: &DecodeParams, work: &Work, shared: Shared<u8>, place: &Place, shape: &Shape) -> Self {
        let mut ring = Self {
            base: shared.byte_offset(place.ring(shape) * shape.ring_bytes()),
            slot: 0,
            tile: work.tiles.first + place.team,
            end: work.tiles.end,
            edges: work.edges,
            keys: work.seen.any,
            sequence: work.item.sequence,
            kv_head: work.item.kv_head,
            key_page: 0,
            value_pages: [0; MOST_COLUMN_WARPS],
        };
        // SAFETY: the slots are free.
        unsafe {
            // All page ids in the same trip to memory: those of the pieces that are copied here, and of the next of each kind.
            let count = shape.slots - 1;
            let mut key_pages = [0; MOST_STAGES + 1];
            let mut value_pages = [[0; MOST_COLUMN_WARPS]; MOST_STAGES + 1];
            let tile_of = |ring: &Self, stage| ring.tile + stage * stride(shape);
            let of_keys = tiles_begun(key_pieces(shape) - 1, count, shape);
            for stage in 0..of_keys {
                key_pages[stage as usize] =
                    ring.page(params, tile_of(&ring, stage), Lanes::of_keys(place, shape), place, shape);
            }
            for part in 0..key_pieces(shape) * Lanes::times(shape) {
                let of_values = tiles_begun(key_pieces(shape) + part / Lanes::times(shape), count, shape);
                for stage in 0..of_values {
                    value_pages[stage as usize][part as usize] = if shape.column_warps == 1 {
                        key_pages[stage as usize]
                    } else {
                        ring.page(params, tile_of(&ring, stage), Lanes::of_values(part, shape), place, shape)
                    };
                }
                ring.value_pages[part as usize] = value_pages[of_values as usize - 1][part as usize];
            }
            let value_pages_next = ring.value_pages;
            for index in 0..count {
                let (stage, piece) = (index / shape.pieces(), index % shape.pieces());
                ring.key_page = key_pages[stage as usize];
                ring.value_pages = value_pages[stage as usize];
                ring.copy(params, tile_of(&ring, stage), piece, index, place, shape);
            }
            // K's pages turn with its last piece.
            (ring.key_page, ring.value_pages) = (key_pages[of_keys as usize - 1], value_pages_next);
        }
        ring
    }

    /// Whether there is a tile left.
    #[inline(always)]
    pub const fn has_tile(&self) -> bool {
        self.tile < self.end
    }

    /// This step's tile.
    #[inline(always)]
    pub const fn tile(&self) -> u32 {
        self.tile
    }

    /// Behind the last key that the item's rows see.
    #[inline(always)]
    pub const fn end_key(&self) -> u32 {
        self.keys.end
    }

    /// Where the ring begins.
    #[inline(always)]
    pub const fn base(&self) -> Shared<u8> {
        self.base
    }

    /// Waits for piece `piece` of K and gives it; then the slot of the piece before is free, and is filled.
    ///
    /// # Safety
    /// As for [`Ring::start`]; a step takes its pieces in their order, K's and then V's.
    #[inline(always)]
    pub unsafe fn key(&mut self, params: &DecodeParams, piece: u32, place: &Place, shape: &Shape) -> Piece {
        if !planted(Fault::KeyWait) {
            wait_pending(shape.slots - 2);
        }
        if !planted(Fault::KeyFull) {
            self.barrier(place, shape);
        }
        // SAFETY: handed on to the caller.
        unsafe { self.taken(params, piece, place, shape) }
    }

    /// The same for piece `piece` of V.
    ///
    /// # Safety
    /// As for [`Ring::key`].
    #[inline(always)]
    pub unsafe fn value(&mut self, params: &DecodeParams, piece: u32, place: &Place, shape: &Shape) -> Piece {
        if !planted(Fault::ValueWait) {
            wait_pending(shape.slots - 2);
        }
        if !planted(Fault::ValueFull) {
            self.barrier(place, shape);
        }
        // SAFETY: handed on to the caller.
        unsafe { self.taken(params, key_pieces(shape) + piece, place, shape) }
    }

    /// Piece `piece` of the tile, which is there; fills the slot of the one before.
    #[inline(always)]
    unsafe fn taken(&mut self, params: &DecodeParams, piece: u32, place: &Place, shape: &Shape) -> Piece {
        let slot = if shape.pieces().is_multiple_of(shape.slots) {
            piece % shape.slots
        } else if shape.whole_tiles() {
            self.slot + piece
        } else {
            self.slot
        };
        let first = if shape.whole_tiles() { piece == 0 && slot == 0 } else { slot == 0 };
        let before = if first { shape.slots - 1 } else { slot - 1 };
        if !shape.whole_tiles() {
            self.slot = if slot + 1 == shape.slots { 0 } else { slot + 1 };
        }
        let next = piece + shape.slots - 1;
        let (tile, next) = (self.tile + next / shape.pieces() * stride(shape), next % shape.pieces());
        // SAFETY: all warps of the ring have read that slot before the barrier.
        unsafe {
            self.copy(params, tile, next, before, place, shape);
            self.turn_page(params, tile, next, place, shape);
        }
        Piece { base: self.base.byte_offset(slot * shape.slot_bytes()) }
    }

    /// Behind the copy of piece `piece` of `tile`, the pages for the next of its kind.
    #[inline(always)]
    unsafe fn turn_page(&mut self, params: &DecodeParams, tile: u32, piece: u32, place: &Place, shape: &Shape) {
        let next = tile + stride(shape);
        // SAFETY: as for the copies.
        unsafe {
            if piece >= key_pieces(shape) {
                if shape.column_warps > 1 {
                    let first = (piece - key_pieces(shape)) * Lanes::times(shape);
                    for part in first..first + Lanes::times(shape) {
                        self.value_pages[part as usize] =
                            self.page(params, next, Lanes::of_values(part, shape), place, shape);
                    }
                }
            } else if piece == key_pieces(shape) - 1 {
                if shape.column_warps == 1 {
                    self.value_pages[0] = self.key_page;
                }
                self.key_page = self.page(params, next, Lanes::of_keys(place, shape), place, shape);
            }
        }
    }

    /// The scales that the warp's keys have in this step's tile, K's and V's; they are there with the last piece of K.
    #[inline(always)]
    pub fn key_scales(&self, params: &DecodeParams, shape: &Shape) -> [Option<Shared<u8>>; 2] {
        self.scales_of(self.tile, shape).places(params, shape)
    }

    /// Where the scales of a tile's keys are.
    #[inline(always)]
    fn scales_of(&self, tile: u32, shape: &Shape) -> KeyScales {
        let turn = if shape.stages() == 1 { 0 } else { tile / stride(shape) % shape.stages() };
        KeyScales::at(self.base.byte_offset(shape.slots * shape.slot_bytes() + turn * shape.panel_scale_bytes()))
    }

    /// On to the team's next tile.
    #[inline(always)]
    pub fn advance(&mut self, shape: &Shape) {
        self.tile += stride(shape);
        if shape.whole_tiles() {
            let slot = self.slot + shape.pieces();
            self.slot = if slot == shape.slots { 0 } else { slot };
        }
    }

    #[inline(always)]
    fn barrier(&self, place: &Place, shape: &Shape) {
        if shape.row_warps == 1 {
            bar_warp_sync();
        } else {
            bar_sync(place.ring_barrier(shape), 32 * shape.row_warps);
        }
    }

    /// The page of the lane's key. Nothing is read past the last key, and what is read before the first may be anything.
    #[inline(always)]
    unsafe fn page(&self, params: &DecodeParams, tile: u32, lanes: Lanes, place: &Place, shape: &Shape) -> i32 {
        let key = lanes.key(tile, place, shape);
        if tile < self.end && key < self.keys.end {
            let index = self.sequence as i64 * params.block_table_stride + page_index(key, params.page_shift) as i64;
            // SAFETY: the block table has the pages of all keys below the planned length.
            let [page] = unsafe { ld_global_b32(params.block_table.byte_offset(4 * index).cast()) };
            page as i32
        } else {
            0
        }
    }

    /// Copies piece `piece` of `tile` to slot `slot`, keys that no row sees as zeros (0 × NaN would be NaN in P V, and before a window
    /// there may be no page at all), and commits.
    #[inline(always)]
    unsafe fn copy(&self, params: &DecodeParams, tile: u32, piece: u32, slot: u32, place: &Place, shape: &Shape) {
        if tile < self.end {
            // All tiles but the edges are whole, and their copies shorter by a quarter of the instructions.
            // SAFETY: handed on to the caller.
            unsafe {
                if self.edges.cover(tile) {
                    self.copy_panels::<false>(params, tile, piece, slot, place, shape);
                } else {
                    self.copy_panels::<true>(params, tile, piece, slot, place, shape);
                }
            }
        }
        cp_async_commit_group();
    }

    /// Copies its panels, of a tile that is `WHOLE` or an edge.
    #[inline(always)]
    unsafe fn copy_panels<const WHOLE: bool>(
        &self,
        params: &DecodeParams,
        tile: u32,
        piece: u32,
        slot: u32,
        place: &Place,
        shape: &Shape,
    ) {
        let to = self.base.byte_offset(slot * shape.slot_bytes());
        let of = |lanes: Lanes, page| OwnKey {
            key: lanes.key(tile, place, shape),
            page,
            kv_head: self.kv_head,
            seen: self.keys,
            lanes: lanes.count,
        };
        // SAFETY: the pages are the cache's, the rows those of its tokens; the slot is free, and with the last piece of K the place of its
        // keys' scales.
        unsafe {
            if piece < key_pieces(shape) {
                // Some slices of the warp's keys.
                let own = of(Lanes::of_keys(place, shape), self.key_page);
                let slice = piece * shape.panels;
                let rows = Rows { own: own.row(&params.k, params.page_shift), slice, panels: shape.panels, first: 0 };
                rows.copy::<WHOLE>(&own, to, place, shape);
                if shape.block_scales() && place.row_warp == 0 {
                    let scales = BlockScaleCopy {
                        side: &params.k_scales,
                        interleaved: false,
                        slice,
                        panels: shape.panels,
                        own,
                        to,
                    };
                    scales.copy::<WHOLE>(params, place, shape);
                }
                if piece == key_pieces(shape) - 1 && place.row_warp == 0 {
                    self.scales_of(tile, shape).copy(params, &own, place, shape);
                }
                return;
            }
            // The warp's slice of some keys.
            for time in 0..Lanes::times(shape) {
                let part = (piece - key_pieces(shape)) * Lanes::times(shape) + time;
                let lanes = Lanes::of_values(part, shape);
                let own = of(lanes, self.value_pages[part as usize]);
                let (slice, count) = (place.column_warp, lanes.count / shape.panel_keys);
                let to = to.byte_offset(time * count * shape.panel_stride());
                let own_row = own.row(&params.v, params.page_shift);
                for panel in 0..count {
                    let rows = Rows { own: own_row, slice, panels: 1, first: panel * shape.panel_keys };
                    rows.copy::<WHOLE>(&own, to.byte_offset(panel * shape.panel_stride()), place, shape);
                }
                if shape.block_scales() && place.row_warp == 0 {
                    let interleaved = params.flags & CacheFlags::V_INTERLEAVED != 0;
                    let scales = BlockScaleCopy { side: &params.v_scales, interleaved, slice, panels: 1, own, to };
                    scales.copy::<WHOLE>(params, place, shape);
                }
            }
        }
    }
}

/// `cp.async.wait_group` takes a literal: one for each number of slots in use.
#[inline(always)]
fn wait_pending(groups: u32) {
    match groups {
        1 => cp_async_wait_group::<1>(),
        2 => cp_async_wait_group::<2>(),
        4 => cp_async_wait_group::<4>(),
        6 => cp_async_wait_group::<6>(),
        8 => cp_async_wait_group::<8>(),
        10 => cp_async_wait_group::<10>(),
        18 => cp_async_wait_group::<18>(),
        _ => unreachable!("slots are 3, 4, 6, 8, 10, 12 or 20"),
    }
}
