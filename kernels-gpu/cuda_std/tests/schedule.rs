//! Launches: every thread runs once, errors and panics end cleanly, bounds hold, and a seed gives one outcome.
mod common;

use common::{assert_fails, block, run};
use cuda_std::sim::op::*;
use cuda_std::sim::{Grid, Kind, Memory, Options, launch};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const SOURCE: &str = include_str!("schedule.rs");

#[test]
fn every_thread_of_every_block_runs_once() {
    for workers in [1, 3] {
        let grid = Grid { blocks: 7, ..block(3) };
        let seen = Mutex::new(Vec::new());
        let report = launch(&Memory::new(), &grid, &Options { workers, ..Options::default() }, &|| {
            assert_eq!((block_dim_x(), grid_dim_x()), (96, 7));
            let me = (block_idx_x(), thread_idx_x());
            seen.lock().unwrap().push(me);
        })
        .unwrap();
        let mut seen = seen.into_inner().unwrap();
        seen.sort();
        let all: Vec<_> = (0..7).flat_map(|block| (0..96).map(move |thread| (block, thread))).collect();
        assert_eq!(seen, all);
        assert_eq!(report.operations, 7 * 96 * 4);
        assert_eq!(report.counts["thread_idx_x"], 7 * 96);
        assert_eq!(report.counts.values().sum::<u64>(), report.operations);
        assert!(!report.counts.contains_key("sync_threads"));
    }
}

#[test]
fn the_seed_chooses_the_order() {
    let order = |seed| {
        let order = Mutex::new(Vec::new());
        let grid = Grid { blocks: 16, ..block(2) };
        launch(&Memory::new(), &grid, &Options { seed, ..Options::default() }, &|| {
            order.lock().unwrap().push((block_idx_x(), thread_idx_x()));
            sync_threads();
            order.lock().unwrap().push((block_idx_x(), thread_idx_x()));
        })
        .unwrap();
        order.into_inner().unwrap()
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
}

#[test]
fn the_same_seed_gives_the_same_error() {
    let race = |seed| {
        let memory = Memory::new();
        let address = memory.alloc(4);
        let grid = Grid { blocks: 8, ..block(2) };
        launch(&memory, &grid, &Options { seed, ..Options::default() }, &|| {
            st_global_b32(address, [block_idx_x()]); // <- all blocks
        })
        .unwrap_err()
        .to_string()
    };
    assert_eq!(race(5), race(5));
    assert!((0..20).any(|seed| race(seed) != race(5)));
}

#[test]
fn a_panic_in_the_body_is_an_error_with_its_line() {
    let values = [1, 2, 3];
    let outcome = run(2, &|| {
        let index = thread_idx_x() as usize;
        sync_threads();
        if index > 30 {
            std::hint::black_box(values[index]); // <- out of range
        }
        sync_threads();
    });
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, Kind::Panic, "{error}");
    assert_eq!(error.location.unwrap().line(), common::line(SOURCE, "out of range"));
    assert!(error.detail.contains("index out of bounds: the len is 3"), "{error}");
    let text = run(1, &|| panic!("thread {}", thread_idx_x())).unwrap_err(); // Formatted: a `String` payload.
    assert_eq!(text.detail, format!("thread {}", text.thread));
}

#[test]
fn what_abandoned_threads_own_is_dropped() {
    struct Counted<'a>(&'a AtomicUsize);
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let alive = AtomicUsize::new(0);
    for _ in 0..3 {
        let outcome = run(4, &|| {
            alive.fetch_add(1, Ordering::Relaxed);
            let _counted = Counted(&alive);
            sync_threads();
            if thread_idx_x() == 77 {
                st_shared_b32(0, [0]); // <- the error
            }
            sync_threads();
        });
        assert_fails(outcome, Kind::OutOfBounds, "st_shared_b32", SOURCE, "the error");
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn an_endless_loop_meets_its_bound() {
    let options = Options { max_operations: 10_000, ..Options::default() };
    let outcome = launch(&Memory::new(), &block(1), &options, &|| {
        loop {
            bar_warp_sync(u32::MAX); // <- endless
        }
    });
    assert_fails(outcome, Kind::BoundExceeded, "bar_warp_sync", SOURCE, "endless");
    // The bound is a block's, not the launch's.
    let grid = Grid { blocks: 100, ..block(1) };
    let options = Options { max_operations: 64, ..Options::default() };
    launch(&Memory::new(), &grid, &options, &|| {
        thread_idx_x();
        block_idx_x();
    })
    .unwrap();
}

#[test]
fn launches_that_no_device_takes_are_refused() {
    for (grid, text) in [
        (Grid { blocks: 0, ..block(1) }, "blocks is 0"),
        (Grid { blocks: 1 << 21, ..block(1) }, "blocks is 2097152"),
        (Grid { threads: 0, ..block(1) }, "threads is 0"),
        (Grid { threads: 48, ..block(1) }, "threads is 48"),
        (Grid { threads: 1056, ..block(1) }, "threads is 1056"),
        (Grid { shared_bytes: 232_449, ..block(1) }, "shared_bytes is 232449"),
    ] {
        let error = launch(&Memory::new(), &grid, &Options::default(), &|| {}).unwrap_err();
        assert_eq!(error.kind, Kind::BadOperand);
        assert!(error.detail.contains(text), "{error}");
    }
    let nested = run(1, &|| {
        let error = run(1, &|| {}).unwrap_err();
        assert_eq!(error.kind, Kind::BadOperand);
    });
    nested.unwrap();
}

#[test]
fn an_error_reads_as_one_line() {
    let memory = Memory::new();
    let address = memory.alloc(4);
    let error = launch(&memory, &Grid { name: "decode_d64", ..block(1) }, &Options::default(), &|| {
        st_global_b32(address, [1]); // <- one line
    })
    .unwrap_err();
    let (line, file) = (common::line(SOURCE, "one line"), file!());
    let text = format!(
        "race: decode_d64 block 0 thread {}, st_global_b32 at {file}:{line}:9; \
         other: thread {}, st_global_b32 at {file}:{line}:9; global {address:#x}",
        error.thread,
        error.other.unwrap().0
    );
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_thousand_threads_and_the_largest_shared_memory_fit() {
    let grid = Grid { name: "large", blocks: 2, threads: 1024, shared_bytes: 227 << 10, early: false, cluster: 1 };
    launch(&Memory::new(), &grid, &Options { workers: 2, ..Options::default() }, &|| {
        let mine = dynamic_shared() + thread_idx_x() * 227;
        let mine = mine.next_multiple_of(4);
        st_shared_b32(mine, [thread_idx_x()]);
        sync_threads();
        assert_eq!(ld_shared_b32(mine), [thread_idx_x()]);
    })
    .unwrap();
}
