//! `cp.async`: what it copies, when it delivers, who owns its bytes until when, and what a barrier must still add.
mod common;

use common::{assert_against, assert_fails, block, delivering, run};
use cuda_std::sim::op::*;
use cuda_std::sim::{Delivery, Error, Grid, Kind, Memory, Options, Report, launch};

const SOURCE: &str = include_str!("copies.rs");
const BOTH: [Delivery; 2] = [Delivery::Earliest, Delivery::Latest];

/// 4 KiB of global memory, byte i holding i mod 251.
fn source(memory: &Memory) -> u64 {
    let address = memory.alloc(4096);
    memory.write(address, &(0..4096u32).map(|i| (i % 251) as u8).collect::<Vec<_>>()).unwrap();
    address
}

/// Runs `body` on one block with that source, for both deliveries.
fn run_both(warps: u32, body: impl Fn(u64) + Sync) -> [Result<Report, Error>; 2] {
    BOTH.map(|delivery| {
        let memory = Memory::new();
        let from = source(&memory);
        launch(&memory, &block(warps), &delivering(delivery), &|| body(from))
    })
}

#[test]
fn a_copy_arrives_whole_and_fills_with_zeros() {
    for outcome in run_both(1, |from| {
        let lane = thread_idx_x();
        let (to, bytes) = (dynamic_shared() + lane * 16, lane % 17);
        cp_async_16(to, from + u64::from(lane) * 16, bytes);
        cp_async_commit_group();
        cp_async_wait_group(0);
        let found: Vec<u8> = ld_shared_v4_b32(to).into_iter().flat_map(u32::to_le_bytes).collect();
        let copied = |i| ((lane * 16 + i) % 251) as u8;
        let expected: Vec<u8> = (0..16).map(|i| if i < bytes { copied(i) } else { 0 }).collect();
        assert_eq!(found, expected);
    }) {
        outcome.unwrap();
    }
}

#[test]
fn a_copy_of_no_bytes_reads_nothing() {
    for delivery in BOTH {
        launch(&Memory::new(), &block(1), &delivering(delivery), &|| {
            let to = dynamic_shared() + thread_idx_x() * 16;
            cp_async_16(to, 0, 0);
            cp_async_commit_group();
            cp_async_wait_group(0);
            assert_eq!(ld_shared_v4_b32(to), [0; 4]);
        })
        .unwrap();
    }
}

#[test]
fn other_threads_need_a_barrier_after_the_wait() {
    let body = |synchronised: bool| {
        run_both(1, move |from| {
            let lane = thread_idx_x();
            cp_async_16(dynamic_shared() + lane * 16, from + u64::from(lane) * 16, 16); // <- copy for others
            cp_async_commit_group();
            cp_async_wait_group(0);
            if synchronised {
                bar_warp_sync(u32::MAX);
            } else {
                shfl_bfly(u32::MAX, 0, 1);
            }
            ld_shared_v4_b32(dynamic_shared() + (lane ^ 1) * 16); // <- read by others
        })
    };
    for outcome in body(true) {
        outcome.unwrap();
    }
    for outcome in body(false) {
        let error = assert_fails(outcome, Kind::Race, "ld_shared_v4_b32", SOURCE, "read by others");
        assert_against(&error, "cp_async_16", SOURCE, "copy for others");
    }
}

#[test]
fn a_barrier_does_not_replace_the_wait() {
    for outcome in run_both(1, |from| {
        let lane = thread_idx_x();
        cp_async_16(dynamic_shared() + lane * 16, from + u64::from(lane) * 16, 16); // <- never waited for
        cp_async_commit_group();
        bar_warp_sync(u32::MAX);
        ld_shared_v4_b32(dynamic_shared() + (lane ^ 1) * 16); // <- read in flight
        cp_async_wait_group(0);
    }) {
        let error = assert_fails(outcome, Kind::InFlight, "ld_shared_v4_b32", SOURCE, "read in flight");
        assert_against(&error, "cp_async_16", SOURCE, "never waited for");
    }
}

#[test]
fn even_the_issuer_may_not_touch_the_destination() {
    for outcome in run_both(1, |from| {
        let to = dynamic_shared() + thread_idx_x() * 16;
        cp_async_16(to, from, 16);
        st_shared_b32(to + 4, [0]); // <- own write in flight
    }) {
        assert_fails(outcome, Kind::InFlight, "st_shared_b32", SOURCE, "own write in flight");
    }
}

#[test]
fn nobody_may_overwrite_the_source() {
    for outcome in run_both(1, |from| {
        let lane = u64::from(thread_idx_x());
        cp_async_16(dynamic_shared() + thread_idx_x() * 16, from + lane * 16, 16); // <- reads its source
        cp_async_commit_group();
        bar_warp_sync(u32::MAX);
        st_global_b32(from + (lane ^ 3) * 16 + 8, [0]); // <- overwrites a source
        cp_async_wait_group(0);
    }) {
        let error = assert_fails(outcome, Kind::InFlight, "st_global_b32", SOURCE, "overwrites a source");
        assert_against(&error, "cp_async_16", SOURCE, "reads its source");
    }
    // After wait and barrier the source is free; so are bytes that a short copy does not read.
    for outcome in run_both(1, |from| {
        let lane = u64::from(thread_idx_x());
        cp_async_16(dynamic_shared() + thread_idx_x() * 16, from + lane * 16, 8);
        cp_async_commit_group();
        st_global_b32(from + lane * 16 + 8, [0]);
        cp_async_wait_group(0);
        bar_warp_sync(u32::MAX);
        st_global_b32(from + (lane ^ 3) * 16, [0]);
    }) {
        outcome.unwrap();
    }
}

