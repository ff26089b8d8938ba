//! What is to be planned, in the kernel's units: query tiles of a KV head against the key tiles that their rows see.
use crate::device::Properties;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::plan::batch::{Batch, Tokens};
use crate::plan::cost::Cost;
use crate::plan::deal::grid;
use crate::plan::schedule::{cheapest, cluster_of_any};
use crate::plan::{Capture, PlanOptions, Splits};
use crate::select::{CLUSTERS, KernelId, Need, Unsupported};
use kernels_gpu::abi::NO_WINDOW;
use kernels_gpu::config::{MAX_SPLITS, Tiling};
use kernels_gpu::kernels::Role;

/// Items that a plan may have: far more than fill any GPU, and their sums of tiles stay below 2^64.
pub(crate) const MAX_ITEMS: u64 = 1 << 24;

/// A batch in tiles.
pub(crate) struct Problem<'p> {
    pub(crate) tiling: Tiling,
    pub(crate) cost: Cost,
    /// What items are spread over: multiprocessors, or a persistent kernel's blocks or clusters.
    pub(crate) workers: u32,
    /// Whether each of these has a list of items, instead of each item a block.
    pub(crate) persistent: bool,
    /// How many clusters, by [`CLUSTERS`], run at a time with their blocks alone; 0 where blocks cannot have an item together.
    clusters: [u32; CLUSTERS.len()],
    /// Planned lengths in tokens.
    pub(crate) lengths: &'p [u32],
    /// Query tokens of the sequences.
    pub(crate) tokens: &'p Tokens,
    /// Keys that a query token sees before and behind it; `None`: maybe all, wherever it is.
    window: Option<[u32; 2]>,
    pub(crate) kv_heads: u32,
    /// Query heads a KV head.
    pub(crate) group: u32,
    /// Bytes of one token's key and value of one KV head, without scales.
    token_bytes: u64,
    /// Key tiles of every query tile, the sequences' one after another, each's in the order of its rows: worked out once, as the
    /// scheduler asks for them again for each cut that it weighs.
    tiles: Vec<u32>,
    /// Where each sequence's query tiles begin in [`Self::tiles`], and behind the last: `[batch + 1]`.
    tile_starts: Vec<u32>,
}

/// One query tile of every KV head of one sequence, with all the keys that its rows see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowTile {
    pub(crate) first_row: u32,
    /// Rows in use.
    pub(crate) rows: u32,
    /// Key tiles at the planned length.
    pub(crate) tiles: u32,
}

/// How many clusters run at a time of a kernel that joins their results: a decode kernel's for few rows.
fn clusters(kernel: KernelId, properties: &Properties) -> [u32; CLUSTERS.len()] {
    match &kernel.info().role {
        Role::Decode { shape, .. } if shape.row_warps == 1 => properties.clusters,
        _ => [0; CLUSTERS.len()],
    }
}

impl<'p> Problem<'p> {
    pub(crate) fn new(
        kernel: KernelId,
        geometry: &Geometry,
        batch: &Batch<'p>,
        tokens: &'p Tokens,
        properties: &Properties,
    ) -> Result<Self, Error> {
        let head_dim = geometry.head_dim().get();
        let unknown = || Unsupported { needs: vec![Need::HeadDim { value: head_dim }] };
        let tiling = kernel.tiling().ok_or_else(unknown)?;
        let cost = Cost::new(&kernel.info().role, properties.multiprocessors).ok_or_else(unknown)?;
        let grid = grid(kernel, properties);
        let lengths = batch.lengths;
        if let Some(&length) = lengths.iter().find(|&&length| length > i32::MAX as u32) {
            let (field, allowed) = ("planned length", "at most 2147483647 tokens");
            return Err(Error::Value { field, value: length.to_string(), allowed });
        }
        let mut problem = Self {
            tiling,
            cost,
            workers: grid.unwrap_or(properties.multiprocessors).clamp(1, MAX_ITEMS as u32),
            persistent: grid.is_some(),
            clusters: clusters(kernel, properties),
            lengths,
            tokens,
            window: (!batch.everywhere).then(|| batch.mask.window()),
            kv_heads: geometry.kv_heads(),
            group: geometry.group(),
            token_bytes: 2 * (head_dim * geometry.kv().bits()) as u64 / 8,
            tiles: Vec::new(),
            tile_starts: Vec::new(),
        };
        problem.tile_starts = problem.tile_starts()?;
        problem.tiles = problem.all_tiles();
        Ok(problem)
    }

