//! `tcgen05` misused, by kind and line: who owns which columns and lanes, and what is refused. What must be waited for and fenced is in `tensor_order.rs`.
mod common;
#[path = "common/tensor.rs"]
mod tensor;

use common::assert_against;
use cuda_std::sim::op::*;
use cuda_std::sim::{Error, Kind};
use tensor::{TILE, barrier, descriptor, finish, own, passes, prepare, run, shape, wait};

const SOURCE: &str = include_str!("tensor_memory.rs");

#[track_caller]
fn fails(kind: Kind, operation: &str, marker: &str, body: impl Fn() + Sync) -> Error {
    tensor::fails(SOURCE, 4, kind, operation, marker, body)
}

/// Thread 0 issues a product of ones, K = 16, to `at`.
#[track_caller]
fn ones(at: u32, add: bool) {
    tcgen05_mma_f16_ss(1, at, descriptor(0), descriptor(TILE), shape(128, 32), add);
}

/// The 32 columns of this warp's lanes.
#[track_caller]
fn load(at: u32) -> [u32; 32] {
    let mut registers = [0; 32];
    let load = tcgen05_ld_32x32b(own(at), &mut registers);
    tcgen05_wait_ld();
    tcgen05_take(load, &mut registers);
    registers
}

/// A product that all have waited for, fenced.
fn produce(at: u32) {
    if thread_idx_x() == 0 {
        ones(at, false);
        tcgen05_commit(1, barrier(0));
    }
    wait(barrier(0), 0);
    tcgen05_fence_after_thread_sync();
}

#[test]
fn products_add_up_and_are_loaded() {
    passes(4, || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            ones(at, false);
            ones(at, true);
            tcgen05_commit(1, barrier(0));
        }
        wait(barrier(0), 0);
        tcgen05_fence_after_thread_sync();
        assert_eq!(load(at), [32.0f32.to_bits(); 32]);
        // What a warp has stored is a product's to add to, after both fences.
        tcgen05_st_32x32b(own(at), &[thread_idx_x().wrapping_add(1) as f32; 32].map(f32::to_bits));
        tcgen05_wait_st();
        tcgen05_fence_before_thread_sync();
        sync_threads();
        if thread_idx_x() == 0 {
            tcgen05_fence_after_thread_sync();
            ones(at, true);
            tcgen05_commit(1, barrier(0));
        }
        wait(barrier(0), 1);
        tcgen05_fence_after_thread_sync();
        assert_eq!(load(at), [(thread_idx_x() as f32 + 17.0).to_bits(); 32]);
        finish(at, 32);
    });
}

#[test]
fn several_loads_share_a_wait() {
    passes(4, || {
        let at = prepare(32);
        produce(at);
        let (mut one, mut two) = ([0; 8], [0; 16]);
        let (first, second) = (tcgen05_ld_32x32b(own(at), &mut one), tcgen05_ld_32x32b(own(at) + 16, &mut two));
        assert!(one.iter().chain(&two).all(|&word| f32::from_bits(word).is_nan()));
        tcgen05_wait_ld();
        tcgen05_take(second, &mut two);
        tcgen05_take(first, &mut one);
        assert!(one.iter().chain(&two).all(|&word| word == 16.0f32.to_bits()));
        finish(at, 32);
    });
}

#[test]
fn allocations_are_powers_of_two_and_released() {
    fails(Kind::BadOperand, "tcgen05_alloc", "48 columns", || {
        if thread_idx_x() / 32 == 0 {
            tcgen05_alloc(1, dynamic_shared(), 48); // <- 48 columns
        }
    });
    let error = fails(Kind::Leak, "tcgen05_alloc", "kept", || {
        if thread_idx_x() / 32 == 2 {
            tcgen05_alloc(1, dynamic_shared(), 64); // <- kept
        }
    });
    assert_eq!(error.thread, 64, "{error}");
    let error = fails(Kind::BadOperand, "tcgen05_alloc", "too late", || {
        if thread_idx_x() / 32 == 0 {
            tcgen05_relinquish_alloc_permit(1); // <- given up
            tcgen05_alloc(1, dynamic_shared(), 64); // <- too late
        }
    });
    assert_against(&error, "tcgen05_relinquish_alloc_permit", SOURCE, "given up");
    fails(Kind::BadOperand, "tcgen05_alloc", "more than before", || {
        if thread_idx_x() / 32 == 0 {
            tcgen05_alloc(1, dynamic_shared(), 32);
            tcgen05_alloc(1, dynamic_shared() + 4, 64); // <- more than before
        }
    });
    fails(Kind::BadOperand, "tcgen05_dealloc", "not those", || {
        let at = prepare(64);
        if thread_idx_x() / 32 == 0 {
            tcgen05_dealloc(1, at, 32); // <- not those
        }
    });
    let error = fails(Kind::Deadlock, "tcgen05_alloc", "none left", || {
        if thread_idx_x() / 32 == 0 {
            tcgen05_alloc(1, dynamic_shared(), 512);
            tcgen05_alloc(1, dynamic_shared() + 4, 32); // <- none left
        } else {
            sync_threads();
        }
    });
    assert!(error.detail.contains("32 columns of tensor memory, of which the block has 512 of 512"), "{error}");
    fails(Kind::BadOperand, "tcgen05_alloc", "without a peer", || {
        if thread_idx_x() / 32 == 0 {
            tcgen05_alloc(2, dynamic_shared(), 32); // <- without a peer
        }
    });
    let error = fails(Kind::BadOperand, "tcgen05_relinquish_alloc_permit", "another group", || {
        if thread_idx_x() / 32 == 0 {
            tcgen05_alloc(1, dynamic_shared(), 32); // <- group
            tcgen05_relinquish_alloc_permit(2); // <- another group
        }
    });
    assert_against(&error, "tcgen05_alloc", SOURCE, "group");
}

