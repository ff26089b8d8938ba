//! `tcgen05` misused, by kind and line: what must be waited for, committed and fenced.
mod common;
#[path = "common/tensor.rs"]
mod tensor;

use common::assert_against;
use cuda_std::sim::op::*;
use cuda_std::sim::{Error, Kind};
use tensor::{TILE, barrier, descriptor, finish, own, passes, prepare, run, shape, wait};

const SOURCE: &str = include_str!("tensor_order.rs");

#[track_caller]
fn fails(kind: Kind, operation: &str, marker: &str, body: impl Fn() + Sync) -> Error {
    tensor::fails(SOURCE, 4, kind, operation, marker, body)
}

/// Thread 0 issues a product of ones, K = 16, to `at`.
#[track_caller]
fn ones(at: u32, add: bool) {
    tcgen05_mma_f16_ss(1, at, descriptor(0), descriptor(TILE), shape(128, 32), add);
}

/// The 32 columns of this warp's lanes.
#[track_caller]
fn load(at: u32) -> [u32; 32] {
    let mut registers = [0; 32];
    let load = tcgen05_ld_32x32b(own(at), &mut registers);
    tcgen05_wait_ld();
    tcgen05_take(load, &mut registers);
    registers
}

/// A product that all have waited for, fenced.
fn produce(at: u32) {
    if thread_idx_x() == 0 {
        ones(at, false);
        tcgen05_commit(1, barrier(0));
    }
    wait(barrier(0), 0);
    tcgen05_fence_after_thread_sync();
}

#[test]
fn a_result_is_nobodys_before_its_commit_was_observed() {
    let error = fails(Kind::InFlight, "tcgen05_ld_32x32b", "too early", || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            ones(at, false); // <- not waited for
            tcgen05_commit(1, barrier(0));
        }
        sync_threads();
        tcgen05_fence_after_thread_sync();
        tcgen05_ld_32x32b(own(at), &mut [0; 32]); // <- too early
    });
    assert_against(&error, "tcgen05_mma_f16_ss", SOURCE, "not waited for");
    // A commit covers what was issued before it.
    fails(Kind::InFlight, "tcgen05_ld_32x32b", "after the commit", || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            ones(at, false);
            tcgen05_commit(1, barrier(0));
            ones(at, true);
        }
        wait(barrier(0), 0);
        sync_threads();
        tcgen05_fence_after_thread_sync();
        tcgen05_ld_32x32b(own(at), &mut [0; 32]); // <- after the commit
    });
    fails(Kind::MissingTcgen05Fence, "tcgen05_ld_32x32b", "no fence after", || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            ones(at, false);
            tcgen05_commit(1, barrier(0));
        }
        wait(barrier(0), 0);
        tcgen05_ld_32x32b(own(at), &mut [0; 32]); // <- no fence after
    });
}

#[test]
fn what_is_issued_is_committed_and_waited_for() {
    fails(Kind::Leak, "tcgen05_mma_f16_ss", "not committed", || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            ones(at, false); // <- not committed
        } else {
            wait(barrier(0), 0);
        }
    });
    fails(Kind::Leak, "tcgen05_commit", "nobody looks", || {
        let at = prepare(32);
        finish(at, 32);
        if thread_idx_x() == 0 {
            tcgen05_commit(1, barrier(0)); // <- nobody looks
        }
    });
    // A later commit of the same thread, observed, says that the earlier has arrived.
    passes(4, || {
        if thread_idx_x() == 0 {
            mbarrier_init(barrier(1), 1);
        }
        let at = prepare(32);
        if thread_idx_x() == 0 {
            ones(at, false);
            tcgen05_commit(1, barrier(1));
            tcgen05_commit(1, barrier(0));
        }
        wait(barrier(0), 0);
        finish(at, 32);
    });
    fails(Kind::Leak, "tcgen05_ld_32x32b", "no wait", || {
        let at = prepare(32);
        produce(at);
        tcgen05_ld_32x32b(own(at), &mut [0; 32]); // <- no wait
    });
    fails(Kind::InFlight, "tcgen05_ld_32x32b", "taken early", || {
        let at = prepare(32);
        produce(at);
        let mut registers = [0; 32];
        let load = tcgen05_ld_32x32b(own(at), &mut registers); // <- taken early
        tcgen05_take(load, &mut registers);
    });
    fails(Kind::InFlight, "tcgen05_wait_ld", "touched", || {
        let at = prepare(32);
        produce(at);
        let mut registers = [0; 32];
        let load = tcgen05_ld_32x32b(own(at), &mut registers);
        registers[3] = 1;
        tcgen05_wait_ld(); // <- touched
        tcgen05_take(load, &mut registers);
    });
}

#[test]
fn stores_are_waited_for_and_fenced_on_both_sides() {
    // Each of the four steps left out, by whether the others are there.
    let body = |wait_st: bool, before: bool, barrier_there: bool, after: bool| {
        let at = prepare(64);
        tcgen05_st_32x32b(own(at), &[0; 32]);
        if wait_st {
            tcgen05_wait_st();
        }
        if before {
            tcgen05_fence_before_thread_sync();
        }
        if barrier_there {
            sync_threads();
        }
        if thread_idx_x() == 0 {
            if after {
                tcgen05_fence_after_thread_sync();
            }
            ones(at, true); // <- adds
            tcgen05_commit(1, barrier(0));
        }
        wait(barrier(0), 0);
        tcgen05_wait_st();
        finish(at, 64);
    };
    passes(4, || body(true, true, true, true));
    for (kind, [wait_st, before, barrier_there, after]) in [
        (Kind::InFlight, [false, true, true, true]),
        (Kind::MissingTcgen05Fence, [true, false, true, true]),
        (Kind::MissingTcgen05Fence, [true, true, true, false]),
    ] {
        fails(kind, "tcgen05_mma_f16_ss", "adds", || body(wait_st, before, barrier_there, after));
    }
    // Without the barrier the other warps may not even have stored: who comes first is the schedule's.
    for error in run(4, || body(true, true, false, true)).map(Result::unwrap_err) {
        assert!(matches!(error.kind, Kind::Race | Kind::Uninitialised | Kind::InFlight), "{error}");
    }
}

