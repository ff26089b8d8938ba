//! From global memory to where the products read: q to registers, pages of K and V to a ring in shared memory.
//!
//! A ring belongs to the warps that read it (one, or all row warps of a slice): they issue its copies, wait for their
//! own, and meet at a barrier of theirs alone. K and V of a tile are separate groups, so that S can start on K; after
//! each of the two barriers of a step the slot that it has shown to be read is filled again. Groups alternate K, V, K, …
//! whatever there is to copy, so the number that may be pending is a constant, `2 stages - 2`.
use super::work::Work;
use crate::abi::DecodeParams;
use crate::config::{Shape, WARP_ROWS};
use crate::fault::{Fault, planted};
use crate::layout::fragment::a_register;
use crate::layout::paged::{key_offset, page_index};
use crate::layout::place::Place;
use crate::layout::swizzle::{CHUNK_BYTES, SwizzledPointer};
use crate::memory::Shared;
use crate::ptx::copy::{cp_async_16, cp_async_commit_group, cp_async_wait_group};
use crate::ptx::memory::ld_global_b32;
use crate::ptx::sync::{bar_sync, bar_warp_sync, shfl_idx};
use crate::tile::Query;

/// The warp's rows and columns of q, as A operands; rows past the group are zero.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn query(params: &DecodeParams, work: &Work, place: &Place, shape: &Shape) -> Query {
    let first_row = work.item.first_row + place.row_warp * WARP_ROWS;
    let first_head = work.item.kv_head * params.group + first_row;
    let q = params.q.base.byte_offset(
        work.item.sequence as i64 * params.q.token_stride
            + first_head as i64 * params.q.head_stride
            + (place.column_warp * shape.slice * 2) as i64,
    );
    let mut operands = Query::default();
    for (index, operand) in operands.iter_mut().take(shape.slice as usize / 16).enumerate() {
        for (register, pair) in operand.iter_mut().enumerate() {
            let (row, column) = a_register(place.lane, register as u32);
            if first_row + row < params.group {
                let column_bytes = 2 * (16 * index as u32 + column);
                // SAFETY: the row is one of the group's, the columns are of this warp's slice.
                [*pair] = unsafe {
                    ld_global_b32(q.byte_offset(row as i64 * params.q.head_stride + column_bytes as i64).cast())
                };
            }
        }
    }
    operands
}

/// A ring, seen by one of its warps at one step.
pub struct Ring {
    base: Shared<u8>,
    /// Slot of this step's tile.
    slot: u32,
    /// This step's tile.
    tile: u32,
    /// Behind the item's last tile.
    end: u32,
    length: u32,
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
            length: work.length,
            sequence: work.item.sequence,
            kv_head: work.item.kv_head,
            pages: [0; 2],
        };
        // SAFETY: the slots are free.
        unsafe {
            for stage in 0..shape.stages {
                let tile = ring.tile + stage * stride(shape);
                ring.pages = [ring.page(params, tile, place, shape); 2];
                ring.copy::<KEY>(params, tile, stage, place, shape);
                if stage + 1 < shape.stages {
                    ring.copy::<VALUE>(params, tile, stage, place, shape);
                }
            }
            ring.pages[KEY] = ring.page(params, ring.tile + shape.stages * stride(shape), place, shape);
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
    pub unsafe fn key(&mut self, params: &DecodeParams, place: &Place, shape: &Shape) -> Shared<u8> {
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
        self.slot_of::<KEY>(self.slot, shape)
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
    ) -> Shared<u8> {
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
        self.slot_of::<VALUE>(self.slot, shape)
    }

    /// On to the team's next tile.
    #[inline(always)]
    pub fn advance(&mut self, shape: &Shape) {
        self.tile += stride(shape);
        self.slot = self.slot_after(1, shape);
    }

    #[inline(always)]
    fn slot_after(&self, steps: u32, shape: &Shape) -> u32 {
        // 2, 3, 4 or 6 slots, no power of two to mask by; steps is at most their number.
        let slot = self.slot + steps;
        if slot >= shape.stages { slot - shape.stages } else { slot }
    }

    #[inline(always)]
    fn slot_of<const SIDE: usize>(&self, slot: u32, shape: &Shape) -> Shared<u8> {
        self.base.byte_offset((SIDE as u32 * shape.stages + slot) * shape.tile_bytes())
    }

    #[inline(always)]
    fn barrier(&self, place: &Place, shape: &Shape) {
        if shape.row_warps == 1 {
            bar_warp_sync();
        } else {
            bar_sync(place.ring_barrier(shape), 32 * shape.row_warps);
        }
    }

    /// The page of this lane's key in `tile`; lanes past the tile's keys repeat them. Nothing is read past the length.
    #[inline(always)]
    unsafe fn page(&self, params: &DecodeParams, tile: u32, place: &Place, shape: &Shape) -> i32 {
        let key = tile * shape.tile_keys + place.lane % shape.tile_keys;
        if tile < self.end && key < self.length {
            let index = self.sequence as i64 * params.block_table_stride + page_index(key, params.page_shift) as i64;
            // SAFETY: the block table has the pages of all keys below the planned length.
            let [page] = unsafe { ld_global_b32(params.block_table.byte_offset(4 * index).cast()) };
            page as i32
        } else {
            0
        }
    }

    /// Copies one side of `tile` to `slot`, keys past the length as zeros (0 × NaN would be NaN in P V), and commits.
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
            let own_offset = (key_offset(side, self.pages[SIDE], own_key, params.page_shift)
                + self.kv_head as i64 * side.head_stride) as u64;
            let to = self.slot_of::<SIDE>(slot, shape);
            let (chunks, row_bytes) = (shape.slice / 8, shape.slice * 2);
            // One instruction of a warp copies 32 chunks: 2 rows of 256 bytes or 4 of 128.
            let rows = 32 / chunks;
            let copies = shape.tile_keys / rows / shape.row_warps;
            let first_row = place.row_warp * copies * rows + place.lane / chunks;
            let column_bytes = place.column_warp * row_bytes + place.lane % chunks * CHUNK_BYTES;
            let pointer = SwizzledPointer::new(to, first_row, place.lane % chunks, row_bytes);
            for index in 0..copies {
                let row = first_row + index * rows;
                let low = shfl_idx(own_offset as u32, row);
                let high = shfl_idx((own_offset >> 32) as u32, row);
                let exists = first_key + row < self.length;
                let offset = if exists { (u64::from(high) << 32 | u64::from(low)) as i64 } else { 0 };
                let from = side.base.byte_offset(offset + column_bytes as i64);
                // SAFETY: the page is one of the cache's, the row one of its tokens; the slot is free.
                unsafe {
                    cp_async_16(pointer.step(index * rows, 0), from, if exists { CHUNK_BYTES } else { 0 });
                }
            }
        }
        cp_async_commit_group();
    }
}

/// `cp.async.wait_group` takes a literal: one for each number of stages in use.
#[inline(always)]
fn wait_pending(groups: u32) {
    match groups {
        2 => cp_async_wait_group::<2>(),
        4 => cp_async_wait_group::<4>(),
        6 => cp_async_wait_group::<6>(),
        10 => cp_async_wait_group::<10>(),
        _ => unreachable!("stages are 2, 3, 4 or 6"),
    }
}
