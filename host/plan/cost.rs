//! What work costs: the one place with the planner's numbers, all in nanoseconds of an H100. Only ratios matter to a
//! plan, and those are alike on chips of one generation.
use kernels_gpu::config::Shape;

/// What one item costs before its first tile: work item, page ids, queries and first keys are four dependent trips to
/// memory, partly hidden behind the item before it.
const ITEM_NS: u64 = 1500;

/// Bytes that a busy multiprocessor gets: 3.0 TB/s over 132 of them.
const BYTES_PER_NS: u64 = 23;

/// Bytes that one block can take in however idle the memory is: about a ring's step each microsecond and a half.
const BLOCK_BYTES_PER_NS: u64 = 16;

/// What a merge kernel costs, launched early: its start, one trip to memory and the last block's end.
const COMBINE_NS: u64 = 3000;

/// Bytes of partial results that one multiprocessor writes and reads again, a nanosecond; they stay in the L2.
const PARTIAL_BYTES_PER_NS: u64 = 40;

/// Costs of one kernel on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// One item, besides its tiles.
    pub(crate) item: u64,
    /// One tile, all blocks busy: the memory's throughput.
    pub(crate) tile: u64,
    /// One tile of a block that has the memory to itself.
    lone_tile: u64,
    /// Bytes of one partial result, written and read.
    partial_bytes: u64,
    multiprocessors: u64,
    slots: u64,
}

impl Cost {
    pub(crate) fn new(shape: &Shape, resident: u32, multiprocessors: u32) -> Self {
        // K and V, all slices of the head.
        let tile_bytes = u64::from(2 * shape.tile_bytes() * shape.column_warps);
        Self {
            item: ITEM_NS,
            tile: (tile_bytes * u64::from(resident) / BYTES_PER_NS).max(1),
            lone_tile: (tile_bytes / BLOCK_BYTES_PER_NS).max(1),
            partial_bytes: u64::from(2 * 4 * shape.rows() * shape.head_dim),
            multiprocessors: u64::from(multiprocessors.max(1)),
            slots: u64::from(resident * multiprocessors).max(1),
        }
    }

    /// When the last block ends, blocks having these loads (item and tile costs added up), all started together.
    ///
    /// Memory is shared by those still running: as blocks end the others speed up, until each takes in all that a block can.
    pub(crate) fn makespan(&self, loads: &mut [u64]) -> f64 {
        loads.sort_unstable();
        let fastest = (self.lone_tile as f64 / self.tile as f64).min(1.0);
        let (mut now, mut before) = (0.0, 0);
        for (ended, &load) in loads.iter().enumerate() {
            let running = (loads.len() - ended) as f64;
            let pace = (running / self.slots as f64).max(fastest);
            now += (load - before) as f64 * pace;
            before = load;
        }
        now
    }

    /// What merging this many partial results adds.
    pub(crate) fn combine(&self, partials: u32) -> f64 {
        if partials == 0 {
            return 0.0;
        }
        let bytes = u64::from(partials) * self.partial_bytes;
        (COMBINE_NS + bytes / (PARTIAL_BYTES_PER_NS * self.multiprocessors)) as f64
    }
}
