//! Shapes of the kernels: the only tuning numbers, each with its reason, shared by host and device.
//!
//! A warp always does the same work: 8 or 16 query rows by a *slice* of at most 128 columns of the head. Of the cache's
//! format it matters how wide it is, and how many bytes of scales a token and head have. A head wider than that is spread over `COLUMN_WARPS` warps, each with its own slice of K and of V, which add up
//! their parts of S. So registers a warp do not grow with D: 64 accumulators of O and 32 registers of q, at most.
//! Warps that hold more rows of the same keys are `ROW_WARPS`; what is left of the block are *teams*, each with keys
//! of its own, merged once at the end.

use crate::element::CacheKind;
use crate::layout::nvfp4;

/// Query rows of one `mma.m16n8k16`: keys and columns of V are its 16 rows, queries its 8 columns.
pub const TILE_ROWS: u32 = 8;

/// Running maxima and sums of a tile's 8 rows.
pub const STATS_BYTES: u32 = 2 * TILE_ROWS * 4;

/// Record of a query row that sees other keys than its neighbours: the first key, the end, ALiBi's slope, the position.
pub const ROW_RECORD_BYTES: u32 = 16;

/// Most shares that a sequence and head may be split into: a combine task reads 8 at a time, so 512 are 64 turns.
pub const MAX_SPLITS: u32 = 512;

/// Most slots of a decode kernel's ring.
pub const MOST_STAGES: usize = 10;

/// Most blocks of a decode kernel's cluster, where the device has room for it.
pub const CLUSTER_BLOCKS: u32 = 16;

/// Columns of the output that one task of the combine kernel merges.
pub const COMBINE_COLUMNS: u32 = 64;

/// Threads of a combine block: one task of 16 lanes of 4 columns by 8 shares at a time, or 2 by 4, or 4 by 2.
pub const COMBINE_THREADS: u32 = 128;

/// Combine blocks a multiprocessor: 96 registers a thread. Without the bound ptxas takes 104 for addresses; with 72 it spills, on sm_80 with 80.
pub const COMBINE_MIN_BLOCKS: u32 = 5;

/// Threads of an append block, each with 16 elements of K and of V. Few, as blocks begin and end at their own time: of 128
/// threads the last wave is short and the first one's stores overlap with the next one's loads.
pub const APPEND_THREADS: u32 = 128;

/// Append blocks a multiprocessor: 10 of 128 threads with 64 bytes each under way are 80 KiB, more than its share of the
/// memory's bandwidth needs for the trip's length. That leaves 48 registers a thread; with the 40 of 12 blocks it spills.
pub const APPEND_MIN_BLOCKS: u32 = 10;

/// Threads of the page check's one block.
pub const CHECK_THREADS: u32 = 256;

/// How many query rows an item holds: decided by the most that a sequence and KV head have when the plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowClass {
    /// One tile of 8 rows a warp: one query token of groups up to 8, which nearly all models have. Every warp is on its own
    /// and the loop has no block barrier.
    Eight,
    /// Two tiles, 16 rows a warp; otherwise the same. Up to 16 rows, and up to 32 as two items where D is at most 256.
    Few,
    /// 64 rows (32 at D = 512), for all above. Warps share the keys that they have in shared memory.
    Many,
}

impl RowClass {
    /// Every class, by its rows.
    pub const ALL: [Self; 3] = [Self::Eight, Self::Few, Self::Many];

    /// The class of items for so many query rows: query tokens times query heads a KV head.
    ///
    /// Of 32 rows, two items of 16 read the same keys from the L2: on an H100 (16 x 8192) in 193, 109 and 127 us of bf16, e4m3
    /// and NVFP4 at D = 128, where one of 64 took 240, 193 and 242; at D = 512 507, 304 and 309, where one of 32 took 399, 262
    /// and 305. Four of 16 for 64 rows are no better than one of 64 (D = 128: 273, 192, 246 for 247, 200, 248).
    pub const fn of(rows: u32, head_dim: u32) -> Self {
        match rows {
            0..=8 => Self::Eight,
            9..=16 => Self::Few,
            17..=32 if head_dim <= 256 => Self::Few,
            _ => Self::Many,
        }
    }

    /// The class at an index of [`RowClass::ALL`]: what a kernel's type says.
    pub const fn at(index: u32) -> Self {
        Self::ALL[index as usize]
    }
}

/// Query rows that the decode kernels for many rows hold in one item, up to D = 256.
const MANY_ROWS: u32 = 64;

/// Whether so many query rows, the most that a sequence and KV head have, are a prefill kernel's where the chip has one.
///
/// Up to `MANY_ROWS` the decode kernel reads the keys once, and the memory is what bounds it: more rows an item would be
/// products with nothing. Above, its items read the same keys again, while a prefill kernel's hold two or three times as many.
pub const fn prefills(rows: u32) -> bool {
    rows > MANY_ROWS
}