#[test]
fn a_warp_stores_where_others_load_in_their_lanes() {
    passes(4, || {
        let at = prepare(32);
        produce(at);
        let mut registers = [0; 32];
        let load = tcgen05_ld_32x32b(own(at), &mut registers);
        if thread_idx_x() / 32 == 1 {
            tcgen05_wait_ld();
            tcgen05_st_32x32b(own(at), &[7; 16]);
            tcgen05_wait_st();
        } else {
            bar_sync(1, 96);
            tcgen05_wait_ld();
        }
        tcgen05_take(load, &mut registers);
        finish(at, 32);
    });
    fails(Kind::InFlight, "tcgen05_st_32x32b", "over its own load", || {
        let at = prepare(32);
        produce(at);
        tcgen05_ld_32x32b(own(at), &mut [0; 32]);
        tcgen05_st_32x32b(own(at), &[7; 16]); // <- over its own load
    });
    fails(Kind::InFlight, "tcgen05_ld_32x32b", "its own store", || {
        let at = prepare(32);
        produce(at);
        tcgen05_st_32x32b(own(at), &[7; 16]);
        tcgen05_ld_32x32b(own(at), &mut [0; 32]); // <- its own store
    });
}

#[test]
fn loads_end_before_a_product_overwrites() {
    let error = fails(Kind::InFlight, "tcgen05_mma_f16_ss", "while loaded", || {
        let at = prepare(32);
        produce(at);
        let mut registers = [0; 32];
        let load = tcgen05_ld_32x32b(own(at), &mut registers); // <- load
        sync_threads();
        if thread_idx_x() == 0 {
            ones(at, false); // <- while loaded
        }
        tcgen05_wait_ld();
        tcgen05_take(load, &mut registers);
    });
    assert_against(&error, "tcgen05_ld_32x32b", SOURCE, "load");
    fails(Kind::MissingTcgen05Fence, "tcgen05_mma_f16_ss", "no fence before", || {
        let at = prepare(32);
        produce(at);
        load(at);
        sync_threads();
        if thread_idx_x() == 0 {
            tcgen05_fence_after_thread_sync();
            ones(at, false); // <- no fence before
        }
    });
}

#[test]
fn operands_in_shared_memory_are_fenced_and_kept() {
    fails(Kind::MissingProxyFence, "tcgen05_mma_f16_ss", "no proxy fence", || {
        let at = prepare(32);
        st_shared_b32(dynamic_shared() + 4 * thread_idx_x(), [0]);
        sync_threads();
        if thread_idx_x() == 0 {
            ones(at, false); // <- no proxy fence
        }
    });
    let error = fails(Kind::InFlight, "st_shared_b32", "while read", || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            ones(at, false); // <- reads
            tcgen05_commit(1, barrier(0));
        }
        sync_threads();
        st_shared_b32(dynamic_shared() + 4 * thread_idx_x(), [0]); // <- while read
    });
    assert_against(&error, "tcgen05_mma_f16_ss", SOURCE, "reads");
    passes(4, || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            ones(at, false);
            tcgen05_commit(1, barrier(0));
        }
        wait(barrier(0), 0);
        st_shared_b32(dynamic_shared() + 4 * thread_idx_x(), [0]);
        finish(at, 32);
    });
}

#[test]
fn copies_are_of_the_tensor_cores_too() {
    passes(4, || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            tcgen05_cp_128x256b(1, at, descriptor(0));
            tcgen05_commit(1, barrier(0));
        }
        wait(barrier(0), 0);
        tcgen05_fence_after_thread_sync();
        let mut registers = [0; 8];
        let load = tcgen05_ld_32x32b(own(at), &mut registers);
        tcgen05_wait_ld();
        tcgen05_take(load, &mut registers);
        assert_eq!(registers, [0x3F80_3F80; 8]);
        finish(at, 32);
    });
    let error = fails(Kind::InFlight, "tcgen05_ld_32x32b", "of a copy", || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            tcgen05_cp_128x256b(1, at, descriptor(0)); // <- copies
        }
        sync_threads();
        tcgen05_fence_after_thread_sync();
        tcgen05_ld_32x32b(own(at), &mut [0; 8]); // <- of a copy
    });
    assert_against(&error, "tcgen05_cp_128x256b", SOURCE, "copies");
    fails(Kind::BadOperand, "tcgen05_cp_128x256b", "lane 32", || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            tcgen05_cp_128x256b(1, at | 32 << 16, descriptor(0)); // <- lane 32
        }
        sync_threads();
    });
    fails(Kind::Leak, "tcgen05_cp_128x256b", "copy not committed", || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            tcgen05_cp_128x256b(1, at, descriptor(0)); // <- copy not committed
        } else {
            wait(barrier(0), 0);
        }
    });
}

#[test]
fn two_threads_products_are_not_ordered_by_a_barrier() {
    fails(Kind::InFlight, "tcgen05_mma_f16_ss", "of another thread", || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            ones(at, false);
            tcgen05_commit(1, barrier(0));
        }
        tcgen05_fence_before_thread_sync();
        sync_threads();
        if thread_idx_x() == 32 {
            tcgen05_fence_after_thread_sync();
            ones(at, true); // <- of another thread
        }
        wait(barrier(0), 0);
    });
}
