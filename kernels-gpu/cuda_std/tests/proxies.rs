//! What the asynchronous proxy sees of generic writes: with `fence.proxy.async` by the writer and an order, and not without.
mod common;

use common::{assert_against, assert_fails, block};
use cuda_std::sim::op::*;
use cuda_std::sim::{Error, Kind, Memory, Options, Report, launch};

const SOURCE: &str = include_str!("proxies.rs");

fn barrier() -> u32 {
    dynamic_shared() + 2048
}

#[track_caller]
fn wait(address: u32, parity: u32) {
    while !mbarrier_try_wait_parity(address, parity) {}
}

fn run(body: impl Fn(u32, u64) + Sync) -> Result<Report, Error> {
    let memory = Memory::new();
    let from = memory.alloc(1024);
    memory.write(from, &[7; 1024]).unwrap();
    launch(&memory, &block(2), &Options::default(), &|| body(thread_idx_x(), from))
}

#[test]
fn an_mbarrier_s_initialisation_must_show() {
    let body = |fence: fn()| {
        run(move |me, from| {
            if me == 0 {
                mbarrier_init(barrier(), 1); // <- initialised
                fence();
                mbarrier_arrive_expect_tx(barrier(), 16);
                cp_async_bulk(dynamic_shared(), from, 16, barrier()); // <- completes on it
                wait(barrier(), 0);
            }
        })
    };
    body(|| fence_mbarrier_init()).unwrap();
    body(|| fence_proxy_async_shared()).unwrap();
    let error = assert_fails(body(|| {}), Kind::MissingProxyFence, "cp_async_bulk", SOURCE, "completes on it");
    assert_against(&error, "mbarrier_init", SOURCE, "initialised");
}

/// Every thread writes 16 bytes, which a copy by thread 0 then overwrites: `fences[0]` before the barrier, `[1]` after it,
/// by thread 0 alone.
fn overwritten(fences: [fn(); 2]) -> Result<Report, Error> {
    run(move |me, from| {
        if me == 0 {
            mbarrier_init(barrier(), 1);
            fence_mbarrier_init();
        }
        st_shared_v4_b32(dynamic_shared() + 16 * me, [me; 4]); // <- a generic write
        fences[0]();
        sync_threads();
        if me == 0 {
            fences[1]();
            mbarrier_arrive_expect_tx(barrier(), 1024);
            cp_async_bulk(dynamic_shared(), from, 1024, barrier()); // <- an asynchronous one
        }
        wait(barrier(), 0);
        assert_eq!(ld_shared_v4_b32(dynamic_shared() + 16 * (me ^ 32)), [0x0707_0707; 4]);
    })
}

#[test]
fn the_writer_fences_before_it_is_ordered() {
    overwritten([|| fence_proxy_async_shared(), || {}]).unwrap();
    overwritten([|| fence_proxy_async(), || {}]).unwrap();
    for fences in [[|| {}, || {}], [|| {}, || fence_proxy_async()], [|| fence_mbarrier_init(), || {}]] {
        let outcome = overwritten(fences);
        let error = assert_fails(outcome, Kind::MissingProxyFence, "cp_async_bulk", SOURCE, "an asynchronous one");
        assert_against(&error, "st_shared_v4_b32", SOURCE, "a generic write");
    }
}

#[test]
fn a_fence_covers_what_came_before_it() {
    let body = |again: bool| {
        run(move |me, from| {
            if me == 0 {
                mbarrier_init(barrier(), 1);
                fence_proxy_async_shared();
                st_shared_b32(dynamic_shared(), [1]); // <- after the fence
                if again {
                    fence_proxy_async_shared();
                }
                mbarrier_arrive_expect_tx(barrier(), 16);
                cp_async_bulk(dynamic_shared(), from, 16, barrier()); // <- after the write
                wait(barrier(), 0);
            }
        })
    };
    body(true).unwrap();
    assert_fails(body(false), Kind::MissingProxyFence, "cp_async_bulk", SOURCE, "after the write");
}

#[test]
fn global_writes_of_the_same_launch_must_show() {
    let body = |fence: fn()| {
        run(move |me, from| {
            if me == 0 {
                mbarrier_init(barrier(), 1);
                st_global_b32(from + 8, [9]); // <- writes the source
                fence();
                fence_mbarrier_init();
                mbarrier_arrive_expect_tx(barrier(), 16);
                cp_async_bulk(dynamic_shared(), from, 16, barrier()); // <- copies it
                wait(barrier(), 0);
                assert_eq!(ld_shared_b32(dynamic_shared() + 8), [9]);
            }
        })
    };
    body(|| fence_proxy_async()).unwrap();
    for fence in [|| {}, || fence_proxy_async_shared()] {
        let error = assert_fails(body(fence), Kind::MissingProxyFence, "cp_async_bulk", SOURCE, "copies it");
        assert_against(&error, "st_global_b32", SOURCE, "writes the source");
    }
}

#[test]
fn what_arrived_asynchronously_needs_no_fence() {
    run(|me, from| {
        if me == 0 {
            mbarrier_init(barrier(), 1);
            fence_mbarrier_init();
            for round in 0..3 {
                mbarrier_arrive_expect_tx(barrier(), 32);
                cp_async_bulk(dynamic_shared(), from, 32, barrier());
                wait(barrier(), round & 1);
                assert_eq!(ld_shared_b32(dynamic_shared() + 28), [0x0707_0707]);
            }
        }
    })
    .unwrap();
}