/// What a kernel's items are: query rows against tiles of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// D.
    pub head_dim: u32,
    /// Query rows of an item.
    pub rows: u32,
    /// Keys of a tile.
    pub tile_keys: u32,
    /// Tiles that a block's warps take at a time.
    pub teams: u32,
}

/// The shape of a decode kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// D.
    pub head_dim: u32,
    /// Format of the cache.
    pub cache: CacheKind,
    /// Columns of the head that a warp has.
    pub slice: u32,
    /// Warps across the head.
    pub column_warps: u32,
    /// Tiles of 8 query rows that a warp has: 1 or 2.
    pub row_tiles: u32,
    /// Warps across the query rows.
    pub row_warps: u32,
    /// Groups of warps with keys of their own.
    pub teams: u32,
    /// Keys a step: 16 of 16 bits by 128 columns, else 32, one a lane.
    pub tile_keys: u32,
    /// Bytes of a key's slice in the ring.
    pub row_bytes: u32,
    /// Bytes of a key's scales of the slice in the ring; 0 where the format has none.
    pub scale_bytes: u32,
    /// Slots of the ring.
    pub stages: u32,
    /// Blocks that a multiprocessor should hold: `.minnctapersm`.
    pub min_blocks: u32,
}

/// The shape for a head dimension, a row class and a cache format.
pub const fn shape(head_dim: u32, rows: RowClass, cache: CacheKind) -> Shape {
    let slice = if head_dim < 128 { head_dim } else { 128 };
    let column_warps = head_dim / slice;
    let (row_warps, teams) = match rows {
        RowClass::Eight | RowClass::Few => (1, 4 / column_warps),
        RowClass::Many => (if head_dim == 512 { 2 } else { 4 }, 1),
    };
    let (stages, min_blocks) = depth(slice, column_warps, rows, cache);
    Shape {
        head_dim,
        cache,
        slice,
        column_warps,
        row_tiles: if matches!(rows, RowClass::Eight) { 1 } else { 2 },
        row_warps,
        teams,
        tile_keys: if cache.bits() == 16 { 2048 / slice } else { 32 },
        row_bytes: slice * cache.bits() / 8,
        scale_bytes: match cache {
            CacheKind::Bf16 | CacheKind::F16 => 0,
            CacheKind::Fp8E4M3 | CacheKind::Fp8E5M2 => size_of::<f32>() as u32,
            CacheKind::NvFp4 => nvfp4::scales(slice),
        },
        stages,
        min_blocks,
    }
}

/// Slots of a ring and blocks a multiprocessor: 48 to 64 KiB under way at least, in 99 KiB a block and 227 altogether.
const fn depth(slice: u32, column_warps: u32, rows: RowClass, cache: CacheKind) -> (u32, u32) {
    let (wide, alone) = (slice == 128, column_warps == 1);
    match (rows, cache.bits()) {
        // Three tiles in two blocks read as much ahead as two in three, and lose less where blocks end: at D = 128 3 %
        // in a batch of 64 x 4096. D = 256 and 512 need room for the exchange of S besides.
        (RowClass::Eight | RowClass::Few, 16) if wide && alone => (3, 2),
        (RowClass::Eight | RowClass::Few, 16) => (2, 3),
        // At D = 64 two tiles: what fills a deeper ring before a block computes anything is the memory's time, 10 us of a batch of
        // 128 x 1024 in 4 bits with six tiles, and 16 warps hide each other's trips.
        (RowClass::Eight, 8) if wide => (2, 3),
        (RowClass::Eight, 8) => (2, 4),
        (RowClass::Eight, _) if wide && alone => (3, 4),
        (RowClass::Eight, _) if wide => (3, 3),
        (RowClass::Eight, _) => (2, 4),
        // 32 keys of 16 rows have much of S to exchange, and without conversions (sm_80) want registers: two blocks.
        (RowClass::Few, 8) if wide => (2, 2),
        (RowClass::Few, 8) => (2, 3),
        // Four tiles of K are what the teams' exchange of O needs.
        (RowClass::Few, _) if !alone => (4, 2),
        (RowClass::Few, _) if wide => (5, 2),
        (RowClass::Few, _) => (4, 3),
        // One ring a column warp: fewer, deeper rings. Narrow operands take more registers than three blocks leave.
        (RowClass::Many, 8) if wide && alone => (6, 2),
        (RowClass::Many, 4) if !wide => (10, 3),
        (RowClass::Many, 4) if alone => (10, 2),
        (RowClass::Many, 4) if column_warps == 2 => (6, 1),
        (RowClass::Many, 4) if column_warps == 4 => (3, 1),
        (RowClass::Many, _) if alone => (6, 3),
        (RowClass::Many, _) => (8 / column_warps, 1),
    }
}

