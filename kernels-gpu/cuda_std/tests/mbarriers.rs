//! mbarriers: phases and parity, what their completion orders, and each misuse by kind and line.
mod common;

use common::{assert_against, assert_fails, run};
use cuda_std::sim::op::*;
use cuda_std::sim::{Error, Kind, Report};

const SOURCE: &str = include_str!("mbarriers.rs");

/// Where the mbarrier is: the words before it are the threads'.
fn barrier() -> u32 {
    dynamic_shared() + 1024
}

/// The calling thread waits until the phase of that parity is complete.
#[track_caller]
fn wait(address: u32, parity: u32) {
    while !mbarrier_try_wait_parity(address, parity) {}
}

/// Runs `body` on `warps` warps after thread 0 has initialised an mbarrier of `count` arrivals.
fn with_barrier(warps: u32, count: u32, body: impl Fn(u32) + Sync) -> Result<Report, Error> {
    run(warps, &|| {
        if thread_idx_x() == 0 {
            mbarrier_init(barrier(), count);
        }
        sync_threads();
        body(thread_idx_x());
    })
}

#[test]
fn a_phase_orders_what_its_arrivals_follow() {
    let body = |waits: bool| {
        with_barrier(2, 64, move |me| {
            for round in 0..5u32 {
                let slot = dynamic_shared() + 256 * (round % 2) + 4 * me;
                st_shared_b32(slot, [me + round]); // <- value of a round
                mbarrier_arrive(barrier());
                if waits {
                    wait(barrier(), round & 1);
                }
                let other = me ^ 33;
                let found = ld_shared_b32(dynamic_shared() + 256 * (round % 2) + 4 * other); // <- value of another
                assert_eq!(found, [other + round]);
            }
        })
    };
    body(true).unwrap();
    let error = body(false).unwrap_err();
    assert!(matches!(error.kind, Kind::Race | Kind::Uninitialised), "{error}");
}

#[test]
fn the_first_phase_has_parity_0_and_the_one_before_is_complete() {
    with_barrier(1, 1, |me| {
        if me == 0 {
            assert!(mbarrier_try_wait_parity(barrier(), 1));
            assert!(!mbarrier_try_wait_parity(barrier(), 0));
            mbarrier_arrive(barrier());
            assert!(mbarrier_try_wait_parity(barrier(), 0));
            assert!(!mbarrier_try_wait_parity(barrier(), 1));
            mbarrier_arrive(barrier());
            assert!(mbarrier_try_wait_parity(barrier(), 1));
        }
    })
    .unwrap();
}

#[test]
fn expected_bytes_keep_a_phase_open() {
    let outcome = with_barrier(1, 1, |me| {
        if me == 0 {
            mbarrier_arrive_expect_tx(barrier(), 64);
            wait(barrier(), 0); // <- bytes that nobody brings
        }
    });
    let error = assert_fails(outcome, Kind::Deadlock, "mbarrier_try_wait_parity", SOURCE, "bytes that nobody brings");
    assert!(error.detail.contains("lacks 0 of 1 arrivals and 64 bytes"), "{error}");
}

#[test]
fn waiting_for_arrivals_that_nobody_makes_is_a_deadlock_with_all_who_wait() {
    let outcome = with_barrier(3, 3, |me| match me {
        0 => wait(barrier(), 0), // <- waits first
        32 => {
            mbarrier_arrive(barrier());
            wait(barrier(), 0); // <- arrives and waits
        }
        _ => {}
    });
    let error = assert_fails(outcome, Kind::Deadlock, "mbarrier_try_wait_parity", SOURCE, "waits first");
    assert!(error.detail.contains("lacks 2 of 3 arrivals and 0 bytes"), "{error}");
    let other = "thread 32 at mbarrier_try_wait_parity (kernels-gpu/cuda_std/tests/mbarriers.rs:";
    assert!(error.detail.contains(other), "{error}");
    assert!(error.detail.contains(&format!(":{}", common::line(SOURCE, "arrives and waits"))), "{error}");
}

#[test]
fn a_phase_later_the_same_parity_means_another() {
    // Thread 32 looks at phase 0, and nothing orders that before phase 1 completes: come later, it would wait for phase 2.
    let body = |answers: bool| {
        run(2, &move || {
            let me = thread_idx_x();
            let answer = barrier() + 8;
            if me == 0 {
                mbarrier_init(barrier(), 1);
                mbarrier_init(answer, 1);
            }
            sync_threads();
            if me == 0 {
                mbarrier_arrive(barrier());
                if answers {
                    wait(answer, 0);
                }
                mbarrier_arrive(barrier()); // <- completes phase 1
            }
            if me == 32 {
                wait(barrier(), 0); // <- looks at phase 0
                mbarrier_arrive(answer);
            }
        })
    };
    body(true).unwrap();
    let error = body(false).unwrap_err();
    // By the schedule: it was passed by and waits for ever, or it was not.
    assert!(matches!(error.kind, Kind::Mbarrier | Kind::Deadlock), "{error}");
}

#[test]
fn more_arrivals_than_are_pending_are_reported() {
    let outcome = with_barrier(1, 2, |me| {
        if me == 0 {
            mbarrier_expect_tx(barrier(), 16);
            for _ in 0..3 {
                mbarrier_arrive(barrier()); // <- the third of two
            }
        }
    });
    let error = assert_fails(outcome, Kind::Mbarrier, "mbarrier_arrive", SOURCE, "the third of two");
    assert!(error.detail.contains("all of its 2 arrivals"), "{error}");
}