    /// Where each sequence's query tiles begin, and behind the last: `[batch + 1]`.
    fn tile_starts(&self) -> Result<Vec<u32>, Error> {
        let mut starts = Vec::with_capacity(self.lengths.len() + 1);
        // Most batches have as many query tokens in every sequence: one division for all of them.
        let (mut end, mut last) = (0_u64, [0, 0]);
        starts.push(0);
        for sequence in 0..self.lengths.len() as u32 {
            let [_, q_len] = self.tokens.of(sequence);
            if q_len != last[0] {
                last = [q_len, self.row_tile_count(q_len)];
            }
            end += u64::from(last[1]);
            starts.push(end as u32);
        }
        match end * u64::from(self.kv_heads) {
            items if items > MAX_ITEMS => Err(Error::PlanTooLarge { items, most: MAX_ITEMS }),
            _ => Ok(starts),
        }
    }

    /// Key tiles of every query tile.
    fn all_tiles(&self) -> Vec<u32> {
        let mut tiles = Vec::with_capacity(self.tile_starts.last().copied().unwrap_or(0) as usize);
        for (sequence, &length) in (0..).zip(self.lengths) {
            let [_, q_len] = self.tokens.of(sequence);
            let (all, rows) = (q_len * self.group, self.tiling.rows);
            tiles.extend((0..all).step_by(rows as usize).map(|first_row| {
                let last_row = first_row + rows.min(all - first_row) - 1;
                self.tiles_of(length, q_len, [first_row, last_row])
            }));
        }
        tiles
    }

    /// Most blocks of a launch, clusters counted once.
    pub(crate) fn most_blocks(&self) -> u32 {
        if self.persistent { self.workers } else { u32::MAX }
    }

    /// Bytes of the keys and values of a sequence and KV head.
    pub(crate) fn pair_bytes(&self, sequence: u32) -> u64 {
        u64::from(self.lengths[sequence as usize]) * self.token_bytes
    }

    /// Key tiles of the query tiles of one sequence and KV head, in the order of their rows.
    pub(crate) fn tiles(&self, sequence: u32) -> &[u32] {
        let start = |index: u32| self.tile_starts[index as usize] as usize;
        &self.tiles[start(sequence)..start(sequence + 1)]
    }

    /// Query tiles of one sequence and KV head, in the order of their rows.
    pub(crate) fn row_tiles(&self, sequence: u32) -> impl DoubleEndedIterator<Item = RowTile> {
        let [_, q_len] = self.tokens.of(sequence);
        let (all, rows) = (q_len * self.group, self.tiling.rows);
        self.tiles(sequence).iter().enumerate().map(move |(index, &tiles)| {
            let first_row = index as u32 * rows;
            RowTile { first_row, rows: rows.min(all - first_row), tiles }
        })
    }

    /// Key tiles of every sequence's query tiles: of each KV head the same.
    pub(crate) fn all(&self) -> &[u32] {
        &self.tiles
    }

    /// What kernels of one family are weighed by, in nanoseconds: of a prefill kernel a block's time for a KV head's items one after another, of a
    /// decode kernel when the plan ends. `None` for a decode kernel whose rows are not worth being divided ([`DecodeCost::divides_rows`]).
    ///
    /// [`DecodeCost::divides_rows`]: crate::plan::cost::DecodeCost::divides_rows
    pub(crate) fn weight(&self, options: &PlanOptions) -> Result<Option<f64>, Error> {
        match &self.cost {
            Cost::Prefill(cost) => {
                let tiles = self.tiles.iter().copied().map(u64::from).sum();
                Ok(Some(cost.list(self.tiles.len(), tiles)))
            }
            Cost::Decode(cost) if !cost.divides_rows(self.unit_count()) => Ok(None),
            Cost::Decode(_) => Ok(Some(cheapest(self, self.given_cluster(options)?).2)),
        }
    }

    /// How many query tiles there are, KV heads told apart.
    pub(crate) fn unit_count(&self) -> u64 {
        self.tiles.len() as u64 * u64::from(self.kv_heads)
    }

    /// The most of them that a plan of the same batch size, geometry and options has.
    pub(crate) fn most_units(&self, options: &PlanOptions) -> u64 {
        match options.max_q_len {
            None => self.unit_count(),
            Some(tokens) => {
                let a_sequence = u64::from(self.kv_heads) * u64::from(self.row_tile_count(tokens));
                self.lengths.len() as u64 * a_sequence
            }
        }
    }

