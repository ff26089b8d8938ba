//! The kernels' index maps, proven by going through all of them: fragments, swizzle, places, shared memory, pages, shares.
//!
//! A map that is a bijection moves every element once; one that is not loses some and gives others twice, and the
//! kernels' results show it only where the data do. `ldmatrix` is modelled here from the ISA's text, independently of the
//! simulator's twin.
#[path = "layout/regions.rs"]
mod regions;
use kernels_gpu::abi::{CacheSide, WorkItem};
use kernels_gpu::attention::copies::{copies_a_warp, rows_a_copy};
use kernels_gpu::attention::work::Tiles;
use kernels_gpu::config::{self, RowClass, Shape};
use kernels_gpu::element::CacheKind;
use kernels_gpu::layout::fragment::{a_register, accumulator_column, accumulator_rows, b_register, output_columns};
use kernels_gpu::layout::nvfp4::{data_bytes, interleaved, linear, scales};
use kernels_gpu::layout::paged::{key_offset, page_index};
use kernels_gpu::layout::place::Place;
use kernels_gpu::layout::swizzle::{CHUNK_BYTES, SwizzledPointer, chunk_offset};
use kernels_gpu::memory::{Global, Shared};
use kernels_gpu::tile::{chunks, key_tiles};
use std::collections::BTreeSet;

const ROW_BYTES: [u32; 4] = [32, 64, 128, 256];

fn shapes() -> Vec<Shape> {
    let kinds = [CacheKind::Bf16, CacheKind::Fp8E4M3, CacheKind::NvFp4];
    let of = |d| kinds.into_iter().flat_map(move |kind| RowClass::ALL.map(|rows| config::shape(d, rows, kind)));
    [64, 128, 256, 512].into_iter().flat_map(of).collect()
}

fn places(shape: &Shape) -> Vec<Place> {
    (0..shape.warps())
        .flat_map(|warp| (0..32).map(move |lane| (warp, lane)))
        .map(|(w, l)| Place::of(shape, w, l))
        .collect()
}

/// Fails unless `items` are `count` different ones, all that `of` allows.
fn once<T: Ord + core::fmt::Debug>(items: impl IntoIterator<Item = T>, count: u32, of: impl Fn(&T) -> bool) {
    let items: Vec<T> = items.into_iter().collect();
    assert!(items.iter().all(&of), "outside: {:?}", items.iter().find(|item| !of(item)));
    assert_eq!(items.len(), count as usize, "so many, with repetitions");
    assert_eq!(items.into_iter().collect::<BTreeSet<_>>().len(), count as usize, "so many different ones");
}

#[test]
fn fragments_hold_every_element_once() {
    let accumulator = (0..32).flat_map(|lane| {
        let (rows, column) = (accumulator_rows(lane), accumulator_column(lane));
        (0..4).map(move |element| (rows[element / 2], column + element as u32 % 2))
    });
    once(accumulator, 16 * 8, |&(row, column)| row < 16 && column < 8);
    let pairs = |registers: u32, of: fn(u32, u32) -> (u32, u32)| {
        (0..32).flat_map(move |lane| (0..registers).map(move |register| of(lane, register)))
    };
    let a = pairs(4, a_register).flat_map(|(row, column)| [(row, column), (row, column + 1)]);
    once(a, 16 * 16, |&(row, column)| row < 16 && column < 16);
    let b = pairs(2, b_register).flat_map(|(k, column)| [(k, column), (k + 1, column)]);
    once(b, 16 * 8, |&(k, column)| k < 16 && column < 8);
}

/// P^T leaves S^T's accumulators (keys g and g + 8 of 16, rows 2 t and 2 t + 1) packed by rows; each half, an 8 × 8 matrix,
/// transposed is a register of the second product's B operand.
#[test]
fn transposed_scores_are_the_b_operand_of_the_second_product() {
    for register in 0..2 {
        // Element (key, row) of the half is with this lane, at this place of its pair.
        let mut place = std::collections::BTreeMap::new();
        for lane in 0..32 {
            let key = accumulator_rows(lane)[register as usize] % 8;
            (0..2).for_each(|i| {
                place.insert((key, accumulator_column(lane) + i), (lane, i));
            });
        }
        for lane in 0..32 {
            let (key, row) = b_register(lane, register);
            for i in 0..2 {
                // `movmatrix.trans`: lane 4 g + t gets elements (2 t + i, g).
                let (from, at) = place[&(key % 8 + i, row)];
                assert_eq!((from / 4, 2 * (from % 4) + at), (2 * (lane % 4) + i, lane / 4), "lane {lane}");
            }
        }
    }
}

