//! What work costs: the one place with the planner's numbers, in nanoseconds of an H100 80GB HBM3 (docs/decode.md; the
//! runs are in benches/record/h100-2026-11-23). Only ratios matter to a plan, and those are alike on chips of one
//! generation.
use crate::plan::schedule::Sums;
use kernels_gpu::config::Shape;
use kernels_gpu::kernels::Role;
use kernels_gpu::prefill::shape::PrefillShape;

/// What a launch of items costs before its first tile: work item, length, page ids and first keys are four dependent
/// trips to memory, and its end is a thousand instructions. Later items hide theirs behind the blocks beside them.
const ITEM_NS: f64 = 2500.0;

/// Bytes that a busy multiprocessor gets in a nanosecond: 3.0 TB/s over 132 of them.
const BYTES_PER_NS: f64 = 23.0;

/// How much faster than its share the memory serves a multiprocessor that is at work when others are not: 64 blocks on 132
/// multiprocessors read 37 to 42 bytes a nanosecond each (`benches/record/h100-2026-11-27-c/plans.txt`: 16-bit caches of 1 x 32768 and 16 x 8192).
const LONE_SPEEDUP: f64 = 1.6;

/// The same where one has so many tiles more than the mean: then less is relied on, so that multiprocessors finish within 25 % of the
/// mean on other chips too.
const UNEVEN_SPEEDUP: f64 = 1.25;
/// Of tiles of one column warp; those of more have as many times the keys.
const UNEVEN_TILES: f64 = 16.0;

/// What a warp takes for a panel of K and one of V where multiprocessors are full of them: of a narrow cache nearly as many instructions
/// as for two of bf16 for half the bytes or a quarter (docs/formats.md), so that the memory's time is not always the longest.
/// Nanoseconds by bits and columns, of 8 query rows. Panels of 16 keys, where warps share a head, by `benches/record/h100-2026-11-28/plans.txt`; those of
/// one warp, of 32 in narrow formats and at D = 64, by `benches/record/h100-2026-11-27-e/plans.txt`, where 16 rows have some half more.
const fn issue_ns(shape: &Shape) -> f64 {
    if shape.row_warps > 1 {
        // Counted: 410 to 470 instructions of a warp in 16 bits, 500 to 780 in 8, 650 to 1120 in 4, and a third more of stalls.
        let alone = match (shape.cache.bits(), shape.slice) {
            (16, _) => 85.0,
            (8, 128) => 140.0,
            (8, _) => 95.0,
            (_, 128) => 200.0,
            (_, _) => 125.0,
        };
        return if shape.column_warps > 1 && shape.cache.bits() < 16 { alone / 2.0 } else { alone };
    }
    if shape.column_warps > 1 {
        return match (shape.cache.bits(), shape.row_tiles) {
            (16, 1) => 70.0,
            (16, _) => 89.0,
            (8, 1) => 95.0,
            (8, _) => 50.0,
            (_, 1) => 103.0,
            (_, _) => 120.0,
        };
    }
    let eight = match (shape.cache.bits(), shape.slice) {
        (16, _) => 100.0,
        (8, 128) => 160.0,
        (8, _) => 140.0,
        (_, 128) => 212.0,
        (_, _) => 110.0,
    };
    if shape.row_tiles == 1 { eight } else { 1.6 * eight }
}

/// What a tile takes from one barrier to the next where nothing else is at work: a block that is alone on its multiprocessor is no
/// faster. Of few rows what 1024 tokens take longer on one block than on two, and on two than on four (`plans.txt`).
const fn latency_ns(shape: &Shape) -> f64 {
    if shape.row_warps > 1 {
        // Its warps meet at each piece. Of D = 256 and 512 what was measured when tiles had a quarter to all of the keys, by keys.
        return match (shape.cache.bits(), shape.column_warps) {
            (16, 1) => 800.0,
            (16, 2) => 2200.0,
            (16, _) => 6400.0,
            (8, 1) => 760.0,
            (8, 2) => 1700.0,
            (8, _) => 4200.0,
            (_, 1) => 950.0,
            (_, 2) => 2450.0,
            (_, _) => 4900.0,
        };
    }
    let eight = match (shape.cache.bits(), shape.head_dim) {
        (16, 64) => 800.0,
        (16, 128) => 640.0,
        (16, 256) => 1250.0,
        (16, _) => 2400.0,
        (8, 64) => 650.0,
        (8, 128) => 900.0,
        (8, 256) => 1150.0,
        (8, _) => 1580.0,
        (_, 64) => 880.0,
        (_, 128) => 970.0,
        (_, 256) => 1020.0,
        (_, _) => 1970.0,
    };
    match shape.row_tiles {
        1 => eight,
        _ if shape.head_dim < 512 => 1.06 * eight,
        _ if shape.cache.bits() == 16 => 1.46 * eight,
        _ if shape.cache.bits() == 8 => 1.37 * eight,
        _ => 1.28 * eight,
    }
}

