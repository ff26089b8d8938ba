//! One item by the blocks of a cluster, each with a part of its keys: their results are merged through each other's shared memory,
//! lane for lane as the teams' of a block are ([`super::exchange`]), and no second kernel has to. Each block finishes some of the fragments:
//! of two blocks by reading the other's ([`super::pair`]), of more from what they were sent ([`super::gather`]).
use crate::abi::{DecodeParams, LaunchFlags};
use crate::config::Shape;
use crate::layout::place::Place;
use crate::ptx::cluster::{cluster_ctarank, cluster_nctarank};
use crate::ptx::sync::uniform;

/// Where a block is in its cluster.
#[derive(Clone, Copy)]
pub struct Cluster {
    /// Which of the blocks.
    pub rank: u32,
    /// How many there are, a power of two up to [`CLUSTER_BLOCKS`](crate::config::CLUSTER_BLOCKS); 1 where a launch has no clusters.
    pub blocks: u32,
}

impl Cluster {
    /// The calling block's; one of its own where those of the launch are of neighbours, which are of tiles that one warp takes.
    #[inline(always)]
    pub fn here(params: &DecodeParams, shape: &Shape) -> Self {
        let neighbours = shape.column_warps == 1 && params.flags & LaunchFlags::NEIGHBOURS != 0;
        if cfg!(qkv_sm = "80") || neighbours {
            return Self { rank: 0, blocks: 1 };
        }
        Self { rank: uniform(cluster_ctarank()), blocks: uniform(cluster_nctarank()) }
    }

    /// What this block finishes: of a warp's fragments, one tile of rows behind the other, as many as every block, the last blocks none
    /// where there are fewer. A share has one tile of rows, as both counts are powers of two.
    #[inline(always)]
    pub const fn share(&self, shape: &Shape) -> Share {
        let (each, count) = (shape.fragments() / shape.row_tiles, shape.fragments_of(self.blocks));
        let first = self.rank * count;
        Share { tile: first / each, first: first % each, count: if first < shape.fragments() { count } else { 0 } }
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

/// The results of all blocks of a cluster for a share, seen by one lane.
pub trait Results {
    /// The largest score and the sum of exponentials of each of the lane's two rows.
    fn sums(&self) -> [[f32; 2]; 2];

    /// The share's fragment `index`, of all blocks together; they are asked for in their order.
    ///
    /// # Safety
    /// As where the results came from.
    unsafe fn fragment(&mut self, index: u32, place: &Place) -> [f32; 4];
}
