//! What the suites of `tcgen05` share: tiles in shared memory, a tensor memory to work in, descriptors.
use crate::common::{assert_fails, block, delivering};
use cuda_std::sim::op::*;
use cuda_std::sim::{Delivery, Error, Grid, Kind, Memory, Report, launch};

/// 128 rows of 128 bytes, K-major, swizzle of 128 bytes: A and B of 128 × 128 × 16 (to 64), one after the other.
pub const TILE: u32 = 128 * 128;
/// Behind both: where an allocation's address is written, and mbarriers.
pub const ADDRESS: u32 = 2 * TILE;
pub const BARRIER: u32 = ADDRESS + 8;

/// M × N by one block, bf16, f32, both K-major.
pub const fn shape(m: u32, n: u32) -> u32 {
    1 << 4 | 1 << 7 | 1 << 10 | (n / 8) << 17 | (m / 16) << 24
}

/// The operand that begins at byte `offset` of shared memory.
pub fn descriptor(offset: u32) -> u64 {
    let start = dynamic_shared() + offset;
    u64::from(start >> 4) | 1 << 16 | 64 << 32 | 1 << 46 | 2 << 61
}

pub fn barrier(index: u32) -> u32 {
    dynamic_shared() + BARRIER + 8 * index
}

pub fn wait(barrier: u32, parity: u32) {
    while !mbarrier_try_wait_parity(barrier, parity) {}
}

/// Tiles of ones, an mbarrier of one arrival, and `columns` of tensor memory, whose address every thread gets.
pub fn prepare(columns: u32) -> u32 {
    let first = thread_idx_x();
    for word in (first..2 * TILE / 4).step_by(block_dim_x() as usize) {
        st_shared_b32(dynamic_shared() + 4 * word, [0x3F80_3F80]);
    }
    if first == 0 {
        mbarrier_init(barrier(0), 1);
    }
    if first / 32 == 0 {
        tcgen05_alloc(1, dynamic_shared() + ADDRESS, columns);
    }
    fence_proxy_async();
    sync_threads();
    ld_shared_b32(dynamic_shared() + ADDRESS)[0]
}

/// Everybody is done: the columns are released.
pub fn finish(at: u32, columns: u32) {
    sync_threads();
    if thread_idx_x() / 32 == 0 {
        tcgen05_dealloc(1, at, columns);
    }
}

/// This warp's lanes of `at`.
pub fn own(at: u32) -> u32 {
    at + ((thread_idx_x() / 32 % 4 * 32) << 16)
}

/// Runs `body` on one block of `warps` warps, for both deliveries.
pub fn run(warps: u32, body: impl Fn() + Sync) -> [Result<Report, Error>; 2] {
    [Delivery::Earliest, Delivery::Latest].map(|delivery| {
        let grid = Grid { shared_bytes: BARRIER + 64, ..block(warps) };
        launch(&Memory::new(), &grid, &delivering(delivery), &body)
    })
}

#[track_caller]
pub fn fails(source: &str, warps: u32, kind: Kind, operation: &str, marker: &str, body: impl Fn() + Sync) -> Error {
    let [earliest, latest] = run(warps, body);
    assert_fails(earliest, kind, operation, source, marker);
    assert_fails(latest, kind, operation, source, marker)
}

#[track_caller]
pub fn passes(warps: u32, body: impl Fn() + Sync) {
    for outcome in run(warps, body) {
        outcome.unwrap_or_else(|error| panic!("{error}"));
    }
}
