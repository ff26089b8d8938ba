//! `tcgen05` by pairs of blocks (`cta_group::2`), misused: both must allocate and release, each has its own half, and what
//! either does in tensor memory must have ended before the other goes on.
mod common;

use common::{assert_fails, delivering};
use cuda_std::sim::op::*;
use cuda_std::sim::{Delivery, Error, Grid, Kind, Memory, Report, launch};

const SOURCE: &str = include_str!("tensor_pairs.rs");
/// A of 64 rows and B of 32, 128 bytes each, K-major.
const B: u32 = 64 * 128;
const ADDRESS: u32 = B + 32 * 128;
const BARRIER: u32 = ADDRESS + 8;
/// 128 × 64, bf16, of both blocks.
const SHAPE: u32 = 1 << 4 | 1 << 7 | 1 << 10 | (64 / 8) << 17 | (128 / 16) << 24;

fn run(body: impl Fn() + Sync) -> [Result<Report, Error>; 2] {
    [Delivery::Earliest, Delivery::Latest].map(|delivery| {
        let grid =
            Grid { name: "kernel", blocks: 2, threads: 128, shared_bytes: BARRIER + 8, early: false, cluster: 2 };
        launch(&Memory::new(), &grid, &delivering(delivery), &body)
    })
}

#[track_caller]
fn fails(kind: Kind, operation: &str, marker: &str, body: impl Fn() + Sync) -> Error {
    let [earliest, latest] = run(body);
    assert_fails(earliest, kind, operation, SOURCE, marker);
    assert_fails(latest, kind, operation, SOURCE, marker)
}

fn meet() {
    cluster_arrive();
    cluster_wait();
}

fn shared(offset: u32) -> u32 {
    dynamic_shared() + offset
}

fn descriptor(offset: u32) -> u64 {
    u64::from(shared(offset) >> 4) | 64 << 32 | 1 << 46 | 2 << 61
}

fn wait() {
    while !mbarrier_try_wait_parity(shared(BARRIER), 0) {}
}

fn is_lead() -> bool {
    cluster_ctarank() == 0 && thread_idx_x() == 0
}

fn is_first_warp() -> bool {
    thread_idx_x() < 32
}

/// Tiles of ones in both blocks, an mbarrier of one arrival in each, 32 columns of both.
fn prepare() -> u32 {
    for word in (thread_idx_x()..ADDRESS / 4).step_by(128) {
        st_shared_b32(shared(4 * word), [0x3F80_3F80]);
    }
    if thread_idx_x() == 0 {
        mbarrier_init(shared(BARRIER), 1);
    }
    fence_proxy_async();
    meet();
    if is_first_warp() {
        tcgen05_alloc(2, shared(ADDRESS), 32);
    }
    meet();
    ld_shared_b32(shared(ADDRESS))[0]
}

#[track_caller]
fn ones(at: u32) {
    tcgen05_mma_f16_ss(2, at, descriptor(0), descriptor(B), SHAPE, false);
}

#[track_caller]
fn load(at: u32) -> [u32; 32] {
    let mut registers = [0; 32];
    let load = tcgen05_ld_32x32b(at + ((thread_idx_x() / 32 * 32) << 16), &mut registers);
    tcgen05_wait_ld();
    tcgen05_take(load, &mut registers);
    registers
}

#[test]
fn both_blocks_have_their_half() {
    for outcome in run(|| {
        let at = prepare();
        if is_lead() {
            ones(at);
            tcgen05_commit_multicast(2, shared(BARRIER), 0b11);
        }
        wait();
        tcgen05_fence_after_thread_sync();
        assert_eq!(load(at), [16.0f32.to_bits(); 32]);
        sync_threads();
        if is_first_warp() {
            tcgen05_dealloc(2, at, 32);
        }
    }) {
        outcome.unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn both_blocks_allocate_and_release() {
    let error = fails(Kind::Deadlock, "tcgen05_alloc", "alone", || {
        meet();
        if is_first_warp() && cluster_ctarank() == 0 {
            tcgen05_alloc(2, shared(ADDRESS), 32); // <- alone
        }
        meet();
    });
    assert!(error.detail.contains("a warp of the peer at the same operation"), "{error}");
    fails(Kind::Deadlock, "tcgen05_dealloc", "released alone", || {
        let at = prepare();
        if is_first_warp() && cluster_ctarank() == 0 {
            tcgen05_dealloc(2, at, 32); // <- released alone
        }
        meet();
    });
    fails(Kind::Peer, "tcgen05_alloc", "before the peer is known", || {
        if is_first_warp() {
            tcgen05_alloc(2, shared(ADDRESS), 32); // <- before the peer is known
        }
    });
}

#[test]
fn the_peer_observes_the_commit_too() {
    // A barrier of the cluster says that the product was issued, not that it has ended.
    fails(Kind::InFlight, "tcgen05_ld_32x32b", "not told", || {
        let at = prepare();
        if is_lead() {
            ones(at);
            tcgen05_commit(2, shared(BARRIER));
        }
        meet();
        if cluster_ctarank() == 1 {
            tcgen05_fence_after_thread_sync();
            load(at); // <- not told
        }
        meet();
    });
    fails(Kind::InFlight, "st_shared_b32", "of the peer", || {
        let at = prepare();
        if is_lead() {
            ones(at);
            tcgen05_commit(2, shared(BARRIER));
        }
        meet();
        if cluster_ctarank() == 1 {
            st_shared_b32(shared(4 * thread_idx_x()), [0]); // <- of the peer
        }
        meet();
    });
    fails(Kind::Leak, "tcgen05_commit_multicast", "one block does not look", || {
        let at = prepare();
        if is_lead() {
            ones(at);
            tcgen05_commit_multicast(2, shared(BARRIER), 0b11); // <- one block does not look
        }
        if cluster_ctarank() == 0 {
            wait();
        }
        meet();
        if is_first_warp() {
            tcgen05_dealloc(2, at, 32);
        }
    });
}

#[test]
fn operands_of_both_blocks_are_fenced() {
    let error = fails(Kind::MissingProxyFence, "tcgen05_mma_f16_ss", "rewritten there", || {
        let at = prepare();
        if cluster_ctarank() == 1 {
            st_shared_b32(shared(4 * thread_idx_x()), [0]);
        }
        meet();
        if is_lead() {
            ones(at); // <- rewritten there
        }
        meet();
    });
    assert_eq!(error.other.map(|(_, operation, _)| operation), Some("st_shared_b32"), "{error}");
}

#[test]
fn ranks_are_of_the_cluster() {
    for ranks in [0, 0b100] {
        fails(Kind::BadOperand, "tcgen05_commit_multicast", "no such rank", || {
            prepare();
            if is_lead() {
                tcgen05_commit_multicast(2, shared(BARRIER), ranks); // <- no such rank
            }
        });
    }
}