/// What `ldmatrix.x4` gives a lane, by the ISA's text: of tile `register`, whose row r is the 16 bytes at
/// `rows[8 register + r]`, the two elements `(row, column)`; transposed, rows and columns change places.
fn ldmatrix(lane: u32, register: u32, transposed: bool) -> [(u32, u32); 2] {
    let (fixed, first) = (lane / 4, 2 * (lane % 4));
    let element = |i| if transposed { (8 * register + first + i, fixed) } else { (8 * register + fixed, first + i) };
    [element(0), element(1)]
}

/// The row and the 16-bit column of a tile with rows of `row_bytes` that is stored at `offset`: rows that share 128 bytes
/// are moved alike, by as much as their number among such.
fn stored_at(row_bytes: u32, offset: u32) -> (u32, u32) {
    let (row, chunk) = (offset / row_bytes, offset % row_bytes / CHUNK_BYTES);
    let moved = match row_bytes {
        32 => row / 4 % 2,
        64 => row / 2 % 4,
        _ => row % 8,
    };
    (row, (chunk ^ moved) * 8 + offset % CHUNK_BYTES / 2)
}

/// Where the lanes of `scores` and of `accumulate` begin: row and chunk.
fn starts() -> impl Iterator<Item = (u32, u32)> {
    (0..32).map(|lane| (lane % 16, lane / 16))
}

/// Every word that a lane gets is of the row and chunk that its products take it for, in 16-bit elements: what narrower
/// ones are in them is `tile::operand`'s. Of 16-bit formats the words are A operands as they are, V's in the order 0, 2, 1, 3.
#[test]
fn words_of_keys_and_values_are_of_the_rows_and_chunks_they_are_taken_for() {
    for shape in shapes() {
        let at = |(row, chunk)| SwizzledPointer::new(Shared::new(0), row, chunk, shape.row_bytes);
        let pointers: Vec<SwizzledPointer> = starts().map(at).collect();
        let element = |step: (u32, u32), (row, column): (u32, u32)| {
            stored_at(shape.row_bytes, pointers[row as usize].step(step.0, step.1).address + 2 * column)
        };
        for (tile, pair) in all(key_tiles(&shape), chunks(&shape) as usize / 2) {
            for (lane, register) in all(32, 4) {
                let (m, k) = a_register(lane, register);
                for i in 0..2 {
                    let key = ldmatrix(lane, register, false)[i as usize];
                    let expected = (16 * tile + m, 16 * pair + k + i);
                    assert_eq!(element((16 * tile, 2 * pair), key), expected, "{shape:?}: K");
                    let value = ldmatrix(lane, [0, 2, 1, 3][register as usize], true)[i as usize];
                    let expected = (16 * tile + k + i, 16 * pair + m);
                    assert_eq!(element((16 * tile, 2 * pair), value), expected, "{shape:?}: V");
                }
            }
        }
    }
}

#[test]
fn lanes_have_every_column_of_the_output_once() {
    for (products, tiles) in [(1, 4), (1, 8), (2, 4), (2, 8), (4, 4), (4, 8)] {
        let columns = all(8, tiles).flat_map(|(group, product)| output_columns(4 * group, product, products));
        once(columns, 16 * tiles as u32, |column| *column < 16 * tiles as u32);
    }
}

fn all(outer: usize, inner: usize) -> impl Iterator<Item = (u32, u32)> {
    (0..outer as u32).flat_map(move |i| (0..inner as u32).map(move |j| (i, j)))
}

#[test]
fn a_tile_is_a_permutation_of_its_chunks() {
    for row_bytes in ROW_BYTES {
        let (rows, chunks) = (4096 / row_bytes, row_bytes / CHUNK_BYTES);
        let offsets = all(rows as usize, chunks as usize).map(|(row, chunk)| chunk_offset(row, chunk, row_bytes));
        once(offsets, rows * chunks, |offset| *offset < 4096 && offset % CHUNK_BYTES == 0);
        for (row, chunk) in all(rows as usize, chunks as usize) {
            assert_eq!(stored_at(row_bytes, chunk_offset(row, chunk, row_bytes)), (row, 8 * chunk));
        }
    }
}

/// Fails unless eight lanes' 16 bytes, which one pass of the shared memory serves, have each of the 32 banks once.
fn free_of_conflicts(addresses: impl IntoIterator<Item = u32>) {
    let banks = addresses.into_iter().flat_map(|address| (0..4).map(move |word| (address / 4 + word) % 32));
    once(banks, 32, |_| true);
}

