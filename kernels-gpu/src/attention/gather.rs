//! The results of four or more blocks: each sends its own to the blocks that finish them, and these wait for bytes and not for each other. Between
//! the last product of one block and the first sum of another is one trip; to leave results and read each other's takes a fence, a barrier, a
//! trip there and back, and a barrier before a block may end. They go to memory that is there for nothing else, or to the ring, where the
//! blocks first tell each other that they have read it; that runs beside the merging of teams.
use super::exchange::{FRAGMENT_WORDS, Merged};
use super::join::{Cluster, Results};
use super::softmax::finite;
use crate::config::{FRAGMENT_BYTES, STATS_BYTES, Shape, told_bytes};
use crate::fault::{Fault, planted};
use crate::layout::place::Place;
use crate::memory::{Mbarrier, Shared};
use crate::ptx::cluster::{cluster_arrive_relaxed, cluster_wait, fence_release_shared, mapa, st_async_v4_b32};
use crate::ptx::math::{ex2_approx_ftz, fma_rn};
use crate::ptx::mbarrier::{
    fence_mbarrier_init, mbarrier_arrive_expect_tx, mbarrier_init, mbarrier_wait_parity_cluster,
};
use crate::ptx::memory::ld_shared_v4_b32;
use crate::tile::Accumulator;

/// Blocks whose results are added in one turn of a loop.
const A_TURN: u32 = 4;

/// Fragments that a warp has at most: of two tiles of rows and 128 columns.
const MOST_FRAGMENTS: usize = 16;

/// Where a warp is sent results: an mbarrier, the statistics of every block, and of each fragment of its share the part of every block.
#[derive(Clone, Copy)]
pub struct Gathering {
    cluster: Cluster,
    base: Shared<u8>,
    parts: Shared<u8>,
}

impl Gathering {
    /// The calling warp's.
    #[inline(always)]
    fn here(shared: Shared<u8>, cluster: Cluster, place: &Place, shape: &Shape) -> Self {
        let of_warp = place.warp * shape.gather_bytes(cluster.blocks);
        let base = shared.byte_offset(shape.shared_bytes() + of_warp);
        let parts = if shape.sent_to_ring(cluster.blocks) {
            shared.byte_offset(place.ring(shape) * shape.ring_bytes() + shape.output_bytes())
        } else {
            base.byte_offset(told_bytes(cluster.blocks))
        };
        Self { cluster, base, parts }
    }

    const fn mbarrier(&self) -> Shared<Mbarrier> {
        self.base.cast()
    }

    /// The lane's rows of one tile, of block `block`.
    const fn statistics(&self, block: u32, lane: u32) -> Shared<u32> {
        self.base.byte_offset(told_bytes(block) + lane % 4 * 16).cast()
    }

    /// The lane's part of the share's fragment `index`, of block `block`.
    const fn part(&self, index: u32, block: u32, lane: u32) -> Shared<u32> {
        self.parts.byte_offset((index * self.cluster.blocks + block) * FRAGMENT_BYTES + lane * 16).cast()
    }

    /// Makes ready for what the other blocks send, where they do.
    ///
    /// # Safety
    /// All threads of the launch call it, once; `shared` is the block's.
    #[inline(always)]
    pub unsafe fn begin(shared: Shared<u8>, cluster: Cluster, place: &Place, shape: &Shape) {
        if !shape.gathers(cluster.blocks) {
            return;
        }
        let (own, share) = (Self::here(shared, cluster, place, shape), cluster.share(shape));
        if place.lane == 0 {
            // SAFETY: the warp's own, which nothing else touches.
            unsafe {
                mbarrier_init(own.mbarrier(), 1);
                if !planted(Fault::GatherFence) {
                    fence_mbarrier_init();
                }
                let bytes = if share.count > 0 { STATS_BYTES + share.count * FRAGMENT_BYTES } else { 0 };
                if !planted(Fault::GatherArrival) {
                    mbarrier_arrive_expect_tx(own.mbarrier(), cluster.blocks * bytes);
                }
            }
        }
        if !shape.sent_to_ring(cluster.blocks) && !planted(Fault::GatherReady) {
            cluster_arrive_relaxed();
        }
    }

    /// Says, where the others send results to the rings, that this thread has read its own to the end.
    #[inline(always)]
    pub fn ring_is_read(cluster: &Cluster, shape: &Shape) {
        if shape.gathers(cluster.blocks) && shape.sent_to_ring(cluster.blocks) {
            if !planted(Fault::GatherRelease) {
                // Of shared memory alone: to order global memory too would take 0.3 us.
                fence_release_shared();
            }
            if !planted(Fault::GatherReady) {
                cluster_arrive_relaxed();
            }
        }
    }

