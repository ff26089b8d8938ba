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
use crate::ptx::sync::uniform;
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
    // Of an only team O is in the ring already; of several it is still read there, and their sum goes behind it.
    let o_bytes = shape.slice / 16 * shape.row_tiles * FRAGMENT_WORDS * 4;
    let base = if shape.teams > 1 { ring.byte_offset(o_bytes) } else { ring };
    for rows in 0..shape.row_tiles as usize {
        let of = |values: &OfRows<f32>| [values[2 * rows], values[2 * rows + 1]];
        let ([m0, m1], [s0, s1]) = (of(&merged.softmax.maximum), of(&merged.softmax.sum));
        // SAFETY: inside the ring, whose last reads lie before the barrier at which O took its place; where there is one team, behind its O.
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

/// Blocks whose statistics and parts are read in one trip: 64 registers.
pub const AT_ONCE: usize = 8;

/// The results of all blocks of a cluster for one tile of rows, seen by one lane: `BLOCKS` of them, or where that is [`AT_ONCE`] any
/// number, so many at a time.
pub struct Joined<const BLOCKS: usize> {
    blocks: u32,
    share: Share,
    /// The lane's first fragment, in every block.
    of_lane: Shared<u32>,
    /// What the lane's two rows of the last blocks that were read are multiplied by.
    weights: [[f32; 2]; BLOCKS],
    /// Their parts of the fragment that was asked for.
    parts: [[u32; 4]; BLOCKS],
    /// The share's first fragment: the sum of all blocks', each with its weight.
    pub first: [f32; 4],
    /// The largest score of each row.
    pub maximum: [f32; 2],
    /// The sums of exponentials.
    pub sum: [f32; 2],
}

impl<const BLOCKS: usize> Joined<BLOCKS> {
    /// Reads all statistics, and the first fragment's parts in the same trip: each lane what belongs to its rows, so that no shuffle is
    /// between. Eight blocks a trip, each relative to the maxima so far.
    ///
    /// # Safety
    /// Behind [`wait`]; the cluster has so many blocks, and the share is not empty.
    #[inline(always)]
    pub unsafe fn new(base: Shared<u8>, blocks: u32, share: Share, place: &Place, shape: &Shape) -> Self {
        let (_, each) = Merged::products(place, shape);
        let mut joined = Self {
            blocks,
            share,
            of_lane: fragment(base, 0, place.lane),
            weights: [[0.0; 2]; BLOCKS],
            parts: [[0; 4]; BLOCKS],
            first: [0.0; 4],
            maximum: [f32::NEG_INFINITY; 2],
            sum: [0.0; 2],
        };
        let told = fragment(base, each * shape.row_tiles + share.tile, place.lane % 4);
        let mut first = 0;
        loop {
            // SAFETY: written before the barrier, in blocks that end behind the next.
            unsafe {
                joined.read(0, first, shape);
                joined.weigh(told, first);
            }
            first += BLOCKS as u32;
            if BLOCKS != AT_ONCE || first >= blocks {
                break;
            }
        }
        joined
    }

    /// Whether there is such a block.
    #[inline(always)]
    const fn has(&self, block: u32) -> bool {
        BLOCKS != AT_ONCE || block < self.blocks
    }

    /// Reads the parts that blocks from `first` on have of the share's fragment `index`.
    #[inline(always)]
    unsafe fn read(&mut self, index: u32, first: u32, shape: &Shape) {
        let index = (self.share.first + index) * shape.row_tiles + self.share.tile;
        let at = self.of_lane.at(index * FRAGMENT_WORDS);
        for of_trip in 0..BLOCKS {
            let block = first + of_trip as u32;
            let mut part = [0; 4];
            if self.has(block) {
                // SAFETY: handed on to the caller.
                part = unsafe { ld_shared_cluster_v4_b32(mapa(at, block)) };
            }
            self.parts[of_trip] = part;
        }
    }

    /// Reads the statistics of blocks from `first` on, which are at `told` in each, and adds them and the parts read of the first fragment
    /// to those of the blocks before.
    #[inline(always)]
    unsafe fn weigh(&mut self, told: Shared<u32>, first: u32) {
        let mut of_blocks = [[f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, 0.0]; BLOCKS];
        for of_trip in 0..BLOCKS {
            let block = first + of_trip as u32;
            if self.has(block) {
                // SAFETY: handed on to the caller.
                of_blocks[of_trip] = unsafe { ld_shared_cluster_v4_b32(mapa(told, block)) }.map(f32::from_bits);
            }
        }
        for row in 0..2 {
            let largest = of_blocks.iter().map(|told| told[row]).fold(self.maximum[row], f32::max);
            if BLOCKS == AT_ONCE {
                // 1 or, before the first blocks, 0 of nothing.
                let rescale = ex2_approx_ftz(self.maximum[row] - finite(largest));
                self.sum[row] *= rescale;
                self.first[row] *= rescale;
                self.first[2 + row] *= rescale;
            }
            for (weights, told) in self.weights.iter_mut().zip(&of_blocks) {
                weights[row] = ex2_approx_ftz(told[row] - finite(largest));
                self.sum[row] += weights[row] * told[2 + row];
            }
            self.maximum[row] = largest;
        }
        let more = self.asked();
        self.first.iter_mut().zip(more).for_each(|(total, more)| *total += more);
    }

    /// Asks for the share's fragment `index`, behind the first. A share has more than one of up to [`AT_ONCE`] blocks alone.
    ///
    /// # Safety
    /// As for [`Joined::new`], before [`leave`].
    #[inline(always)]
    pub unsafe fn ask(&mut self, index: u32, shape: &Shape) {
        // SAFETY: handed on to the caller.
        unsafe { self.read(index, 0, shape) };
    }

    /// The fragment that was asked for, of all blocks of a trip, each with its weight.
    #[inline(always)]
    pub fn asked(&self) -> [f32; 4] {
        let mut total = [0.0; 4];
        for (weights, part) in self.weights.iter().zip(&self.parts) {
            for element in 0..4 {
                total[element] += weights[element % 2] * f32::from_bits(part[element]);
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