#[test]
fn an_allocation_waits_for_a_release() {
    passes(4, || {
        let at = prepare(512);
        if thread_idx_x() / 32 == 0 {
            tcgen05_alloc(1, dynamic_shared() + tensor::ADDRESS + 4, 512);
            tcgen05_dealloc(1, 0, 512);
        }
        if thread_idx_x() / 32 == 1 {
            tcgen05_dealloc(1, at, 512);
        }
    });
}

#[test]
fn a_release_is_after_all_that_was_done() {
    let error = fails(Kind::InFlight, "tcgen05_dealloc", "under way", || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            ones(at, false); // <- product
            tcgen05_commit(1, barrier(0));
        }
        sync_threads();
        if thread_idx_x() / 32 == 0 {
            tcgen05_dealloc(1, at, 32); // <- under way
        }
    });
    assert_against(&error, "tcgen05_mma_f16_ss", SOURCE, "product");
    let error = fails(Kind::InFlight, "tcgen05_dealloc", "while loaded, too", || {
        let at = prepare(32);
        produce(at);
        let mut registers = [0; 32];
        let load = tcgen05_ld_32x32b(own(at), &mut registers); // <- still loading
        sync_threads();
        if thread_idx_x() / 32 == 1 {
            tcgen05_dealloc(1, at, 32); // <- while loaded, too
        }
        tcgen05_wait_ld();
        tcgen05_take(load, &mut registers);
    });
    assert_against(&error, "tcgen05_ld_32x32b", SOURCE, "still loading");
    // Without a barrier a load comes before or after the release, as the schedule has it.
    for error in run(4, || {
        let at = prepare(32);
        produce(at);
        if thread_idx_x() / 32 == 1 {
            tcgen05_dealloc(1, at, 32);
        } else if thread_idx_x() / 32 == 0 {
            load(at);
        }
    })
    .map(Result::unwrap_err)
    {
        assert!(matches!(error.kind, Kind::Race | Kind::OutOfBounds | Kind::InFlight), "{error}");
    }
}

#[test]
fn columns_are_in_an_allocation_and_lanes_the_warps_own() {
    fails(Kind::OutOfBounds, "tcgen05_ld_32x32b", "outside", || {
        let at = prepare(32);
        produce(at);
        tcgen05_ld_32x32b(own(at) + 16, &mut [0; 32]); // <- outside
    });
    fails(Kind::OutOfBounds, "tcgen05_mma_f16_ss", "wider", || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            tcgen05_mma_f16_ss(1, at, descriptor(0), descriptor(TILE), shape(128, 64), false); // <- wider
        }
        sync_threads();
    });
    fails(Kind::BadOperand, "tcgen05_ld_32x32b", "lanes of warp 0", || {
        let at = prepare(32);
        produce(at);
        sync_threads();
        if thread_idx_x() / 32 == 1 {
            tcgen05_ld_32x32b(at, &mut [0; 32]); // <- lanes of warp 0
        }
    });
    fails(Kind::BadOperand, "tcgen05_ld_32x32b", "not alike", || {
        let at = prepare(32);
        tcgen05_ld_32x32b(own(at) + u32::from(thread_idx_x() % 32 == 7), &mut [0; 8]); // <- not alike
    });
}

#[test]
fn nothing_is_added_to_what_was_never_written() {
    fails(Kind::Uninitialised, "tcgen05_mma_f16_ss", "to nothing", || {
        let at = prepare(32);
        if thread_idx_x() == 0 {
            ones(at, true); // <- to nothing
        }
    });
}

#[test]
fn descriptors_that_are_not_simulated_are_refused() {
    let refuse = |marker: &str, d: u32, a: u64, instruction: u32| {
        fails(Kind::BadOperand, "tcgen05_mma_f16_ss", marker, || {
            let at = prepare(256);
            if thread_idx_x() == 0 {
                tcgen05_mma_f16_ss(1, at + d, descriptor(0) ^ a, descriptor(TILE), instruction, false); // <- refused
            }
            sync_threads();
        })
    };
    for (d, a, instruction) in [
        (0, 1 << 46, shape(128, 32)),
        (0, 1 << 49, shape(128, 32)),
        (0, 1 << 52, shape(128, 32)),
        (0, 1 << 61, shape(128, 32)),
        (16 << 16, 0, shape(128, 32)),
        (32 << 16, 0, shape(64, 32)),
        (0, 0, shape(256, 32)),
        (0, 0, shape(128, 24)),
        (0, 0, shape(64, 0)),
        (0, 0, shape(128, 32) | 1 << 2),
        (0, 0, shape(128, 32) | 1 << 13),
        (0, 0, shape(128, 32) ^ 1 << 4),
        (0, 0, shape(128, 32) ^ 1 << 7),
        (0, 0, shape(128, 32) | 1 << 8),
    ] {
        refuse("refused", d, a, instruction);
    }
}
