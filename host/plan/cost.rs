//! What work costs: the one place with the planner's numbers, in nanoseconds of an H100 80GB HBM3 (docs/decode.md; the
//! runs are in benches/record/h100-2026-11-23). Only ratios matter to a plan, and those are alike on chips of one
//! generation.
use kernels_gpu::config::Shape;
use kernels_gpu::kernels::Role;
use kernels_gpu::prefill::shape::PrefillShape;

/// What a launch of items costs before its first tile: work item, length, page ids and first keys are four dependent
/// trips to memory. Later items hide theirs behind the blocks beside them.
const ITEM_NS: f64 = 1500.0;

/// Bytes that a busy multiprocessor gets in a nanosecond: 3.0 TB/s over 132 of them.
const BYTES_PER_NS: f64 = 23.0;

/// How much faster a multiprocessor runs when others have ended and left it their part of the memory's throughput: 96
/// blocks on 132 multiprocessors took no longer than 132 (gemma4-12b-global, batch 1, 32768 tokens), which is 1.38; with
/// 1.25 the last one ends within 25 % of the mean.
const LONE_SPEEDUP: f64 = 1.25;

/// What a warp's tile of a narrow cache takes where multiprocessors are full of them: nearly as many instructions as two
/// tiles of bf16 for half the bytes or a quarter (docs/formats.md), so that the memory's time is not always the longest.
/// Nanoseconds by bits and columns, of 8 query rows; 16 have some half more. Measured at 64 x 4096.
const fn issue_ns(shape: &Shape) -> f64 {
    if shape.row_warps > 1 {
        // Counted: 410 to 470 instructions of a warp in 16 bits, 500 to 780 in 8, 650 to 1120 in 4, and a third more of stalls.
        return match (shape.cache.bits(), shape.slice) {
            (16, _) => 85.0,
            (8, 128) => 140.0,
            (8, _) => 95.0,
            (_, 128) => 200.0,
            (_, _) => 125.0,
        };
    }
    let eight = match (shape.cache.bits(), shape.slice) {
        (16, _) => 100.0,
        (8, 128) => 200.0,
        (8, _) => 150.0,
        (_, 128) => 245.0,
        (_, _) => 150.0,
    };
    if shape.row_tiles == 1 { eight } else { 1.6 * eight }
}

/// What it takes from one barrier to the next: a block that is alone on its multiprocessor is no faster. Measured at
/// 16 x 8192, one block a multiprocessor; 16-bit caches wait for the memory there.
const fn latency_ns(shape: &Shape) -> f64 {
    if shape.row_warps > 1 {
        // All its warps meet twice a tile.
        return match (shape.cache.bits(), shape.column_warps) {
            (16, 1) => 800.0,
            (16, 2) => 1100.0,
            (16, _) => 1600.0,
            (8, 1) => 760.0,
            (8, 2) => 1700.0,
            (8, _) => 2100.0,
            (_, 1) => 950.0,
            (_, _) => 2450.0,
        };
    }
    let eight = match shape.cache.bits() {
        16 => 0.0,
        8 => 1050.0,
        _ => 1300.0,
    };
    if shape.row_tiles == 1 { eight } else { 1.3 * eight }
}

/// What a merge kernel costs, launched early: its start, one trip to memory and the last block's end.
const COMBINE_NS: f64 = 3000.0;

/// What a cluster costs: that its blocks begin together, its two barriers and two trips to each other's shared memory. 1024 tokens on
/// eight blocks took 1.3 to 1.8 us more than 64 on one, tiles' own latency among it. With 1500 in place of this plans of 1024
/// tokens had no clusters at D = 512, and took 15.1 and 19.4 us for 11.9 and 11.0 (bf16; docs/decode.md).
const CLUSTER_NS: f64 = 800.0;

/// Bytes of partial results, written and read again, that one multiprocessor moves in a nanosecond.
const PARTIAL_BYTES_PER_NS: f64 = 20.0;

/// What a multiprocessor multiplies and adds in a nanosecond, in floating-point operations: 4500, 594 TFLOP/s on all 132, where prompts of
/// 8192 tokens and more were measured at 510 to 779 (`benches/record/h100-2026-11-27`); of 8 bits 7000, 924 TFLOP/s for 908 to 1075,
/// but at D = 64, where exponentials bind and 530 are predicted (docs/prefill.md).
const fn flop_per_ns(shape: &PrefillShape) -> f64 {
    if shape.element_bytes == 1 && shape.head_dim > 64 { 7000.0 } else { 4500.0 }
}

/// What an item's begin and end take a prefill kernel's block, about, in tiles: Q is loaded, the first products have nothing beside
/// them, the output is stored.
const ITEM_TILES: f64 = 1.5;

/// Costs of one kernel on one device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cost {
    /// Of a decode kernel: an item a block.
    Decode(DecodeCost),
    /// Of a prefill kernel: persistent blocks.
    Prefill(PrefillCost),
}

impl Cost {
    /// `None` for a kernel that has no items.
    pub(crate) fn new(role: &Role, multiprocessors: u32) -> Option<Self> {
        match role {
            Role::Decode { shape, .. } => Some(Self::Decode(DecodeCost::new(shape, multiprocessors))),
            Role::Prefill { shape, .. } => Some(Self::Prefill(PrefillCost::new(shape, multiprocessors))),
            _ => None,
        }
    }
}

