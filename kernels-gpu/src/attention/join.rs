//! One item by the blocks of a cluster, each with a part of its keys: their results are merged through each other's shared memory,
//! lane for lane as the teams' of a block are ([`super::exchange`]), and no second kernel has to.
use super::exchange::{FRAGMENT_WORDS, Merged, fragment, put};
use super::softmax::finite;
use crate::config::Shape;
use crate::fault::{Fault, planted};
use crate::layout::place::Place;
use crate::memory::Shared;
use crate::ptx::cluster::{
    cluster_arrive_relaxed, cluster_ctarank, cluster_nctarank, cluster_wait, fence_release_shared,
    ld_shared_cluster_v4_b32, mapa,
};
use crate::ptx::math::ex2_approx_ftz;
use crate::ptx::sync::{bar_warp_sync, uniform};
use crate::tile::OfRows;

/// Where a block is in its cluster.
#[derive(Clone, Copy)]
pub struct Cluster {
    /// Which of the blocks.
    pub rank: u32,
    /// How many there are, a power of two up to [`CLUSTER_BLOCKS`](crate::config::CLUSTER_BLOCKS); 1 where a launch has no clusters.
    pub blocks: u32,
}

impl Cluster {
    /// The calling block's.
    #[inline(always)]
    pub fn here() -> Self {
        if cfg!(qkv_sm = "80") {
            return Self { rank: 0, blocks: 1 };
        }
        Self { rank: uniform(cluster_ctarank()), blocks: uniform(cluster_nctarank()) }
    }

    /// What this block finishes: of a warp's fragments, one tile of rows behind the other, as many as every block, the last blocks none
    /// where there are fewer. A share has one tile of rows, as both counts are powers of two.
    #[inline(always)]
    pub const fn share(&self, place: &Place, shape: &Shape) -> Share {
        let (_, each) = Merged::products(place, shape);
        let count = (each * shape.row_tiles).div_ceil(self.blocks);
        let first = self.rank * count;
        Share { tile: first / each, first: first % each, count: if first < each * shape.row_tiles { count } else { 0 } }
    }
}

/// Fragments of a warp that one block of the cluster finishes.
#[derive(Clone, Copy)]
pub struct Share {
    /// Their tile of 8 rows.
    pub tile: u32,
    /// The first of the warp's products.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Leaves a block's results where the others find them, and says so; gives where they are, which is the same in every block.
///
/// `ring` is the warp's own, which nothing is copied to any more.
///
/// # Safety
/// All threads of the cluster call it, whose blocks have the same rows of the same item.
#[inline(always)]
pub unsafe fn offer(merged: &Merged, ring: Shared<u8>, place: &Place, shape: &Shape) -> Shared<u8> {
    let (_, each) = Merged::products(place, shape);
    // Of an only team O is in K's slots already; of several it is still read there, and their sum goes to V's.
    let base = if shape.teams > 1 { ring.byte_offset(shape.stages * shape.tile_bytes()) } else { ring };
    if shape.teams == 1 && !planted(Fault::BlocksWarp) {
        bar_warp_sync();
    }
    for rows in 0..shape.row_tiles as usize {
        let of = |values: &OfRows<f32>| [values[2 * rows], values[2 * rows + 1]];
        let ([m0, m1], [s0, s1]) = (of(&merged.softmax.maximum), of(&merged.softmax.sum));
        // SAFETY: inside the ring, whose last reads of V lie before the barrier of the teams or of the warp; where there is one team, behind
        // its O.
        unsafe {
            // The eight lanes of a row have the same: the first four lanes have all rows.
            if place.lane < 4 {
                put(fragment(base, each * shape.row_tiles + rows as u32, place.lane), [m0, m1, s0, s1]);
            }
            if shape.teams > 1 {
                for product in 0..each {
                    let at = fragment(base, product * shape.row_tiles + rows as u32, place.lane);
                    put(at, merged.fragment(product, rows, place, shape));
                }
            }
        }
    }
    if !planted(Fault::BlocksFull) {
        // Their results are in shared memory: to order global memory too would take 0.3 us.
        fence_release_shared();
        cluster_arrive_relaxed();
    }
    base
}

/// Waits for what the others [offer].
#[inline(always)]
pub fn wait() {
    if !planted(Fault::BlocksFull) {
        cluster_wait();
    }
}

/// The results of all blocks of a cluster, at most `BLOCKS`, for one tile of rows, seen by one lane.
pub struct Joined<const BLOCKS: usize> {
    blocks: u32,
    share: Share,
    /// The lane's first fragment, in every block.
    of_lane: Shared<u32>,
    /// What the lane's two rows of each block are multiplied by.
    weights: [[f32; 2]; BLOCKS],
    /// Parts of the fragment that is asked for next, of the first blocks.
    next: [[u32; 4]; AT_ONCE],
    /// The largest score of each row.
    pub maximum: [f32; 2],
    /// The sums of exponentials.
    pub sum: [f32; 2],
}

/// Blocks whose parts are read in one trip: 32 registers.
const AT_ONCE: usize = 8;

impl<const BLOCKS: usize> Joined<BLOCKS> {
    /// Trips for all blocks' parts of a fragment.
    const TRIPS: usize = BLOCKS.div_ceil(AT_ONCE);

