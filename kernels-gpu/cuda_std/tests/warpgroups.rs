//! `wgmma` misused, by kind and line: who must arrive, what must be fenced, who owns operands and registers until when,
//! and what a descriptor may say.
mod common;

use common::{assert_against, assert_fails, block, delivering};
use cuda_std::sim::op::*;
use cuda_std::sim::{Delivery, Error, Grid, Kind, Memory, Options, Report, launch};

const SOURCE: &str = include_str!("warpgroups.rs");

/// 64 rows of 128 bytes, K-major, swizzle of 128 bytes: A and B of 64 × 64 × 16, one after the other.
const TILE: u32 = 64 * 128;

fn descriptor(start: u32) -> (u64, bool) {
    (u64::from(start >> 4) | 1 << 16 | 64 << 32 | 1 << 62, false)
}

fn operands() -> [(u64, bool); 2] {
    [descriptor(dynamic_shared()), descriptor(dynamic_shared() + TILE)]
}

/// This thread's part of both tiles: bf16 ones.
fn fill() {
    for word in (thread_idx_x()..2 * TILE / 4).step_by(block_dim_x() as usize) {
        st_shared_b32(dynamic_shared() + 4 * word, [0x3F80_3F80]);
    }
}

fn prepare() {
    fill();
    fence_proxy_async_shared();
    sync_threads();
}

/// Runs `body` on one block of `warps` warps, for both deliveries.
fn run(warps: u32, body: impl Fn() + Sync) -> [Result<Report, Error>; 2] {
    [Delivery::Earliest, Delivery::Latest].map(|delivery| {
        let grid = Grid { shared_bytes: 2 * TILE, ..block(warps) };
        launch(&Memory::new(), &grid, &delivering(delivery), &body)
    })
}

#[track_caller]
fn fails(warps: u32, kind: Kind, operation: &str, marker: &str, body: impl Fn() + Sync) -> Error {
    let [earliest, latest] = run(warps, body);
    assert_fails(earliest, kind, operation, SOURCE, marker);
    assert_fails(latest, kind, operation, SOURCE, marker)
}

#[track_caller]
fn passes(warps: u32, body: impl Fn() + Sync) {
    run(warps, body).map(|outcome| outcome.unwrap_or_else(|error| panic!("{error}")));
}

