//! What the suites of `wgmma` share: two tiles of ones in shared memory, and products of them.
use crate::common::{assert_fails, block, delivering};
use cuda_std::sim::op::*;
use cuda_std::sim::{Delivery, Error, Grid, Kind, Memory, Report, launch};

/// 64 rows of 128 bytes, K-major, swizzle of 128 bytes: A and B of 64 × 64 × 16, one after the other.
pub const TILE: u32 = 64 * 128;

pub fn descriptor(start: u32) -> (u64, bool) {
    (u64::from(start >> 4) | 1 << 16 | 64 << 32 | 1 << 62, false)
}

pub fn operands() -> [(u64, bool); 2] {
    [descriptor(dynamic_shared()), descriptor(dynamic_shared() + TILE)]
}

/// This thread's part of both tiles: bf16 ones.
pub fn fill() {
    for word in (thread_idx_x()..2 * TILE / 4).step_by(block_dim_x() as usize) {
        st_shared_b32(dynamic_shared() + 4 * word, [0x3F80_3F80]);
    }
}

pub fn prepare() {
    fill();
    fence_proxy_async_shared();
    sync_threads();
}

/// Runs `body` on one block of `warps` warps, for both deliveries.
pub fn run(warps: u32, body: impl Fn() + Sync) -> [Result<Report, Error>; 2] {
    [Delivery::Earliest, Delivery::Latest].map(|delivery| {
        let grid = Grid { shared_bytes: 2 * TILE, ..block(warps) };
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

/// A product of ones to a fresh accumulator.
#[track_caller]
pub fn ones(d: &mut [f32; 32]) -> Registers {
    let [a, b] = operands();
    wgmma_bf16_ss(wgmma_fence(), d, a, b, false)
}
