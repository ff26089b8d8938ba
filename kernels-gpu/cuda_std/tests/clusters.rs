//! Clusters: their blocks run together, meet at their barrier, and reach each other's shared memory within its life.
mod common;

use common::{assert_against, assert_fails, block};
use cuda_std::sim::op::*;
use cuda_std::sim::{Error, Grid, Kind, Memory, Options, Report, launch};
use std::sync::Mutex;

const SOURCE: &str = include_str!("clusters.rs");

fn run(cluster: u32, body: &(dyn Fn() + Sync)) -> Result<Report, Error> {
    let grid = Grid { blocks: 2 * cluster, cluster, ..block(2) };
    launch(&Memory::new(), &grid, &Options::default(), body)
}

fn meet() {
    cluster_arrive();
    cluster_wait();
}

#[test]
fn blocks_of_a_cluster_have_ranks() {
    for cluster in [1, 2, 4, 8] {
        let seen = Mutex::new(Vec::new());
        run(cluster, &|| {
            assert_eq!((cluster_nctarank(), grid_dim_x(), block_dim_x()), (cluster, 2 * cluster, 64));
            assert_eq!(cluster_ctarank(), block_idx_x() % cluster);
            seen.lock().unwrap().push((block_idx_x(), thread_idx_x()));
        })
        .unwrap();
        let mut seen = seen.into_inner().unwrap();
        seen.sort();
        let all: Vec<_> = (0..2 * cluster).flat_map(|block| (0..64).map(move |thread| (block, thread))).collect();
        assert_eq!(seen, all);
    }
}

#[test]
fn clusters_that_no_device_takes_are_refused() {
    for (blocks, cluster, warps) in
        [(2, 0, 1), (3, 3, 1), (3, 2, 1), (6, 4, 1), (24, 16, 1), (32, 32, 1), (8, 8, 17), (16, 16, 9)]
    {
        let grid = Grid { blocks, cluster, ..block(warps) };
        let error = launch(&Memory::new(), &grid, &Options::default(), &|| {}).unwrap_err();
        assert_eq!(error.kind, Kind::BadOperand, "{error}");
    }
}

#[test]
fn shared_memory_of_others_is_read_and_written() {
    run(4, &|| {
        let (rank, me) = (cluster_ctarank(), thread_idx_x());
        let mine = dynamic_shared() + 16 * me;
        st_shared_v4_b32(mine, [rank, me, 0, 1]);
        meet();
        for other in 0..4 {
            assert_eq!(ld_shared_cluster_v4_b32(mapa(mine, other)), [other, me, 0, 1]);
        }
        let word = mapa(dynamic_shared() + 2048 + 4 * me, (rank + 1) % 4);
        st_shared_cluster_b32(word, [rank]);
        meet();
        assert_eq!(ld_shared_b32(dynamic_shared() + 2048 + 4 * me), [(rank + 3) % 4]);
        assert_eq!(ld_shared_cluster_b32(dynamic_shared() + 2048 + 4 * me), [(rank + 3) % 4]);
    })
    .unwrap();
}

#[test]
fn blocks_race_without_the_barrier() {
    let body = |arrive: fn()| {
        run(2, &move || {
            meet();
            let (rank, me) = (cluster_ctarank(), thread_idx_x());
            if rank == 0 {
                st_shared_b32(dynamic_shared() + 4 * me, [me]); // <- writes its own
            }
            arrive();
            cluster_wait();
            if rank == 1 {
                ld_shared_cluster_b32(mapa(dynamic_shared() + 4 * me, 0)); // <- reads the other's
            }
            meet();
        })
    };
    body(cluster_arrive).unwrap();
    let error =
        assert_fails(body(cluster_arrive_relaxed), Kind::Race, "ld_shared_cluster_b32", SOURCE, "reads the other's");
    assert_against(&error, "st_shared_b32", SOURCE, "writes its own");
    assert!(error.detail.contains("the other thread is of block"), "{error}");
}