impl Shape {
    /// Its items.
    pub const fn tiling(&self) -> Tiling {
        Tiling { head_dim: self.head_dim, rows: self.rows(), tile_keys: self.tile_keys, teams: self.teams }
    }

    /// Whether a key's scales belong to columns ([`nvfp4`]); else, if there are any, to all of the key.
    pub const fn block_scales(&self) -> bool {
        matches!(self.cache, CacheKind::NvFp4)
    }

    /// Query rows of an item.
    pub const fn rows(&self) -> u32 {
        self.warp_rows() * self.row_warps
    }

    /// Query rows of a warp.
    pub const fn warp_rows(&self) -> u32 {
        TILE_ROWS * self.row_tiles
    }

    /// Warps of a block.
    pub const fn warps(&self) -> u32 {
        self.teams * self.row_warps * self.column_warps
    }

    /// Threads of a block.
    pub const fn threads(&self) -> u32 {
        32 * self.warps()
    }

    /// Bytes of one tile of one slice: of K or of V.
    pub const fn tile_bytes(&self) -> u32 {
        self.tile_keys * self.row_bytes
    }

    /// Bytes of its scales.
    pub const fn tile_scale_bytes(&self) -> u32 {
        self.tile_keys * self.scale_bytes
    }

    /// Bytes of one ring: `stages` tiles of K, as many of V, then their scales.
    pub const fn ring_bytes(&self) -> u32 {
        2 * self.stages * (self.tile_bytes() + self.tile_scale_bytes())
    }

    /// Rings of a block: one a team and column slice.
    pub const fn rings(&self) -> u32 {
        self.teams * self.column_warps
    }

    /// Bytes of one warp's part of S, f32.
    pub const fn score_bytes(&self) -> u32 {
        self.warp_rows() * self.tile_keys * 4
    }

    /// Where the exchange of S begins: behind the rings. Two buffers, so that a step needs one barrier.
    pub const fn scores_offset(&self) -> u32 {
        self.rings() * self.ring_bytes()
    }

    /// Where the running maxima and sums begin, [`STATS_BYTES`] a warp and tile of rows, that the teams exchange at the end.
    pub const fn stats_offset(&self) -> u32 {
        self.scores_offset() + if self.column_warps > 1 { 2 * self.warps() * self.score_bytes() } else { 0 }
    }

    /// Where the records of the item's rows begin.
    pub const fn records_offset(&self) -> u32 {
        self.stats_offset() + if self.teams > 1 { self.warps() * self.row_tiles * STATS_BYTES } else { 0 }
    }

    /// Dynamic shared memory of a block.
    pub const fn shared_bytes(&self) -> u32 {
        self.records_offset() + self.rows() * ROW_RECORD_BYTES
    }
}

const _: () = {
    let dims = [64, 128, 256, 512];
    let kinds = [CacheKind::Bf16, CacheKind::Fp8E4M3, CacheKind::NvFp4];
    let mut i = 0;
    while i < dims.len() * kinds.len() * RowClass::ALL.len() {
        let (dim, cache) = (dims[i % dims.len()], kinds[i / dims.len() % kinds.len()]);
        let rows = RowClass::at((i / dims.len() / kinds.len()) as u32);
        let shape = shape(dim, rows, cache);
        // 99 KiB is what the smallest supported chips (sm_86, sm_89, sm_120) have for a block.
        assert!(shape.shared_bytes() <= 99 * 1024);
        // The blocks that a multiprocessor should hold, with 1 KiB that each costs besides, fit the 228 KiB of Hopper.
        assert!(shape.min_blocks * (shape.shared_bytes() + 1024) <= 228 * 1024);
        assert!(shape.threads() == 128 || shape.row_warps > 1 && shape.threads() <= 256);
        // More rows than a prefill kernel leaves to it would be read twice.
        assert!(!matches!(rows, RowClass::Many) || shape.rows() == if dim == 512 { 32 } else { MANY_ROWS });
        assert!(shape.stages as usize <= MOST_STAGES);
        // O goes through its ring's slots of K: 16 bytes a lane for each 16 columns of 8 rows. What a cluster joins, and its statistics,
        // goes through those of V, or where there is one team through both.
        let (of_rows, of_slots) = (shape.row_tiles * 16 * 32, shape.stages * shape.tile_bytes());
        let (products, alone) = (shape.slice / 16 / shape.teams, shape.teams == 1);
        assert!(shape.row_warps > 1 || of_slots >= shape.slice / 16 * of_rows);
        assert!(shape.row_warps > 1 || if alone { 2 * of_slots } else { of_slots } >= (products + 1) * of_rows);
        // Swizzled tiles begin at a multiple of 128 bytes.
        assert!(shape.ring_bytes().is_multiple_of(128) && shape.tile_bytes().is_multiple_of(128));
        i += 1;
    }
};
