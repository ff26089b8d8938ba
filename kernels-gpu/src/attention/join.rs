//! One item by the blocks of a cluster, each with a part of its keys: their results are merged through each other's shared memory,
//! lane for lane as the teams' of a block are ([`super::exchange`]), and no second kernel has to.
use super::exchange::{Merged, fragment, put};
use super::softmax::{OnlineSoftmax, finite};
use crate::config::{CLUSTER_BLOCKS, Shape};
use crate::fault::{Fault, planted};
use crate::layout::place::Place;
use crate::memory::Shared;
use crate::ptx::cluster::{
    cluster_arrive, cluster_arrive_relaxed, cluster_ctarank, cluster_nctarank, cluster_wait, ld_shared_cluster_v4_b32,
    mapa,
};
use crate::ptx::math::ex2_approx_ftz;
use crate::ptx::sync::{bar_warp_sync, shfl_bfly, shfl_idx, uniform};
use crate::tile::{OfRows, ROW_TILES};

/// Distances of the lanes that have the same rows: eight of them, of which each reads the statistics of every eighth block.
const LANES_OF_A_ROW: [u32; 3] = [4, 8, 16];

/// Blocks by eights, one for each of the lanes that have a row.
const OCTETS: usize = CLUSTER_BLOCKS as usize / 8;

/// Where a block is in its cluster.
#[derive(Clone, Copy)]
pub struct Cluster {
    /// Which of the blocks.
    pub rank: u32,
    /// How many there are; 1 where a launch has no clusters.
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
}

/// The results of all blocks, each left in its own shared memory.
pub struct Joined {
    /// This warp's place in its own block; every block has the same layout.
    base: Shared<u8>,
    blocks: u32,
    /// What the lane's rows of block `lane / 4` are multiplied by, and of the eighth block behind it.
    weights: [OfRows<f32>; OCTETS],
    /// Of all blocks together.
    pub softmax: OnlineSoftmax,
}

/// Leaves a block's results where the others find them, and waits for theirs.
///
/// `ring` is the warp's own, which nothing is copied to any more.
///
/// # Safety
/// All threads of the cluster call it, whose blocks have the same rows of the same item.
#[inline(always)]
pub unsafe fn join(cluster: &Cluster, merged: &Merged, ring: Shared<u8>, place: &Place, shape: &Shape) -> Joined {
    let (_, each) = Merged::products(place, shape);
    let row_tiles = shape.row_tiles as usize;
    // Of an only team O is in K's slots already; of several it is still read there, and their sum goes to V's.
    let base = if shape.teams > 1 { ring.byte_offset(shape.stages * shape.tile_bytes()) } else { ring };
    if shape.teams == 1 && !planted(Fault::BlocksWarp) {
        bar_warp_sync();
    }
    for rows in 0..row_tiles {
        let of = |values: &OfRows<f32>| [values[2 * rows], values[2 * rows + 1]];
        let ([m0, m1], [s0, s1]) = (of(&merged.softmax.maximum), of(&merged.softmax.sum));
        // SAFETY: inside the ring, whose last reads of V lie before the barrier of the teams or of the warp; where there is one team, behind
        // its O.
        unsafe {
            put(fragment(base, each * shape.row_tiles + rows as u32, place.lane), [m0, m1, s0, s1]);
            if shape.teams > 1 {
                for product in 0..each {
                    let at = fragment(base, product * shape.row_tiles + rows as u32, place.lane);
                    put(at, merged.fragment(product, rows, place, shape));
                }
            }
        }
    }
    if !planted(Fault::BlocksFull) {
        cluster_arrive();
        cluster_wait();
    }
    let mut joined =
        Joined { base, blocks: cluster.blocks, weights: [[0.0; 4]; OCTETS], softmax: OnlineSoftmax::new() };
    for rows in 0..row_tiles {
        let at = fragment(base, each * shape.row_tiles + rows as u32, place.lane);
        let mut told = [[f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, 0.0]; OCTETS];
        for (octet, told) in told.iter_mut().enumerate() {
            let block = 8 * octet as u32 + place.lane / 4;
            if block < cluster.blocks {
                // SAFETY: written before the barrier, in a block that ends behind the next.
                *told = unsafe { ld_shared_cluster_v4_b32(mapa(at, block)) }.map(f32::from_bits);
            }
        }
        for of_tile in 0..2 {
            let row = 2 * rows + of_tile;
            let largest = all(told.iter().map(|told| told[of_tile]).fold(f32::NEG_INFINITY, f32::max), f32::max);
            let mut sum = 0.0;
            for (weights, told) in joined.weights.iter_mut().zip(&told) {
                weights[row] = ex2_approx_ftz(told[of_tile] - finite(largest));
                sum += weights[row] * told[2 + of_tile];
            }
            joined.softmax.maximum[row] = largest;
            joined.softmax.sum[row] = all(sum, |a, b| a + b);
        }
    }
    joined
}

/// What all lanes of a row have together.
#[inline(always)]
fn all(value: f32, together: impl Fn(f32, f32) -> f32) -> f32 {
    LANES_OF_A_ROW
        .iter()
        .fold(value, |value, &distance| together(value, f32::from_bits(shfl_bfly(value.to_bits(), distance))))
}

impl Joined {
    /// The fragments of the `product`-th of this warp's products, one a tile of rows: the sums of all blocks', each with its weight.
    ///
    /// # Safety
    /// All lanes of the warp call it, before [`leave`].
    #[inline(always)]
    pub unsafe fn fragments(&self, product: u32, place: &Place, shape: &Shape) -> [[f32; 4]; ROW_TILES] {
        let two_tiles = shape.row_tiles == 2;
        let (mut totals, mut turn) = ([[0.0; 4]; ROW_TILES], 0);
        // In one trip eight blocks' fragments of both tiles of rows, or of the only one all: 64 registers.
        while 8 * turn < self.blocks {
            let mut parts = [[[0; 4]; 8]; 2];
            for half in 0..2 {
                let (rows, octet) = if two_tiles { (half, turn) } else { (0, turn + half) };
                if 8 * octet < self.blocks {
                    let at = fragment(self.base, product * shape.row_tiles + rows, place.lane);
                    for index in 0..8 {
                        let block = 8 * octet + index;
                        if block < self.blocks {
                            // SAFETY: written before the barrier in `join`, in a block that ends behind the next.
                            let part = unsafe { ld_shared_cluster_v4_b32(mapa(at, block)) };
                            parts[half as usize][index as usize] = part;
                        }
                    }
                }
            }
            for half in 0..2 {
                let (rows, octet) = if two_tiles { (half as usize, turn) } else { (0, turn + half) };
                if 8 * octet < self.blocks {
                    for block in 0..8 {
                        let of_block = |row: usize| {
                            let row = 2 * rows + row;
                            // By select: an index that is not constant would put the weights into memory.
                            let weight = if octet == 0 { self.weights[0][row] } else { self.weights[1][row] };
                            f32::from_bits(shfl_idx(weight.to_bits(), 4 * block + place.lane % 4))
                        };
                        let weight = [of_block(0), of_block(1)];
                        for element in 0..4 {
                            let part = f32::from_bits(parts[half as usize][block as usize][element]);
                            totals[rows][element] += weight[element % 2] * part;
                        }
                    }
                }
            }
            turn += if two_tiles { 1 } else { OCTETS as u32 };
        }
        totals
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
