//! The operands of `wgmma` in shared memory: who owns them until when, who must have written them how, and what a descriptor
//! may say of them.
mod common;
#[path = "common/tile.rs"]
mod tile;

use common::{assert_against, assert_fails, block, delivering};
use cuda_std::sim::op::*;
use cuda_std::sim::{Delivery, Error, Grid, Kind, Memory, Options, launch};
use tile::{TILE, fill, ones, operands, passes, prepare, run};

const SOURCE: &str = include_str!("operands.rs");

#[track_caller]
fn fails(warps: u32, kind: Kind, operation: &str, marker: &str, body: impl Fn() + Sync) -> Error {
    tile::fails(SOURCE, warps, kind, operation, marker, body)
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
                        bar_warp_sync(u32::MAX);
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
    for outcome in ring(false) {
        outcome.unwrap_or_else(|error| panic!("{error}"));
    }
    for outcome in ring(true) {
        let error = assert_fails(outcome, Kind::InFlight, "cp_async_bulk", SOURCE, "refill");
        assert_against(&error, "wgmma_bf16_ss", SOURCE, "product of the ring");
    }
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
        for outcome in with(transposed, change) {
            outcome.unwrap_or_else(|error| panic!("{error}"));
        }
    };
    let fails = |kind, transposed, change: &(dyn Fn(u64) -> u64 + Sync)| {
        for outcome in with(transposed, change) {
            assert_fails(outcome, kind, "wgmma_f16_ss", SOURCE, "descriptor");
        }
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
