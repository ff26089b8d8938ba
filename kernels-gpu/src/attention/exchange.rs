//! What warps of a block tell each other through shared memory: parts of S within a team, O and its statistics between
//! teams. Always lane for lane (the fragments of the same rows), so that every access is 16 bytes, free of conflicts.
use super::softmax::{OnlineSoftmax, finite};
use crate::config::{STATS_BYTES, Shape};
use crate::fault::{Fault, planted};
use crate::layout::place::Place;
use crate::memory::Shared;
use crate::ptx::math::ex2_approx_ftz;
use crate::ptx::memory::{ld_shared_v4_b32, st_shared_v4_b32};
use crate::ptx::sync::bar_sync;
use crate::tile::{Accumulator, OfRows, Scores, column_tiles, key_tiles};
use cuda_std::thread;

/// One warp's fragment: 4 words a lane.
pub const FRAGMENT_WORDS: u32 = 32 * 4;

/// A lane's 16 bytes of fragment `index` of those at `base`.
#[inline(always)]
pub fn fragment(base: Shared<u8>, index: u32, lane: u32) -> Shared<u32> {
    Shared::new(base.address + 4 * index * FRAGMENT_WORDS + lane * 16)
}

/// Number of the fragment of a tile of keys or columns and a tile of rows.
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

/// The exchange of S between the warps that have the same rows and keys and different columns of the head.
#[derive(Clone, Copy)]
pub struct ScoreExchange {
    /// Two buffers, used in turn: a warp that writes one has passed the barrier of the other, and so has every reader.
    base: Shared<u8>,
    buffer: u32,
}

impl ScoreExchange {
    /// Before the first tile.
    #[inline(always)]
    pub fn new(shared: Shared<u8>, shape: &Shape) -> Self {
        Self { base: shared.byte_offset(shape.scores_offset()), buffer: 0 }
    }

    #[inline(always)]
    fn part(&self, warp: u32, shape: &Shape) -> Shared<u8> {
        self.base.byte_offset((self.buffer * shape.warps() + warp) * shape.score_bytes())
    }

    /// Makes `largest`, of a row of each tile, the largest that any of the warps with these rows has. Before the first tile,
    /// through the buffer of the second: who writes that one has passed the barrier of the first, and so has every reader.
    #[inline(always)]
    pub fn row_maximum(&self, largest: &mut [u32; 2], place: &Place, shape: &Shape) {
        if shape.column_warps > 1 {
            let second = Self { buffer: 1, ..*self };
            // SAFETY: this warp's part, which others read behind the barrier.
            unsafe {
                st_shared_v4_b32(
                    fragment(second.part(place.warp, shape), 0, place.lane),
                    [largest[0], largest[1], 0, 0],
                )
            };
            if !planted(Fault::RowMaximum) {
                bar_sync(place.row_barrier(shape), 32 * shape.column_warps);
            }
            for column in 0..shape.column_warps {
                let part = second.part(place.warp - place.column_warp + column, shape);
                // SAFETY: written before the barrier.
                let [first, last, ..] = unsafe { ld_shared_v4_b32(fragment(part, 0, place.lane)) };
                *largest = [largest[0].max(first), largest[1].max(last)];
            }
        }
    }

    /// Writes this warp's part. Nothing to do where a warp has all the columns.
    #[inline(always)]
    pub fn send(&self, s: &Scores, place: &Place, shape: &Shape) {
        if shape.column_warps > 1 {
            let own = self.part(place.warp, shape);
            for tile in 0..key_tiles(shape) {
                for rows in 0..shape.row_tiles as usize {
                    // SAFETY: inside this warp's part, which others read only behind the barrier in `receive`.
                    unsafe { put(fragment(own, index(tile, rows, shape), place.lane), s[tile][rows]) };
                }
            }
        }
    }

