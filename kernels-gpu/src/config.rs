//! Shapes of the kernels: the only tuning numbers, each with its reason, shared by host and device.
//!
//! A warp always does the same work: 8 or 16 query rows by a *slice* of at most 128 columns of the head. Of the cache's
//! format it matters how wide it is, and how many bytes of scales a token and head have. A head wider than that has several
//! warps, `COLUMN_WARPS`: each has S of keys of its own, of which it reads whole rows of K a slice at a time, and O of its own slice of V. So
//! registers a warp do not grow with D: 64 accumulators of O, and 32 registers of q, at most.
//! Warps that hold more rows of the same keys are `ROW_WARPS`; what is left of the block are *teams*, each with keys
//! of its own, merged once at the end.

mod cluster;

use crate::element::CacheKind;
use crate::layout::nvfp4;
pub use cluster::{FRAGMENT_BYTES, GATHERING_BLOCKS, fit, told_bytes};

/// Query rows of one `mma.m16n8k16`: keys and columns of V are its 16 rows, queries its 8 columns.
pub const TILE_ROWS: u32 = 8;

/// Running maxima and sums of a tile's 8 rows.
pub const STATS_BYTES: u32 = 2 * TILE_ROWS * 4;

/// Record of a query row that sees other keys than its neighbours: the first key, the end, ALiBi's slope, the position.
pub const ROW_RECORD_BYTES: u32 = 16;

/// Most shares that a sequence and head may be split into: a combine task reads 8 at a time, so 512 are 64 turns.
pub const MAX_SPLITS: u32 = 512;

/// Most tiles that a decode kernel's ring holds, begun ones too.
pub const MOST_STAGES: usize = 10;

/// Most warps across a head.
pub const MOST_COLUMN_WARPS: usize = 4;

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
    /// Keys of a panel, which is as wide as a slice: 16 where warps share a head or 16 bits are 128 columns wide, else 32, one a lane.
    pub panel_keys: u32,
    /// Panels of a piece, which a warp waits for and copies at a time: 4 KiB, where a head has so many slices.
    pub panels: u32,
    /// Keys of a tile, a team's step: a panel's for each column warp.
    pub tile_keys: u32,
    /// Bytes of a key's slice in the ring.
    pub row_bytes: u32,
    /// Bytes of a key's scales in the ring: of block scales those of a slice, else K's and V's; 0 where the format has none.
    pub scale_bytes: u32,
    /// Pieces that a ring holds.
    pub slots: u32,
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
    let (slots, min_blocks) = depth(slice, column_warps, rows, cache);
    let panel_keys = if column_warps > 1 || cache.bits() == 16 && slice == 128 { 16 } else { 32 };
    let panels = if 16 / cache.bits() < column_warps { 16 / cache.bits() } else { column_warps };
    Shape {
        head_dim,
        cache,
        slice,
        column_warps,
        row_tiles: if matches!(rows, RowClass::Eight) { 1 } else { 2 },
        row_warps,
        teams,
        panel_keys,
        panels,
        tile_keys: panel_keys * column_warps,
        row_bytes: slice * cache.bits() / 8,
        scale_bytes: match cache {
            CacheKind::Bf16 | CacheKind::F16 => 0,
            CacheKind::Fp8E4M3 | CacheKind::Fp8E5M2 => 2 * size_of::<f32>() as u32,
            CacheKind::NvFp4 => nvfp4::scales(slice),
        },
        slots,
        min_blocks,
    }
}

