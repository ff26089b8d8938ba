//! The results of two blocks: each leaves its own in shared memory, and reads the other's behind a barrier.
use super::exchange::{Merged, fragment, put};
use super::join::{Results, Share};
use super::softmax::finite;
use crate::config::{FRAGMENT_BYTES, Shape};
use crate::fault::{Fault, planted};
use crate::layout::place::Place;
use crate::memory::Shared;
use crate::ptx::cluster::{cluster_arrive_relaxed, cluster_wait, fence_release_shared, ld_shared_cluster_v4_b32, mapa};
use crate::ptx::math::{ex2_approx_ftz, fma_rn};
use crate::tile::OfRows;

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
    let base = if shape.teams > 1 { ring.byte_offset(shape.output_bytes()) } else { ring };
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

/// The results of both blocks for one tile of rows, seen by one lane.
pub struct Pair {
    count: u32,
    /// The lane's part of the share's next fragment, in either block.
    next: Shared<u32>,
    /// Bytes from a fragment to the next.
    stride: u32,
    /// What the lane's two rows of each block are multiplied by.
    weights: [[f32; 2]; 2],
    /// Their parts of the fragment that was asked for.
    parts: [[u32; 4]; 2],
    sums: [[f32; 2]; 2],
}

impl Pair {
    /// Reads all statistics, and the first fragment's parts in the same trip: each lane what belongs to its rows, so that no shuffle is
    /// between.
    ///
    /// # Safety
    /// Behind [`wait`]; the share is not empty.
    #[inline(always)]
    pub unsafe fn new(base: Shared<u8>, share: Share, place: &Place, shape: &Shape) -> Self {
        let next = fragment(base, share.first * shape.row_tiles + share.tile, place.lane);
        let (count, stride) = (share.count, shape.row_tiles * FRAGMENT_BYTES);
        let mut pair = Self { count, next, stride, weights: [[0.0; 2]; 2], parts: [[0; 4]; 2], sums: [[0.0; 2]; 2] };
        let told = fragment(base, shape.fragments() + share.tile, place.lane % 4);
        // SAFETY: written before the barrier, in blocks that end behind the next.
        let of_blocks = unsafe {
            pair.ask();
            [0, 1].map(|block| ld_shared_cluster_v4_b32(mapa(told, block)).map(f32::from_bits))
        };
        for row in 0..2 {
            let maximum = of_blocks[0][row].max(of_blocks[1][row]);
            let mut sum = 0.0;
            for block in 0..2 {
                pair.weights[block][row] = ex2_approx_ftz(of_blocks[block][row] - finite(maximum));
                sum = fma_rn(pair.weights[block][row], of_blocks[block][2 + row], sum);
            }
            pair.sums[row] = [maximum, sum];
        }
        pair
    }

    /// Reads the parts that the blocks have of the share's next fragment.
    ///
    /// # Safety
    /// As for [`Pair::new`], before [`leave`].
    #[inline(always)]
    unsafe fn ask(&mut self) {
        // SAFETY: handed on to the caller.
        self.parts = [0, 1].map(|block| unsafe { ld_shared_cluster_v4_b32(mapa(self.next, block)) });
        self.next = self.next.at(self.stride / 4);
    }
}

impl Results for Pair {
    #[inline(always)]
    fn sums(&self) -> [[f32; 2]; 2] {
        self.sums
    }

    #[inline(always)]
    unsafe fn fragment(&mut self, index: u32, _: &Place) -> [f32; 4] {
        let mut total = [0.0; 4];
        for (weights, part) in self.weights.iter().zip(&self.parts) {
            for element in 0..4 {
                total[element] = fma_rn(weights[element % 2], f32::from_bits(part[element]), total[element]);
            }
        }
        if index + 1 < self.count {
            // Its trip is hidden by this one's stores.
            // SAFETY: handed on to the caller.
            unsafe { self.ask() };
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
