//! What warps of a block tell each other through shared memory at the end of an item: sums within a team, O and its statistics between
//! teams. Always lane for lane (the fragments of the same rows), so that every access is 16 bytes, free of conflicts.
use super::join::Cluster;
use super::softmax::{OnlineSoftmax, finite};
use crate::config::{FRAGMENT_BYTES, STATS_BYTES, Shape};
use crate::fault::{Fault, planted};
use crate::layout::place::Place;
use crate::memory::Shared;
use crate::ptx::math::{ex2_approx_ftz, fma_rn};
use crate::ptx::memory::{ld_shared_v4_b32, st_shared_v4_b32};
use crate::ptx::sync::{bar_sync, bar_warp_sync};
use crate::tile::{Accumulator, OfRows, column_tiles};
use cuda_std::thread;

/// One warp's fragment: 4 words a lane.
pub const FRAGMENT_WORDS: u32 = FRAGMENT_BYTES / 4;

/// A lane's 16 bytes of fragment `index` of those at `base`.
#[inline(always)]
pub fn fragment(base: Shared<u8>, index: u32, lane: u32) -> Shared<u32> {
    Shared::new(base.address + 4 * index * FRAGMENT_WORDS + lane * 16)
}

/// Number of the fragment of a product of V and a tile of rows.
#[inline(always)]
const fn index(tile: usize, rows: usize, shape: &Shape) -> u32 {
    tile as u32 * shape.row_tiles + rows as u32
}

/// Stores four floats.
///
/// # Safety
/// As for [`st_shared_v4_b32`].
#[inline(always)]
#[track_caller]
pub unsafe fn put(to: Shared<u32>, value: [f32; 4]) {
    // SAFETY: the caller's.
    unsafe { st_shared_v4_b32(to, value.map(f32::to_bits)) }
}

/// Loads four floats.
///
/// # Safety
/// As for [`ld_shared_v4_b32`].
#[inline(always)]
#[track_caller]
unsafe fn get(from: Shared<u32>) -> [f32; 4] {
    // SAFETY: the caller's.
    unsafe { ld_shared_v4_b32(from) }.map(f32::from_bits)
}

/// Where lane `lane` finds the statistics of its rows of a tile of warp `warp`: the eight lanes of a row have the same, and the first four
/// lanes all rows.
#[inline(always)]
pub const fn stats_of(shared: Shared<u8>, warp: u32, rows: usize, lane: u32, shape: &Shape) -> Shared<u32> {
    let of_tile = (warp * shape.row_tiles + rows as u32) * STATS_BYTES;
    shared.byte_offset(shape.stats_offset() + of_tile + lane % 4 * 16).cast()
}

/// Makes `largest`, of a row of each tile, the largest that any of the warps with these rows has; before the first P, whose place it
/// goes through.
#[inline(always)]
pub fn row_maximum(shared: Shared<u8>, largest: &mut [u32; 2], place: &Place, shape: &Shape) {
    if shape.column_warps > 1 {
        let part = |warp| fragment(shared.byte_offset(shape.weights_offset()), warp, place.lane);
        // SAFETY: this warp's part, which others read behind the barrier.
        unsafe { st_shared_v4_b32(part(place.warp), [largest[0], largest[1], 0, 0]) };
        if !planted(Fault::RowMaximum) {
            bar_sync(place.row_barrier(shape), 32 * shape.column_warps);
        }
        for column in 0..shape.column_warps {
            // SAFETY: written before the barrier.
            let [first, last, ..] = unsafe { ld_shared_v4_b32(part(place.warp - place.column_warp + column)) };
            *largest = [largest[0].max(first), largest[1].max(last)];
        }
    }
}

/// O of all teams, left in shared memory: each warp then has some of its columns to finish. Where warps share a ring (many
/// rows), which then is the only team's, O stays in registers.
pub struct Merged {
    shared: Shared<u8>,
    /// Per team, the weights of a lane's rows.
    weight: [OfRows<f32>; 4],
    /// Of all teams together.
    pub softmax: OnlineSoftmax,
    /// The blocks that have the item together.
    pub cluster: Cluster,
}

