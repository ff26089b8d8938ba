//! Races by happens-before: which operations order memory, among whom, and what an early grid must wait for.
mod common;

use common::{assert_against, assert_fails, block, run};
use cuda_std::sim::op::*;
use cuda_std::sim::{Grid, Kind, Memory, Options, launch};

const SOURCE: &str = include_str!("races.rs");
const FULL: u32 = u32::MAX;

/// Thread `from` stores, everyone meets in `between`, thread `to` loads: the same word of shared memory.
fn exchange(warps: u32, from: u32, to: u32, between: fn()) -> Result<cuda_std::sim::Report, cuda_std::sim::Error> {
    run(warps, &|| {
        if thread_idx_x() == from {
            st_shared_b32(dynamic_shared(), [1]); // <- exchange store
        }
        between();
        if thread_idx_x() == to {
            ld_shared_b32(dynamic_shared()); // <- exchange load
        }
    })
}

#[test]
fn barriers_order_memory_among_their_participants() {
    exchange(2, 5, 40, sync_threads).unwrap();
    exchange(4, 5, 120, || bar_sync(3, 128)).unwrap();
    exchange(1, 5, 31, || bar_warp_sync(FULL)).unwrap();
}

#[test]
fn a_barrier_of_other_threads_orders_nothing() {
    let outcome = exchange(4, 100, 5, || {
        if thread_idx_x() < 64 {
            bar_sync(1, 64);
        } else {
            bar_sync(2, 64);
        }
    });
    // Whichever of the two the schedule runs second is reported, against the other; or, where the load came first,
    // that nothing was written.
    let error = outcome.unwrap_err();
    assert!(matches!(error.kind, Kind::Race | Kind::Uninitialised), "{error}");
}

#[test]
fn order_is_transitive_over_barriers() {
    // 0 -> 40 by a barrier of warps 0 and 1, 40 -> 70 by one of warps 1 and 2.
    run(3, &|| {
        let me = thread_idx_x();
        if me == 0 {
            st_shared_b32(dynamic_shared(), [1]);
        }
        if me < 64 {
            bar_sync(1, 64);
        }
        if me >= 32 {
            bar_sync(2, 64);
        }
        if me == 70 {
            ld_shared_b32(dynamic_shared());
        }
    })
    .unwrap();
}

#[test]
fn shuffles_and_products_do_not_order_memory() {
    let butterfly = || {
        shfl_bfly(FULL, 0, 1);
    };
    let indexed = || {
        shfl_idx(FULL, 0, 0);
    };
    let product = || {
        mma_m16n8k16_bf16([0.0; 4], [0; 4], [0; 2]);
    };
    for between in [butterfly as fn(), indexed, product] {
        let outcome = exchange(1, 5, 7, between);
        let error = assert_fails(outcome, Kind::Race, "ld_shared_b32", SOURCE, "exchange load");
        assert_against(&error, "st_shared_b32", SOURCE, "exchange store");
        assert_eq!((error.thread, error.other.unwrap().0), (7, 5));
    }
}

#[test]
fn a_write_after_a_read_is_a_race() {
    let body = |synchronised: bool| {
        run(1, &|| {
            let me = thread_idx_x();
            st_shared_b32(dynamic_shared() + me * 4, [me]);
            bar_warp_sync(FULL);
            ld_shared_b32(dynamic_shared() + (me ^ 1) * 4); // <- read first
            if synchronised {
                bar_warp_sync(FULL);
            }
            shfl_bfly(FULL, 0, 1);
            st_shared_b32(dynamic_shared() + me * 4, [me]); // <- written then
        })
    };
    body(true).unwrap();
    let error = assert_fails(body(false), Kind::Race, "st_shared_b32", SOURCE, "written then");
    assert_against(&error, "ld_shared_b32", SOURCE, "read first");
}

#[test]
fn one_of_many_readers_is_enough() {
    let body = |synchronised: u32| {
        run(4, &|| {
            let me = thread_idx_x();
            if me == 0 {
                st_shared_v4_b32(dynamic_shared(), [1; 4]);
            }
            sync_threads();
            ld_shared_b32(dynamic_shared() + 4); // <- many read
            if me < synchronised {
                bar_sync(1, synchronised);
            }
            if me == 0 {
                st_shared_b32(dynamic_shared() + 4, [2]); // <- one writes
            }
        })
    };
    body(128).unwrap();
    // Warp 3 has not met the writer. If it runs last, it is the one to notice.
    let error = body(96).unwrap_err();
    assert_eq!(error.kind, Kind::Race, "{error}");
    assert!(error.thread >= 96 || error.other.unwrap().0 >= 96, "{error}");
}

#[test]
fn two_writes_are_a_race_even_of_the_same_value() {
    let outcome = run(1, &|| {
        st_shared_b32(dynamic_shared(), [1]); // <- everyone writes
    });
    let error = assert_fails(outcome, Kind::Race, "st_shared_b32", SOURCE, "everyone writes");
    assert_against(&error, "st_shared_b32", SOURCE, "everyone writes");
}

#[test]
fn neighbouring_words_are_no_race() {
    run(4, &|| {
        let mine = dynamic_shared() + thread_idx_x() * 4;
        st_shared_b32(mine, [thread_idx_x()]);
        assert_eq!(ld_shared_b32(mine), [thread_idx_x()]);
    })
    .unwrap();
}

#[test]
fn part_of_a_wide_access_is_enough_for_a_race() {
    let outcome = run(1, &|| {
        match thread_idx_x() {
            0 => st_shared_v4_b32(dynamic_shared(), [1; 4]), // <- wide
            1 => st_shared_b32(dynamic_shared() + 12, [1]),  // <- narrow
            _ => {}
        };
    });
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, Kind::Race, "{error}");
    let mut lines = [error.location.unwrap().line(), error.other.unwrap().2.line()];
    lines.sort();
    assert_eq!(lines, [common::line(SOURCE, "wide"), common::line(SOURCE, "narrow")]);
}