/// A product of ones to a fresh accumulator.
#[track_caller]
fn ones(d: &mut [f32; 32]) -> Registers {
    let [a, b] = operands();
    wgmma_bf16_ss(wgmma_fence(), d, a, b, false)
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
fn operands_are_read_until_the_wait() {
    let overwrite = |wait: bool, barrier: bool| {
        move || {
            prepare();
            let mut d = [0.0; 32];
            if thread_idx_x() < 128 {
                ones(&mut d); // <- reads its operands
                wgmma_commit_group();
                if wait {
                    wgmma_wait_group(0);
                }
            }
            if barrier {
                sync_threads();
            }
            if thread_idx_x() == 130 {
                st_shared_b32(dynamic_shared() + TILE + 4, [0]); // <- overwrites
            }
            if thread_idx_x() < 128 {
                wgmma_wait_group(0);
            }
        }
    };
    passes(8, overwrite(true, true));
    let error = fails(8, Kind::InFlight, "st_shared_b32", "overwrites", overwrite(false, true));
    assert_against(&error, "wgmma_bf16_ss", SOURCE, "reads its operands");
    // A wait that nothing orders before the write: an error on whichever side comes second.
    for outcome in run(8, overwrite(true, false)) {
        let error = outcome.unwrap_err();
        assert!(matches!(error.kind, Kind::InFlight | Kind::Race), "{error}");
    }
    // Any thread of the warpgroup may write after its own wait; none before.
    let own = |wait: bool| {
        move || {
            prepare();
            ones(&mut [0.0; 32]);
            wgmma_commit_group();
            if wait {
                wgmma_wait_group(0);
            }
            st_shared_b32(dynamic_shared() + 4 * thread_idx_x(), [0]); // <- own write
            wgmma_wait_group(0);
        }
    };
    passes(4, own(true));
    fails(4, Kind::InFlight, "st_shared_b32", "own write", own(false));
    // The step that is read is the first 32 bytes of each row.
    passes(4, || {
        prepare();
        ones(&mut [0.0; 32]);
        wgmma_commit_group();
        // Row r's chunk c is at c ^ (r % 8); chunks 2 to 7 of row 0 are where they were.
        if thread_idx_x() < 6 {
            st_shared_b32(dynamic_shared() + 32 + 16 * thread_idx_x(), [0]);
        }
        wgmma_wait_group(0);
    });
    // Copies into operands, too.
    let memory = Memory::new();
    let from = memory.alloc(16);
    memory.write(from, &[0; 16]).unwrap();
    let outcome = launch(&memory, &Grid { shared_bytes: 2 * TILE, ..block(4) }, &Options::default(), &|| {
        prepare();
        ones(&mut [0.0; 32]);
        wgmma_commit_group();
        if thread_idx_x() == 3 {
            cp_async_16(dynamic_shared(), from, 16); // <- copied over
        }
        wgmma_wait_group(0);
    });
    assert_fails(outcome, Kind::InFlight, "cp_async_16", SOURCE, "copied over");
}

#[test]
fn a_wait_frees_the_operands_of_the_groups_that_ended() {
    let body = |newest: bool| {
        move || {
            prepare();
            let [a, b] = operands();
            let fenced = wgmma_fence();
            wgmma_bf16_ss(fenced, &mut [0.0; 32], a, a, false);
            wgmma_commit_group();
            wgmma_bf16_ss(fenced, &mut [0.0; 32], b, b, false); // <- still under way
            wgmma_commit_group();
            wgmma_wait_group(1);
            sync_threads();
            let at = dynamic_shared() + if newest { TILE } else { 0 };
            st_shared_b32(at + 4 * thread_idx_x(), [0]); // <- next stage
            wgmma_wait_group(0);
        }
    };
    passes(4, body(false));
    let error = fails(4, Kind::InFlight, "st_shared_b32", "next stage", body(true));
    assert_against(&error, "wgmma_bf16_ss", SOURCE, "still under way");
}

#[test]
fn operands_must_be_written_before_and_shown_to_the_asynchronous_proxy() {
    let error = fails(4, Kind::Race, "wgmma_bf16_ss", "no barrier", || {
        fill();
        fence_proxy_async_shared();
        let [a, b] = operands();
        wgmma_bf16_ss(wgmma_fence(), &mut [0.0; 32], a, b, false); // <- no barrier
    });
    assert_eq!(error.other.map(|(_, operation, _)| operation), Some("st_shared_b32"), "{error}");
    fails(4, Kind::MissingProxyFence, "wgmma_bf16_ss", "no proxy fence", || {
        fill();
        sync_threads();
        let [a, b] = operands();
        wgmma_bf16_ss(wgmma_fence(), &mut [0.0; 32], a, b, false); // <- no proxy fence
    });
    // The writer's fence counts, after the write, not the reader's.
    fails(8, Kind::MissingProxyFence, "wgmma_bf16_ss", "proxy fence elsewhere", || {
        prepare();
        if thread_idx_x() == 130 {
            st_shared_b32(dynamic_shared(), [0x3F80_3F80]);
        }
        sync_threads();
        let [a, b] = operands();
        if thread_idx_x() < 128 {
            fence_proxy_async_shared();
            wgmma_bf16_ss(wgmma_fence(), &mut [0.0; 32], a, b, false); // <- proxy fence elsewhere
        }
    });
    fails(4, Kind::Uninitialised, "wgmma_bf16_ss", "nothing there", || {
        let [a, b] = operands();
        wgmma_bf16_ss(wgmma_fence(), &mut [0.0; 32], a, b, false); // <- nothing there
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

#[test]
fn descriptors_must_say_what_there_is() {
    // What is changed in a descriptor of B, and whether it is N-major.
    let with = |transposed: bool, change: &(dyn Fn(u64) -> u64 + Sync)| {
        run(4, || {
            prepare();
            let [a, (b, _)] = operands();
            wgmma_f16_ss(wgmma_fence(), &mut [0.0; 32], a, (change(b), transposed), false); // <- descriptor
            wgmma_commit_group();
            wgmma_wait_group(0);
        })
    };
    let passes = |transposed, change: &(dyn Fn(u64) -> u64 + Sync)| {
        with(transposed, change).map(|outcome| outcome.unwrap_or_else(|error| panic!("{error}")));
    };
    let fails = |kind, transposed, change: &(dyn Fn(u64) -> u64 + Sync)| {
        with(transposed, change).map(|outcome| assert_fails(outcome, kind, "wgmma_f16_ss", SOURCE, "descriptor"));
    };
    passes(false, &|bits| bits);
    passes(false, &|bits| bits + 6); // the row's last 32 bytes
    passes(true, &|bits| bits + 128); // the third eight of K
    fails(Kind::BadOperand, false, &|bits| bits + 7); // 16 bytes past the row
    fails(Kind::BadOperand, true, &|bits| bits + 2); // 64 columns from the row's second 32 bytes on
    fails(Kind::Misaligned, false, &|bits| bits + 8); // the second row
    fails(Kind::Misaligned, true, &|bits| bits + 32);
    fails(Kind::OutOfBounds, false, &|bits| bits + 64);
    fails(Kind::OutOfBounds, false, &|bits| bits - TILE as u64 / 16 - 64);
    fails(Kind::BadOperand, false, &|bits| bits | 1 << 49); // base offset
    fails(Kind::BadOperand, false, &|bits| bits | 1 << 14);
    fails(Kind::BadOperand, false, &|bits| bits | 1 << 52);
    fails(Kind::Misaligned, false, &|bits| bits - (32 << 32)); // eight rows 512 bytes apart
    fails(Kind::Misaligned, false, &|bits| bits & !(3 << 62) | 2 << 62 | 8 << 32); // of 64 bytes: 576
    passes(false, &|bits| bits & !(3 << 62 | 0x3FFF << 32) | 2 << 62 | 32 << 32);
}

#[test]
fn e4m3_is_k_major() {
    fails(4, Kind::BadOperand, "wgmma_e4m3_ss", "transposed", || {
        prepare();
        let [a, (b, _)] = operands();
        wgmma_e4m3_ss(wgmma_fence(), &mut [0.0; 32], a, (b, true), false); // <- transposed
    });
}

#[test]
fn copied_operands_pass_from_producer_to_products_and_back() {
    // Warps 0 to 3 multiply, thread 128 copies: a ring of one slot, its full and its empty mbarrier.
    let memory = Memory::new();
    let ones = memory.alloc(2 * TILE as usize);
    memory.write(ones, &[0x80, 0x3F].repeat(TILE as usize)).unwrap();
    let ring = |late: bool| {
        [Delivery::Earliest, Delivery::Latest].map(|delivery| {
            let grid = Grid { shared_bytes: 2 * TILE + 16, ..block(5) };
            launch(&memory, &grid, &delivering(delivery), &|| {
                let (me, base) = (thread_idx_x(), dynamic_shared());
                let (full, empty) = (base + 2 * TILE, base + 2 * TILE + 8);
                if me == 0 {
                    mbarrier_init(full, 1);
                    mbarrier_init(empty, 4);
                    fence_mbarrier_init();
                }
                sync_threads();
                let wait = |mbarrier: u32, parity: u32| while !mbarrier_try_wait_parity(mbarrier, parity) {};
                if me == 128 {
                    for step in 0..4 {
                        if step > 0 {
                            wait(empty, (step - 1) % 2);
                        }
                        mbarrier_arrive_expect_tx(full, 2 * TILE);
                        cp_async_bulk(base, ones, 2 * TILE, full); // <- refill
                    }
                } else if me < 128 {
                    let mut d = [0.0; 32];
                    let mut state = wgmma_fence();
                    let [a, b] = operands();
                    for step in 0..4 {
                        wait(full, step % 2);
                        state = wgmma_bf16_ss(state, &mut d, a, b, step > 0); // <- product of the ring
                        wgmma_commit_group();
                        if !late {
                            wgmma_wait_group(0);
                        }
                        if me % 32 == 0 {
                            mbarrier_arrive(empty);
                        }
                        if late {
                            wgmma_wait_group(0);
                        }
                    }
                    wgmma_take(state, &mut d);
                    assert_eq!(d, [64.0; 32]);
                }
            })
        })
    };
    ring(false).map(|outcome| outcome.unwrap_or_else(|error| panic!("{error}")));
    for outcome in ring(true) {
        let error = assert_fails(outcome, Kind::InFlight, "cp_async_bulk", SOURCE, "refill");
        assert_against(&error, "wgmma_bf16_ss", SOURCE, "product of the ring");
    }
}
