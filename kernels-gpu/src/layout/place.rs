//! Which part of a block's work a warp has.
use crate::config::{RowClass, Shape, shape};
use crate::element::CacheElement;
use crate::ptx::math::renewed;
use crate::ptx::sync::uniform;
use core::marker::PhantomData;
use cuda_std::thread;

/// The shape of a kernel as a type: row class `RowClass::at(R)`, head dimension `D`, cache format `K`.
pub struct Kernel<const R: u32, const D: u32, K>(PhantomData<K>);

impl<const R: u32, const D: u32, K: CacheElement> Kernel<R, D, K> {
    /// Its numbers.
    pub const SHAPE: Shape = shape(D, RowClass::at(R), K::CACHE);
}

/// A warp's place in its block: warps are numbered column first, then row, then team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Warp of the block.
    pub warp: u32,
    /// Lane of the warp.
    pub lane: u32,
    /// Which of the teams.
    pub team: u32,
    /// Which 16 of the item's query rows.
    pub row_warp: u32,
    /// Which slice of the head's columns.
    pub column_warp: u32,
}

impl Place {
    /// The place of lane `lane` of warp `warp` of a block.
    #[inline(always)]
    pub const fn of(shape: &Shape, warp: u32, lane: u32) -> Self {
        // The remainders by 1 and the quotients by all the warps are constants that the compiler cannot know to be 0
        // (it does not know the number of threads): said here, they cost no register and make barrier ids immediate.
        let team = if shape.teams == 1 { 0 } else { warp / (shape.row_warps * shape.column_warps) };
        let row_warp = if shape.row_warps == 1 { 0 } else { warp / shape.column_warps % shape.row_warps };
        let column_warp = if shape.column_warps == 1 { 0 } else { warp % shape.column_warps };
        Self { warp, lane, team, row_warp, column_warp }
    }

    /// The calling thread's place.
    #[inline(always)]
    pub fn here(shape: &Shape) -> Self {
        let thread = thread::thread_idx_x();
        Self::of(shape, uniform(thread / 32), thread % 32)
    }

    /// The same place, as a value that the compiler derives nothing from ahead of time.
    #[inline(always)]
    pub fn renewed(&self, shape: &Shape) -> Self {
        Self::of(shape, renewed(self.warp), renewed(self.lane))
    }

    /// The warp of the block that has this warp's rows and columns in team `team`.
    #[inline(always)]
    pub const fn in_team(&self, team: u32, shape: &Shape) -> u32 {
        (team * shape.row_warps + self.row_warp) * shape.column_warps + self.column_warp
    }

    /// The ring that this warp reads: one a team and column slice.
    #[inline(always)]
    pub const fn ring(&self, shape: &Shape) -> u32 {
        self.team * shape.column_warps + self.column_warp
    }

    /// The named barrier of the warps that share this warp's rows and keys and differ in columns.
    #[inline(always)]
    pub const fn row_barrier(&self, shape: &Shape) -> u32 {
        1 + self.team * shape.row_warps + self.row_warp
    }

    /// The named barrier of the warps that share this warp's ring and differ in rows.
    #[inline(always)]
    pub const fn ring_barrier(&self, shape: &Shape) -> u32 {
        1 + shape.teams * shape.row_warps + self.ring(shape)
    }
}