    /// Sends a block's results to those that finish them; gives where this warp is sent its own.
    ///
    /// # Safety
    /// All threads of the cluster call it, behind [`Gathering::ring_is_read`], whose blocks have the same rows of the same item.
    #[inline(always)]
    pub unsafe fn send(
        shared: Shared<u8>,
        cluster: Cluster,
        o: &Accumulator,
        merged: &Merged,
        place: &Place,
        shape: &Shape,
    ) -> Self {
        let own = Self::here(shared, cluster, place, shape);
        let (count, each) = (shape.fragments_of(cluster.blocks), shape.fragments() / shape.row_tiles);
        // All fragments at once, of an only team from registers: in a loop the load of the next stands behind the store of the last. One sequence of
        // 1024 tokens in e4m3 takes 7.3 us for 7.7 at D = 512, 8.1 for 8.4 at 256 (benches/record/h100-2026-11-28-c/before.txt).
        let mut values = [[0; 4]; MOST_FRAGMENTS];
        for index in 0..shape.fragments() {
            let (product, rows) = (index % each, (index / each) as usize);
            let value = if shape.sent_from_registers(cluster.blocks) {
                o[product as usize][rows]
            } else {
                merged.fragment(product, rows, place, shape)
            };
            values[index as usize] = value.map(f32::to_bits);
        }
        if !planted(Fault::GatherReady) {
            // They have begun, long ago, or have read their rings.
            cluster_wait();
        }
        // SAFETY: the places of this block's results in the others, which wait for them before they end.
        unsafe {
            // Four lanes have all rows: each four send them to other blocks.
            let mut rank = place.lane / 4;
            while rank * count < shape.fragments() {
                let tile = rank * count / each;
                let of = |values: &[f32; 4]| {
                    if shape.row_tiles > 1 && tile > 0 { [values[2], values[3]] } else { [values[0], values[1]] }
                };
                let ([m0, m1], [s0, s1]) = (of(&merged.softmax.maximum), of(&merged.softmax.sum));
                let to = mapa(own.statistics(cluster.rank, place.lane), rank);
                st_async_v4_b32(to, [m0, m1, s0, s1].map(f32::to_bits), mapa(own.mbarrier(), rank));
                rank += 8;
            }
            let part = own.part(0, cluster.rank, place.lane);
            for index in 0..shape.fragments() {
                let (rank, of_share) = (index >> count.trailing_zeros(), index & (count - 1));
                let to = mapa(part.at(of_share * cluster.blocks * FRAGMENT_WORDS), rank);
                st_async_v4_b32(to, values[index as usize], mapa(own.mbarrier(), rank));
            }
        }
        own
    }

    /// As many ones as there are turns, one of which each turn takes away: a loop that counts them the assembler would make three of, for one
    /// turn, two and four.
    const fn turns(&self) -> u32 {
        (1 << (self.cluster.blocks / A_TURN)) - 1
    }

    /// Waits for what this warp was sent.
    ///
    /// # Safety
    /// All lanes of the warp call it, whose share is not empty.
    #[inline(always)]
    pub unsafe fn wait(self, place: &Place) -> Gathered {
        // SAFETY: initialised by this warp; behind the wait all blocks' results are there.
        unsafe {
            if !planted(Fault::GatherFull) {
                mbarrier_wait_parity_cluster(self.mbarrier(), 0);
            }
            let mut maximum = [f32::NEG_INFINITY; 2];
            let (mut at, mut turns) = (self.statistics(0, place.lane), self.turns());
            while turns != 0 {
                for of_turn in 0..A_TURN {
                    let told = ld_shared_v4_b32(at.at(of_turn * STATS_BYTES / 4)).map(f32::from_bits);
                    maximum = [maximum[0].max(told[0]), maximum[1].max(told[1])];
                }
                (at, turns) = (at.at(A_TURN * STATS_BYTES / 4), turns >> 1);
            }
            let (first, sum) = self.added(0, maximum, place);
            Gathered { from: self, first, maximum, sum }
        }
    }

    /// The share's fragment `index` of all blocks together, and the sums of exponentials, both relative to `maximum`.
    #[inline(always)]
    unsafe fn added(&self, index: u32, maximum: [f32; 2], place: &Place) -> ([f32; 4], [f32; 2]) {
        let (subtrahend, mut total, mut sum) = (maximum.map(finite), [0.0; 4], [0.0; 2]);
        let (mut at, mut part) = (self.statistics(0, place.lane), self.part(index, 0, place.lane));
        let mut turns = self.turns();
        while turns != 0 {
            for of_turn in 0..A_TURN {
                // SAFETY: handed on to the caller.
                let (told, part) = unsafe {
                    let told = ld_shared_v4_b32(at.at(of_turn * STATS_BYTES / 4));
                    (told.map(f32::from_bits), ld_shared_v4_b32(part.at(of_turn * FRAGMENT_WORDS)).map(f32::from_bits))
                };
                let weights = [0, 1].map(|row| ex2_approx_ftz(told[row] - subtrahend[row]));
                for row in 0..2 {
                    sum[row] = fma_rn(weights[row], told[2 + row], sum[row]);
                }
                for element in 0..4 {
                    total[element] = fma_rn(weights[element % 2], part[element], total[element]);
                }
            }
            (at, part) = (at.at(A_TURN * STATS_BYTES / 4), part.at(A_TURN * FRAGMENT_WORDS));
            turns >>= 1;
        }
        (total, sum)
    }
}

/// What a warp was sent.
pub struct Gathered {
    from: Gathering,
    /// The share's first fragment.
    first: [f32; 4],
    maximum: [f32; 2],
    sum: [f32; 2],
}

impl Results for Gathered {
    #[inline(always)]
    fn sums(&self) -> [[f32; 2]; 2] {
        [0, 1].map(|row| [self.maximum[row], self.sum[row]])
    }

    #[inline(always)]
    unsafe fn fragment(&mut self, index: u32, place: &Place) -> [f32; 4] {
        // SAFETY: handed on to the caller.
        if index == 0 { self.first } else { unsafe { self.from.added(index, self.maximum, place).0 } }
    }
}