#[test]
fn no_access_to_a_tile_has_bank_conflicts() {
    for row_bytes in ROW_BYTES {
        let (rows, chunks) = (4096 / row_bytes, row_bytes / CHUNK_BYTES);
        for (eight, chunk) in all(rows as usize / 8, chunks as usize) {
            free_of_conflicts((0..8).map(|row| chunk_offset(8 * eight + row, chunk, row_bytes)));
        }
        // The copies: lanes go along the rows, eight lanes a pass.
        for first in (0..rows * chunks).step_by(8) {
            free_of_conflicts((first..first + 8).map(|i| chunk_offset(i / chunks, i % chunks, row_bytes)));
        }
    }
}

#[test]
fn steps_of_a_pointer_are_the_offsets_they_stand_for() {
    // The panels of all rings, whose addresses are multiples of 1024 as shared memory begins at one.
    for shape in shapes() {
        let row_bytes = shape.row_bytes;
        let check = |row: u32, chunk: u32, rows: u32, chunks: u32| {
            let tile = Shared::new(3 * 1024);
            let step = SwizzledPointer::new(tile, row, chunk, row_bytes).step(rows, chunks);
            let expected = tile.address + chunk_offset(row + rows, chunk + chunks, row_bytes);
            assert_eq!(step.address, expected, "{shape:?}: ({row}, {chunk}) + ({rows}, {chunks})");
        };
        for (row, chunk) in starts() {
            for (tile, pair) in all(key_tiles(&shape), chunks(&shape) as usize / 2) {
                check(row, chunk, 16 * tile, 2 * pair);
            }
        }
        for (first_row, chunk, steps) in copies(&shape) {
            steps.into_iter().for_each(|rows| check(first_row, chunk, rows, 0));
        }
    }
}

/// The copies of one panel, as `Ring::copy` deals them to row warps and lanes: first row, chunk, and steps in rows.
fn copies(shape: &Shape) -> Vec<(u32, u32, Vec<u32>)> {
    let (chunks, rows, each) = (chunks(shape), rows_a_copy(shape), copies_a_warp(shape));
    all(shape.row_warps as usize, 32)
        .map(|(row_warp, lane)| (row_warp * each * rows + lane / chunks, lane % chunks, each * rows, rows))
        .filter(|(first, ..)| *first < shape.panel_keys)
        .map(|(first, chunk, end, rows)| (first, chunk, (0..end).step_by(rows as usize).collect()))
        .collect()
}

#[test]
fn the_warps_of_a_ring_copy_every_chunk_of_a_panel_once() {
    for shape in shapes() {
        let chunks = copies(&shape)
            .into_iter()
            .flat_map(|(first, chunk, steps)| steps.into_iter().map(move |rows| (first + rows, chunk)));
        let row_chunks = kernels_gpu::tile::chunks(&shape);
        let count = shape.panel_keys * row_chunks;
        once(chunks, count, |&(row, chunk)| row < shape.panel_keys && chunk < row_chunks);
        assert_eq!(count * CHUNK_BYTES, shape.panel_bytes());
    }
}

#[test]
fn warps_and_places_are_one_to_one() {
    for shape in shapes() {
        let triples = (0..shape.warps()).map(|warp| {
            let place = Place::of(&shape, warp, 5);
            assert_eq!((place.warp, place.lane), (warp, 5));
            assert_eq!(place.in_team(place.team, &shape), warp, "the inverse");
            (place.team, place.row_warp, place.column_warp)
        });
        once(triples, shape.warps(), |&(team, row, column)| {
            team < shape.teams && row < shape.row_warps && column < shape.column_warps
        });
        assert_eq!(shape.column_warps * shape.slice, shape.head_dim);
        assert_eq!(shape.rows(), 8 * shape.row_tiles * shape.row_warps);
    }
}

#[test]
fn every_barrier_has_the_warps_that_it_waits_for() {
    for shape in shapes() {
        let group = |of: &dyn Fn(&Place) -> u32, id: u32| {
            let places = (0..shape.warps()).map(|warp| Place::of(&shape, warp, 0));
            places
                .filter(|place| of(place) == id)
                .map(|place| (place.team, place.row_warp, place.column_warp))
                .collect()
        };
        let mut ids = BTreeSet::new();
        for place in places(&shape).iter().filter(|place| place.lane == 0) {
            let rows: Vec<_> = group(&|p| p.row_barrier(&shape), place.row_barrier(&shape));
            assert!(rows.iter().all(|&(team, row, _)| (team, row) == (place.team, place.row_warp)));
            assert_eq!(rows.len() as u32, shape.column_warps, "`WeightExchange` waits for 32 times as many threads");
            let ring: Vec<_> = group(&|p| p.ring_barrier(&shape), place.ring_barrier(&shape));
            assert!(ring.iter().all(|&(team, _, column)| (team, column) == (place.team, place.column_warp)));
            assert_eq!(ring.len() as u32, shape.row_warps, "`Ring::barrier` waits for 32 times as many threads");
            let by_ring: Vec<_> = group(&|p| p.ring(&shape), place.ring(&shape));
            assert_eq!(by_ring, ring, "a ring's warps are its barrier's");
            ids.insert((place.row_barrier(&shape), "rows"));
            ids.insert((place.ring_barrier(&shape), "ring"));
        }
        let numbers: BTreeSet<u32> = ids.iter().map(|(id, _)| *id).collect();
        assert_eq!(numbers.len(), ids.len(), "no id is both kinds': {ids:?}");
        assert!(numbers.iter().all(|id| (1..16).contains(id)), "0 is the block's, and there are 16: {numbers:?}");
    }
}

