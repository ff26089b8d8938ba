//! K and V at D = 512, in slots of 16 KiB in the order in which they are read: of each tile half of the keys of K, which are this
//! block's, 128 columns at a time, and half of the columns of V, 32 keys at a time, of its own keys before the K of the next
//! tile, of the other block's behind it.
//!
//! Two warps copy every second slot each. A slot is given back behind all that were read before it, so who finds its own free
//! has seen that the one between was.
use super::block::{Block, Side, Turn};
use super::item;
use super::keys::{expect, release_item};
use super::shape::{COLUMNS_BYTES, KEY_PARTS, PATTERN_ROWS, PrefillShape, VALUE_PARTS};
use crate::abi::PrefillParams;
use crate::attention::visible::Interval;
use crate::fault::{Fault, planted};
use crate::layout::paged::page_index;
use crate::memory::{Mbarrier, Shared, TensorMapAddress};
use crate::ptx::bulk::cp_async_bulk_tensor_5d;
use crate::ptx::cluster::cluster_ctarank;
use crate::ptx::math::renewed;
use crate::ptx::mbarrier::mbarrier_wait_parity;
use crate::ptx::memory::ld_global_b32;
use crate::ptx::sync::{bar_warp_sync, elect_sync, shfl_idx};

/// Keys of a tile that a block takes the products of with Q.
pub const GROUP_KEYS: u32 = 64;
/// Keys of a tile: the two blocks'.
const TILE_KEYS: u32 = 2 * GROUP_KEYS;
/// Slots of a tile's K, and as many of its V.
pub const SLOTS: u32 = 4;

/// Copies every second slot of the block's items, `warp` of two.
///
/// # Safety
/// As for the entry; one warp of the block calls it.
#[inline(always)]
pub unsafe fn copy(
    params: &PrefillParams,
    maps: TensorMapAddress,
    block: &Block,
    [warp, lane]: [u32; 2],
    shape: &PrefillShape,
) {
    let (rank, leads) = (cluster_ctarank(), elect_sync());
    let (mut turn, mut item) = (Turn::FIRST, 0);
    if warp == 1 {
        turn.advance(shape.stages);
    }
    while block.has(item, shape) {
        // SAFETY: handed on to the caller.
        unsafe {
            let at = block.wait_for_item(item, shape);
            let copier = Copier { params, maps, item: at, seen: item::seen(at), lane, leads };
            let tiles = item::span(at).tiles;
            // Of K's boxes of the tile, and of V's of the one before.
            let mut places = [copier.place(0, tiles.first * shape.tile_keys), 0];
            let mut tile = tiles.first;
            while tile <= tiles.end && tiles.first < tiles.end {
                let values = copier.place(1, tile * shape.tile_keys);
                // Not unrolled: of all slots' addresses ahead there would be more than registers.
                let slots = renewed(2 * SLOTS);
                let mut slot = warp;
                while slot < slots {
                    // Half of V, K, the other half.
                    let half = SLOTS / 2;
                    let (side, part) = if slot < half {
                        (Side::Value, slot)
                    } else if slot < half + SLOTS {
                        (Side::Key, slot - half)
                    } else {
                        (Side::Value, slot - SLOTS)
                    };
                    slot += 2;
                    let nothing = if side == Side::Key { tiles.end } else { tiles.first };
                    if tile == nothing {
                        continue;
                    }
                    let full = block.full(side, turn.slot, shape);
                    if !planted(side.either(Fault::KeyTileEmpty, Fault::ValueTileEmpty)) {
                        mbarrier_wait_parity(block.empty(side, turn.slot, shape), turn.parity ^ 1);
                    }
                    if !planted(Fault::TileWarp) {
                        bar_warp_sync();
                    }
                    if leads {
                        expect(full, shape);
                    }
                    let to = block.tile(side, turn.slot, shape);
                    let (first, chunk) = if side == Side::Key {
                        let (first, part) = (GROUP_KEYS * rank, KEY_PARTS * part);
                        (tile, Chunk { side, first, keys: GROUP_KEYS, part, parts: KEY_PARTS })
                    } else {
                        let first = GROUP_KEYS * (rank ^ (part / half)) + GROUP_KEYS / half * (part % half);
                        let (part, parts) = (VALUE_PARTS * rank, VALUE_PARTS);
                        (tile - 1, Chunk { side, first, keys: GROUP_KEYS / half, part, parts })
                    };
                    copier.chunk(first * shape.tile_keys, &chunk, to, full, places);
                    turn.advance(shape.stages);
                    turn.advance(shape.stages);
                }
                tile += 1;
                places = [copier.place(0, tile * shape.tile_keys), values];
            }
            release_item(block, item, leads, shape);
        }
        item += 1;
    }
}

