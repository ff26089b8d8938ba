//! K and V at D = 512, in slots of 16 KiB, by a warp for each of the two warpgroups that multiply, in the order in which that one
//! reads them: for each tile the 64 keys that it takes the products of with Q, 128 columns at a time, and then its half of
//! the columns of V, 32 keys at a time, of its own keys first.
//!
//! The blocks of a cluster have the same keys: each copies every second box, to all of them.
use super::block::{Block, Side, Turn};
use super::item;
use super::keys::{expect, release_item};
use super::queries::rank;
use super::shape::{COLUMNS_BYTES, KEY_PARTS, PATTERN_ROWS, PrefillShape, VALUE_PARTS};
use crate::abi::PrefillParams;
use crate::attention::visible::Interval;
use crate::fault::{Fault, planted};
use crate::layout::paged::page_index;
use crate::memory::{Mbarrier, Shared, TensorMapAddress};
use crate::ptx::bulk::{cp_async_bulk_tensor_5d, cp_async_bulk_tensor_5d_multicast};
use crate::ptx::math::renewed;
use crate::ptx::mbarrier::mbarrier_wait_parity;
use crate::ptx::memory::ld_global_b32;
use crate::ptx::sync::{bar_warp_sync, elect_sync, shfl_idx};

/// Keys that a warpgroup takes the products of with Q.
pub const GROUP_KEYS: u32 = 64;
/// Slots of a tile's K, and as many of its V.
pub const SLOTS: u32 = 4;

/// Copies what warpgroup `reader` reads of the block's items.
///
/// # Safety
/// As for the entry; one warp of the block calls it.
#[inline(always)]
pub unsafe fn copy(
    params: &PrefillParams,
    maps: TensorMapAddress,
    block: &Block,
    [reader, lane]: [u32; 2],
    shape: &PrefillShape,
) {
    let (ring, leads) = (Side::of(reader), elect_sync());
    let (mut turn, mut item) = (Turn::FIRST, 0);
    while block.has(item, shape) {
        // SAFETY: handed on to the caller.
        unsafe {
            let at = block.wait_for_item(item, shape);
            let copier = Copier { params, maps, item: at, seen: item::seen(at), leads };
            let tiles = item::span(at).tiles;
            for tile in tiles.first..tiles.end {
                let places = [0, 1].map(|side| copier.place(side, tile * shape.tile_keys, lane, shape));
                // Not unrolled: of eight slots' addresses ahead there would be more than registers.
                let slots = renewed(2 * SLOTS);
                for slot in 0..slots {
                    let full = block.full(ring, turn.slot, shape);
                    if !planted(ring.either(Fault::KeyTileEmpty, Fault::ValueTileEmpty)) {
                        mbarrier_wait_parity(block.empty(ring, turn.slot, shape), turn.parity ^ 1);
                    }
                    if !planted(Fault::TileWarp) {
                        bar_warp_sync();
                    }
                    if leads {
                        expect(full, shape);
                    }
                    let to = block.tile(ring, turn.slot, shape);
                    let chunk = if slot < SLOTS {
                        Chunk {
                            side: 0,
                            first: GROUP_KEYS * reader,
                            keys: GROUP_KEYS,
                            part: KEY_PARTS * slot,
                            parts: KEY_PARTS,
                        }
                    } else {
                        let slot = slot - SLOTS;
                        let first = GROUP_KEYS * (reader ^ (slot / 2)) + GROUP_KEYS / 2 * (slot % 2);
                        Chunk { side: 1, first, keys: GROUP_KEYS / 2, part: VALUE_PARTS * reader, parts: VALUE_PARTS }
                    };
                    copier.chunk(tile * shape.tile_keys, &chunk, to, full, places, shape);
                    turn.advance(shape.stages);
                }
            }
            release_item(block, item, leads, shape);
        }
        item += 1;
    }
}

/// What a slot has of a tile.
struct Chunk {
    /// 0: K, 1: V.
    side: u32,
    /// Its first key, counted in the tile.
    first: u32,
    keys: u32,
    /// Its first 64 columns, and how many times.
    part: u32,
    parts: u32,
}

/// One item's copies.
struct Copier<'a> {
    params: &'a PrefillParams,
    maps: TensorMapAddress,
    item: Shared<u32>,
    /// What its rows see together.
    seen: Interval,
    /// Whether this lane issues them.
    leads: bool,
}