#[test]
fn the_source_is_read_until_the_wait_whatever_the_schedule() {
    // The issuer's wait may or may not run before the other warp's store: only a barrier after it would order them.
    for seed in 0..8 {
        let memory = Memory::new();
        let from = source(&memory);
        let options = Options { seed, ..Options::default() };
        let error = launch(&memory, &block(2), &options, &|| {
            if thread_idx_x() == 0 {
                cp_async_16(dynamic_shared(), from, 16);
                cp_async_commit_group();
            }
            sync_threads();
            if thread_idx_x() == 0 {
                cp_async_wait_group(0);
            }
            if thread_idx_x() == 32 {
                st_global_b32(from, [0]);
            }
        })
        .unwrap_err();
        assert!(matches!(error.kind, Kind::Race | Kind::InFlight), "{error}");
    }
}

#[test]
fn two_copies_to_one_place_overlap() {
    for outcome in run_both(1, |from| {
        let to = dynamic_shared() + thread_idx_x() * 16;
        cp_async_16(to, from, 16); // <- first copy
        cp_async_commit_group();
        cp_async_16(to, from + 16, 16); // <- second copy
        cp_async_commit_group();
        cp_async_wait_group(0);
    }) {
        let error = assert_fails(outcome, Kind::InFlight, "cp_async_16", SOURCE, "second copy");
        assert_against(&error, "cp_async_16", SOURCE, "first copy");
    }
}

#[test]
fn a_copy_may_not_overwrite_what_others_still_read() {
    let body = |synchronised: bool| {
        run_both(1, move |from| {
            let lane = thread_idx_x();
            st_shared_v4_b32(dynamic_shared() + lane * 16, [lane; 4]);
            bar_warp_sync(u32::MAX);
            ld_shared_v4_b32(dynamic_shared() + (lane ^ 1) * 16); // <- still reads
            if synchronised {
                bar_warp_sync(u32::MAX);
            } else {
                shfl_bfly(u32::MAX, 0, 1);
            }
            cp_async_16(dynamic_shared() + lane * 16, from, 16); // <- refills
            cp_async_commit_group();
            cp_async_wait_group(0);
        })
    };
    for outcome in body(true) {
        outcome.unwrap();
    }
    for outcome in body(false) {
        let error = assert_fails(outcome, Kind::Race, "cp_async_16", SOURCE, "refills");
        assert_against(&error, "ld_shared_v4_b32", SOURCE, "still reads");
    }
}

#[test]
fn a_wait_leaves_the_newest_groups_under_way() {
    for outcome in run_both(1, |from| {
        let to = dynamic_shared() + thread_idx_x() * 16;
        for stage in 0..3 {
            cp_async_16(to + stage * 512, from + u64::from(stage) * 16, 16);
            cp_async_commit_group();
        }
        cp_async_commit_group(); // An empty group counts.
        cp_async_wait_group(2);
        ld_shared_v4_b32(to);
        ld_shared_v4_b32(to + 512);
        ld_shared_v4_b32(to + 1024); // <- newest
    }) {
        assert_fails(outcome, Kind::InFlight, "ld_shared_v4_b32", SOURCE, "newest");
    }
}

#[test]
fn a_wait_does_not_cover_copies_that_no_commit_closed() {
    for outcome in run_both(1, |from| {
        let to = dynamic_shared() + thread_idx_x() * 16;
        cp_async_16(to, from, 16);
        cp_async_wait_group(0);
        ld_shared_v4_b32(to); // <- not committed
    }) {
        assert_fails(outcome, Kind::InFlight, "ld_shared_v4_b32", SOURCE, "not committed");
    }
}

#[test]
fn copies_left_at_exit_are_reported() {
    for outcome in run_both(1, |from| {
        cp_async_16(dynamic_shared() + thread_idx_x() * 16, from, 16); // <- left at exit
        cp_async_commit_group();
    }) {
        assert_fails(outcome, Kind::Leak, "cp_async_16", SOURCE, "left at exit");
    }
}

#[test]
fn the_source_must_be_there() {
    let memory = Memory::new();
    let from = memory.alloc(256);
    memory.write(from, &[1; 250]).unwrap();
    let copy = |offset: u64, bytes: u32| {
        launch(&memory, &block(1), &Options::default(), &|| {
            cp_async_16(dynamic_shared() + thread_idx_x() * 16, from + offset, bytes); // <- source
            cp_async_commit_group();
            cp_async_wait_group(0);
        })
    };
    copy(240, 10).unwrap();
    assert_fails(copy(240, 11), Kind::Uninitialised, "cp_async_16", SOURCE, "source");
    assert_fails(copy(256, 1), Kind::OutOfBounds, "cp_async_16", SOURCE, "source");
    assert_fails(copy(8, 16), Kind::Misaligned, "cp_async_16", SOURCE, "source");
    assert_fails(copy(0, 17), Kind::BadOperand, "cp_async_16", SOURCE, "source");
    let outside = run(1, &|| cp_async_16(dynamic_shared() + 4096, 0, 0)); // <- outside
    assert_fails(outside, Kind::OutOfBounds, "cp_async_16", SOURCE, "outside");
}

#[test]
fn a_source_that_another_block_writes_is_a_race() {
    let grid = Grid { blocks: 2, ..block(1) };
    for seed in 0..4 {
        let memory = Memory::new();
        let from = source(&memory);
        let options = Options { seed, ..Options::default() };
        let error = launch(&memory, &grid, &options, &|| {
            if block_idx_x() == 0 {
                cp_async_16(dynamic_shared() + thread_idx_x() * 16, from, 16);
                cp_async_commit_group();
                cp_async_wait_group(0);
            } else if thread_idx_x() == 0 {
                st_global_b32(from, [0]);
            }
        })
        .unwrap_err();
        assert_eq!(error.kind, Kind::Race, "{error}");
    }
}
