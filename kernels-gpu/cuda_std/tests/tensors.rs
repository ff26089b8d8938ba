//! Tensor copies: boxes at any place, swizzled and not, zeros outside, against a plain loop; misuse by kind and line.
mod common;

use common::{assert_fails, block, delivering};
use cuda_std::sim::op::*;
use cuda_std::sim::{Delivery, Error, Grid, Kind, Memory, Report, TiledMap, launch};

const SOURCE: &str = include_str!("tensors.rs");

/// Bytes of the tensor's allocation, byte i holding `filling(i)`.
const TENSOR: usize = 1 << 16;

fn filling(i: u64) -> u8 {
    (i % 251 + 1) as u8
}

fn barrier() -> u32 {
    dynamic_shared() + 8192
}

fn map(element_bytes: u32, sizes: &[u64], strides: &[u64], box_sizes: &[u32], swizzle: u32) -> TiledMap {
    let mut map = TiledMap {
        address: 0,
        rank: sizes.len() as u32,
        element_bytes,
        sizes: [1; 5],
        strides: [0; 4],
        box_sizes: [1; 5],
        swizzle,
    };
    map.sizes[..sizes.len()].copy_from_slice(sizes);
    map.strides[..strides.len()].copy_from_slice(strides);
    map.box_sizes[..box_sizes.len()].copy_from_slice(box_sizes);
    map
}

/// The tile, by a plain loop over its bytes.
fn expected(map: &TiledMap, coordinates: &[i32]) -> Vec<u8> {
    let row = (map.box_sizes[0] * map.element_bytes) as usize;
    let bytes: usize = map.box_sizes.iter().map(|&size| size as usize).product::<usize>() * map.element_bytes as usize;
    let mut tile = vec![0; bytes];
    for at in 0..bytes {
        let mut rest = at / map.element_bytes as usize;
        let mut from = (at % map.element_bytes as usize) as i64;
        let mut inside = true;
        for (dimension, &coordinate) in coordinates.iter().enumerate() {
            let size = map.box_sizes[dimension] as usize;
            let index = i64::from(coordinate) + (rest % size) as i64;
            rest /= size;
            inside &= index >= 0 && index < map.sizes[dimension] as i64;
            let stride = if dimension == 0 { u64::from(map.element_bytes) } else { map.strides[dimension - 1] };
            from += index * stride as i64;
        }
        // Tiles here are at multiples of 1024: a row's number says how its chunks are exchanged.
        let (place, chunk) = (at / 128 * 128, at % 128 / 16);
        let exchanged = at / 128 % (1 << map.swizzle);
        let to = place + (chunk ^ exchanged) * 16 + at % 16;
        assert!(map.swizzle == 0 || row == 16 << map.swizzle);
        tile[to] = if inside { filling(from as u64) } else { 0 };
    }
    tile
}

fn tensor(memory: &Memory) -> u64 {
    let address = memory.alloc(TENSOR);
    memory.write(address, &(0..TENSOR as u64).map(filling).collect::<Vec<_>>()).unwrap();
    address
}

fn run(
    grid: &Grid<'_>,
    delivery: Delivery,
    mut map: TiledMap,
    body: impl Fn(u32, &[u64; 16]) + Sync,
) -> Result<Report, Error> {
    let memory = Memory::new();
    map.address = tensor(&memory);
    let map = map.to_words();
    launch(&memory, &Grid { shared_bytes: 8256, ..*grid }, &delivering(delivery), &|| {
        if thread_idx_x() == 0 {
            mbarrier_init(barrier(), 1);
            fence_mbarrier_init();
        }
        sync_threads();
        body(thread_idx_x(), &map);
    })
}