impl Copier<'_> {
    /// Of K or V: places from a page to the next and from a KV head to the next, and one outside.
    #[inline(always)]
    const fn steps(&self, side: u32) -> ([u32; 2], u32) {
        // By select: an index that is not constant would put the parameters into memory.
        if side == 0 {
            (self.params.steps[0], self.params.outside[0])
        } else {
            (self.params.steps[1], self.params.outside[1])
        }
    }

    /// The place of the lane's box of the tile that begins with key `first`; there are at most 16 of 8 tokens or more.
    #[inline(always)]
    unsafe fn place(&self, side: u32, first: u32, lane: u32, shape: &PrefillShape) -> u32 {
        let (of_tile, tokens) = (lane << self.params.box_shift, 1 << self.params.box_shift);
        let (key, seen) = (first + of_tile, self.seen);
        if of_tile >= shape.tile_keys || key >= seen.end || key + tokens <= seen.begin {
            return self.steps(side).1;
        }
        // SAFETY: handed on to the caller.
        unsafe { self.place_of(side, key) }
    }

    /// The place of a key that a row sees.
    #[inline(always)]
    unsafe fn place_of(&self, side: u32, key: u32) -> u32 {
        let decode = &self.params.decode;
        // SAFETY: handed on to the caller.
        let [sequence, kv_head] = unsafe { item::place(self.item) };
        let row = sequence as i64 * decode.block_table_stride;
        let index = row + page_index(key, decode.page_shift) as i64;
        // SAFETY: the block table has the pages of all keys that a row sees.
        let [page] = unsafe { ld_global_b32(decode.block_table.byte_offset(4 * index).cast()) };
        let ([page_step, head_step], _) = self.steps(side);
        page * page_step + kv_head * head_step
    }

    /// Copies `chunk` of the tile that begins with key `tile`; `places` are those of the tile's boxes, in K and in V.
    #[inline(always)]
    unsafe fn chunk(
        &self,
        tile: u32,
        chunk: &Chunk,
        to: Shared<u8>,
        full: Shared<Mbarrier>,
        places: [u32; 2],
        shape: &PrefillShape,
    ) {
        let PrefillParams { decode, box_shift, .. } = self.params;
        let (seen, tokens, in_page) = (self.seen, 1 << box_shift, (1 << decode.page_shift) - 1);
        let outside = self.steps(chunk.side).1;
        let rows = |row: u32| to.byte_offset(row / PATTERN_ROWS * (chunk.parts * PATTERN_ROWS * COLUMNS_BYTES));
        for index in 0..chunk.keys >> box_shift {
            let of_tile = chunk.first + (index << box_shift);
            let place = shfl_idx(if chunk.side == 0 { places[0] } else { places[1] }, (of_tile >> box_shift) % 32);
            let key = tile + of_tile;
            let (row, alike) = (index << box_shift, key >= seen.begin && key + tokens <= seen.end || place == outside);
            if !self.leads {
                continue;
            }
            // SAFETY: the slot is free in all blocks, and their barriers expect the bytes.
            unsafe {
                if tokens >= PATTERN_ROWS && alike {
                    if index % shape.cluster == rank(shape) {
                        let at = [0, 0, chunk.part as i32, ((key & in_page) / PATTERN_ROWS) as i32, place as i32];
                        let (map, ranks) = (self.maps.at(chunk.side), (1 << shape.cluster) - 1);
                        if shape.cluster > 1 {
                            cp_async_bulk_tensor_5d_multicast(rows(row), map, at, full, ranks);
                        } else {
                            cp_async_bulk_tensor_5d(rows(row), map, at, full);
                        }
                    }
                } else {
                    for token in row..row + tokens {
                        let key = tile + chunk.first + token;
                        let place = if seen.has(key) { self.place_of(chunk.side, key) } else { outside };
                        let to = rows(token).byte_offset(token % PATTERN_ROWS * COLUMNS_BYTES);
                        self.token(chunk, to, key & in_page, place, full);
                    }
                }
            }
        }
    }

    /// Copies the chunk's columns of token `token` of a page, for this block alone.
    #[inline(always)]
    unsafe fn token(&self, chunk: &Chunk, to: Shared<u8>, token: u32, place: u32, full: Shared<Mbarrier>) {
        let in_group = PATTERN_ROWS.min(1 << self.params.decode.page_shift);
        for part in 0..chunk.parts {
            let at = [0, token % in_group, chunk.part + part, token / in_group, place].map(|index| index as i32);
            let to = to.byte_offset(part * PATTERN_ROWS * COLUMNS_BYTES);
            // SAFETY: handed on to the caller.
            unsafe { cp_async_bulk_tensor_5d(to, self.maps.at(chunk.side + 2), at, full) };
        }
    }
}
