//! `setmaxnreg`, `elect.sync` and `bar.arrive`.
mod common;

use common::{assert_fails, block, run};
use cuda_std::sim::op::*;
use cuda_std::sim::{Error, Grid, Kind, Memory, Options, Report, launch};

const SOURCE: &str = include_str!("registers.rs");

/// Three warpgroups, 168 registers a thread.
fn warpgroups(body: impl Fn(u32) + Sync) -> Result<Report, Error> {
    run(12, &|| body(thread_idx_x() / 128))
}

#[test]
fn what_one_warpgroup_gives_back_others_take() {
    warpgroups(|group| match group {
        0 => setmaxnreg_dec(24),
        _ => setmaxnreg_inc(240),
    })
    .unwrap();
    // A cluster's blocks have registers of their own.
    let grid = Grid { blocks: 2, cluster: 2, ..block(12) };
    launch(&Memory::new(), &grid, &Options::default(), &|| match thread_idx_x() / 128 {
        0 => setmaxnreg_dec(24),
        _ => setmaxnreg_inc(240),
    })
    .unwrap();
}

#[test]
fn more_than_there_is_is_a_deadlock() {
    let outcome = warpgroups(|group| match group {
        0 => setmaxnreg_dec(32),
        _ => setmaxnreg_inc(240), // <- 8 too many
    });
    let error = outcome.unwrap_err();
    assert_eq!(
        (error.operation, error.location.unwrap().line()),
        ("setmaxnreg_inc", common::line(SOURCE, "8 too many"))
    );
    assert_eq!(error.kind, Kind::Deadlock, "{error}");
    assert!(error.detail.contains("168 a thread at launch"), "{error}");
}

#[test]
fn operands_that_the_isa_forbids_are_refused() {
    let odd = warpgroups(|_| setmaxnreg_dec(100)); // <- no multiple of 8
    assert_fails(odd, Kind::BadOperand, "setmaxnreg_dec", SOURCE, "no multiple of 8");
    let few = warpgroups(|_| setmaxnreg_dec(16)); // <- below 24
    assert_fails(few, Kind::BadOperand, "setmaxnreg_dec", SOURCE, "below 24");
    let up = warpgroups(|_| setmaxnreg_dec(240)); // <- more by dec
    assert_fails(up, Kind::BadOperand, "setmaxnreg_dec", SOURCE, "more by dec");
    let down = warpgroups(|_| setmaxnreg_inc(24)); // <- fewer by inc
    let error = assert_fails(down, Kind::BadOperand, "setmaxnreg_inc", SOURCE, "fewer by inc");
    assert!(error.detail.contains("multiples of 8 from 168 to 256"), "{error}");
    let broken = run(6, &|| {
        if thread_idx_x() >= 128 {
            setmaxnreg_dec(24); // <- two warps
        }
    });
    assert_fails(broken, Kind::BadOperand, "setmaxnreg_dec", SOURCE, "two warps");
}

#[test]
fn all_warps_of_a_warpgroup_make_a_change() {
    let outcome = run(4, &|| {
        if thread_idx_x() >= 32 {
            setmaxnreg_dec(24); // <- three of four
        }
    });
    assert_fails(outcome, Kind::BarrierMismatch, "setmaxnreg_dec", SOURCE, "three of four");
    let outcome = run(4, &|| {
        if thread_idx_x() >= 32 {
            setmaxnreg_dec(24); // <- 24 there
        } else {
            setmaxnreg_dec(32); // <- 32 here
        }
    });
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, Kind::BarrierMismatch, "{error}");
    let ahead = run(4, &|| {
        setmaxnreg_dec(64); // <- all
        if thread_idx_x() < 32 {
            setmaxnreg_dec(24); // <- one goes ahead
        }
        sync_threads();
        if thread_idx_x() >= 32 {
            setmaxnreg_dec(24);
        }
    });
    // By the schedule the others have all come to the first.
    assert!(ahead.is_ok() || ahead.is_err_and(|error| error.kind == Kind::BarrierMismatch));
}

#[test]
fn one_lane_is_elected() {
    run(2, &|| assert_eq!(elect_sync(u32::MAX), thread_idx_x().is_multiple_of(32))).unwrap();
    let outcome = run(1, &|| {
        elect_sync(1); // <- not all lanes
    });
    assert_fails(outcome, Kind::BadOperand, "elect_sync", SOURCE, "not all lanes");
}

#[test]
fn who_arrives_does_not_wait_and_is_followed() {
    // The first warp produces and goes on; the second waits for it, and the first one's next word is not ordered.
    let body = |second: bool| {
        run(2, &move || {
            let (me, lane) = (thread_idx_x(), thread_idx_x() % 32);
            if me < 32 {
                st_shared_b32(dynamic_shared() + 4 * lane, [lane]);
                bar_arrive(1, 64);
                st_shared_b32(dynamic_shared() + 128 + 4 * lane, [lane]); // <- after it arrived
            } else {
                bar_sync(1, 64);
                assert_eq!(ld_shared_b32(dynamic_shared() + 4 * (lane ^ 7)), [lane ^ 7]);
                if second {
                    ld_shared_b32(dynamic_shared() + 128 + 4 * lane); // <- follows nothing
                }
            }
        })
    };
    body(false).unwrap();
    assert!(matches!(body(true).unwrap_err().kind, Kind::Race | Kind::Uninitialised));
    // Who arrived has seen nothing of those who waited.
    let back = run(2, &|| {
        if thread_idx_x() >= 32 {
            st_shared_b32(dynamic_shared() + 4 * thread_idx_x(), [1]); // <- before it waits
            bar_sync(1, 64);
        } else {
            bar_arrive(1, 64);
            bar_warp_sync(u32::MAX);
            st_shared_b32(dynamic_shared() + 4 * (thread_idx_x() + 32), [1]); // <- seen by none
        }
    });
    assert_eq!(back.unwrap_err().kind, Kind::Race);
    let twice = run(3, &|| {
        if thread_idx_x() < 32 {
            bar_arrive(1, 64);
            bar_arrive(1, 64); // <- counts twice
        }
    });
    assert_fails(twice, Kind::BarrierMismatch, "bar_arrive", SOURCE, "counts twice");
}
