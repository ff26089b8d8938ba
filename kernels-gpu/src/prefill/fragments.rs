//! Query rows and keys from the block's tiles as a warp's fragments.
use super::shape::{COLUMNS_BYTES, PATTERN_ROWS};
use crate::layout::swizzle::SwizzledPointer;
use crate::memory::Shared;
use crate::ptx::mma::ldmatrix_x4;

/// Bytes of a row that a fragment of four words has: two chunks.
const STEP_BYTES: u32 = 32;

/// Steps of a row of a part.
const STEPS: u32 = COLUMNS_BYTES / STEP_BYTES;

/// A lane's place in 16 rows of a tile.
#[derive(Clone, Copy)]
pub struct Fragments {
    /// Its row and chunk of the first step.
    first: SwizzledPointer,
    /// Bytes from a part of [`COLUMNS_BYTES`] to the next.
    part_bytes: u32,
}

impl Fragments {
    /// Of A, of 16 rows of a tile `[parts][rows][128]` of which the first of `lane`'s warp is at `tile`: the matrices of a load are rows 0 to 8
    /// and 8 to 16 of the first chunk, then of the second.
    #[inline(always)]
    pub const fn of_rows(tile: Shared<u8>, rows: u32, lane: u32) -> Self {
        let first = SwizzledPointer::new(tile, lane % 16, lane / 16, COLUMNS_BYTES);
        Self { first, part_bytes: rows * COLUMNS_BYTES }
    }

    /// Of B, of 16 keys of a tile `[keys / 8][parts][8][128]` of which the first is at `tile`: both chunks of keys 0 to 8, then of keys 8 to 16.
    #[inline(always)]
    pub const fn of_keys(tile: Shared<u8>, parts: u32, lane: u32) -> Self {
        let pattern = PATTERN_ROWS * COLUMNS_BYTES;
        let eight = tile.byte_offset(lane / 16 * parts * pattern);
        Self { first: SwizzledPointer::new(eight, lane % 8, lane / 8 % 2, COLUMNS_BYTES), part_bytes: pattern }
    }

    /// The words of step `step` of 32 bytes.
    ///
    /// # Safety
    /// As for [`ldmatrix_x4`].
    #[inline(always)]
    pub unsafe fn step(&self, step: u32) -> [u32; 4] {
        let part = step / STEPS * self.part_bytes;
        // SAFETY: handed on to the caller.
        unsafe { ldmatrix_x4(self.first.step(0, 2 * (step % STEPS)).byte_offset(part)) }
    }
}
