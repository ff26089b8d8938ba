//! `wgmma` misused, by kind and line: who must arrive, what must be fenced, and whose registers are when.
mod common;
#[path = "common/tile.rs"]
mod tile;

use common::assert_against;
use cuda_std::sim::op::*;
use cuda_std::sim::{Error, Kind};
use tile::{ones, operands, passes, prepare, run};

const SOURCE: &str = include_str!("warpgroups.rs");

#[track_caller]
fn fails(warps: u32, kind: Kind, operation: &str, marker: &str, body: impl Fn() + Sync) -> Error {
    tile::fails(SOURCE, warps, kind, operation, marker, body)
}

#[test]
fn products_add_up_over_groups() {
    passes(8, || {
        prepare();
        let [a, b] = operands();
        let (mut d, mut e) = ([100.0; 32], [0.5; 32]);
        let fenced = wgmma_fence();
        let mut first = wgmma_bf16_ss(fenced, &mut d, a, b, false);
        first = wgmma_bf16_ss(first, &mut d, a, b, true);
        wgmma_commit_group();
        let second = wgmma_bf16_ss(fenced, &mut e, a, b, true);
        wgmma_commit_group();
        assert!(d.iter().chain(&e).all(|value| value.is_nan()));
        wgmma_wait_group(1);
        wgmma_take(first, &mut d);
        assert_eq!(d, [32.0; 32]);
        wgmma_wait_group(0);
        wgmma_take(second, &mut e);
        assert_eq!(e, [16.5; 32]);
        // In flight from one group to the next, without a fence as nothing touched it.
        let mut third = wgmma_bf16_ss(wgmma_fence(), &mut d, a, b, true);
        wgmma_commit_group();
        wgmma_wait_group(0);
        third = wgmma_bf16_ss(third, &mut d, a, b, true);
        wgmma_commit_group();
        wgmma_wait_group(0);
        wgmma_take(third, &mut d);
        assert_eq!(d, [64.0; 32]);
    });
}

#[test]
fn all_warps_must_come_to_the_same_operation() {
    let outcomes = run(4, || {
        if thread_idx_x() < 64 {
            wgmma_fence();
        } else {
            wgmma_commit_group();
        }
    });
    for error in outcomes.map(Result::unwrap_err) {
        // Whoever comes later is told who is elsewhere.
        let mut operations = [error.operation, error.other.unwrap().1];
        operations.sort_unstable();
        assert_eq!((error.kind, operations), (Kind::BarrierMismatch, ["wgmma_commit_group", "wgmma_fence"]), "{error}");
    }
    let error = fails(4, Kind::BarrierMismatch, "wgmma_fence", "without warp 2", || {
        if thread_idx_x() / 32 != 2 {
            wgmma_fence(); // <- without warp 2
        } else {
            bar_sync(1, 64); // <- warp 2
        }
    });
    assert_eq!(error.other.map(|(thread, ..)| thread), Some(64), "{error}");
    assert_against(&error, "bar_sync", SOURCE, "warp 2");
    fails(4, Kind::BarrierMismatch, "wgmma_fence", "warp 3 has gone", || {
        if thread_idx_x() < 96 {
            wgmma_fence(); // <- warp 3 has gone
        }
    });
    fails(6, Kind::BadOperand, "wgmma_fence", "not whole", || {
        if thread_idx_x() >= 128 {
            wgmma_fence(); // <- not whole
        }
    });
}

#[test]
fn threads_must_agree_on_their_operands() {
    fails(4, Kind::BadOperand, "wgmma_bf16_ss", "not alike", || {
        prepare();
        let [a, b] = operands();
        let a = if thread_idx_x() == 77 { b } else { a };
        wgmma_bf16_ss(wgmma_fence(), &mut [0.0; 32], a, b, false); // <- not alike
    });
}

#[test]
fn registers_need_a_fence() {
    fails(4, Kind::MissingWgmmaFence, "wgmma_bf16_ss", "first", || {
        prepare();
        let [a, b] = operands();
        wgmma_bf16_ss(Registers::default(), &mut [0.0; 32], a, b, false); // <- first
    });
    fails(4, Kind::MissingWgmmaFence, "wgmma_bf16_ss", "written since", || {
        prepare();
        let [a, b] = operands();
        let mut d = [0.0; 32];
        let state = ones(&mut d);
        wgmma_commit_group();
        wgmma_wait_group(0);
        wgmma_take(state, &mut d);
        wgmma_bf16_ss(Registers::Touched, &mut d, a, b, false); // <- written since
    });
    fails(4, Kind::MissingWgmmaFence, "wgmma_bf16_rs", "fragments", || {
        prepare();
        let [_, b] = operands();
        wgmma_bf16_rs(wgmma_fence(), &mut [0.0; 32], Registers::default(), [0; 4], b, false); // <- fragments
    });
    // An accumulator goes on without a fence only in products of one shape.
    let error = fails(4, Kind::MissingWgmmaFence, "wgmma_e4m3_ss", "other shape", || {
        prepare();
        let [a, b] = operands();
        let mut d = [0.0; 32];
        let state = wgmma_bf16_ss(wgmma_fence(), &mut d, a, b, false); // <- one shape
        wgmma_e4m3_ss(state, &mut d, a, b, true); // <- other shape
    });
    assert_against(&error, "wgmma_bf16_ss", SOURCE, "one shape");
}

#[test]
fn accumulators_are_out_of_reach_until_their_group_has_ended() {
    let error = fails(4, Kind::InFlight, "wgmma_wait_group", "one group too few", || {
        prepare();
        let (mut d, mut e) = ([0.0; 32], [0.0; 32]);
        let _first = ones(&mut d);
        wgmma_commit_group();
        let second = ones(&mut e); // <- newest
        wgmma_commit_group();
        wgmma_wait_group(1); // <- one group too few
        wgmma_take(second, &mut e);
    });
    assert_against(&error, "wgmma_bf16_ss", SOURCE, "newest");
    fails(4, Kind::InFlight, "wgmma_wait_group", "not committed", || {
        prepare();
        let mut d = [0.0; 32];
        let state = ones(&mut d);
        wgmma_wait_group(0); // <- not committed
        wgmma_take(state, &mut d);
    });
    fails(4, Kind::InFlight, "wgmma_wait_group", "written in flight", || {
        prepare();
        let mut d = [0.0; 32];
        let state = ones(&mut d);
        d[5] = 1.0;
        wgmma_commit_group();
        wgmma_wait_group(0); // <- written in flight
        wgmma_take(state, &mut d);
    });
}

#[test]
fn products_left_at_exit_are_reported() {
    fails(4, Kind::Leak, "wgmma_bf16_ss", "left at exit", || {
        prepare();
        let [a, b] = operands();
        wgmma_bf16_ss(wgmma_fence(), &mut [0.0; 32], a, b, false); // <- left at exit
        wgmma_commit_group();
    });
}
