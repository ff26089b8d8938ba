//! K and V, tile after tile and item after item, a warp each, in slots of whole tiles or of parts: K by columns, V by keys.
use crate::abi::PrefillParams;
use crate::fault::{Fault, planted};
use crate::memory::TensorMapAddress;
use crate::prefill::block::{Side, Turn, expect, release_item};
use crate::prefill::chunks::{Chunk, Copier};
use crate::prefill::item;
use crate::ptx::mbarrier::mbarrier_wait_parity;
use crate::ptx::sync::{bar_warp_sync, elect_sync};

use super::block::TensorBlock;

/// Copies one side's tiles of the block's items.
///
/// # Safety
/// As for the entry; one warp of the block calls it.
#[inline(always)]
pub unsafe fn copy(params: &PrefillParams, maps: TensorMapAddress, block: &TensorBlock<'_>, [side, lane]: [u32; 2]) {
    let TensorBlock { block, rank, shape, .. } = *block;
    let (of, leads) = (Side::of(side), elect_sync());
    let cut = shape.cut(of == Side::Value);
    let (mut slot, mut turn) = (Turn::FIRST, 0);
    while block.has(turn, shape) {
        // SAFETY: handed on to the caller.
        unsafe {
            let item = block.wait_for_item(turn, shape);
            let copier = Copier { params, maps, item, seen: item::seen(item), lane, leads };
            let tiles = item::span(item).tiles;
            let mut place = copier.place(side, tiles.first * shape.tile_keys);
            for tile in tiles.first..tiles.end {
                let places = [place; 2];
                // On its way while slots are waited for.
                place = copier.place(side, (tile + 1) * shape.tile_keys);
                for number in 0..cut.slots {
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
                    let [first, part] = [0, 1].map(|what| cut.of_rank[what] * rank + cut.step[what] * number);
                    let chunk = Chunk { side: of, first, keys: cut.keys, part, parts: cut.parts };
                    let to = block.tile(of, slot.slot, shape);
                    copier.chunk(tile * shape.tile_keys, &chunk, to, full, places);
                    slot.advance(shape.stages);
                }
            }
            release_item(&block, turn, leads, shape);
        }
        turn += 1;
    }
    if shape.pair() {
        // The other block's products tell of the last slots, too, and must not when this one has ended.
        for _ in 0..shape.stages {
            if !planted(Fault::LastTiles) {
                // SAFETY: initialised at the block's begin.
                unsafe { mbarrier_wait_parity(block.empty(of, slot.slot, shape), slot.parity ^ 1) };
            }
            slot.advance(shape.stages);
        }
    }
}
