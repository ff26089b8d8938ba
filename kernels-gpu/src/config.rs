//! Shapes of the kernels: the only tuning numbers, each with its reason, shared by host and device.
//!
//! A warp always does the same work: 16 query rows (one `mma` tile) by a *slice* of at most 128 columns of the head.
//! A head wider than that is spread over `COLUMN_WARPS` warps, each with its own slice of K and of V, which add up
//! their parts of S. So registers a warp do not grow with D: 64 accumulators of O and 32 registers of q, at most.
//! Warps that hold more rows of the same keys are `ROW_WARPS`; what is left of the block are *teams*, each with keys
//! of its own, merged once at the end.

/// Query rows of one `mma.m16n8k16`.
pub const WARP_ROWS: u32 = 16;

/// Most shares that a sequence and head may be split into: a combine task reads 8 at a time, so 512 are 64 turns.
pub const MAX_SPLITS: u32 = 512;

/// Columns of the output that one task of the combine kernel merges.
pub const COMBINE_COLUMNS: u32 = 64;

/// Threads of a combine block: one task of 16 lanes of 4 columns by 8 shares at a time, or 2 by 4, or 4 by 2.
pub const COMBINE_THREADS: u32 = 128;

/// Threads of the page check's one block.
pub const CHECK_THREADS: u32 = 256;

/// How many query rows an item holds: decided by the group (query heads a KV head) when the plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowClass {
    /// One warp's rows, 16: groups up to 16. Every warp is on its own and the loop has no block barrier.
    Few,
    /// 64 rows (32 at D = 512): groups above 16. Warps share the keys that they have in shared memory.
    Many,
}

/// The shape of a decode kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// D.
    pub head_dim: u32,
    /// Columns of the head that a warp has.
    pub slice: u32,
    /// Warps across the head.
    pub column_warps: u32,
    /// Warps across the query rows.
    pub row_warps: u32,
    /// Groups of warps with keys of their own.
    pub teams: u32,
    /// Keys a step: 16 rows of 256 bytes or 32 of 128, so that a ring's slot is 4 KiB for K and as much for V.
    pub tile_keys: u32,
    /// Slots of the ring.
    pub stages: u32,
    /// Blocks that a multiprocessor should hold: `.minnctapersm`.
    pub min_blocks: u32,
}

impl Shape {
    /// The shape for a head dimension and a row class.
    pub const fn new(head_dim: u32, rows: RowClass) -> Self {
        let slice = if head_dim < 128 { head_dim } else { 128 };
        let column_warps = head_dim / slice;
        let tile_keys = 2048 / slice;
        // Three tiles in two blocks read as much ahead as two in three, and lose less where blocks end: at D = 128 3 %
        // in a batch of 64 x 4096. D = 256 and 512 need room for the exchange of S besides, and 99 KiB is all there is.
        let deep = slice == 128 && column_warps == 1;
        match rows {
            // 4 warps, 64 or 96 KiB of ring, 192 KiB a multiprocessor of 228.
            RowClass::Few => Self {
                head_dim,
                slice,
                column_warps,
                row_warps: 1,
                teams: 4 / column_warps,
                tile_keys,
                stages: if deep { 3 } else { 2 },
                min_blocks: if deep { 2 } else { 3 },
            },
            // One ring a column warp: fewer, deeper rings hold 48 to 64 KiB.
            RowClass::Many => Self {
                head_dim,
                slice,
                column_warps,
                row_warps: if head_dim == 512 { 2 } else { 4 },
                teams: 1,
                tile_keys,
                stages: if column_warps == 1 { 6 } else { 8 / column_warps },
                min_blocks: if column_warps == 1 { 3 } else { 1 },
            },
        }
    }

    /// Query rows of an item.
    pub const fn rows(&self) -> u32 {
        WARP_ROWS * self.row_warps
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
        self.tile_keys * self.slice * 2
    }

    /// Bytes of one ring: `stages` tiles of K, then as many of V.
    pub const fn ring_bytes(&self) -> u32 {
        2 * self.stages * self.tile_bytes()
    }

    /// Rings of a block: one a team and column slice.
    pub const fn rings(&self) -> u32 {
        self.teams * self.column_warps
    }

    /// Bytes of one warp's part of S, f32.
    pub const fn score_bytes(&self) -> u32 {
        WARP_ROWS * self.tile_keys * 4
    }

    /// Where the exchange of S begins: behind the rings. Two buffers, so that a step needs one barrier.
    pub const fn scores_offset(&self) -> u32 {
        self.rings() * self.ring_bytes()
    }

    /// Where the running maxima and sums begin, 16 bytes a lane, that the teams exchange at the end.
    pub const fn stats_offset(&self) -> u32 {
        self.scores_offset() + if self.column_warps > 1 { 2 * self.warps() * self.score_bytes() } else { 0 }
    }

    /// Dynamic shared memory of a block.
    pub const fn shared_bytes(&self) -> u32 {
        self.stats_offset() + if self.teams > 1 { self.warps() * 32 * 16 } else { 0 }
    }
}

const _: () = {
    let dims = [64, 128, 256, 512];
    let mut i = 0;
    while i < dims.len() {
        let few = Shape::new(dims[i], RowClass::Few);
        let many = Shape::new(dims[i], RowClass::Many);
        // 99 KiB is what the smallest supported chips (sm_86, sm_89, sm_120) have for a block.
        assert!(few.shared_bytes() <= 99 * 1024 && many.shared_bytes() <= 99 * 1024);
        // The blocks that a multiprocessor should hold, with 1 KiB that each costs besides, fit the 228 KiB of Hopper.
        assert!(few.min_blocks * (few.shared_bytes() + 1024) <= 228 * 1024);
        assert!(many.min_blocks * (many.shared_bytes() + 1024) <= 228 * 1024);
        assert!(few.threads() == 128 && many.threads() <= 256);
        // Teams exchange O through their rings' slots of K: 16 bytes a lane for each 8 columns.
        assert!(few.stages * few.tile_bytes() >= few.slice / 8 * 16 * 32);
        i += 1;
    }
};
