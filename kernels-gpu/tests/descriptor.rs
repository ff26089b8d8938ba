//! Matrix descriptors: their bits, and that steps through a tile are where the tile's swizzle puts them.
use kernels_gpu::layout::descriptor::{Descriptor, KMajor, MnMajor, ROW_BYTES, Swizzle};
use kernels_gpu::layout::swizzle::chunk_offset;
use kernels_gpu::memory::Shared;

#[test]
fn fields_are_where_the_isa_has_them() {
    let bits = |swizzle| Descriptor::<KMajor>::new(Shared::new(0x3_8410), 0x1230, 0x2_0400, swizzle).bits;
    assert_eq!(bits(Swizzle::None), 0x0000_2040_0123_3841);
    assert_eq!(bits(Swizzle::Bytes128) >> 62, 1);
    assert_eq!(bits(Swizzle::Bytes64) >> 62, 2);
    assert_eq!(bits(Swizzle::Bytes32) >> 62, 3);
    let moved = Descriptor::<MnMajor>::new(Shared::new(1024), 16, 1024, Swizzle::Bytes128).byte_offset(2048);
    assert_eq!(moved.bits, 0x4000_0040_0001_00C0);
}

/// Where the chunk `across` bytes into row `row` is, by an operand's start and the hardware's rule for a row further down.
fn swizzled(start: u64, row: u32, across: u32) -> u32 {
    let address = (start as u32 & 0x3FFF) * 16 + row * ROW_BYTES + across;
    address ^ (address >> 7 & 7) << 4
}

#[test]
fn steps_find_the_chunks_of_a_tile() {
    let (tile, rows) = (Shared::new(5 * 1024), 64);
    let chunk = |row: u32, column: u32| {
        let part = column / 64 * rows * ROW_BYTES;
        tile.address + part + chunk_offset(row, column % 64 / 8, ROW_BYTES)
    };
    // 128 columns: two parts. Along columns, a step is 16 of them, two chunks of each row.
    for step in 0..8 {
        let operand = Descriptor::<KMajor>::of_rows(tile).step(step, rows);
        for (row, half) in (0..rows).flat_map(|row| [(row, 0), (row, 1)]) {
            assert_eq!(swizzled(operand.bits, row, 16 * half), chunk(row, 16 * step + 8 * half), "{step} {row}");
        }
    }
    // Along rows, a step is 16 of them; the next 64 columns are the leading byte offset on.
    for step in 0..rows / 16 {
        let operand = Descriptor::<MnMajor>::of_columns(tile, rows).step(step);
        let leading = (operand.bits >> 16 & 0x3FFF) as u32 * 16;
        for (row, column) in (0..16).flat_map(|row| (0..16).map(move |chunk| (row, 8 * chunk))) {
            let found = swizzled(operand.bits, row, column % 64 * 2) + column / 64 * leading;
            assert_eq!(found, chunk(16 * step + row, column), "{step} {row} {column}");
        }
    }
}

#[test]
fn steps_find_the_chunks_of_a_tile_in_groups_of_eight_rows() {
    let (tile, rows) = (Shared::new(5 * 1024), 64);
    for columns in [64, 128, 256, 512] {
        // `[rows / 8][columns / 64][8][64]`.
        let chunk = |row: u32, column: u32| {
            let pattern = row / 8 * (columns / 64) + column / 64;
            tile.address + pattern * 8 * ROW_BYTES + chunk_offset(row % 8, column % 64 / 8, ROW_BYTES)
        };
        let stride = |bits: u64| (bits >> 32 & 0x3FFF) as u32 * 16;
        // Rows of the operand are in patterns of eight, a stride apart.
        for step in 0..columns / 16 {
            let operand = Descriptor::<KMajor>::of_grouped_rows(tile, columns).step(step, 8).bits;
            for (row, half) in (0..rows).flat_map(|row| [(row, 0), (row, 1)]) {
                let found = swizzled(operand, row % 8, 16 * half) + row / 8 * stride(operand);
                assert_eq!(found, chunk(row, 16 * step + 8 * half), "{columns}: {step} {row}");
            }
        }
        // Along rows, a step is 16 of them, two patterns a stride apart; the next 64 columns are the leading byte offset on.
        for step in 0..rows / 16 {
            let operand = Descriptor::<MnMajor>::of_grouped_columns(tile, columns).grouped_step(step, columns).bits;
            let leading = (operand >> 16 & 0x3FFF) as u32 * 16;
            for (row, column) in (0..16).flat_map(|row| (0..columns / 8).map(move |chunk| (row, 8 * chunk))) {
                let within = swizzled(operand, row % 8, column % 64 * 2);
                let found = within + row / 8 * stride(operand) + column / 64 * leading;
                assert_eq!(found, chunk(16 * step + row, column), "{columns}: {step} {row} {column}");
            }
        }
    }
}