/// Costs of a prefill kernel: its time is that of its products, whatever of an item's rows and keys is in use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PrefillCost {
    tile_ns: f64,
    partial_ns: f64,
    multiprocessors: f64,
}

impl PrefillCost {
    fn new(shape: &PrefillShape, multiprocessors: u32) -> Self {
        // S and P times V, a multiplication and an addition each, of which the blocks of a cluster do a share each.
        let flop = 4.0 * f64::from(shape.block_rows() * shape.tile_keys / shape.cluster) * f64::from(shape.head_dim);
        Self {
            tile_ns: flop / flop_per_ns(shape),
            partial_ns: partial_ns(shape.tiling().rows, shape.head_dim),
            multiprocessors: f64::from(multiprocessors.max(1)),
        }
    }

    /// A block's list of so many items, of so many tiles together: blocks are alone on their multiprocessors, so that nothing
    /// beside them hides an item's begin and end.
    pub(crate) fn list(&self, items: usize, tiles: u64) -> f64 {
        (ITEM_TILES * items as f64 + tiles as f64) * self.tile_ns
    }

    /// Merging so many partial results.
    pub(crate) fn merge(&self, partials: u64) -> f64 {
        merge_ns(partials, self.partial_ns, self.multiprocessors)
    }
}

/// One partial result of `rows` rows on one multiprocessor.
fn partial_ns(rows: u32, head_dim: u32) -> f64 {
    f64::from(2 * 4 * rows * head_dim) / PARTIAL_BYTES_PER_NS
}

/// Merging partial results on all multiprocessors.
fn merge_ns(partials: u64, partial_ns: f64, multiprocessors: f64) -> f64 {
    match partials {
        0 => 0.0,
        partials => COMBINE_NS + partials as f64 * partial_ns / multiprocessors,
    }
}

/// Whether clusters of a decode kernel are weighed. Not of NVFP4 at D = 512, whose tiles take their own latency unless three blocks a
/// multiprocessor hide it, and clusters leave two: 16 x 8192 took 175 and 71 us for 139 and 54, of 4 KV heads and of one.
pub(crate) const fn weighs_clusters(shape: &Shape) -> bool {
    shape.cache.bits() > 4 || shape.column_warps < 4
}

/// Costs of a decode kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DecodeCost {
    /// One tile on one of the multiprocessors, all busy.
    tile_ns: f64,
    /// How much longer than that a tile takes a block that is alone.
    alone: f64,
    /// Blocks that a multiprocessor has together.
    blocks: f64,
    /// One partial result.
    partial_ns: f64,
    multiprocessors: f64,
}

impl DecodeCost {
    fn new(shape: &Shape, multiprocessors: u32) -> Self {
        // K and V, all slices of the head.
        let tile_bytes = 2 * (shape.tile_bytes() + shape.tile_scale_bytes()) * shape.column_warps;
        let memory_ns = f64::from(tile_bytes) / BYTES_PER_NS;
        let issue_ns = issue_ns(shape) * f64::from(shape.column_warps * shape.row_warps);
        let tile_ns = memory_ns.max(issue_ns);
        let alone_ns = (memory_ns / LONE_SPEEDUP).max(issue_ns).max(latency_ns(shape) / f64::from(shape.teams));
        Self {
            tile_ns,
            alone: alone_ns / tile_ns,
            blocks: f64::from(shape.min_blocks),
            partial_ns: partial_ns(shape.rows(), shape.head_dim),
            multiprocessors: f64::from(multiprocessors.max(1)),
        }
    }

    /// When the last of `items` items ends that have `total` tiles together and at most `longest` each, started longest
    /// first, and what merging `partials` results adds. Each is done by a `cluster` of so many blocks, or by one.
    ///
    /// The fullest multiprocessor has at most the mean and one item more (Graham's bound for list scheduling), or where
    /// that is less, its number of items times the longest, which is exact for items of one length.
    pub(crate) fn estimate(&self, items: u64, total: u64, longest: u32, partials: u64, cluster: u32) -> f64 {
        let (items, longest) = (items * u64::from(cluster), longest.div_ceil(cluster));
        let mean = total as f64 / self.multiprocessors;
        let rounds = (items as f64 / self.multiprocessors).ceil();
        // Blocks beside each other share the multiprocessor's time, one alone has its own latency.
        let pace = |blocks: f64| if self.alone < 1.0 { self.alone } else { (self.alone / blocks).max(1.0) };
        let (together, left) = ((rounds / self.blocks).floor() * self.blocks, rounds % self.blocks);
        let by_rounds = together * pace(self.blocks) + if left > 0.0 { left * pace(left) } else { 0.0 };
        let longest = f64::from(longest);
        let fullest =
            (by_rounds * longest).min((mean + longest) * pace(self.blocks) + longest * (pace(1.0) - pace(self.blocks)));
        let cluster_ns = if cluster > 1 { CLUSTER_NS } else { 0.0 };
        let merge_ns = merge_ns(partials, self.partial_ns, self.multiprocessors);
        ITEM_NS + mean.max(fullest) * self.tile_ns + cluster_ns + merge_ns
    }
}
