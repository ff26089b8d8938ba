//! From global memory to where the products read: pages of K and V to a ring in shared memory.
//!
//! A ring belongs to the warps that read it (one, or all row warps of a slice): they issue its copies, wait for their
//! own, and meet at a barrier of theirs alone. K and V of a tile are separate groups, so that S can start on K; after
//! each of the two barriers of a step the slot that it has shown to be read is filled again. Groups alternate K, V, K, …
//! whatever there is to copy, so the number that may be pending is a constant, `2 stages - 2`.
use super::mask::Edges;
use super::visible::Interval;
use super::work::Work;
use crate::abi::{CacheFlags, CacheSide, DecodeParams};
use crate::config::{MOST_STAGES, Shape};
use crate::fault::{Fault, planted};
use crate::layout::nvfp4::INTERLEAVED_TOKENS;
use crate::layout::paged::{key_offset, page_index};
use crate::layout::place::Place;
use crate::layout::swizzle::{CHUNK_BYTES, SwizzledPointer};
use crate::memory::{Global, Shared};
use crate::ptx::convert::mov_b64;
use crate::ptx::copy::{cp_async_4, cp_async_16, cp_async_commit_group, cp_async_wait_group};
use crate::ptx::math::renewed;
use crate::ptx::memory::{ld_global_b32, st_shared_b32};
use crate::ptx::sync::{bar_sync, bar_warp_sync, shfl_idx};
use crate::tile::{RingTile, chunks};

/// A ring, seen by one of its warps at one step.
pub struct Ring {
    base: Shared<u8>,
    /// Slot of this step's tile.
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
    /// Page ids of the lane's key in the next tile to be copied, of K and of V.
    pages: [i32; 2],
}

const KEY: usize = 0;
const VALUE: usize = 1;

/// Tiles from a step of a team to its next.
#[inline(always)]
const fn stride(shape: &Shape) -> u32 {
    shape.teams
}