#[test]
fn a_fence_of_shared_memory_orders_that_alone() {
    let memory = Memory::new();
    let words = memory.alloc(4 * 64);
    let body = |global: bool, late: bool| {
        let grid = Grid { blocks: 2, cluster: 2, ..block(2) };
        launch(&memory, &grid, &Options::default(), &|| {
            meet();
            let (first, me) = (cluster_ctarank() == 0, thread_idx_x());
            let (to, far) = (dynamic_shared() + 4 * me, words + 4 * u64::from(me));
            if first && !late {
                st_shared_b32(to, [me]);
            }
            if first && global {
                st_global_b32(far, [me]); // <- writes far
            }
            fence_release_shared();
            if first && late {
                st_shared_b32(to, [me]); // <- writes late
            }
            cluster_arrive_relaxed();
            cluster_wait();
            if !first {
                assert_eq!(ld_shared_cluster_b32(mapa(to, 0)), [me]); // <- reads near
                if global {
                    ld_global_b32(far); // <- reads far
                }
            }
            meet();
        })
    };
    body(false, false).unwrap();
    let far = assert_fails(body(true, false), Kind::Race, "ld_global_b32", SOURCE, "reads far");
    assert_against(&far, "st_global_b32", SOURCE, "writes far");
    let late = assert_fails(body(false, true), Kind::Race, "ld_shared_cluster_b32", SOURCE, "reads near");
    assert_against(&late, "st_shared_b32", SOURCE, "writes late");
}

#[test]
fn a_block_lives_as_long_as_others_reach_for_its_memory() {
    let body = |begin: bool, end: bool| {
        run(2, &move || {
            if begin {
                meet();
            }
            if cluster_ctarank() == 1 {
                st_shared_cluster_b32(mapa(dynamic_shared() + 4 * thread_idx_x(), 0), [1]); // <- reaches over
            }
            if end {
                meet();
            }
        })
    };
    body(true, true).unwrap();
    let early = assert_fails(body(false, true), Kind::Peer, "st_shared_cluster_b32", SOURCE, "reaches over");
    assert!(early.detail.contains("beginning"), "{early}");
    assert_fails(body(true, false), Kind::Peer, "st_shared_cluster_b32", SOURCE, "reaches over");
}

#[test]
fn a_load_from_another_block_has_been_made_when_its_thread_arrives() {
    let body = |load: bool, arrives: bool| {
        run(2, &move || {
            st_shared_b32(dynamic_shared() + 4 * thread_idx_x(), [0]);
            meet();
            let at = mapa(dynamic_shared() + 4 * thread_idx_x(), cluster_ctarank() ^ 1);
            if load {
                ld_shared_cluster_b32(at); // <- loads
            } else {
                st_shared_cluster_b32(at, [1]); // <- stores
            }
            if arrives {
                cluster_arrive_relaxed();
                cluster_wait();
            }
        })
    };
    body(true, true).unwrap();
    assert_fails(body(true, false), Kind::Peer, "ld_shared_cluster_b32", SOURCE, "loads");
    assert_fails(body(false, true), Kind::Peer, "st_shared_cluster_b32", SOURCE, "stores");
}

#[test]
fn an_mbarrier_of_another_block_takes_arrivals() {
    run(2, &|| {
        let (rank, me) = (cluster_ctarank(), thread_idx_x());
        let barrier = dynamic_shared() + 1024;
        if me == 0 {
            mbarrier_init(barrier, 64);
            fence_mbarrier_init();
        }
        meet();
        let word = mapa(dynamic_shared() + 4 * me, rank ^ 1);
        st_shared_cluster_b32(word, [10 * rank + me]);
        mbarrier_arrive_cluster(mapa(barrier, rank ^ 1));
        while !mbarrier_try_wait_parity(barrier, 0) {}
        assert_eq!(ld_shared_b32(dynamic_shared() + 4 * (me ^ 1)), [10 * (rank ^ 1) + (me ^ 1)]);
        meet();
    })
    .unwrap();
}

#[test]
fn an_initialisation_is_fenced_and_then_arrived_behind() {
    // Nothing but the initialisation is handed on by a relaxed arrival: what was stored is not.
    let body = |fence: fn(), stores: bool| {
        run(2, &move || {
            let (me, barrier) = (thread_idx_x(), dynamic_shared() + 3072);
            if me == 0 {
                mbarrier_init(barrier, 1);
                st_shared_b32(dynamic_shared() + 2048, [7]);
                fence();
                mbarrier_arrive_expect_tx(barrier, 64 * 16);
            }
            cluster_arrive_relaxed();
            cluster_wait();
            let there = |address: u32| mapa(address, cluster_ctarank() ^ 1);
            if stores {
                ld_shared_cluster_b32(there(dynamic_shared() + 2048)); // <- what was stored
            }
            st_async_v4_b32(there(dynamic_shared() + 16 * me), [me; 4], there(barrier)); // <- sends
            bar_warp_sync(u32::MAX);
            while !mbarrier_try_wait_parity_cluster(barrier, 0) {}
            assert_eq!(ld_shared_b32(dynamic_shared() + 16 * me), [me]);
        })
    };
    body(fence_mbarrier_init, false).unwrap();
    assert_fails(body(fence_mbarrier_init, true), Kind::Race, "ld_shared_cluster_b32", SOURCE, "what was stored");
    assert_fails(body(|| {}, false), Kind::Race, "st_async_v4_b32", SOURCE, "sends");
}