#[test]
fn operands_that_the_isa_forbids_are_refused() {
    let none = run(1, &|| mbarrier_init(barrier() + 8 * thread_idx_x(), 0)); // <- no arrivals
    assert_fails(none, Kind::BadOperand, "mbarrier_init", SOURCE, "no arrivals");
    let many = run(1, &|| mbarrier_init(barrier() + 8 * thread_idx_x(), 1 << 20)); // <- too many arrivals
    assert_fails(many, Kind::BadOperand, "mbarrier_init", SOURCE, "too many arrivals");
    let unaligned = run(1, &|| mbarrier_init(barrier() + 4, 1)); // <- at a multiple of 4
    assert_fails(unaligned, Kind::Misaligned, "mbarrier_init", SOURCE, "at a multiple of 4");
    let outside = run(1, &|| mbarrier_init(dynamic_shared() + 4096, 1)); // <- past the end
    assert_fails(outside, Kind::OutOfBounds, "mbarrier_init", SOURCE, "past the end");
    let parity = with_barrier(1, 1, |_| {
        mbarrier_try_wait_parity(barrier(), 2); // <- parity 2
    });
    assert_fails(parity, Kind::BadOperand, "mbarrier_try_wait_parity", SOURCE, "parity 2");
    let bytes = with_barrier(1, 1, |_| mbarrier_expect_tx(barrier(), 1 << 20)); // <- too many bytes
    assert_fails(bytes, Kind::BadOperand, "mbarrier_expect_tx", SOURCE, "too many bytes");
}

#[test]
fn an_mbarrier_is_used_after_its_initialisation() {
    let before = run(1, &|| mbarrier_arrive(barrier())); // <- never initialised
    assert_fails(before, Kind::Mbarrier, "mbarrier_arrive", SOURCE, "never initialised");
    let unordered = run(1, &|| {
        if thread_idx_x() == 0 {
            mbarrier_init(barrier(), 32); // <- initialised here
        }
        shfl_idx(u32::MAX, 0, 0);
        mbarrier_arrive(barrier()); // <- nothing orders it
    });
    let error = assert_fails(unordered, Kind::Race, "mbarrier_arrive", SOURCE, "nothing orders it");
    assert_against(&error, "mbarrier_init", SOURCE, "initialised here");
}

#[test]
fn an_mbarrier_is_not_initialised_twice() {
    let outcome = with_barrier(1, 1, |me| {
        if me == 0 {
            mbarrier_init(barrier(), 1); // <- the second time
        }
    });
    assert_fails(outcome, Kind::Mbarrier, "mbarrier_init", SOURCE, "the second time");
}

#[test]
fn an_mbarrier_s_bytes_are_no_memory() {
    let load = with_barrier(1, 1, |_| {
        ld_shared_b32(barrier() + 4); // <- loads its state
    });
    assert_fails(load, Kind::Mbarrier, "ld_shared_b32", SOURCE, "loads its state");
    let store = with_barrier(1, 1, |me| {
        st_shared_b32(dynamic_shared() + 4 * me, [0]);
        st_shared_v4_b32(barrier(), [0; 4]); // <- stores over it
    });
    assert_fails(store, Kind::Mbarrier, "st_shared_v4_b32", SOURCE, "stores over it");
}

#[test]
fn invalidated_its_bytes_are_memory_again() {
    let body = |synchronised: bool| {
        with_barrier(2, 64, move |me| {
            mbarrier_arrive(barrier());
            wait(barrier(), 0); // <- last use
            if synchronised {
                sync_threads();
            }
            if me == 0 {
                mbarrier_inval(barrier()); // <- invalidates
                st_shared_b32(barrier(), [5]);
                assert_eq!(ld_shared_b32(barrier()), [5]);
                mbarrier_init(barrier(), 1);
                mbarrier_arrive(barrier());
                wait(barrier(), 0);
            }
        })
    };
    body(true).unwrap();
    let error = assert_fails(body(false), Kind::Race, "mbarrier_inval", SOURCE, "invalidates");
    assert_against(&error, "mbarrier_try_wait_parity", SOURCE, "last use");
    let after = with_barrier(1, 1, |me| {
        if me == 0 {
            mbarrier_inval(barrier());
            mbarrier_arrive(barrier()); // <- no more
        }
    });
    assert_fails(after, Kind::Mbarrier, "mbarrier_arrive", SOURCE, "no more");
}

#[test]
fn a_ring_of_two_mbarriers_passes_values_in_order() {
    // One warp fills, the other takes: full and empty mbarriers of a ring of two slots.
    let ring = |release: bool| {
        run(2, &move || {
            let (me, lane) = (thread_idx_x(), thread_idx_x() % 32);
            let (full, empty) = (|slot: u32| barrier() + 16 * slot, |slot: u32| barrier() + 16 * slot + 8);
            if me == 0 {
                (0..2).for_each(|slot| {
                    mbarrier_init(full(slot), 32);
                    mbarrier_init(empty(slot), 32);
                });
            }
            sync_threads();
            for step in 0..9 {
                let (slot, parity) = (step % 2, step / 2 % 2);
                let word = dynamic_shared() + 128 * slot;
                if me < 32 {
                    if release {
                        wait(empty(slot), parity ^ 1);
                    }
                    st_shared_b32(word + 4 * lane, [100 * step + lane]); // <- fills
                    mbarrier_arrive(full(slot));
                } else {
                    wait(full(slot), parity);
                    assert_eq!(ld_shared_b32(word + 4 * (lane ^ 9)), [100 * step + (lane ^ 9)]); // <- takes
                    if release {
                        mbarrier_arrive(empty(slot));
                    }
                }
            }
        })
    };
    ring(true).unwrap();
    assert!(matches!(ring(false).unwrap_err().kind, Kind::Race | Kind::Mbarrier));
}