/// What a merge kernel costs, launched early: its start, one trip to memory and the last block's end.
const COMBINE_NS: f64 = 2400.0;

/// What it adds for each 32 shares of a unit, which a merge reads in one trip.
const SHARES_NS: f64 = 700.0 / 32.0;

/// What a cluster costs: that its blocks begin together, and a trip to each other's shared memory. One of 16 blocks took 1.2 to 1.7 us more
/// than one of 8 (1 x 1024 at D = 64). Of tiles that take four warps in 4 bits one of 4 or 8 costs 0.6 more: one KV head's 1 x 32768 takes
/// 21.2 to 22.3 in eights and 18.9 to 19.2 in pairs (`benches/record/h100-2026-11-28-b/plans.txt`). Clusters that wait for a place pay again; pairs
/// find one, and those that are all at work at once need none: 1 x 32768 in bf16 takes 28.7 to 29.4 us at D = 64 in 8 clusters of 16 for 29.7 to 30.4 of
/// whatever else, and 97.1 to 97.5 for 97.5 to 98.9 in 16 of 8 with four KV heads of 512. Pairs of tiles that one warp takes cost 0.4 more: since the KV
/// heads of a share begin together, 32 shares of 1 x 32768 in 4 bits take 14.8 at D = 64 where 16 to 32 pairs take 16.4 to 17.0 (`plans.txt` of
/// `benches/record/h100-2026-11-28-d`).
const fn cluster_ns(cluster: u32, wide_of_4_bits: bool, of_one_warp: bool) -> f64 {
    match cluster {
        1 => 0.0,
        2 if of_one_warp => 1200.0,
        2 => 800.0,
        3..=8 if wide_of_4_bits => 1240.0,
        3..=8 => 640.0,
        _ => 2150.0,
    }
}

/// What the fullest multiprocessor has above the mean where lengths differ and a tile takes four warps, in tiles of the longest block: the short ones come last, and
/// level it. One KV head of 512, 128 sequences of 1 to 131072 tokens, 45 and 60 shares of the longest for 85: 226 and 225 us for 233 in 8 bits, 420 and 412 for 421
/// in 16, 150 and 162 for 160 in 4; four KV heads 15 for 23: 1522 for 1528 in 16 (`benches/record/h100-2026-11-28-e/ragged-plans.txt`).
const LEVELLED: f64 = 0.1;

/// How many times its longest block's tiles it has at least, as others are beside that one: 11 shares of four KV heads of 512, whose longest block has nearly half of the mean, take
/// 816 us in 8 bits where 15 and 23 take 789 and 796 (the same record).
const BESIDE_LONGEST: f64 = 2.5;

/// What a last round of lone blocks of 8 bits costs where others came before: nothing is beside them when they begin. 512 sequences and
/// heads of 1024 tokens at D = 512, 396 of them at a time, take 200 to 202 us, in pairs 192 to 196.
const LAST_ROUND_NS: f64 = 3000.0;

/// The same of 16 bits, by the longest block's time of the memory. At D = 256 blocks of 4096 tokens take 1472 to 1482 us, in pairs 1415, on two
/// cards, 1406 and 1395 on a third. Short ones are no gain everywhere: those of 1024 at D = 512 take 372 to 378, and in pairs 364 to 370
/// on some cards and 377 to 383 on others (`benches/record/h100-2026-11-27-e/cards.txt`).
const LAST_ROUND_OF_LONGEST: f64 = 0.018;

/// Bytes of partial results, written and read again, that one multiprocessor moves in a nanosecond.
const PARTIAL_BYTES_PER_NS: f64 = 20.0;

/// How much more it is where a tile takes four warps: 64 x 4096 of one KV head in two shares each takes 110 to 111 us of 8 bits, and
/// 197 of 16, where whole sequences take 101 and 187.
const WIDE_PARTIAL: f64 = 1.4;

/// What a multiprocessor multiplies and adds in a nanosecond, in floating-point operations: 4500, 594 TFLOP/s on all 132, where prompts of
/// 8192 tokens and more were measured at 510 to 779 (`benches/record/h100-2026-11-27`); of 8 bits 7000, 924 TFLOP/s for 908 to 1075,
/// but at D = 64, where exponentials bind: 514 to 603 (`benches/record/h100-2026-11-27-c`). With long steps 9 % more of 16 bits, items' begins and
/// ends aside: at 8192 keys a query row 743 for 702 with them (`benches/record/h100-2026-11-27-d`).
const fn flop_per_ns(shape: &PrefillShape) -> f64 {
    match shape.element_bytes {
        1 if shape.head_dim > 64 => 7000.0,
        2 if long(shape) => 4900.0,
        _ => 4500.0,
    }
}