/// Merges the teams' results, where there are teams, and the sums of warps that share a head; all threads of the block take part.
///
/// `ring` is the warp's own, whose pieces have all been read by its lanes' own program: O goes through it, that of an only team too unless it is
/// sent from registers, so that what follows is a loop and not as many copies of it as there are fragments.
#[inline(always)]
pub fn merge_teams(
    shared: Shared<u8>,
    ring: Shared<u8>,
    o: &Accumulator,
    softmax: OnlineSoftmax,
    cluster: Cluster,
    place: &Place,
    shape: &Shape,
) -> Merged {
    let mut merged = Merged { shared, weight: [[1.0; 4]; 4], softmax, cluster };
    let row_tiles = shape.row_tiles as usize;
    if shape.row_warps == 1 {
        if !planted(Fault::RingRead) {
            // All lanes have read the last piece, whose slot O may take.
            bar_warp_sync();
        }
        if !shape.sent_from_registers(cluster.blocks) {
            // SAFETY: O fits the ring, this warp's alone.
            unsafe {
                for tile in 0..column_tiles(shape) {
                    for rows in 0..row_tiles {
                        put(fragment(ring, index(tile, rows, shape), place.lane), o[tile][rows]);
                    }
                }
            }
        }
    }
    if shape.teams == 1 && shape.column_warps == 1 {
        return merged;
    }
    for rows in 0..row_tiles {
        let of = |values: &OfRows<f32>| [values[2 * rows], values[2 * rows + 1]];
        let ([m0, m1], [s0, s1]) = (of(&softmax.maximum), of(&softmax.sum));
        if place.lane < 4 {
            // SAFETY: the statistics have a place of their own, whose last readers have met this warp since.
            unsafe { put(stats_of(shared, place.warp, rows, place.lane, shape), [m0, m1, s0, s1]) };
        }
    }
    if shape.column_warps > 1 && !planted(Fault::SharedSums) {
        // Where there are teams no order needs it. But where one team is here early while the other's warps are at their own barrier,
        // racecheck (CUDA 13.0) loses the order of the block's: six runs of six reported hazards across it without this, none with it.
        bar_sync(place.row_barrier(shape), 32 * shape.column_warps);
    }
    if shape.teams > 1 && !planted(Fault::MergeFull) {
        thread::sync_threads();
    }
    let mut teams = [OnlineSoftmax::new(); 4];
    merged.softmax = OnlineSoftmax::new();
    for team in 0..shape.teams as usize {
        let first = place.in_team(team as u32, shape) - place.column_warp;
        for column in 0..shape.column_warps {
            for rows in 0..row_tiles {
                // SAFETY: written before the barrier.
                let [m0, m1, s0, s1] = unsafe { get(stats_of(shared, first + column, rows, place.lane, shape)) };
                let (maximum, sum) = ([m0, m1], [s0, s1]);
                for of_tile in 0..2 {
                    let row = 2 * rows + of_tile;
                    // Warps that share a head have sums of their own keys, relative to the same.
                    teams[team].maximum[row] = maximum[of_tile];
                    teams[team].sum[row] += sum[of_tile];
                }
            }
        }
        for row in 0..2 * row_tiles {
            merged.softmax.maximum[row] = merged.softmax.maximum[row].max(teams[team].maximum[row]);
        }
    }
    for team in 0..shape.teams as usize {
        for row in 0..2 * row_tiles {
            let weight = ex2_approx_ftz(teams[team].maximum[row] - finite(merged.softmax.maximum[row]));
            merged.weight[team][row] = weight;
            merged.softmax.sum[row] = fma_rn(weight, teams[team].sum[row], merged.softmax.sum[row]);
        }
    }
    merged
}

impl Merged {
    /// Which products of V this warp finishes, as the first one and their number.
    #[inline(always)]
    pub const fn products(place: &Place, shape: &Shape) -> (u32, u32) {
        let each = column_tiles(shape) as u32 / shape.teams;
        (place.team * each, each)
    }

    /// The fragment of the `product`-th of this warp's products, from shared memory: the sum of all teams', each with its weight.
    #[inline(always)]
    pub fn fragment(&self, product: u32, rows: usize, place: &Place, shape: &Shape) -> [f32; 4] {
        let (first, _) = Self::products(place, shape);
        let mut total = [0.0; 4];
        for team in 0..shape.teams {
            let ring = self.shared.byte_offset(Place { team, ..*place }.ring(shape) * shape.ring_bytes());
            let at = fragment(ring, (first + product) * shape.row_tiles + rows as u32, place.lane);
            // SAFETY: written before the barrier in `merge_teams`, or of an only team by this lane.
            let part = unsafe { get(at) };
            if shape.teams == 1 {
                return part;
            }
            for element in 0..4 {
                let weight = self.weight[team as usize][2 * rows + element % 2];
                total[element] =
                    if team == 0 { weight * part[element] } else { fma_rn(weight, part[element], total[element]) };
            }
        }
        total
    }
}
