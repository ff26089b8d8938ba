//! What a block has to do: its item, and the keys that are its share at the sequence's length now.
use super::mask::EdgeMask;
use crate::abi::{DecodeParams, WorkItem};
use crate::config::Shape;
use crate::ptx::memory::{ld_global_b32, ld_global_v4_b32};
use crate::ptx::sync::uniform;
use cuda_std::thread;

/// Consecutive tiles of a sequence's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// The first.
    pub first: u32,
    /// Behind the last.
    pub end: u32,
}

impl Tiles {
    /// The share `first / of .. last / of` of `tiles` tiles. Shares that partition the fraction partition the tiles,
    /// whatever `tiles` is: both bounds are the same monotone function of their numerator.
    #[inline(always)]
    pub fn share(tiles: u32, item: &WorkItem) -> Self {
        // At the planned length, the usual case, no 64-bit division (some 100 instructions).
        if tiles == item.of {
            return Self { first: item.first, end: item.last };
        }
        let tiles = tiles as u64;
        let of = item.of.max(1) as u64;
        Self { first: (tiles * item.first as u64 / of) as u32, end: (tiles * item.last as u64 / of) as u32 }
    }
}

/// One item, with its keys.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// As planned.
    pub item: WorkItem,
    /// The sequence's length now, at most the planned one and what the block table has pages for.
    pub length: u32,
    /// Its tiles.
    pub tiles: Tiles,
    /// Which of them need a mask, and the mask.
    pub edge_mask: EdgeMask,
}

impl Work {
    /// Reads this block's item.
    ///
    /// # Safety
    /// As for the entry.
    #[inline(always)]
    pub unsafe fn item(params: &DecodeParams) -> WorkItem {
        let at = params.items.at(thread::block_idx_x()).cast::<u32>();
        // SAFETY: items are 32 bytes, aligned to 16 in the workspace, and there is one for every block.
        unsafe {
            let [sequence, kv_head, first_row, first] = ld_global_v4_b32(at).map(uniform);
            let [last, of, length_bound, partial] = ld_global_v4_b32(at.byte_offset(16)).map(uniform);
            WorkItem { sequence, kv_head, first_row, first, last, of, length_bound, partial }
        }
    }

    /// Reads this block's item and its sequence's length; `None` where there are fewer items than blocks.
    ///
    /// # Safety
    /// As for the entry.
    #[inline(always)]
    pub unsafe fn load(params: &DecodeParams, shape: &Shape) -> Option<Self> {
        // SAFETY: a captured launch has no more blocks than the workspace has room for items; sequences of items that
        // exist are below the batch.
        let (item, length) = unsafe {
            // Both in the same trip to memory.
            let item = Self::item(params);
            if !params.counts.is_null() {
                let [items] = ld_global_b32(params.counts.cast());
                if thread::block_idx_x() >= uniform(items) {
                    return None;
                }
            }
            let [length] = ld_global_b32(params.seq_lens.at(item.sequence).cast());
            (item, uniform(length) as i32)
        };
        let length = (length.max(0) as u32).min(item.length_bound).min(params.table_tokens);
        let tiles = Tiles::share(length.div_ceil(shape.tile_keys), &item);
        Some(Self { item, length, tiles, edge_mask: EdgeMask { length } })
    }
}