/// What an item's begin and end take a prefill kernel's block, about, in tiles: Q is loaded, the first products have nothing beside
/// them, the output is stored. With long steps, of two tiles in shared memory: at 1024 keys a row 571 TFLOP/s for 644, at 4096 the same
/// (2 x 8192, causal: 717 for 721).
const fn item_tiles(shape: &PrefillShape) -> f64 {
    if long(shape) { 2.8 } else { 1.5 }
}

/// Whether a prefill kernel has more keys a step than others.
const fn long(shape: &PrefillShape) -> bool {
    shape.tile_keys > 128
}

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
    item_tiles: f64,
    partial_ns: f64,
    multiprocessors: f64,
}

impl PrefillCost {
    fn new(shape: &PrefillShape, multiprocessors: u32) -> Self {
        // S and P times V, a multiplication and an addition each, of which the blocks of a cluster do a share each.
        let flop = 4.0 * f64::from(shape.block_rows() * shape.tile_keys / shape.cluster) * f64::from(shape.head_dim);
        Self {
            tile_ns: flop / flop_per_ns(shape),
            item_tiles: item_tiles(shape),
            partial_ns: partial_ns(shape.tiling().rows, shape.head_dim),
            multiprocessors: f64::from(multiprocessors.max(1)),
        }
    }

    /// A block's list of so many items, of so many tiles together: blocks are alone on their multiprocessors, so that nothing
    /// beside them hides an item's begin and end.
    pub(crate) fn list(&self, items: usize, tiles: u64) -> f64 {
        (self.item_tiles * items as f64 + tiles as f64) * self.tile_ns
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

/// Costs of a decode kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DecodeCost {
    /// The memory's time for a tile where all multiprocessors are at work.
    memory_ns: f64,
    /// A tile's instructions, which blocks of a multiprocessor take one after another.
    issue_ns: f64,
    /// A step's own time, which those beside each other take together.
    latency_ns: f64,
    /// Tiles more than the mean from which on less is relied on.
    uneven_tiles: f64,
    /// Tiles of a step: one a team.
    teams: f64,
    /// Blocks that a multiprocessor has together.
    blocks: u64,
    /// One partial result.
    partial_ns: f64,
    multiprocessors: u32,
    /// Whether a tile takes four warps.
    wide: bool,
    /// Whether one takes one warp.
    of_one_warp: bool,
    /// Whether pairs of blocks even out the last round: of tiles of several warps, but short ones.
    pairs: bool,
    /// Bits of the cache's elements.
    bits: u32,
}

impl DecodeCost {
    fn new(shape: &Shape, multiprocessors: u32) -> Self {
        // K and V.
        let tile_bytes = 2 * shape.tile_bytes();
        Self {
            memory_ns: f64::from(tile_bytes) / BYTES_PER_NS,
            // As many panels a warp as there are column warps.
            issue_ns: issue_ns(shape) * f64::from(shape.column_warps * shape.column_warps * shape.row_warps),
            latency_ns: latency_ns(shape),
            teams: shape.teams.into(),
            uneven_tiles: UNEVEN_TILES / f64::from(shape.column_warps),
            blocks: shape.min_blocks.into(),
            partial_ns: partial_ns(shape.rows(), shape.head_dim)
                * if shape.column_warps == 4 { WIDE_PARTIAL } else { 1.0 },
            multiprocessors: multiprocessors.max(1),
            wide: shape.column_warps == 4,
            of_one_warp: shape.column_warps == 1,
            pairs: shape.column_warps == 4 && shape.cache.bits() == 8
                || shape.column_warps > 1 && shape.cache.bits() == 16,
            bits: shape.cache.bits(),
        }
    }

    /// The largest cluster that short sequences gain by: of 16 blocks those whose tiles are long (1 x 1024 in bf16: 8.8 for 10.3 us at D =
    /// 512, but 8.1 for 6.6 at 128).
    pub(crate) fn most_cluster(&self) -> u32 {
        if self.wide { 16 } else { 8 }
    }

    /// Whether clusters of so many blocks may be worth their cost for `units` units. With more blocks than two a multiprocessor a cluster
    /// for each unit would be more of them than are at work together; but pairs even out the last round of long tiles.
    pub(crate) fn weighs(&self, units: u64, cluster: u32) -> bool {
        let workers = u64::from(self.multiprocessors);
        let rounds = self.blocks * workers + 1..=8 * workers;
        units * u64::from(cluster) <= 2 * workers || cluster == 2 && self.pairs && rounds.contains(&units)
    }