    /// The size of clusters, where it is not to be weighed.
    pub(crate) fn given_cluster(&self, options: &PlanOptions) -> Result<Option<u32>, Error> {
        match (options.cluster, options.splits, options.capture) {
            (Some(cluster), ..) => {
                if self.room(cluster) > 0 {
                    return Ok(Some(cluster));
                }
                let most = CLUSTERS.into_iter().filter(|&size| self.room(size) > 0).max();
                let allowed = match most {
                    None => "1 for this kernel on this device",
                    Some(2) => "1 or 2",
                    Some(4) => "1, 2 or 4",
                    Some(8) => "1, 2, 4 or 8",
                    Some(_) => "1, 2, 4, 8 or 16",
                };
                Err(Error::Value { field: "cluster", value: cluster.to_string(), allowed })
            }
            (None, Splits::Auto, Capture::AnyPlan) => Ok(Some(cluster_of_any(self, self.most_units(options)))),
            (None, Splits::Auto, Capture::ThisPlan) => Ok(None),
            (None, ..) => Ok(Some(1)),
        }
    }

    /// Blocks that begin together, each with an item of its own, in plans of the same batch size, geometry and options: 2 where KV heads come in pairs,
    /// whose rows lie side by side, and the cost model finds that it pays; otherwise 1.
    pub(crate) fn neighbours(&self, cluster: u32, options: &PlanOptions) -> u32 {
        let Cost::Decode(cost) = &self.cost else { return 1 };
        let pairs = cluster == 1 && self.kv_heads.is_multiple_of(2) && self.room(2) > 0;
        if pairs && cost.pairs_neighbours(self.most_units(options)) { 2 } else { 1 }
    }

    /// How many clusters of so many blocks, or lone blocks, run at a time with every block alone on its multiprocessor.
    pub(crate) fn room(&self, cluster: u32) -> u32 {
        match CLUSTERS.iter().position(|&size| size == cluster) {
            Some(index) => self.clusters[index],
            None if cluster == 1 => self.workers,
            None => 0,
        }
    }

    /// Query tiles of a sequence and KV head of so many query tokens.
    pub(crate) fn row_tile_count(&self, q_len: u32) -> u32 {
        (q_len * self.group).div_ceil(self.tiling.rows)
    }

    /// Key tiles that query rows `first..=last` of the last `q_len` tokens of `length` keys see.
    fn tiles_of(&self, length: u32, q_len: u32, rows: [u32; 2]) -> u32 {
        let tile_keys = self.tiling.tile_keys;
        let Some([left, right]) = self.window else { return length.div_ceil(tile_keys) };
        let [first, last] = rows.map(|row| row / self.group);
        // Below 0 where there are fewer keys than query tokens.
        let position = |token: u32| i64::from(length) - i64::from(q_len) + i64::from(token);
        let unbounded = |keys: u32| keys == NO_WINDOW;
        let begin = if unbounded(left) { 0 } else { (position(first) - i64::from(left)).max(0) };
        let end = if unbounded(right) { i64::from(length) } else { position(last) + 1 + i64::from(right) };
        let end = end.min(length.into());
        if end <= begin { 0 } else { (end as u32).div_ceil(tile_keys) - begin as u32 / tile_keys }
    }

    /// The most key tiles that a query tile sees at any length up to `length`, of up to the most query tokens.
    pub(crate) fn most_tiles(&self, length: u32) -> u32 {
        let (all, tile_keys) = (length.div_ceil(self.tiling.tile_keys), self.tiling.tile_keys);
        match self.window {
            Some([left, right]) if left < NO_WINDOW && right < NO_WINDOW => {
                // Of tokens in a row, the first and the last maybe with some of their heads only.
                let tokens = self.tokens.most.min((self.tiling.rows - 1).div_ceil(self.group) + 1);
                let keys = u64::from(left) + u64::from(right) + u64::from(tokens);
                // So many keys in a row lie in one tile more where they begin inside one.
                all.min((keys - 1).div_ceil(tile_keys.into()).saturating_add(1).try_into().unwrap_or(u32::MAX))
            }
            _ => all,
        }
    }

    /// A fixed split size in tiles.
    pub(crate) fn fixed_tiles(&self, tokens: u32) -> Result<u32, Error> {
        if tokens == 0 {
            return Err(Error::Value { field: "fixed split size", value: "0".into(), allowed: "at least 1 token" });
        }
        let size = tokens.div_ceil(self.tiling.tile_keys);
        for (sequence, &length) in self.lengths.iter().enumerate() {
            let tiles = self.tiles(sequence as u32).iter().copied().max().unwrap_or(0);
            let shares = tiles.div_ceil(size);
            if shares > MAX_SPLITS {
                let split_tokens = size.saturating_mul(self.tiling.tile_keys);
                return Err(Error::TooManySplits { sequence, length, split_tokens, shares, most: MAX_SPLITS });
            }
        }
        Ok(size)
    }
}
