//! The index maps of tiles that are transposed, by going through all of them: every number is loaded and stored once, in the order
//! that the products of P expect, and no eight rows of a matrix meet in a bank.
use kernels_gpu::layout::transposed::{column, key, loaded, stored};
use std::collections::BTreeSet;

/// Keys 0 to 16 and columns 0 to 32 of a tile, at (key, column): 16 bits that say which.
fn number(key: u32, column: u32) -> u16 {
    (key * 32 + column) as u16
}

/// Which (key, column) lies at a byte of the tile as it arrives; `parts` of 128 columns.
fn arrived(byte: u32, parts: u32) -> (u32, u32) {
    let (pattern, row, in_row) = (byte / 1024, byte % 1024 / 128, byte % 128);
    let column = ((in_row / 16) ^ row) * 16 + in_row % 16;
    (pattern / parts * 8 + row, pattern % parts * 128 + column)
}

/// A lane's two numbers of a pair of bytes, of each matrix, by the ISA's text: element (row, column) of the transpose is
/// (column, row), a lane has row `lane / 4`, columns `2 (lane % 4)` and the next.
fn transposed(parts: u32, lane: u32) -> [[u16; 4]; 4] {
    [0, 1, 2, 3].map(|matrix| {
        let bytes = |key_of_matrix: u32, pair: u32| {
            let at = loaded(8 * matrix + key_of_matrix, parts) + 2 * pair;
            [at, at + 1].map(|byte| {
                let (key, column) = arrived(byte, parts);
                number(key, column)
            })
        };
        let [a, b] = [0, 1].map(|next| bytes(2 * (lane % 4) + next, lane / 4));
        [a[0], a[1], b[0], b[1]]
    })
}

#[test]
fn every_number_is_stored_once_in_its_place() {
    for parts in [1, 2] {
        let mut places = BTreeSet::new();
        for matrix in 0..4 {
            for row in 0..8 {
                let names = 8 * matrix + row;
                for of_row in 0..4 {
                    // Which lane has the four bytes, and which of its words they are.
                    let lane = 4 * row + of_row;
                    let words = transposed(parts, lane);
                    let [low, high] = [words[(matrix / 2 * 2) as usize], words[(matrix / 2 * 2 + 1) as usize]];
                    let odd = (usize::from(lane >= 16)) ^ (matrix as usize % 2);
                    let four = [low[odd], low[2 + odd], high[odd], high[2 + odd]];
                    for (byte, stored_number) in (0..).zip(four) {
                        let position = 4 * of_row + byte;
                        assert_eq!(stored_number, number(key(position), column(names)), "matrix {matrix}, row {row}");
                        assert!(places.insert(stored(names) + position), "a place twice");
                    }
                }
            }
        }
        assert_eq!(places.len(), 16 * 32);
        // 32 rows of 128 bytes, of which the first chunk of keys is where the swizzle has it.
        for (place, row) in (0..32).map(|row| (row * 128 + row % 8 * 16, row)) {
            assert!((place..place + 16).all(|byte| places.contains(&byte)), "row {row}");
        }
    }
}

/// P's fragments: a thread has of 16 keys the columns 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of an accumulator, in this order.
#[test]
fn keys_are_in_the_order_of_an_accumulator() {
    let order: Vec<u32> = (0..16).map(key).collect();
    let of_thread = |t: u32| [2 * t, 2 * t + 1, 2 * t + 8, 2 * t + 9];
    assert_eq!(order, (0..4).flat_map(of_thread).collect::<Vec<_>>());
}

#[test]
fn no_two_rows_of_a_matrix_meet_in_a_bank() {
    for matrix in 0..4 {
        for of in [|lane| loaded(lane, 1), |lane| loaded(lane, 2), stored] {
            let chunks: BTreeSet<u32> = (0..8).map(|row| of(8 * matrix + row) % 128 / 16).collect();
            assert_eq!(chunks.len(), 8, "matrix {matrix}");
        }
    }
}
