//! K and V at D = 512 on Hopper, in slots of 16 KiB in the order in which they are read: of each tile half of the keys of K, which are this
//! block's, 128 columns at a time, and half of the columns of V, 32 keys at a time, of its own keys before the K of the next
//! tile, of the other block's behind it.
//!
//! Two warps copy every second slot each. A slot is given back behind all that were read before it, so who finds its own free
//! has seen that the one between was.
use super::block::{Block, Side, Turn, expect, release_item};
use super::chunks::{Chunk, Copier};
use super::item;
use super::shape::{KEY_PARTS, PrefillShape, VALUE_PARTS};
use crate::abi::PrefillParams;
use crate::fault::{Fault, planted};
use crate::memory::TensorMapAddress;
use crate::ptx::cluster::cluster_ctarank;
use crate::ptx::math::renewed;
use crate::ptx::mbarrier::mbarrier_wait_parity;
use crate::ptx::sync::{bar_warp_sync, elect_sync};

/// Keys of a tile that a block takes the products of with Q.
pub const GROUP_KEYS: u32 = 64;
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
