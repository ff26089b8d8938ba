//! What is to be planned, in the kernel's units: query tiles of a KV head against key tiles of a sequence.
use crate::device::Properties;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::plan::cost::Cost;
use crate::select::{KernelId, Need, Unsupported};
use kernels_gpu::config::{MAX_SPLITS, Shape};

/// Items that a plan may have: far more than fill any GPU, and their sums of tiles stay below 2^64.
pub(crate) const MAX_ITEMS: u64 = 1 << 24;

/// A batch in tiles.
pub(crate) struct Problem {
    pub(crate) shape: Shape,
    pub(crate) cost: Cost,
    pub(crate) multiprocessors: u32,
    /// Planned lengths in tokens.
    pub(crate) lengths: Vec<u32>,
    pub(crate) kv_heads: u32,
    /// Query heads a KV head.
    pub(crate) group: u32,
    /// Items that one sequence and KV head takes at least: its query rows over the kernel's.
    pub(crate) row_tiles: u32,
}

/// One query tile of one KV head of one sequence, with all its keys.
#[derive(Clone, Copy)]
pub(crate) struct Unit {
    pub(crate) sequence: u32,
    pub(crate) kv_head: u32,
    pub(crate) first_row: u32,
    /// Key tiles at the planned length.
    pub(crate) tiles: u32,
}

impl Problem {
    pub(crate) fn new(
        kernel: KernelId,
        geometry: &Geometry,
        lengths: &[u32],
        properties: &Properties,
    ) -> Result<Self, Error> {
        let head_dim = geometry.head_dim().get();
        let unknown = || Unsupported { needs: vec![Need::HeadDim { value: head_dim }] };
        let shape = kernel.shape().ok_or_else(unknown)?;
        if let Some(&length) = lengths.iter().find(|&&length| length > i32::MAX as u32) {
            let (field, allowed) = ("planned length", "at most 2147483647 tokens");
            return Err(Error::Value { field, value: length.to_string(), allowed });
        }
        let row_tiles = geometry.group().div_ceil(shape.rows());
        let items = lengths.len() as u64 * u64::from(geometry.kv_heads()) * u64::from(row_tiles);
        if items > MAX_ITEMS {
            return Err(Error::PlanTooLarge { items, most: MAX_ITEMS });
        }
        Ok(Self {
            shape,
            cost: Cost::new(&shape, properties.multiprocessors),
            multiprocessors: properties.multiprocessors.clamp(1, MAX_ITEMS as u32),
            lengths: lengths.to_vec(),
            kv_heads: geometry.kv_heads(),
            group: geometry.group(),
            row_tiles,
        })
    }

    /// Units of one sequence; those of one KV head are adjacent, so that they read its keys together.
    pub(crate) fn units_of(&self, sequence: u32) -> impl Iterator<Item = Unit> {
        let (tiles, row_tiles, rows) = (self.tiles(sequence), self.row_tiles, self.shape.rows());
        (0..self.kv_heads).flat_map(move |kv_head| {
            (0..row_tiles).map(move |tile| Unit { sequence, kv_head, first_row: tile * rows, tiles })
        })
    }

    /// How many units there are.
    pub(crate) fn unit_count(&self) -> usize {
        self.lengths.len() * self.units_per_sequence()
    }

    pub(crate) fn units_per_sequence(&self) -> usize {
        self.kv_heads as usize * self.row_tiles as usize
    }

    /// Key tiles of a sequence.
    pub(crate) fn tiles(&self, sequence: u32) -> u32 {
        self.lengths[sequence as usize].div_ceil(self.shape.tile_keys)
    }

    /// A fixed split size in tiles.
    pub(crate) fn fixed_tiles(&self, tokens: u32, lengths: &[u32]) -> Result<u32, Error> {
        if tokens == 0 {
            return Err(Error::Value { field: "fixed split size", value: "0".into(), allowed: "at least 1 token" });
        }
        let size = tokens.div_ceil(self.shape.tile_keys);
        for (sequence, &length) in lengths.iter().enumerate() {
            let shares = self.tiles(sequence as u32).div_ceil(size);
            if shares > MAX_SPLITS {
                let split_tokens = size.saturating_mul(self.shape.tile_keys);
                return Err(Error::TooManySplits { sequence, length, split_tokens, shares, most: MAX_SPLITS });
            }
        }
        Ok(size)
    }
}
