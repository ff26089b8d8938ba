//! Parts of a tile of K or V, where a slot has not all of one, or all of it alike: boxes of a page's tokens, of the part's columns alone.
//! Keys that no row sees arrive as zeros, as `keys` says.
use super::block::Side;
use super::item;
use super::shape::{COLUMNS_BYTES, PATTERN_ROWS};
use crate::abi::PrefillParams;
use crate::attention::visible::Interval;
use crate::layout::paged::page_index;
use crate::memory::{Mbarrier, Shared, TensorMapAddress};
use crate::ptx::bulk::cp_async_bulk_tensor_5d;
use crate::ptx::memory::ld_global_b32;
use crate::ptx::sync::shfl_idx;

/// Keys of a tile of who copies so.
const TILE_KEYS: u32 = 128;

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
