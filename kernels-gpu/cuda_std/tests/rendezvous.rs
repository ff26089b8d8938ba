//! Warp-wide operations and barriers: who must reach them, and what happens where not all do.
mod common;

use common::{assert_fails, run};
use cuda_std::sim::Kind;
use cuda_std::sim::op::*;

const SOURCE: &str = include_str!("rendezvous.rs");
const FULL: u32 = u32::MAX;

#[test]
fn shuffles_exchange_values() {
    run(2, &|| {
        let (me, lane) = (thread_idx_x(), thread_idx_x() % 32);
        for mask in [1, 2, 4, 8, 16, 31] {
            assert_eq!(shfl_bfly(FULL, me * 10, mask), (me ^ mask) * 10);
        }
        assert_eq!(shfl_idx(FULL, me * 10, 5), (me / 32 * 32 + 5) * 10);
        assert_eq!(shfl_idx(FULL, me * 10, (lane * 7 + 3) % 32), (me / 32 * 32 + (lane * 7 + 3) % 32) * 10);
    })
    .unwrap();
}

#[test]
fn a_vote_is_of_a_whole_warp() {
    run(2, &|| {
        let me = thread_idx_x();
        assert!(!vote_any(FULL, false) && vote_any(FULL, true));
        // One lane of the second warp.
        assert_eq!(vote_any(FULL, me == 45), me >= 32);
    })
    .unwrap();
}

#[test]
fn a_shuffle_that_half_a_warp_skips_is_reported() {
    let outcome = run(1, &|| {
        if thread_idx_x() < 16 {
            shfl_bfly(FULL, 0, 1); // <- half shuffles
        }
    });
    let error = assert_fails(outcome, Kind::BarrierMismatch, "shfl_bfly", SOURCE, "half shuffles");
    assert!(error.detail.contains("exit"), "{error}");
}

#[test]
fn lanes_at_different_operations_are_reported_with_both() {
    let outcome = run(1, &|| {
        if thread_idx_x() < 16 {
            shfl_bfly(FULL, 0, 1); // <- shuffle here
        } else {
            bar_warp_sync(FULL); // <- barrier there
        }
    });
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, Kind::BarrierMismatch, "{error}");
    let mut lines = [error.location.unwrap().line(), error.other.unwrap().2.line()];
    lines.sort();
    assert_eq!(lines, [common::line(SOURCE, "shuffle here"), common::line(SOURCE, "barrier there")]);
}

#[test]
#[allow(clippy::if_same_then_else, reason = "which of the two lines it is matters")]
fn one_operation_at_two_lines_is_divergence() {
    let outcome = run(1, &|| {
        if thread_idx_x().is_multiple_of(2) {
            sync_threads();
        } else {
            sync_threads();
        }
    });
    assert_eq!(outcome.unwrap_err().kind, Kind::BarrierMismatch);
}

#[test]
fn a_barrier_that_a_warp_never_reaches_is_reported() {
    let outcome = run(4, &|| {
        if thread_idx_x() < 96 {
            sync_threads(); // <- three of four
        }
    });
    assert_fails(outcome, Kind::BarrierMismatch, "sync_threads", SOURCE, "three of four");
    let outcome = run(4, &|| {
        if thread_idx_x() < 32 {
            bar_sync(1, 64); // <- one of two
        }
    });
    assert_fails(outcome, Kind::BarrierMismatch, "bar_sync", SOURCE, "one of two");
}

#[test]
#[allow(clippy::if_same_then_else, reason = "which of the two lines it is matters")]
fn warps_may_meet_at_different_lines() {
    run(2, &|| {
        if thread_idx_x() < 32 {
            sync_threads();
        } else {
            sync_threads();
        }
    })
    .unwrap();
}

#[test]
fn warps_that_wait_for_each_other_are_a_deadlock() {
    let outcome = run(2, &|| {
        if thread_idx_x() < 32 {
            bar_sync(1, 64); // <- first warp
            bar_sync(2, 64);
        } else {
            bar_sync(2, 64); // <- second warp
            bar_sync(1, 64);
        }
    });
    let error = assert_fails(outcome, Kind::Deadlock, "bar_sync", SOURCE, "first warp");
    assert!(error.detail.contains(&format!("rendezvous.rs:{}", common::line(SOURCE, "second warp"))), "{error}");
}

#[test]
fn warps_that_disagree_on_a_barrier_are_reported() {
    let outcome = run(4, &|| {
        if thread_idx_x() < 64 {
            bar_sync(1, 64); // <- 64 here
        } else {
            bar_sync(1, 128); // <- 128 there
        }
    });
    // 64 threads can pass without having met the others: then it is they who are missed.
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, Kind::BarrierMismatch, "{error}");
    let outcome = run(1, &|| bar_sync(thread_idx_x() % 2, 32)); // <- two barriers
    assert_fails(outcome, Kind::BarrierMismatch, "bar_sync", SOURCE, "two barriers");
}

#[test]
fn named_barriers_are_apart() {
    // Each pair of warps passes its own barrier a different number of times.
    run(4, &|| {
        let pair = thread_idx_x() / 64;
        for round in 0..3 + pair * 5 {
            let mine = dynamic_shared() + thread_idx_x() * 4;
            st_shared_b32(mine, [round]);
            bar_sync(1 + pair, 64);
            assert_eq!(ld_shared_b32(dynamic_shared() + (thread_idx_x() ^ 32) * 4), [round]);
            bar_sync(1 + pair, 64);
        }
        sync_threads();
    })
    .unwrap();
}

#[test]
fn operands_that_the_isa_forbids_are_refused() {
    let mask = run(1, &|| {
        shfl_bfly(0xFFFF, 0, 1); // <- half a mask
    });
    assert_fails(mask, Kind::BadOperand, "shfl_bfly", SOURCE, "half a mask");
    let sixteenth = run(1, &|| bar_sync(16, 32)); // <- barrier 16
    assert_fails(sixteenth, Kind::BadOperand, "bar_sync", SOURCE, "barrier 16");
    let threads = run(1, &|| bar_sync(0, 33)); // <- 33 threads
    assert_fails(threads, Kind::BadOperand, "bar_sync", SOURCE, "33 threads");
    let more = run(1, &|| bar_sync(0, 64)); // <- more than there are
    assert_fails(more, Kind::BadOperand, "bar_sync", SOURCE, "more than there are");
}

#[test]
fn arriving_after_a_lane_has_exited_is_reported() {
    let outcome = run(1, &|| {
        if thread_idx_x() == 9 {
            return;
        }
        sync_threads(); // <- 31 lanes
    });
    let error = assert_fails(outcome, Kind::BarrierMismatch, "sync_threads", SOURCE, "31 lanes");
    assert!(error.detail.contains("thread 9"), "{error}");
}

#[test]
fn mismatch_names_the_other_thread() {
    let outcome = run(1, &|| {
        if thread_idx_x() < 8 {
            shfl_idx(FULL, 0, 0);
        }
        shfl_idx(FULL, 0, 0);
        if thread_idx_x() >= 8 {
            shfl_idx(FULL, 0, 0);
        }
    });
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, Kind::BarrierMismatch);
    let (other, operation, _) = error.other.unwrap();
    assert_eq!(operation, "shfl_idx");
    assert_ne!(other < 8, error.thread < 8, "{error}");
}