/// Each thread gives the one at its place in the other block 8 and 16 bytes, twice; the words are `rank`, thread and number.
fn told(observe: bool, before: bool) -> Result<Report, Error> {
    run(2, &move || {
        let (rank, me) = (cluster_ctarank(), thread_idx_x());
        let (barrier, place) = (dynamic_shared() + 3072, dynamic_shared() + 32 * me);
        if me == 0 {
            mbarrier_init(barrier, 1);
            fence_mbarrier_init();
        }
        meet();
        let there = |address: u32| mapa(address, rank ^ 1);
        for round in 0..2 {
            if me == 0 {
                mbarrier_arrive_expect_tx(barrier, 64 * 24);
            }
            st_async_v4_b32(there(place), [rank, me, round, 1], there(barrier)); // <- gives four
            st_async_v2_b32(there(place + 16), [rank ^ 1, me + round], there(barrier));
            if observe {
                while !mbarrier_try_wait_parity(barrier, round) {}
            } else {
                meet();
            }
            assert_eq!(ld_shared_v4_b32(place), [rank ^ 1, me, round, 1]); // <- reads four
            assert_eq!(ld_shared_b32(place + 16)[0], rank);
            // Without it the other block may give the next before this one has read these.
            if before {
                meet();
            }
        }
        meet();
    })
}

#[test]
fn asynchronous_stores_arrive_with_their_bytes_and_are_owned_until_observed() {
    told(true, true).unwrap();
    assert_fails(told(false, true), Kind::InFlight, "ld_shared_v4_b32", SOURCE, "reads four");
    assert_fails(told(true, false), Kind::InFlight, "st_async_v4_b32", SOURCE, "gives four");
}

#[test]
fn addresses_are_the_cluster_s_or_the_block_s() {
    let rank = run(2, &|| {
        mapa(dynamic_shared(), 2); // <- rank 2 of 2
    });
    assert_fails(rank, Kind::BadOperand, "mapa", SOURCE, "rank 2 of 2");
    let window = run(2, &|| {
        ld_shared_b32(mapa(dynamic_shared(), 0)); // <- not in its window
    });
    assert_fails(window, Kind::OutOfBounds, "ld_shared_b32", SOURCE, "not in its window");
    let outside = run(2, &|| {
        meet();
        ld_shared_cluster_b32(mapa(dynamic_shared() + 4096, 1)); // <- past the other's end
    });
    assert_fails(outside, Kind::OutOfBounds, "ld_shared_cluster_b32", SOURCE, "past the other's end");
}

#[test]
fn arrivals_and_waits_take_turns() {
    let twice = run(2, &|| {
        cluster_arrive();
        cluster_arrive(); // <- arrives again
    });
    assert_fails(twice, Kind::BarrierMismatch, "cluster_arrive", SOURCE, "arrives again");
    let unarrived = run(2, &|| cluster_wait()); // <- waits only
    assert_fails(unarrived, Kind::BarrierMismatch, "cluster_wait", SOURCE, "waits only");
}

#[test]
fn threads_that_have_exited_are_not_waited_for() {
    run(2, &|| {
        if cluster_ctarank() == 0 && thread_idx_x() < 32 {
            return;
        }
        meet();
    })
    .unwrap();
}

#[test]
fn a_deadlock_names_the_blocks() {
    let outcome = run(2, &|| {
        if cluster_ctarank() == 1 {
            bar_sync(1 + thread_idx_x() / 32, 64); // <- never meet
        }
        cluster_arrive();
        cluster_wait(); // <- waits for the other block
    });
    let error = assert_fails(outcome, Kind::Deadlock, "cluster_wait", SOURCE, "waits for the other block");
    let block = error.block + 1;
    assert!(error.detail.contains(&format!("thread 0 of block {block} at bar_sync")), "{error}");
    assert!(error.detail.contains(&format!("thread 32 of block {block} at bar_sync")), "{error}");
}