    /// Whether blocks of two neighbouring KV heads gain by beginning together, of so many units: of tiles that one warp takes, whose rows are short, where units have most
    /// of the places that there are, so that few are cut. 128 x 1024 and 64 x 4096 take 0 to 1.7 % less in bf16 and e4m3, and one of eight cells with drafts 0.5 more; in 4 bits 128 x 1024 gains 2 %,
    /// but shares of a ragged batch lose 4 (`benches/record/h100-2026-11-28-e/neighbours.txt`).
    pub(crate) fn pairs_neighbours(&self, units: u64) -> bool {
        self.of_one_warp && self.bits > 4 && 2 * units > self.blocks * u64::from(self.multiprocessors)
    }

    /// Whether few rows may be divided among this many units that read the same keys: of tiles that take four warps, in so few units that each has a
    /// cluster of 16. One KV head's 16 rows take 8.8, 8.6 and 9.3 us for 1024 tokens of bf16, e4m3 and NVFP4, as two items of 8 7.3, 7.0 and 7.8
    /// (`benches/record/h100-2026-11-28-d/rows.txt`).
    pub(crate) fn divides_rows(&self, units: u64) -> bool {
        self.wide && 16 * units <= self.multiprocessors.into()
    }

    /// When the last item ends of a cut that makes these and has `total` tiles together, started longest first, and what merging
    /// partial results adds; `even` says whether all units have as many tiles. Each item is done by a `cluster` of so many blocks, or by one; `room` is
    /// how many of those run at a time with every block alone on its multiprocessor: where there are more, some have two blocks there, and others are idle.
    ///
    /// The fullest multiprocessor has at most the mean and one block's tiles more (Graham's bound for list scheduling), or where
    /// that is less, its number of blocks times the longest, which is exact for items of one length; of long tiles and lengths that differ
    /// less, but at least 2.5 times the longest, which has others beside it. Its time is that of the memory,
    /// of its instructions or of the tiles' own latency, whichever is longest, and more where they are alike: the fourth root of
    /// the sum of their fourth powers. How near that comes to measured plans: docs/decode.md.
    pub(crate) fn estimate(&self, sums: &Sums, total: u64, even: bool, cluster: u32, room: u32) -> f64 {
        let mean = total as f64 / f64::from(self.multiprocessors);
        let longest = f64::from(sums.longest.div_ceil(cluster));
        let blocks = sums.items.div_ceil(room.max(1).into());
        let levelled =
            if self.wide && !even { (mean + LEVELLED * longest).max(BESIDE_LONGEST * longest) } else { f64::INFINITY };
        let fullest = (blocks as f64 * longest).min(mean + longest).min(levelled);
        // Blocks of large clusters that are all at work together each get what a lone one does, if few of them share their multiprocessors: 16 clusters of
        // 8, of which 15 have places of their own, read 1 x 32768 in bf16 as fast as 128 blocks (29.8 and 30.1 us at D = 64, 51.8 and 51.8 at 128), and 8
        // of 16, of which 7 have, in 28.7 to 29.4 at D = 64; but 32 of 8 at D = 512 take 103 us where 4 and 16 take 95. Of clusters of 4 it depends on the
        // card: 64 of them read 16 x 8192 at D = 512 in 359 us on one and in 381 on another, pairs in 360 and 361.
        let few_share = 7 * sums.items <= 8 * u64::from(room);
        let all_at_once = cluster > 4 && few_share && blocks <= self.blocks;
        let fullest_at_once = if all_at_once { longest } else { fullest };
        let slowest = if fullest_at_once <= mean + self.uneven_tiles {
            fullest_at_once / LONE_SPEEDUP
        } else {
            fullest_at_once / UNEVEN_SPEEDUP
        };
        let memory = mean.max(slowest) * self.memory_ns;
        let together = blocks.clamp(1, self.blocks) as f64;
        let (issue, latency) = (fullest * self.issue_ns, (fullest / together / self.teams).ceil() * self.latency_ns);
        let tiles = (memory.powi(4) + issue.powi(4) + latency.powi(4)).sqrt().sqrt();
        let last_round = if blocks <= self.blocks {
            0.0
        } else if self.bits == 16 {
            LAST_ROUND_OF_LONGEST * longest * self.memory_ns
        } else if blocks % self.blocks == 1 {
            LAST_ROUND_NS
        } else {
            0.0
        };
        let waits = if cluster > 2 && !all_at_once { blocks as f64 } else { 1.0 };
        let merging = merge_ns(sums.partials, self.partial_ns, self.multiprocessors.into());
        let shares = f64::from(sums.shares - sums.shares.min(1)) * SHARES_NS;
        ITEM_NS
            + tiles
            + last_round
            + waits * cluster_ns(cluster, self.wide && self.bits == 4, self.of_one_warp)
            + merging
            + shares
    }
}
