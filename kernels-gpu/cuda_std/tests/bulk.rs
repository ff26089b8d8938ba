//! Bulk copies: what they move, when they may arrive, who owns their bytes until when, and what completes on which mbarrier.
mod common;

use common::{assert_against, assert_fails, block, delivering};
use cuda_std::sim::op::*;
use cuda_std::sim::{Delivery, Error, Kind, Memory, Options, Report, launch};

const SOURCE: &str = include_str!("bulk.rs");

fn barrier() -> u32 {
    dynamic_shared() + 4096 - 64
}

#[track_caller]
fn wait(address: u32, parity: u32) {
    while !mbarrier_try_wait_parity(address, parity) {}
}

/// 4 KiB of global memory, word i holding i.
fn source(memory: &Memory) -> u64 {
    let address = memory.alloc(4096);
    memory.write(address, &(0..1024u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    address
}

/// Runs `body` on `warps` warps with that source, after thread 0 has initialised an mbarrier of one arrival for copies:
/// with earliest delivery, and with latest in both orders.
fn run_all(warps: u32, body: impl Fn(u32, u64) + Sync) -> [Result<Report, Error>; 3] {
    let late = |seed| Options { seed, ..Options::default() };
    [delivering(Delivery::Earliest), late(0), late(1)].map(|options| {
        let memory = Memory::new();
        let from = source(&memory);
        launch(&memory, &block(warps), &options, &|| {
            if thread_idx_x() == 0 {
                mbarrier_init(barrier(), 1);
                mbarrier_init(barrier() + 8, 1);
                fence_mbarrier_init();
            }
            sync_threads();
            body(thread_idx_x(), from);
        })
    })
}

#[test]
fn a_copy_arrives_before_its_phase_completes() {
    for outcome in run_all(2, |me, from| {
        if me == 0 {
            mbarrier_arrive_expect_tx(barrier(), 1040);
            cp_async_bulk(dynamic_shared(), from + 16, 1024, barrier());
            cp_async_bulk(dynamic_shared() + 2048, from, 16, barrier());
        }
        wait(barrier(), 0);
        for word in 0..4 {
            assert_eq!(ld_shared_b32(dynamic_shared() + 16 * me + 4 * word), [4 * me + word + 4]);
        }
        assert_eq!(ld_shared_v4_b32(dynamic_shared() + 2048), [0, 1, 2, 3]);
    }) {
        outcome.unwrap();
    }
}

#[test]
fn a_copy_may_be_issued_before_its_bytes_are_expected() {
    for outcome in run_all(1, |me, from| {
        if me == 0 {
            cp_async_bulk(dynamic_shared(), from, 64, barrier());
            mbarrier_arrive_expect_tx(barrier(), 64);
        }
        wait(barrier(), 0);
        assert_eq!(ld_shared_b32(dynamic_shared() + 60), [15]);
    }) {
        outcome.unwrap();
    }
}

#[test]
fn without_the_wait_bytes_are_in_flight() {
    for outcome in run_all(2, |me, from| {
        if me == 0 {
            st_shared_b32(dynamic_shared() + 128, [0]);
            mbarrier_arrive_expect_tx(barrier(), 64);
            cp_async_bulk(dynamic_shared(), from, 64, barrier()); // <- in flight
            ld_shared_b32(dynamic_shared() + 128);
            ld_shared_b32(dynamic_shared() + 8); // <- read in flight
        }
    }) {
        let error = assert_fails(outcome, Kind::InFlight, "ld_shared_b32", SOURCE, "read in flight");
        assert_against(&error, "cp_async_bulk", SOURCE, "in flight");
    }
    for outcome in run_all(2, |me, from| {
        if me == 0 {
            mbarrier_arrive_expect_tx(barrier(), 64);
            cp_async_bulk(dynamic_shared(), from, 64, barrier());
        }
        sync_threads();
        if me == 32 {
            st_shared_b32(dynamic_shared() + 60, [0]); // <- write in flight
        }
    }) {
        assert_fails(outcome, Kind::InFlight, "st_shared_b32", SOURCE, "write in flight");
    }
}

#[test]
fn another_phase_or_mbarrier_does_not_do() {
    for outcome in run_all(1, |me, from| {
        if me == 0 {
            for slot in 0..2 {
                mbarrier_arrive_expect_tx(barrier() + 8 * slot, 64);
                cp_async_bulk(dynamic_shared() + 64 * slot, from, 64, barrier() + 8 * slot);
            }
            wait(barrier() + 8, 0);
            ld_shared_b32(dynamic_shared() + 64);
            ld_shared_b32(dynamic_shared()); // <- the other's bytes
        }
    }) {
        assert_fails(outcome, Kind::InFlight, "ld_shared_b32", SOURCE, "the other's bytes");
    }
}

#[test]
fn others_wait_themselves_or_follow_who_did() {
    let body = |synchronised: bool| {
        run_all(2, move |me, from| {
            if me == 0 {
                mbarrier_arrive_expect_tx(barrier(), 128);
                cp_async_bulk(dynamic_shared(), from, 128, barrier());
                wait(barrier(), 0);
            }
            if synchronised {
                sync_threads();
            } else {
                bar_warp_sync(u32::MAX);
            }
            if me == 40 {
                assert_eq!(ld_shared_b32(dynamic_shared() + 4), [1]); // <- follows nobody
            }
        })
    };
    for outcome in body(true) {
        outcome.unwrap();
    }
    for outcome in body(false) {
        let error = outcome.unwrap_err();
        // By the schedule it comes before the copy.
        assert!(matches!(error.kind, Kind::InFlight | Kind::Race | Kind::Uninitialised), "{error}");
    }
}

#[test]
fn nobody_may_overwrite_the_source() {
    for outcome in run_all(1, |me, from| {
        if me == 0 {
            mbarrier_arrive_expect_tx(barrier(), 64);
            cp_async_bulk(dynamic_shared(), from, 64, barrier()); // <- reads its source
            st_global_b32(from + 64, [0]);
            st_global_b32(from + 60, [0]); // <- overwrites it
        }
    }) {
        let error = assert_fails(outcome, Kind::InFlight, "st_global_b32", SOURCE, "overwrites it");
        assert_against(&error, "cp_async_bulk", SOURCE, "reads its source");
    }
    for outcome in run_all(1, |me, from| {
        if me == 0 {
            mbarrier_arrive_expect_tx(barrier(), 64);
            cp_async_bulk(dynamic_shared(), from, 64, barrier());
            wait(barrier(), 0);
            st_global_b32(from + 60, [0]);
        }
    }) {
        outcome.unwrap();
    }
}

#[test]
fn a_copy_may_not_overwrite_what_others_still_read() {
    let body = |synchronised: bool| {
        run_all(2, move |me, from| {
            for round in 0..2 {
                if me == 0 {
                    mbarrier_arrive_expect_tx(barrier(), 128);
                    cp_async_bulk(dynamic_shared(), from + 128 * u64::from(round), 128, barrier()); // <- refills
                }
                wait(barrier(), round);
                assert_eq!(ld_shared_b32(dynamic_shared() + 4 * (me % 32)), [32 * round + me % 32]); // <- still reads
                if synchronised {
                    sync_threads();
                }
            }
        })
    };
    for outcome in body(true) {
        outcome.unwrap();
    }
    for outcome in body(false) {
        // Against a read that was made, or one to come, or a wait that the next phase overtook.
        let error = outcome.unwrap_err();
        assert!(matches!(error.kind, Kind::Race | Kind::InFlight | Kind::Mbarrier), "{error}");
    }
}

#[test]
fn bytes_must_be_expected() {
    // A phase with all arrivals and without bytes due completes; the copy's bytes are the next one's, which has no end.
    for outcome in run_all(1, |me, from| {
        if me == 0 {
            mbarrier_arrive_expect_tx(barrier(), 32);
            cp_async_bulk(dynamic_shared(), from, 64, barrier()); // <- more than expected
        }
        wait(barrier(), 0);
    }) {
        let error = assert_fails(outcome, Kind::Mbarrier, "cp_async_bulk", SOURCE, "more than expected");
        assert!(error.detail.contains("32 bytes more than were expected"), "{error}");
    }
    for outcome in run_all(1, |me, from| {
        if me == 0 {
            mbarrier_arrive_expect_tx(barrier(), 128);
            cp_async_bulk(dynamic_shared(), from, 64, barrier());
            wait(barrier(), 0); // <- 64 are missing
        }
    }) {
        let error = assert_fails(outcome, Kind::Deadlock, "mbarrier_try_wait_parity", SOURCE, "64 are missing");
        assert!(error.detail.contains("lacks 0 of 1 arrivals and 64 bytes"), "{error}");
    }
}

#[test]
fn copies_that_nobody_waits_for_are_reported() {
    for outcome in run_all(1, |me, from| {
        if me == 0 {
            mbarrier_arrive_expect_tx(barrier(), 64);
            cp_async_bulk(dynamic_shared(), from, 64, barrier()); // <- left at exit
        }
    }) {
        assert_fails(outcome, Kind::Leak, "cp_async_bulk", SOURCE, "left at exit");
    }
}

#[test]
fn operands_that_the_isa_forbids_are_refused() {
    let copy = |kind: Kind, to: u32, at: u64, bytes: u32| {
        for outcome in run_all(1, |_, from| {
            cp_async_bulk(dynamic_shared() + to, from + at, bytes, barrier()); // <- copies so
        }) {
            assert_fails(outcome, kind, "cp_async_bulk", SOURCE, "copies so");
        }
    };
    copy(Kind::BadOperand, 0, 0, 8);
    copy(Kind::BadOperand, 0, 0, 0);
    copy(Kind::Misaligned, 8, 0, 16);
    copy(Kind::Misaligned, 0, 8, 16);
    copy(Kind::OutOfBounds, 4080, 0, 32);
    copy(Kind::OutOfBounds, 0, 4080, 32);
    copy(Kind::Mbarrier, 3968, 0, 128);
    for outcome in run_all(1, |_, from| {
        cp_async_bulk(dynamic_shared(), from, 16, barrier() + 16); // <- no mbarrier
    }) {
        assert_fails(outcome, Kind::Mbarrier, "cp_async_bulk", SOURCE, "no mbarrier");
    }
}