/// What a slot has of a tile.
pub struct Chunk {
    /// K or V.
    pub side: Side,
    /// Its first key, counted in the tile.
    pub first: u32,
    /// Its keys.
    pub keys: u32,
    /// Its first 64 columns (of 8 bits 128), and how many times.
    pub part: u32,
    /// How many times.
    pub parts: u32,
}

/// One item's copies.
pub struct Copier<'a> {
    /// The launch's parameters, and its maps.
    pub params: &'a PrefillParams,
    /// As `params`.
    pub maps: TensorMapAddress,
    /// The item.
    pub item: Shared<u32>,
    /// What its rows see together.
    pub seen: Interval,
    /// The lane's number.
    pub lane: u32,
    /// Whether this lane issues those of edge tiles.
    pub leads: bool,
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
    ///
    /// # Safety
    /// As for the entry.
    #[inline(always)]
    pub unsafe fn place(&self, side: u32, first: u32) -> u32 {
        let (of_tile, tokens) = (self.lane << self.params.box_shift, 1 << self.params.box_shift);
        let (key, seen) = (first + of_tile, self.seen);
        if of_tile >= TILE_KEYS || key >= seen.end || key + tokens <= seen.begin {
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
    ///
    /// # Safety
    /// As for the entry; the slot at `to` is free, and `full` expects its bytes.
    #[inline(always)]
    pub unsafe fn chunk(&self, tile: u32, chunk: &Chunk, to: Shared<u8>, full: Shared<Mbarrier>, places: [u32; 2]) {
        let PrefillParams { decode, box_shift, .. } = self.params;
        let (seen, tokens, in_page) = (self.seen, 1 << box_shift, (1 << decode.page_shift) - 1);
        let outside = self.steps(chunk.side as u32).1;
        let rows = |row: u32| to.byte_offset(row / PATTERN_ROWS * (chunk.parts * PATTERN_ROWS * COLUMNS_BYTES));
        if tokens >= PATTERN_ROWS && tile >= seen.begin && tile + TILE_KEYS <= seen.end {
            // All tiles but the edges. Each box by the lane that has its place: told to one lane, place by place, a box took 400
            // clocks, and the two warps had no time to wait.
            let (of_tile, place) =
                (self.lane << box_shift, if chunk.side == Side::Key { places[0] } else { places[1] });
            if of_tile.wrapping_sub(chunk.first) < chunk.keys {
                let key = tile + of_tile;
                let at = [0, 0, chunk.part as i32, ((key & in_page) / PATTERN_ROWS) as i32, place as i32];
                let to = rows(of_tile - chunk.first);
                // SAFETY: the slot is free, and its barrier expects the bytes.
                unsafe { cp_async_bulk_tensor_5d(to, self.maps.at(chunk.side as u32), at, full) };
            }
            return;
        }
        for index in 0..chunk.keys >> box_shift {
            let of_tile = chunk.first + (index << box_shift);
            let place =
                shfl_idx(if chunk.side == Side::Key { places[0] } else { places[1] }, (of_tile >> box_shift) % 32);
            let key = tile + of_tile;
            let (row, alike) = (index << box_shift, key >= seen.begin && key + tokens <= seen.end || place == outside);
            if !self.leads {
                continue;
            }
            // SAFETY: the slot is free, and its barrier expects the bytes.
            unsafe {
                if tokens >= PATTERN_ROWS && alike {
                    let at = [0, 0, chunk.part as i32, ((key & in_page) / PATTERN_ROWS) as i32, place as i32];
                    cp_async_bulk_tensor_5d(rows(row), self.maps.at(chunk.side as u32), at, full);
                } else {
                    for token in row..row + tokens {
                        let key = tile + chunk.first + token;
                        let place = if seen.has(key) { self.place_of(chunk.side as u32, key) } else { outside };
                        let to = rows(token).byte_offset(token % PATTERN_ROWS * COLUMNS_BYTES);
                        self.token(chunk, to, key & in_page, place, full);
                    }
                }
            }
        }
    }

    /// Copies the chunk's columns of token `token` of a page.
    #[inline(always)]
    unsafe fn token(&self, chunk: &Chunk, to: Shared<u8>, token: u32, place: u32, full: Shared<Mbarrier>) {
        let in_group = PATTERN_ROWS.min(1 << self.params.decode.page_shift);
        for part in 0..chunk.parts {
            let at = [0, token % in_group, chunk.part + part, token / in_group, place].map(|index| index as i32);
            let to = to.byte_offset(part * PATTERN_ROWS * COLUMNS_BYTES);
            // SAFETY: handed on to the caller.
            unsafe { cp_async_bulk_tensor_5d(to, self.maps.at(chunk.side as u32 + 2), at, full) };
        }
    }
}
