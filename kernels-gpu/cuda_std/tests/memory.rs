//! Bounds, alignment and initialisation of both memories, and the host's side of global memory.
mod common;

use common::{assert_fails, block, run};
use cuda_std::sim::op::*;
use cuda_std::sim::{Kind, Memory, Options, launch};

const SOURCE: &str = include_str!("memory.rs");

fn words(values: impl IntoIterator<Item = u32>) -> Vec<u8> {
    values.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[test]
fn loads_and_stores_of_every_width_move_their_words() {
    let memory = Memory::new();
    let (source, target) = (memory.alloc(32 * 28), memory.alloc(32 * 32));
    memory.write(source, &words(0..32 * 7)).unwrap();
    launch(&memory, &block(1), &Options::default(), &|| {
        let (lane, shared) = (u64::from(thread_idx_x()), dynamic_shared());
        let [a] = ld_global_b32(source + lane * 4);
        let [b, c] = ld_global_v2_b32(source + 128 + lane * 8);
        let d = ld_global_v4_b32(source + 384 + lane * 16);
        st_shared_b32(shared + thread_idx_x() * 4, [a]);
        st_shared_v4_b32(shared + 128 + thread_idx_x() * 16, d);
        let [a] = ld_shared_b32(shared + thread_idx_x() * 4);
        let d = ld_shared_v4_b32(shared + 128 + thread_idx_x() * 16);
        st_global_b32(target + lane * 32, [a]);
        st_global_b32(target + lane * 32 + 4, [lane as u32]);
        st_global_v2_b32(target + lane * 32 + 8, [b, c]);
        st_global_v4_b32(target + lane * 32 + 16, d);
    })
    .unwrap();
    let mut found = vec![0; 32 * 32];
    memory.read(target, &mut found).unwrap();
    let expected = (0..32).flat_map(|i| [i, i, 32 + 2 * i, 33 + 2 * i, 96 + 4 * i, 97 + 4 * i, 98 + 4 * i, 99 + 4 * i]);
    assert_eq!(found, words(expected));
}

#[test]
fn an_access_past_an_allocation_is_out_of_bounds() {
    let memory = Memory::new();
    let (address, neighbour) = (memory.alloc(256), memory.alloc(1 << 20));
    memory.write(address, &[1; 256]).unwrap();
    let error = assert_fails(
        launch(&memory, &block(1), &Options::default(), &|| {
            ld_global_v4_b32(address + u64::from(thread_idx_x()) * 16); // <- past the end
        }),
        Kind::OutOfBounds,
        "ld_global_v4_b32",
        SOURCE,
        "past the end",
    );
    assert!(error.thread >= 16 && error.detail.contains("allocation of 256 bytes"), "{error}");
    let before_the_start = launch(&memory, &block(1), &Options::default(), &|| {
        st_global_b32(neighbour - 4, [0]); // <- before the start
    });
    assert_fails(before_the_start, Kind::OutOfBounds, "st_global_b32", SOURCE, "before the start");
    let null = launch(&memory, &block(1), &Options::default(), &|| {
        ld_global_b32(0); // <- null
    });
    assert_fails(null, Kind::OutOfBounds, "ld_global_b32", SOURCE, "null");
}

#[test]
fn an_access_outside_shared_memory_is_out_of_bounds() {
    let past = run(1, &|| {
        st_shared_b32(dynamic_shared() + 4096 - 31 * 4 + thread_idx_x() * 4, [0]); // <- past shared
    });
    assert_eq!(assert_fails(past, Kind::OutOfBounds, "st_shared_b32", SOURCE, "past shared").thread, 31);
    let below = run(1, &|| {
        st_shared_b32(0, [0]); // <- below shared
    });
    assert_fails(below, Kind::OutOfBounds, "st_shared_b32", SOURCE, "below shared");
}

#[test]
fn a_freed_allocation_is_out_of_bounds() {
    let memory = Memory::new();
    let address = memory.alloc(64);
    memory.write(address, &[0; 64]).unwrap();
    memory.free(address).unwrap();
    let error = assert_fails(
        launch(&memory, &block(1), &Options::default(), &|| {
            ld_global_b32(address); // <- freed
        }),
        Kind::OutOfBounds,
        "ld_global_b32",
        SOURCE,
        "freed",
    );
    assert!(error.detail.contains("freed"), "{error}");
}

#[test]
fn misaligned_accesses_are_reported() {
    let memory = Memory::new();
    let address = memory.alloc(256);
    memory.write(address, &[0; 256]).unwrap();
    let global = launch(&memory, &block(1), &Options::default(), &|| {
        ld_global_v4_b32(address + 8); // <- global by 8
    });
    assert_fails(global, Kind::Misaligned, "ld_global_v4_b32", SOURCE, "global by 8");
    let shared = run(1, &|| {
        st_shared_v4_b32(dynamic_shared() + 4, [0; 4]); // <- shared by 4
    });
    assert_fails(shared, Kind::Misaligned, "st_shared_v4_b32", SOURCE, "shared by 4");
}

#[test]
fn bytes_that_nothing_was_written_to_cannot_be_read() {
    let memory = Memory::new();
    let address = memory.alloc(4096);
    memory.write(address, &[0; 2047]).unwrap();
    memory.write(address + 2048, &[0; 2048]).unwrap();
    let error = assert_fails(
        launch(&memory, &block(1), &Options::default(), &|| {
            ld_global_v4_b32(address + 2032); // <- one byte missing
        }),
        Kind::Uninitialised,
        "ld_global_v4_b32",
        SOURCE,
        "one byte missing",
    );
    assert!(error.detail.contains(&format!("{:#x}", address + 2047)), "{error}");
    memory.write(address + 2047, &[0]).unwrap();
    launch(&memory, &block(1), &Options::default(), &|| {
        ld_global_v4_b32(address + 2032);
    })
    .unwrap();
    let shared = run(1, &|| {
        if thread_idx_x() == 0 {
            st_shared_b32(dynamic_shared(), [7]);
        }
        bar_warp_sync(u32::MAX);
        ld_shared_b32(dynamic_shared());
        ld_shared_v4_b32(dynamic_shared()); // <- 12 of 16 missing
    });
    assert_fails(shared, Kind::Uninitialised, "ld_shared_v4_b32", SOURCE, "12 of 16 missing");
}

#[test]
fn shared_memory_of_the_next_block_is_uninitialised_again() {
    let grid = cuda_std::sim::Grid { blocks: 2, ..block(1) };
    let outcome = launch(&Memory::new(), &grid, &Options::default(), &|| {
        let mine = dynamic_shared() + thread_idx_x() * 4;
        if block_idx_x() == 0 {
            st_shared_b32(mine, [1]);
        }
        ld_shared_b32(mine); // <- left by another block
    });
    let error = assert_fails(outcome, Kind::Uninitialised, "ld_shared_b32", SOURCE, "left by another block");
    assert_eq!(error.block, 1);
}

#[test]
fn the_host_reads_back_what_it_wrote_and_nothing_else() {
    let memory = Memory::new();
    let address = memory.alloc(5000);
    assert_eq!(address % 256, 0);
    let bytes: Vec<u8> = (0..4999u32).map(|i| (i % 251) as u8).collect();
    memory.write(address + 1, &bytes).unwrap();
    let mut found = vec![0; 4999];
    memory.read(address + 1, &mut found).unwrap();
    assert_eq!(found, bytes);
    let error = memory.read(address, &mut found).unwrap_err();
    assert_eq!((error.kind, error.kernel.as_str()), (Kind::Uninitialised, "host"));
    assert!(error.location.unwrap().file().ends_with("memory.rs"), "{error}");
    assert_eq!(memory.write(address + 2, &bytes).unwrap_err().kind, Kind::OutOfBounds);
    assert_eq!(memory.read(address + 4999, &mut [0; 2]).unwrap_err().kind, Kind::OutOfBounds);
}

#[test]
fn live_allocations_are_counted_and_freed_once() {
    let memory = Memory::new();
    let (a, b) = (memory.alloc(0), memory.alloc(100));
    assert_eq!(memory.live_allocations(), 2);
    assert_eq!(memory.free(b + 4).unwrap_err().kind, Kind::OutOfBounds);
    memory.free(a).unwrap();
    assert_eq!(memory.free(a).unwrap_err().kind, Kind::OutOfBounds);
    assert_eq!(memory.live_allocations(), 1);
}