#[track_caller]
fn copies<const N: usize>(map: TiledMap, coordinates: [i32; N]) {
    let tile = expected(&map, &coordinates);
    for delivery in [Delivery::Earliest, Delivery::Latest] {
        run(&block(1), delivery, map, |me, words| {
            if me == 0 {
                prefetch_tensormap(words);
                mbarrier_arrive_expect_tx(barrier(), tile.len() as u32);
                cp_async_bulk_tensor(dynamic_shared(), words, coordinates, barrier());
            }
            while !mbarrier_try_wait_parity(barrier(), 0) {}
            for word in (me as usize..tile.len() / 4).step_by(32) {
                let found = ld_shared_b32(dynamic_shared() + 4 * word as u32)[0].to_le_bytes();
                assert_eq!(found, tile[4 * word..4 * word + 4], "word {word} of {map:?} at {coordinates:?}");
            }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn boxes_arrive_as_a_plain_loop_says() {
    for swizzle in 0..4 {
        let columns = 8 << swizzle;
        let box_sizes = [if swizzle == 0 { 24 } else { columns }, 20];
        let two = map(2, &[100, 50], &[256], &box_sizes, swizzle);
        for coordinates in [[0, 0], [8, 3], [16, 49], [88, 40], [-8, -4], [96, 0], [200, 2], [0, 60]] {
            copies(two, coordinates);
        }
        let bytes = map(1, &[100, 50], &[112], &[16 << swizzle, 9], swizzle);
        for coordinates in [[0, 0], [16, 45], [-16, 2]] {
            copies(bytes, coordinates);
        }
    }
}

#[test]
fn boxes_of_more_dimensions_are_rows_in_order() {
    copies(map(2, &[64, 7, 5], &[256, 2048], &[64, 3, 2], 3), [0, 2, 1]);
    copies(map(2, &[64, 7, 5], &[2048, 256], &[32, 3, 4], 2), [32, 5, -1]);
    copies(map(2, &[64, 4, 3, 5], &[256, 1024, 3072], &[64, 2, 1, 4], 3), [0, 1, 2, 3]);
    copies(map(1, &[64, 4, 3, 2, 2], &[64, 256, 768, 1536], &[64, 3, 2, 1, 2], 0), [0, 2, 1, 1, 1]);
}

#[test]
fn a_tile_is_owned_until_its_phase_is_observed() {
    for delivery in [Delivery::Earliest, Delivery::Latest] {
        let outcome = run(&block(1), delivery, map(2, &[64, 64], &[128], &[64, 8], 3), |me, words| {
            if me == 0 {
                mbarrier_arrive_expect_tx(barrier(), 1024);
                cp_async_bulk_tensor(dynamic_shared(), words, [0, 60], barrier());
                ld_shared_b32(dynamic_shared() + 1024 - 4); // <- read in flight
            }
        });
        assert_fails(outcome, Kind::InFlight, "ld_shared_b32", SOURCE, "read in flight");
    }
}

#[test]
fn zeros_outside_count_as_bytes() {
    let outcome = run(&block(1), Delivery::Latest, map(2, &[64, 64], &[128], &[64, 8], 3), |me, words| {
        if me == 0 {
            mbarrier_arrive_expect_tx(barrier(), 512);
            cp_async_bulk_tensor(dynamic_shared(), words, [0, 60], barrier()); // <- half of it outside
        }
        while !mbarrier_try_wait_parity(barrier(), 0) {}
    });
    assert_fails(outcome, Kind::Mbarrier, "cp_async_bulk_tensor", SOURCE, "half of it outside");
}

#[test]
fn operands_that_the_isa_forbids_are_refused() {
    let two = map(2, &[64, 64], &[128], &[64, 8], 3);
    let refused = |kind: Kind, text: &str, copy: &(dyn Fn(&[u64; 16]) + Sync)| {
        let outcome = run(&block(1), Delivery::Latest, two, |me, words| {
            if me == 0 {
                copy(words);
            }
        });
        let error = outcome.unwrap_err();
        assert_eq!((error.kind, error.operation), (kind, "cp_async_bulk_tensor"), "{error}");
        assert!(error.detail.contains(text), "{error}");
    };
    refused(Kind::BadOperand, "3 coordinates", &|words| {
        cp_async_bulk_tensor(dynamic_shared(), words, [0, 0, 0], barrier());
    });
    refused(Kind::Misaligned, "multiple of 128", &|words| {
        cp_async_bulk_tensor(dynamic_shared() + 64, words, [0, 0], barrier());
    });
    refused(Kind::OutOfBounds, "1024 bytes", &|words| {
        cp_async_bulk_tensor(dynamic_shared() + 7424, words, [0, 0], barrier());
    });
    refused(Kind::BadOperand, "multiples of 16", &|words| {
        cp_async_bulk_tensor(dynamic_shared(), words, [4, 0], barrier());
    });
    refused(Kind::BadOperand, "no tensor map", &|_| {
        cp_async_bulk_tensor(dynamic_shared(), &[0; 16], [0, 0], barrier());
    });
}

/// Two blocks, each of which copies its half of a tile to both.
fn multicast(synchronised: bool, ranks: u32) -> Result<Report, Error> {
    let grid = Grid { blocks: 4, cluster: 2, ..block(1) };
    run(&grid, Delivery::Latest, map(2, &[64, 64], &[128], &[64, 8], 3), move |me, words| {
        let rank = block_idx_x() % 2;
        if synchronised {
            cluster_arrive();
            cluster_wait();
        }
        if me == 0 {
            mbarrier_arrive_expect_tx(barrier(), 2048);
            let half = dynamic_shared() + 1024 * rank;
            cp_async_bulk_tensor_multicast(half, words, [0, 8 * rank as i32], barrier(), ranks); // <- to both
        }
        while !mbarrier_try_wait_parity(barrier(), 0) {}
        // Row me / 2 of the two halves; byte 128 r of the tensor is its row r.
        let chunk = dynamic_shared() + 128 * (me / 2) + 16 * (me / 2 % 8);
        assert_eq!(ld_shared_b32(chunk)[0] as u8, filling(128 * u64::from(me / 2)));
        if synchronised {
            cluster_arrive();
            cluster_wait();
        }
    })
}

#[test]
fn a_multicast_arrives_in_every_block_on_its_own_mbarrier() {
    multicast(true, 3).unwrap();
    // The other block need not have begun.
    assert_fails(multicast(false, 3), Kind::Peer, "cp_async_bulk_tensor_multicast", SOURCE, "to both");
    assert_fails(multicast(true, 4), Kind::BadOperand, "cp_async_bulk_tensor_multicast", SOURCE, "to both");
    let error = multicast(true, 1).unwrap_err();
    assert_eq!(error.kind, Kind::Deadlock, "{error}");
    assert!(error.detail.contains("lacks 0 of 1 arrivals and 2048 bytes"), "{error}");
}

/// Stores a tile of words `1000 + i` to the box at `coordinates`, and gives the tensor's bytes.
fn stored(
    delivery: Delivery,
    map: TiledMap,
    coordinates: [i32; 2],
    body: impl Fn(u32, &dyn Fn()) + Sync,
) -> Result<Vec<u8>, Error> {
    let memory = Memory::new();
    let map = TiledMap { address: tensor(&memory), ..map };
    let words = map.to_words();
    launch(&memory, &Grid { shared_bytes: 8256, ..block(1) }, &delivering(delivery), &|| {
        let store = || cp_async_bulk_tensor_store(&words, coordinates, dynamic_shared());
        for word in 0..8 {
            st_shared_b32(dynamic_shared() + 4 * (32 * word + thread_idx_x()), [1000 + 32 * word + thread_idx_x()]); // <- fills the tile
        }
        body(thread_idx_x(), &store);
    })?;
    let mut bytes = vec![0; TENSOR];
    memory.read(map.address, &mut bytes)?;
    Ok(bytes)
}

#[test]
fn a_tile_is_stored_where_it_is_inside() {
    let map = map(2, &[64, 50], &[256], &[64, 8], 3);
    for delivery in [Delivery::Earliest, Delivery::Latest] {
        for coordinates in [[0, 0], [8, 46], [48, -1]] {
            let bytes = stored(delivery, map, coordinates, |me, store| {
                fence_proxy_async_shared();
                bar_warp_sync(u32::MAX);
                if me == 0 {
                    store();
                    cp_async_bulk_commit_group();
                    cp_async_bulk_wait_group(0);
                }
            })
            .unwrap_or_else(|error| panic!("{error}"));
            for (at, &byte) in bytes.iter().enumerate() {
                let (row, column) = ((at / 256) as i32 - coordinates[1], (at % 256) as i32 - 2 * coordinates[0]);
                let inside = (0..8).contains(&row) && (0..128).contains(&column) && at % 256 < 128 && at / 256 < 50;
                let place = 128 * row + ((column / 16) ^ (row % 8)) * 16 + column % 16;
                let word = (1000 + place / 4).to_le_bytes();
                let expected = if inside { word[(place % 4) as usize] } else { filling(at as u64) };
                assert_eq!(byte, expected, "byte {at} of {coordinates:?}");
            }
        }
    }
}

#[test]
fn a_stored_tile_is_read_until_it_is_waited_for() {
    let map = map(2, &[64, 50], &[256], &[64, 8], 3);
    for delivery in [Delivery::Earliest, Delivery::Latest] {
        let outcome = |fence: fn(), wait: fn(), after: fn()| {
            stored(delivery, map, [0, 0], |me, store| {
                fence();
                bar_warp_sync(u32::MAX);
                if me == 0 {
                    store();
                    cp_async_bulk_commit_group();
                    wait();
                    after();
                    cp_async_bulk_wait_group(0);
                }
            })
            .map(|_| Report::default())
        };
        let overwrite = || st_shared_b32(dynamic_shared() + 8, [0]); // <- overwrites the tile
        let (fence, none) = (|| fence_proxy_async_shared(), || {});
        outcome(fence, || cp_async_bulk_wait_group_read(0), overwrite).unwrap();
        outcome(fence, || cp_async_bulk_wait_group(0), overwrite).unwrap();
        assert_fails(outcome(fence, none, overwrite), Kind::InFlight, "st_shared_b32", SOURCE, "overwrites the tile");
        let newest = outcome(fence, || cp_async_bulk_wait_group_read(1), overwrite);
        assert_fails(newest, Kind::InFlight, "st_shared_b32", SOURCE, "overwrites the tile");
        let hidden = outcome(none, none, none);
        let error = hidden.unwrap_err();
        assert_eq!((error.kind, error.operation), (Kind::MissingProxyFence, "cp_async_bulk_tensor_store"), "{error}");
        common::assert_against(&error, "st_shared_b32", SOURCE, "fills the tile");
    }
}

#[test]
fn a_tile_must_be_waited_for_and_a_box_need_not() {
    let map = map(2, &[64, 50], &[256], &[64, 8], 3);
    for delivery in [Delivery::Earliest, Delivery::Latest] {
        let left = |wait: fn()| {
            stored(delivery, map, [0, 0], |me, store| {
                fence_proxy_async_shared();
                bar_warp_sync(u32::MAX);
                if me == 0 {
                    store();
                    cp_async_bulk_commit_group();
                    wait();
                }
            })
        };
        let bytes = left(|| cp_async_bulk_wait_group_read(0)).unwrap();
        assert_eq!(bytes[0..2], 1000u16.to_le_bytes());
        let before = stored(delivery, map, [-8, 0], |me, store| {
            if me == 0 {
                store();
            }
        });
        assert!(before.unwrap_err().detail.contains("before a row"));
        let error = left(|| {}).unwrap_err();
        assert_eq!((error.kind, error.operation), (Kind::Leak, "cp_async_bulk_tensor_store"), "{error}");
    }
}