#[test]
fn blocks_are_never_ordered_within_a_launch() {
    let memory = Memory::new();
    let address = memory.alloc(4);
    memory.write(address, &[0; 4]).unwrap();
    let grid = Grid { blocks: 2, ..block(1) };
    for (seed, workers) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
        let options = Options { seed, workers, ..Options::default() };
        let outcome = launch(&memory, &grid, &options, &|| {
            if thread_idx_x() != 3 {
            } else if block_idx_x() == 0 {
                st_global_b32(address, [1]); // <- block 0
            } else {
                ld_global_b32(address); // <- block 1
            }
        });
        let error = outcome.unwrap_err();
        assert_eq!((error.kind, error.thread, error.other.unwrap().0), (Kind::Race, 3, 3), "{error}");
        assert!(error.detail.contains(&format!("of block {}", 1 - error.block)), "{error}");
    }
    // Reading together is allowed, and so is the next launch's write.
    launch(&memory, &grid, &Options::default(), &|| {
        ld_global_b32(address);
    })
    .unwrap();
    launch(&memory, &block(1), &Options::default(), &|| {
        if thread_idx_x() == 0 {
            st_global_b32(address, [2]);
        }
    })
    .unwrap();
}

#[test]
fn a_block_barrier_orders_global_memory_too() {
    let memory = Memory::new();
    let address = memory.alloc(256);
    let body = |synchronised: bool| {
        launch(&memory, &block(2), &Options::default(), &|| {
            let me = u64::from(thread_idx_x());
            st_global_b32(address + me * 4, [1]);
            if synchronised {
                sync_threads();
            }
            ld_global_b32(address + (me ^ 32) * 4);
        })
    };
    body(true).unwrap();
    let error = body(false).unwrap_err();
    assert!(matches!(error.kind, Kind::Race), "{error}");
}

#[test]
fn an_early_grid_waits_for_what_the_previous_launch_touched() {
    let early = Grid { early: true, ..block(2) };
    let memory = Memory::new();
    let [written, read, apart] = [memory.alloc(256), memory.alloc(256), memory.alloc(256)];
    for address in [written, read, apart] {
        memory.write(address, &[0; 256]).unwrap();
    }
    let first = || {
        launch(&memory, &block(2), &Options::default(), &|| {
            let mine = u64::from(thread_idx_x()) * 4;
            let value = ld_global_b32(read + mine);
            st_global_b32(written + mine, value);
        })
        .unwrap();
    };
    let second = |waits: fn(), act: &(dyn Fn(u64) + Sync)| {
        first();
        launch(&memory, &early, &Options::default(), &|| {
            let mine = u64::from(thread_idx_x()) * 4;
            ld_global_b32(apart + mine);
            st_global_b32(apart + mine, [1]);
            waits();
            act(mine);
        })
    };
    let load = |mine| {
        ld_global_b32(written + mine); // <- early load
    };
    let store = |mine| st_global_b32(written + mine, [0]); // <- early store
    let overwrite = |mine| st_global_b32(read + mine, [0]); // <- early overwrite
    assert_fails(second(|| {}, &load), Kind::MissingGridWait, "ld_global_b32", SOURCE, "early load");
    assert_fails(second(|| {}, &store), Kind::MissingGridWait, "st_global_b32", SOURCE, "early store");
    assert_fails(second(|| {}, &overwrite), Kind::MissingGridWait, "st_global_b32", SOURCE, "early overwrite");
    for act in [&load as &(dyn Fn(u64) + Sync), &store, &overwrite] {
        second(griddepcontrol_wait, act).unwrap();
    }
    // One thread waits, and a barrier tells the others.
    let one_waits = || {
        if thread_idx_x() == 0 {
            griddepcontrol_wait();
        }
        sync_threads();
    };
    second(one_waits, &load).unwrap();
    // A launch that is not early follows the previous one whole, and so does one after the host wrote.
    first();
    launch(&memory, &block(2), &Options::default(), &|| load(u64::from(thread_idx_x()) * 4)).unwrap();
    first();
    memory.write(written, &[0; 256]).unwrap();
    launch(&memory, &early, &Options::default(), &|| load(u64::from(thread_idx_x()) * 4)).unwrap();
}

#[test]
fn a_byte_races_with_its_word_and_not_with_its_neighbour() {
    let memory = Memory::new();
    let at = memory.alloc(6);
    // All bytes but the last, which is half of a word.
    let neighbours = launch(&memory, &block(1), &Options::default(), &|| {
        if thread_idx_x() < 5 {
            st_global_b8(at + u64::from(thread_idx_x()), 0x100 + thread_idx_x());
        }
    });
    neighbours.unwrap();
    let mut bytes = [0; 5];
    memory.read(at, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 1, 2, 3, 4]);
    let error = memory.read(at, &mut [0; 6]).unwrap_err();
    assert_eq!(error.kind, Kind::Uninitialised, "{error}");
    for byte in 0..4 {
        let outcome = launch(&memory, &block(1), &Options::default(), &|| match thread_idx_x() {
            3 => st_global_b8(at + byte, 1),
            9 => st_global_b32(at, [1]),
            _ => {}
        });
        assert_eq!(outcome.unwrap_err().kind, Kind::Race);
    }
    let outcome = launch(&memory, &block(1), &Options::default(), &|| {
        if thread_idx_x() == 0 {
            st_global_b8(at + 6, 1); // <- outside
        }
    });
    assert_fails(outcome, Kind::OutOfBounds, "st_global_b8", SOURCE, "outside");
}
