//! V of 8 bits transposed, by a warp: products take such operands along K alone, that is along the keys here, and a cache has them
//! along the columns. A tile of V arrives in its slot as a tile of K does, `[keys / 8][D / 128][8][128]`, at D = 64 with
//! zeros in half of each row, which are left there; what is multiplied is `[keys / 128][D][128]`, rows of 128 keys of one column. Both
//! are swizzled.
//!
//! `ldmatrix.trans` transposes pairs of bytes: of 8 keys and 16 columns a lane `4 u + t` gets columns 2 u and 2 u + 1 of keys 2 t and
//! 2 t + 1. With the same of the next 8 keys it has four keys of either column, the bytes `4 t ..` of its row of 16 keys, which
//! `stmatrix` stores. So position `4 t + e` of 16 keys is key `8 (e / 2) + 2 t + e % 2`: the order in which a thread
//! has them in its accumulators of S, and P's fragments go without an exchange.
//!
//! Either instruction's eight rows of a matrix are in different banks ([`crate::layout::transposed`]).
use super::block::{Block, Side, Turn, release_item};
use super::item;
use super::shape::{COLUMNS_BYTES, PATTERN_ROWS, PrefillShape};
use crate::fault::{Fault, planted};
use crate::layout::swizzle::CHUNK_BYTES;
use crate::layout::transposed::{loaded, stored};
use crate::memory::Shared;
use crate::ptx::convert::prmt_b32;
use crate::ptx::mbarrier::{mbarrier_arrive, mbarrier_wait_parity};
use crate::ptx::mma::{ldmatrix_x4_trans, stmatrix_x4};
use crate::ptx::sync::{bar_warp_sync, fence_proxy_async_shared};

/// Keys that one instruction transposes.
const KEYS: u32 = 16;

/// Loads under way: one after another, each would wait for the one before, some 40 clocks; of copying warps' 32 or 40 registers
/// four would be too many.
const UNDER_WAY: usize = 2;

/// The first bytes of two pairs each, and the second ones.
const EVEN: u32 = 0x6420;
const ODD: u32 = 0x7531;

/// Transposes the tiles of V of the block's items.
///
/// # Safety
/// As for the entry; one warp of the block calls it.
#[inline(always)]
pub unsafe fn values<const D: u32>(block: &Block, lane: u32, shape: &PrefillShape) {
    let (mut from, mut to, mut turn) = (Turn::FIRST, Turn::FIRST, 0);
    while block.has(turn, shape) {
        // SAFETY: handed on to the caller; what is written is free between the two waits and the arrival.
        unsafe {
            let tiles = item::span(block.wait_for_item(turn, shape)).tiles;
            for _ in tiles.first..tiles.end {
                let empty = block.empty(Side::Value, from.slot, shape);
                if !planted(Fault::ValueTileFull) {
                    mbarrier_wait_parity(block.full(Side::Value, from.slot, shape), from.parity);
                }
                if planted(Fault::ValueTileEarly) && lane == 0 {
                    mbarrier_arrive(empty);
                }
                if !planted(Fault::TransposedEmpty) {
                    mbarrier_wait_parity(block.empty(Side::Transposed, to.slot, shape), to.parity ^ 1);
                }
                let tiles = [block.tile(Side::Value, from.slot, shape), block.tile(Side::Transposed, to.slot, shape)];
                transpose::<D>(tiles, lane, shape);
                // Products are asynchronous, and so is the copy that comes next to where V was read.
                if !planted(Fault::TransposedFence) {
                    fence_proxy_async_shared();
                }
                if !planted(Fault::TransposedWarp) {
                    bar_warp_sync();
                }
                if lane == 0 {
                    if !planted(Fault::TransposedArrival) {
                        mbarrier_arrive(block.full(Side::Transposed, to.slot, shape));
                    }
                    if !planted(Fault::ValueTileEarly) && !planted(Fault::ValueTileRelease) {
                        mbarrier_arrive(empty);
                    }
                }
                from.advance(shape.stages);
                to.advance(shape.transposed);
            }
            release_item(block, turn, lane == 0, shape);
        }
        turn += 1;
    }
}

/// Transposes a tile.
#[inline(always)]
unsafe fn transpose<const D: u32>([from, to]: [Shared<u8>; 2], lane: u32, shape: &PrefillShape) {
    let [first, second] = if lane < 16 { [EVEN, ODD] } else { [ODD, EVEN] };
    let pattern = PATTERN_ROWS * COLUMNS_BYTES;
    let (source, target) = (from.byte_offset(loaded(lane, shape.parts())), to.byte_offset(stored(lane)));
    let mut keys = 0;
    while keys < shape.tile_keys {
        let source = source.byte_offset(keys / PATTERN_ROWS * shape.parts() * pattern);
        let target = moved(target, keys % COLUMNS_BYTES / KEYS).byte_offset(keys / COLUMNS_BYTES * D * COLUMNS_BYTES);
        // SAFETY: the chunks are the tile's.
        let load =
            |pair: u32| unsafe { ldmatrix_x4_trans(moved(source, 2 * pair % 8).byte_offset(pair / 4 * pattern)) };
        let mut words = [load(0), load(1)];
        for pair in 0..D / 32 {
            let [a, b, c, d] = words[pair as usize % UNDER_WAY];
            let columns =
                [prmt_b32(a, b, first), prmt_b32(a, b, second), prmt_b32(c, d, first), prmt_b32(c, d, second)];
            let next = pair + UNDER_WAY as u32;
            if next < D / 32 {
                words[pair as usize % UNDER_WAY] = load(next);
            }
            // SAFETY: the rows are the transposed tile's.
            unsafe { stmatrix_x4(target.byte_offset(32 * pair * COLUMNS_BYTES), columns) };
        }
        keys += KEYS;
    }
}

/// The chunk of a swizzled row that is `chunks` from this one, by exclusive or.
#[inline(always)]
const fn moved(at: Shared<u8>, chunks: u32) -> Shared<u8> {
    Shared::new(at.address ^ (chunks * CHUNK_BYTES))
}