impl Ring {
    /// Starts copying the first tiles of a warp's team.
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
            pages: [0; 2],
        };
        // SAFETY: the slots are free.
        unsafe {
            // All page ids in the same trip to memory.
            let mut pages = [0; MOST_STAGES];
            for stage in 0..shape.stages {
                pages[stage as usize] = ring.page(params, ring.tile + stage * stride(shape), place, shape);
            }
            let next = ring.page(params, ring.tile + shape.stages * stride(shape), place, shape);
            for stage in 0..shape.stages {
                let tile = ring.tile + stage * stride(shape);
                ring.pages = [pages[stage as usize]; 2];
                ring.copy::<KEY>(params, tile, stage, place, shape);
                if stage + 1 < shape.stages {
                    ring.copy::<VALUE>(params, tile, stage, place, shape);
                }
            }
            ring.pages[KEY] = next;
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

    /// Waits for this step's K and gives it; then V's slot of the step before is free, and is filled.
    ///
    /// # Safety
    /// As for [`Ring::start`].
    #[inline(always)]
    pub unsafe fn key(&mut self, params: &DecodeParams, place: &Place, shape: &Shape) -> RingTile {
        if !planted(Fault::KeyWait) {
            wait_pending(2 * shape.stages - 2);
        }
        if !planted(Fault::KeyFull) {
            self.barrier(place, shape);
        }
        let ahead = shape.stages - 1;
        // SAFETY: all warps of the ring have read that slot before the barrier.
        unsafe {
            self.copy::<VALUE>(params, self.tile + ahead * stride(shape), self.slot_after(ahead, shape), place, shape);
        }
        self.tile_in::<KEY>(params, self.slot, shape)
    }

    /// Waits for this step's V, `between` the wait and the barrier, and gives it; then K's slot is free, and is filled.
    ///
    /// # Safety
    /// As for [`Ring::start`].
    #[inline(always)]
    pub unsafe fn value(
        &mut self,
        params: &DecodeParams,
        place: &Place,
        shape: &Shape,
        between: impl FnOnce(),
    ) -> RingTile {
        if !planted(Fault::ValueWait) {
            wait_pending(2 * shape.stages - 2);
        }
        between();
        // A warp alone with its ring that has just met the other columns at their barrier needs none of its own.
        let met = shape.row_warps == 1 && shape.column_warps > 1;
        if !met && !planted(Fault::ValueFull) {
            self.barrier(place, shape);
        }
        let (ahead, next) = (shape.stages, self.tile + shape.stages * stride(shape));
        // SAFETY: all warps of the ring have read this step's K before the barrier.
        unsafe {
            self.copy::<KEY>(params, next, self.slot_after(ahead, shape), place, shape);
            self.pages = [self.page(params, next + stride(shape), place, shape), self.pages[KEY]];
        }
        self.tile_in::<VALUE>(params, self.slot, shape)
    }

    /// On to the team's next tile.
    #[inline(always)]
    pub fn advance(&mut self, shape: &Shape) {
        self.tile += stride(shape);
        self.slot = self.slot_after(1, shape);
    }

    #[inline(always)]
    fn slot_after(&self, steps: u32, shape: &Shape) -> u32 {
        // Slots are no power of two to mask by; steps is at most their number.
        let slot = self.slot + steps;
        if slot >= shape.stages { slot - shape.stages } else { slot }
    }

    #[inline(always)]
    fn slot_of<const SIDE: usize>(&self, slot: u32, shape: &Shape) -> Shared<u8> {
        self.base.byte_offset((SIDE as u32 * shape.stages + slot) * shape.tile_bytes())
    }

    #[inline(always)]
    fn scales_of<const SIDE: usize>(&self, slot: u32, shape: &Shape) -> Shared<u8> {
        let tiles = 2 * shape.stages * shape.tile_bytes();
        self.base.byte_offset(tiles + (SIDE as u32 * shape.stages + slot) * shape.tile_scale_bytes())
    }

    #[inline(always)]
    fn tile_in<const SIDE: usize>(&self, params: &DecodeParams, slot: u32, shape: &Shape) -> RingTile {
        let scales = has_scales(scales_side::<SIDE>(params), shape).then(|| self.scales_of::<SIDE>(slot, shape));
        RingTile { data: self.slot_of::<SIDE>(slot, shape), scales }
    }

    #[inline(always)]
    fn barrier(&self, place: &Place, shape: &Shape) {
        if shape.row_warps == 1 {
            bar_warp_sync();
        } else {
            bar_sync(place.ring_barrier(shape), 32 * shape.row_warps);
        }
    }

    /// The page of this lane's key in `tile`; lanes past the tile's keys repeat them. Nothing is read past the last key, and
    /// what is read before the first may be anything.
    #[inline(always)]
    unsafe fn page(&self, params: &DecodeParams, tile: u32, place: &Place, shape: &Shape) -> i32 {
        let key = tile * shape.tile_keys + place.lane % shape.tile_keys;
        if tile < self.end && key < self.keys.end {
            let index = self.sequence as i64 * params.block_table_stride + page_index(key, params.page_shift) as i64;
            // SAFETY: the block table has the pages of all keys below the planned length.
            let [page] = unsafe { ld_global_b32(params.block_table.byte_offset(4 * index).cast()) };
            page as i32
        } else {
            0
        }
    }

    /// Copies one side of `tile` to `slot`, keys that no row sees as zeros (0 × NaN would be NaN in P V, and before a window
    /// there may be no page at all), and commits.
    #[inline(always)]
    unsafe fn copy<const SIDE: usize>(
        &self,
        params: &DecodeParams,
        tile: u32,
        slot: u32,
        place: &Place,
        shape: &Shape,
    ) {
        if tile < self.end {
            let side = if SIDE == KEY { &params.k } else { &params.v };
            let first_key = tile * shape.tile_keys;
            let own_key = first_key + place.lane % shape.tile_keys;
            // A key that no row sees has any page, whose row is not read.
            let own_row = side.base.byte_offset(
                key_offset(side, self.pages[SIDE], own_key, params.page_shift) + self.kv_head as i64 * side.head_stride,
            );
            let to = self.slot_of::<SIDE>(slot, shape);
            let scales = place.row_warp == 0 && has_scales(scales_side::<SIDE>(params), shape);
            // SAFETY: the pages are the cache's, the rows those of its tokens; the slot is free.
            unsafe {
                // All tiles but the edges are whole, and their copies shorter by a quarter of the instructions.
                if !self.edges.cover(tile) {
                    copy_rows(own_row, to, |_| true, place, shape);
                    if scales {
                        self.copy_scales::<SIDE, true>(params, own_key, slot, place, shape);
                    }
                } else {
                    copy_rows(own_row, to, |row| self.keys.has(first_key + row), place, shape);
                    if scales {
                        self.copy_scales::<SIDE, false>(params, own_key, slot, place, shape);
                    }
                }
            }
        }
        cp_async_commit_group();
    }

    /// Copies one side's scales of a tile, a key a lane, those of keys that no row sees as zeros.
    #[inline(always)]
    unsafe fn copy_scales<const SIDE: usize, const WHOLE: bool>(
        &self,
        params: &DecodeParams,
        key: u32,
        slot: u32,
        place: &Place,
        shape: &Shape,
    ) {
        let side = scales_side::<SIDE>(params);
        let interleaved = SIDE == VALUE && shape.block_scales() && params.flags & CacheFlags::V_INTERLEAVED != 0;
        let slice = if shape.block_scales() { place.column_warp * shape.scale_bytes } else { 0 };
        // Interleaved, four tokens have four times the bytes together, and a lane copies a quarter of them.
        let (first, within) = if interleaved {
            (key - key % INTERLEAVED_TOKENS, slice * INTERLEAVED_TOKENS + key % INTERLEAVED_TOKENS * shape.scale_bytes)
        } else {
            (key, slice)
        };
        let tokens = if interleaved { INTERLEAVED_TOKENS } else { 1 };
        let exists = WHOLE || first < self.keys.end && first + tokens > self.keys.begin;
        // A lane whose own key is not there has no page of its own, and may have a part of four tokens' scales: the page is
        // that of the last of them that is.
        let page = if interleaved && !WHOLE {
            let last = (self.keys.end.max(first + 1) - first).min(tokens) - 1;
            shfl_idx(self.pages[SIDE] as u32, place.lane - place.lane % tokens + last) as i32
        } else {
            self.pages[SIDE]
        };
        let offset =
            key_offset(side, page, first, params.page_shift) + self.kv_head as i64 * side.head_stride + within as i64;
        let from = side.base.byte_offset(offset);
        let to = self.scales_of::<SIDE>(slot, shape).byte_offset(place.lane * shape.scale_bytes);
        let cut =
            !WHOLE && interleaved && exists && (self.keys.end - first < INTERLEAVED_TOKENS || self.keys.begin > first);
        for piece in 0..shape.scale_bytes / 4 {
            let (to, from) = (to.byte_offset(4 * piece), from.byte_offset(4 * piece as i64));
            // SAFETY: the page is one of the cache's, the scales are those of its tokens; the slot is free.
            unsafe {
                if cut {
                    // Tokens that no row sees may have a NaN there, and 0 x NaN is NaN.
                    let [word] = ld_global_b32(from.cast());
                    let (skipped, kept) = (self.keys.begin.saturating_sub(first), self.keys.end - first);
                    let behind = if kept < INTERLEAVED_TOKENS { u32::MAX << (8 * kept) } else { 0 };
                    st_shared_b32(to.cast(), [word & (u32::MAX << (8 * skipped)) & !behind]);
                } else {
                    cp_async_4(to, from, if exists { 4 } else { 0 });
                }
            }
        }
    }
}