#[test]
fn tokens_and_places_in_pages_are_one_to_one() {
    let (row, heads) = (128i64, 3);
    for page_shift in 0..=10 {
        let (page_size, keys) = (1i64 << page_shift, (3u32 << page_shift).max(64));
        for [page_stride, token_stride] in [[page_size * heads * row, heads * row], [heads * page_size * row, row]] {
            let base = Global::new(0);
            let side = CacheSide { base, page_stride, token_stride, head_stride: 0 };
            let pages = keys >> page_shift;
            // Pages in reversed order: an id is not its index.
            let offset = |key| key_offset(&side, (pages - 1 - page_index(key, page_shift)) as i32, key, page_shift);
            once((0..keys).map(offset), keys, |offset| (0..i64::from(pages) * page_stride).contains(offset));
            for key in 0..keys {
                let (page, slot) = (i64::from(key) / page_size, i64::from(key) % page_size);
                let expected = (i64::from(pages) - 1 - page) * page_stride + slot * token_stride;
                assert_eq!(offset(key), expected, "page size {page_size}, key {key}");
            }
        }
    }
    let side = CacheSide { base: Global::new(0), page_stride: 1 << 20, token_stride: 256, head_stride: 0 };
    assert_eq!(key_offset(&side, i32::MAX, 15, 4), (i64::from(i32::MAX) << 20) + 15 * 256, "past 32 bits");
}

fn share(tiles: u32, first: u32, last: u32, of: u32) -> Tiles {
    let whole = WorkItem::WHOLE;
    let (length_bound, partial, reserved) = (0, whole, [0; 2]);
    let (sequence, kv_head, first_row, q_start, q_len) = (0, 0, 0, 0, 1);
    let item =
        WorkItem { sequence, kv_head, first_row, first, last, of, length_bound, partial, q_start, q_len, reserved };
    Tiles::share(tiles, &item)
}

#[test]
fn shares_of_a_fraction_partition_the_tiles_of_any_length() {
    let check = |tiles: u32, of: u32, cuts: &mut dyn Iterator<Item = u32>| {
        let mut end = 0;
        let mut first = 0;
        for last in cuts.chain([of]) {
            let part = share(tiles, first, last, of);
            assert_eq!(part.first, end, "{tiles} tiles: {first}..{last} of {of} begins where the one before ends");
            assert!(part.end >= part.first);
            (first, end) = (last, part.end);
        }
        assert_eq!(end, tiles, "{tiles} tiles by {of}");
    };
    for (tiles, of) in all(70, 40) {
        let of = of + 1;
        for step in 1..=of {
            check(tiles, of, &mut (0..of).step_by(step as usize).skip(1));
        }
    }
    // The products of numerator and tiles pass 32 bits.
    for tiles in [1, 12_345, (1 << 27) - 1, 1 << 27, u32::MAX / 16] {
        for of in [1u32, 7, 511, 1 << 20, (1 << 27) - 1, 1 << 27] {
            let step = of.div_ceil(509);
            check(tiles, of, &mut (0..of).step_by(step as usize).skip(1));
        }
    }
}

#[test]
fn every_block_scale_has_a_byte_in_both_orders() {
    for head_dim in [64, 128, 256, 512] {
        assert_eq!(data_bytes(head_dim) + scales(head_dim), head_dim * 9 / 16);
        for page_size in (2..=10).map(|shift| 1 << shift) {
            let count = page_size * scales(head_dim);
            for order in [linear, interleaved] {
                let bytes = (0..page_size).flat_map(|t| (0..scales(head_dim)).map(move |b| order(t, b, head_dim)));
                once(bytes, count, |&byte| byte < count);
            }
            // As vLLM's writer has it: a row of a four's scales is a quarter of their blocks, each by all four tokens.
            for (token, block) in (0..page_size).flat_map(|t| (0..scales(head_dim)).map(move |b| (t, b))) {
                let quarter = scales(head_dim) / 4;
                let (row, column) = (token / 4 * 4 + block / quarter, block % quarter * 4 + token % 4);
                assert_eq!(interleaved(token, block, head_dim), row * scales(head_dim) + column);
            }
        }
    }
}