    /// Reads all statistics, and the first fragment in the same trip: each lane what belongs to its rows, so that no shuffle is between.
    ///
    /// # Safety
    /// Behind [`wait`]; the cluster has no more blocks, and the share is not empty.
    #[inline(always)]
    pub unsafe fn new(base: Shared<u8>, blocks: u32, share: Share, place: &Place, shape: &Shape) -> Self {
        let (_, each) = Merged::products(place, shape);
        let mut joined = Self {
            blocks,
            share,
            of_lane: fragment(base, 0, place.lane),
            weights: [[0.0; 2]; BLOCKS],
            next: [[0; 4]; AT_ONCE],
            maximum: [f32::NEG_INFINITY; 2],
            sum: [0.0; 2],
        };
        let told = fragment(base, each * shape.row_tiles + share.tile, place.lane % 4);
        // SAFETY: written before the barrier, in blocks that end behind the next.
        unsafe {
            if Self::TRIPS == 1 {
                joined.read(0, 0, shape);
            }
            for trip in 0..Self::TRIPS {
                joined.weigh(told, trip);
            }
        }
        joined
    }

    /// Reads the statistics of the blocks of a trip, which are at `told` in each, and adds them to those of the trips before.
    #[inline(always)]
    unsafe fn weigh(&mut self, told: Shared<u32>, trip: usize) {
        let mut of_blocks = [[f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, 0.0]; AT_ONCE];
        let first = AT_ONCE * trip;
        for (of_trip, of_block) in of_blocks.iter_mut().enumerate().take(BLOCKS) {
            if self.has(first + of_trip) {
                // SAFETY: handed on to the caller.
                *of_block =
                    unsafe { ld_shared_cluster_v4_b32(mapa(told, (first + of_trip) as u32)) }.map(f32::from_bits);
            }
        }
        for row in 0..2 {
            let largest = of_blocks.iter().map(|told| told[row]).fold(self.maximum[row], f32::max);
            if trip > 0 {
                let rescale = ex2_approx_ftz(self.maximum[row] - finite(largest));
                self.sum[row] *= rescale;
                self.weights.iter_mut().take(first).for_each(|weights| weights[row] *= rescale);
            }
            for (weights, told) in self.weights.iter_mut().skip(first).zip(&of_blocks) {
                weights[row] = ex2_approx_ftz(told[row] - finite(largest));
                self.sum[row] += weights[row] * told[2 + row];
            }
            self.maximum[row] = largest;
        }
    }

    /// Clusters of 2 and of 16 are just that; of 4 and 8 the code is the same.
    #[inline(always)]
    const fn has(&self, block: usize) -> bool {
        BLOCKS != AT_ONCE || (block as u32) < self.blocks
    }

    /// The lane's part of a block's fragment `index`.
    #[inline(always)]
    unsafe fn part(&self, block: usize, index: u32) -> [u32; 4] {
        // SAFETY: handed on to the caller.
        unsafe { ld_shared_cluster_v4_b32(mapa(self.of_lane.at(index * FRAGMENT_WORDS), block as u32)) }
    }

    /// Reads the parts of the share's fragment `index` that come in one trip.
    #[inline(always)]
    unsafe fn read(&mut self, index: u32, trip: usize, shape: &Shape) {
        let index = (self.share.first + index) * shape.row_tiles + self.share.tile;
        for of_trip in 0..AT_ONCE.min(BLOCKS) {
            let block = AT_ONCE * trip + of_trip;
            if self.has(block) {
                // SAFETY: handed on to the caller.
                self.next[of_trip] = unsafe { self.part(block, index) };
            }
        }
    }

    /// The share's fragment `index`, which are asked for in order: the sum of all blocks', each with its weight. The next one's trip begins.
    ///
    /// # Safety
    /// As for [`Joined::new`], before [`leave`].
    #[inline(always)]
    pub unsafe fn fragment(&mut self, index: u32, shape: &Shape) -> [f32; 4] {
        let mut total = [0.0; 4];
        for trip in 0..Self::TRIPS {
            // SAFETY: as there.
            unsafe {
                if Self::TRIPS > 1 {
                    self.read(index, trip, shape);
                }
                let parts = self.next;
                if Self::TRIPS == 1 && index + 1 < self.share.count {
                    self.read(index + 1, 0, shape);
                }
                for (of_trip, part) in parts.iter().enumerate().take(BLOCKS) {
                    let weights = self.weights[AT_ONCE * trip + of_trip];
                    for element in 0..4 {
                        total[element] += weights[element % 2] * f32::from_bits(part[element]);
                    }
                }
            }
        }
        total
    }
}

/// Before a block ends: the others have read its shared memory.
#[inline(always)]
pub fn leave() {
    if !planted(Fault::BlocksDone) {
        // Nothing is to be seen behind it, and what was read has arrived: a release would wait for the stores of the output too.
        cluster_arrive_relaxed();
        cluster_wait();
    }
}