/// Copies a warp's rows of one side of a tile, each lane's key's being at `own_row`; those that `exists` denies as zeros.
///
/// # Safety
/// The rows that exist are in live pages, and nothing else touches the slot `to`.
#[inline(always)]
unsafe fn copy_rows(own_row: Global<u8>, to: Shared<u8>, exists: impl Fn(u32) -> bool, place: &Place, shape: &Shape) {
    let (chunks, row_bytes) = (chunks(shape), shape.row_bytes);
    let (rows, copies) = (rows_a_copy(shape), copies_a_warp(shape));
    // Worked out anew each time where they would cost registers that sm_80 lacks, whose ptxas keeps more for its shuffles.
    let short = cfg!(qkv_sm = "80") && (shape.row_warps > 1 || shape.block_scales());
    let lane = if short { renewed(place.lane) } else { place.lane };
    let first_row = place.row_warp * copies * rows + lane / chunks;
    let column_bytes = place.column_warp * row_bytes + lane % chunks * CHUNK_BYTES;
    let pointer = SwizzledPointer::new(to, first_row, lane % chunks, row_bytes);
    // Where a tile has fewer copies than there are warps, the last ones have none.
    let copies = if first_row < shape.tile_keys { copies } else { 0 };
    for index in 0..copies {
        let row = first_row + index * rows;
        let low = shfl_idx(own_row.address as u32, row);
        let high = shfl_idx((own_row.address >> 32) as u32, row);
        let from = Global::new(mov_b64(low, high)).byte_offset(column_bytes as i64);
        // SAFETY: handed on to the caller.
        unsafe { cp_async_16(pointer.step(index * rows, 0), from, if exists(row) { CHUNK_BYTES } else { 0 }) };
    }
}

/// Where one side's scales are.
#[inline(always)]
const fn scales_side<const SIDE: usize>(params: &DecodeParams) -> &CacheSide {
    if SIDE == KEY { &params.k_scales } else { &params.v_scales }
}

/// Whether a side has scales beside its tiles: always in blocks, otherwise where they are given.
#[inline(always)]
const fn has_scales(side: &CacheSide, shape: &Shape) -> bool {
    shape.scale_bytes > 0 && (shape.block_scales() || !side.base.is_null())
}

/// Rows that one instruction of a warp copies, 32 chunks: 2 of 256 bytes to 16 of 32.
#[inline(always)]
pub const fn rows_a_copy(shape: &Shape) -> u32 {
    32 / chunks(shape)
}

/// Such instructions of a warp for a tile.
#[inline(always)]
pub const fn copies_a_warp(shape: &Shape) -> u32 {
    (shape.tile_keys / rows_a_copy(shape)).div_ceil(shape.row_warps)
}

/// `cp.async.wait_group` takes a literal: one for each number of stages in use.
#[inline(always)]
fn wait_pending(groups: u32) {
    match groups {
        2 => cp_async_wait_group::<2>(),
        4 => cp_async_wait_group::<4>(),
        6 => cp_async_wait_group::<6>(),
        8 => cp_async_wait_group::<8>(),
        10 => cp_async_wait_group::<10>(),
        18 => cp_async_wait_group::<18>(),
        _ => unreachable!("stages are 2, 3, 4, 5, 6 or 10"),
    }
}