/// Slots of a ring and blocks a multiprocessor: 48 to 64 KiB under way at least, in 99 KiB a block and 227 altogether.
const fn depth(slice: u32, column_warps: u32, rows: RowClass, cache: CacheKind) -> (u32, u32) {
    let wide = slice == 128;
    match (rows, column_warps, cache.bits()) {
        // Three tiles in two blocks read as much ahead as two in three, and lose less where blocks end: at D = 128 3 %
        // in a batch of 64 x 4096.
        (RowClass::Eight | RowClass::Few, 1, 16) if wide => (6, 2),
        (RowClass::Eight | RowClass::Few, 1, 16) => (4, 3),
        // At D = 64 two tiles: what fills a deeper ring before a block computes anything is the memory's time, 10 us of a batch of
        // 128 x 1024 in 4 bits with six tiles, and 16 warps hide each other's trips.
        (RowClass::Eight, 1, 8) if wide => (4, 3),
        (RowClass::Eight, 1, 8) => (4, 4),
        (RowClass::Eight, 1, _) if wide => (6, 4),
        (RowClass::Eight, 1, _) => (4, 4),
        (RowClass::Few, 1, 8) if wide => (4, 2),
        (RowClass::Few, 1, 8) => (4, 3),
        (RowClass::Few, 1, _) if wide => (10, 2),
        (RowClass::Few, 1, _) => (8, 3),
        // 12 to 18 KiB a ring. 16 rows of q leave room for two blocks of those; three of NVFP4 in rings of 13 KiB take 0.94 of the time of two in
        // rings of 18 (D = 512), while e4m3 and bf16 in rings of 12 take 1.01 to 1.04 (benches/record/h100-2026-11-28/roles.txt).
        (RowClass::Eight, _, 16 | 8) => (4, 3),
        (RowClass::Few, _, 16 | 8) => (4, 2),
        (RowClass::Eight, 2, _) => (6, 3),
        (RowClass::Few, 2, _) => (8, 2),
        (RowClass::Eight | RowClass::Few, _, _) => (3, 3),
        // One ring a column warp: fewer, deeper rings. Narrow operands take more registers than three blocks leave.
        (RowClass::Many, 1, 8) if wide => (12, 2),
        (RowClass::Many, 1, 4) if wide => (20, 2),
        (RowClass::Many, 1, 4) => (20, 3),
        (RowClass::Many, 1, _) => (12, 3),
        // What q's rows and P leave of 99 KiB.
        (RowClass::Many, 2, 16 | 8) => (6, 1),
        (RowClass::Many, 2, _) => (12, 1),
        (RowClass::Many, _, _) => (3, 1),
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

    /// Pieces that a tile has for a warp: of K all slices of the warp's keys, of V all keys of its slice.
    pub const fn pieces(&self) -> u32 {
        2 * self.column_warps / self.panels
    }

    /// Tiles that a ring holds, begun ones too.
    pub const fn stages(&self) -> u32 {
        self.slots.div_ceil(self.pieces())
    }

    /// Whether a ring holds whole tiles.
    pub const fn whole_tiles(&self) -> bool {
        self.slots.is_multiple_of(self.pieces())
    }

    /// Bytes of a panel: its keys' columns of a slice, of K or of V.
    pub const fn panel_bytes(&self) -> u32 {
        self.panel_keys * self.row_bytes
    }

    /// Bytes of the scales of a panel's keys.
    pub const fn panel_scale_bytes(&self) -> u32 {
        self.panel_keys * self.scale_bytes
    }

    /// Bytes from a panel of a piece to the next: its block scales are between.
    pub const fn panel_stride(&self) -> u32 {
        self.panel_bytes() + if self.block_scales() { self.panel_scale_bytes() } else { 0 }
    }

    /// Bytes of a slot: a piece.
    pub const fn slot_bytes(&self) -> u32 {
        self.panels * self.panel_stride()
    }

    /// Bytes of one ring: its slots, then for each tile the scales that keys have.
    pub const fn ring_bytes(&self) -> u32 {
        let of_keys = if self.block_scales() { 0 } else { self.stages() * self.panel_scale_bytes() };
        self.slots * self.slot_bytes() + of_keys
    }

    /// Rings of a block: one a team and column slice.
    pub const fn rings(&self) -> u32 {
        self.teams * self.column_warps
    }

    /// Bytes of all of a K or V tile of the whole head, with its scales.
    pub const fn tile_bytes(&self) -> u32 {
        let scales = if self.block_scales() { self.scale_bytes } else { 0 };
        self.tile_keys * self.column_warps * (self.row_bytes + scales)
    }

    /// Bytes of one warp's P: operands of 16 bits.
    pub const fn weight_bytes(&self) -> u32 {
        self.warp_rows() * self.panel_keys * 2
    }

    /// Bytes of the q of one warp's rows, whole: operands of 16 bits.
    pub const fn query_bytes(&self) -> u32 {
        self.warp_rows() * self.head_dim * 2
    }

    /// Where q begins, of each row warp, where warps share a head: behind the rings.
    pub const fn query_offset(&self) -> u32 {
        self.rings() * self.ring_bytes()
    }

    /// Where P begins, of each warp. Two buffers, so that a step needs one barrier.
    pub const fn weights_offset(&self) -> u32 {
        self.query_offset() + if self.column_warps > 1 { self.row_warps * self.query_bytes() } else { 0 }
    }

    /// Where the running maxima and sums begin, [`STATS_BYTES`] a warp and tile of rows, that warps tell each other.
    pub const fn stats_offset(&self) -> u32 {
        self.weights_offset() + if self.column_warps > 1 { 2 * self.warps() * self.weight_bytes() } else { 0 }
    }

    /// Where warps that share a head say that a logit exceeds: two buffers of a word a warp.
    pub const fn excess_offset(&self) -> u32 {
        let told = self.teams > 1 || self.column_warps > 1;
        self.stats_offset() + if told { self.warps() * self.row_tiles * STATS_BYTES } else { 0 }
    }

    /// Where the records of the item's rows begin.
    pub const fn records_offset(&self) -> u32 {
        self.excess_offset() + if self.column_warps > 1 { 2 * 4 * self.warps() } else { 0 }
    }

    /// Dynamic shared memory of a block that has an item alone.
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
        // Chips with clusters have 227 KiB for a block.
        assert!(shape.shared_bytes_of(4) <= 227 * 1024 && shape.shared_bytes_of(8) <= 227 * 1024);
        assert!(shape.shared_bytes_of(CLUSTER_BLOCKS) <= 227 * 1024 && shape.shared_bytes().is_multiple_of(16));
        // The blocks that a multiprocessor should hold.
        assert!(fit(shape.min_blocks, shape.shared_bytes()));
        assert!(shape.threads() == 128 || shape.row_warps > 1 && shape.threads() <= 256);
        // More rows than a prefill kernel leaves to it would be read twice.
        assert!(!matches!(rows, RowClass::Many) || shape.rows() == if dim == 512 { 32 } else { MANY_ROWS });
        assert!(shape.stages() as usize <= MOST_STAGES && shape.column_warps as usize <= MOST_COLUMN_WARPS);
        // Keys' scales are copied with their tile's last piece of K, which is behind the use of those before.
        assert!(shape.block_scales() || shape.scale_bytes == 0 || shape.whole_tiles() || shape.slots < shape.pieces());
        // O goes through its ring, 16 bytes a lane for each 16 columns of 8 rows. What a cluster joins, and its statistics, goes behind it,
        // or where there is one team statistics alone.
        let of_rows = shape.row_tiles * FRAGMENT_BYTES;
        let products = if shape.teams == 1 { 0 } else { shape.slice / 16 / shape.teams };
        assert!(shape.row_warps > 1 || shape.ring_bytes() >= shape.output_bytes() + (products + 1) * of_rows);
        let mut blocks = GATHERING_BLOCKS;
        while blocks <= CLUSTER_BLOCKS {
            let to_ring = shape.gathers(blocks) && shape.sent_to_ring(blocks);
            assert!(!to_ring || shape.output_bytes() + shape.sent_bytes(blocks) <= shape.ring_bytes());
            blocks *= 2;
        }
        // Before the first P the largest |q| of a lane's rows goes through its place.
        assert!(shape.column_warps == 1 || 2 * shape.weight_bytes() >= 16 * 32);
        // Swizzled panels begin at a multiple of 128 bytes, and of a row.
        assert!(shape.panel_stride().is_multiple_of(128) && shape.ring_bytes().is_multiple_of(128));
        assert!(
            shape.panel_stride().is_multiple_of(shape.row_bytes) && shape.ring_bytes().is_multiple_of(shape.row_bytes)
        );
        i += 1;
    }
};