    /// Waits for all parts and adds them up, in the order of the columns: every warp gets the same bits.
    #[inline(always)]
    pub fn receive(&mut self, s: &mut Scores, place: &Place, shape: &Shape) {
        if shape.column_warps > 1 {
            if !planted(Fault::ScoresFull) {
                bar_sync(place.row_barrier(shape), 32 * shape.column_warps);
            }
            *s = Scores::default();
            for column in 0..shape.column_warps {
                let part = self.part(place.warp - place.column_warp + column, shape);
                for tile in 0..key_tiles(shape) {
                    for rows in 0..shape.row_tiles as usize {
                        // SAFETY: written before the barrier.
                        let other = unsafe { get(fragment(part, index(tile, rows, shape), place.lane)) };
                        for element in 0..4 {
                            s[tile][rows][element] += other[element];
                        }
                    }
                }
            }
            self.buffer ^= 1;
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
}

/// Merges the teams' results, where there are teams; all threads of the block take part.
///
/// `ring` is the warp's own, whose keys have all been read: O goes through their slots, that of an only team too, so that what
/// follows is a loop and not as many copies of it as there are fragments.
#[inline(always)]
pub fn merge_teams(
    shared: Shared<u8>,
    ring: Shared<u8>,
    o: &Accumulator,
    softmax: OnlineSoftmax,
    place: &Place,
    shape: &Shape,
) -> Merged {
    let mut merged = Merged { shared, weight: [[1.0; 4]; 4], softmax };
    if shape.row_warps > 1 {
        return merged;
    }
    let row_tiles = shape.row_tiles as usize;
    // SAFETY: O fits the ring's slots of K, this warp's alone, whose last reads lie before the barrier of the last step's V.
    unsafe {
        for tile in 0..column_tiles(shape) {
            for rows in 0..row_tiles {
                put(fragment(ring, index(tile, rows, shape), place.lane), o[tile][rows]);
            }
        }
    }
    if shape.teams == 1 {
        return merged;
    }
    let stats = shared.byte_offset(shape.stats_offset());
    // The eight lanes of a row have the same: the first four lanes have all rows.
    let stats_of = |warp: u32, rows: usize| {
        let of_tile = (warp * shape.row_tiles + rows as u32) * STATS_BYTES;
        stats.byte_offset(of_tile + place.lane % 4 * 16).cast()
    };
    // SAFETY: the statistics have a place of their own, written once.
    unsafe {
        for rows in 0..row_tiles {
            let of = |values: &OfRows<f32>| [values[2 * rows], values[2 * rows + 1]];
            let ([m0, m1], [s0, s1]) = (of(&softmax.maximum), of(&softmax.sum));
            if place.lane < 4 {
                put(stats_of(place.warp, rows), [m0, m1, s0, s1]);
            }
        }
    }
    if !planted(Fault::MergeFull) {
        if shape.column_warps > 1 {
            // No order needs it. Where one team is here early while the other's warps are at their own barrier, racecheck (CUDA 13.0) loses
            // the order of the block's: six runs of six reported hazards across it without this, none with it, and none with it twice.
            bar_sync(place.row_barrier(shape), 32 * shape.column_warps);
        }
        thread::sync_threads();
    }
    let mut teams = [OnlineSoftmax::new(); 4];
    merged.softmax = OnlineSoftmax::new();
    for team in 0..shape.teams as usize {
        for rows in 0..row_tiles {
            // SAFETY: written before the barrier.
            let [m0, m1, s0, s1] = unsafe { get(stats_of(place.in_team(team as u32, shape), rows)) };
            let (maximum, sum) = ([m0, m1], [s0, s1]);
            for of_tile in 0..2 {
                let row = 2 * rows + of_tile;
                (teams[team].maximum[row], teams[team].sum[row]) = (maximum[of_tile], sum[of_tile]);
                merged.softmax.maximum[row] = merged.softmax.maximum[row].max(maximum[of_tile]);
            }
        }
    }
    for team in 0..shape.teams as usize {
        for row in 0..2 * row_tiles {
            let weight = ex2_approx_ftz(teams[team].maximum[row] - finite(merged.softmax.maximum[row]));
            merged.weight[team][row] = weight;
            merged.softmax.sum[row] += weight * teams[team].sum[row];
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
            for element in 0..4 {
                total[element] += self.weight[team as usize][2 * rows + element % 2] * part[element];
            }
        }
        total
    }
}
