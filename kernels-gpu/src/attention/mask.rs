//! Which keys a query row sees. Whole tiles are a matter of [`super::work::Tiles`]; what is left are edge tiles, where
//! single scores are replaced by -inf (by select: adding -inf to NaN or +inf would not hide it).
use crate::config::Shape;
use crate::layout::fragment::accumulator_rows;
use crate::tile::{Scores, TILE_COLUMNS, key_tiles};

/// The mask of an item's edge tiles: keys from `length` on do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeMask {
    /// Keys of the sequence.
    pub length: u32,
}

impl EdgeMask {
    /// Whether tile `tile` has keys that are to be masked.
    #[inline(always)]
    pub const fn covers(&self, tile: u32, shape: &Shape) -> bool {
        (tile + 1) * shape.tile_keys > self.length
    }

    /// Masks the scores of tile `tile`.
    #[inline(always)]
    pub fn apply(&self, s: &mut Scores, tile: u32, lane: u32, shape: &Shape) {
        for (index, keys) in s.iter_mut().take(key_tiles(shape)).enumerate() {
            let key = tile * shape.tile_keys + index as u32 * TILE_COLUMNS + accumulator_rows(lane)[0];
            for fragment in keys.iter_mut().take(shape.row_tiles as usize) {
                for (element, score) in fragment.iter_mut().enumerate() {
                    if key + 8 * (element as u32 / 2) >= self.length {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}
