//! Operands of the probes of `tcgen05`: every swizzle, both majors, both M, several N, and numbers as for `wgmma`.
use super::{Random, encode_bf16, encode_f16};
use kernels_gpu::probe::tensor::{COLUMNS, IMAGE_WORDS};

/// Bytes of shared memory before B.
const A_BYTES: u32 = 16384;

/// Start, leading and stride byte offset of an operand of `rows`, with a swizzle of that width (16: none).
fn place(random: &mut Random, rows: u32, transposed: bool, width: u32, per_chunk: u32) -> [u32; 3] {
    match (transposed, width) {
        (false, 16) => [0, 16 * rows, 128],
        (true, 16) => [0, 16 * rows * 8 / per_chunk, 128],
        // Any 32 bytes of a row.
        (false, _) => [32 * random.below(width / 32), 0, 8 * width],
        (true, _) => [0, 8 * width, (16 / per_chunk * rows).div_ceil(width) * 8 * width],
    }
}

/// A block's operands.
pub fn block(name: &str, index: u32, random: &mut Random) -> Vec<u32> {
    let (wide, from_lanes) = (name.contains("f16"), name.ends_with("ts"));
    let per_chunk = if wide { 8 } else { 16 };
    let m = if index % 3 == 1 { 64 } else { 128 };
    let n = [16, 64, 128, 256, 32, 96][(index % 6) as usize];
    let format = index / 2 % 2; // f16 or bf16, e4m3 or e5m2
    let mut majors = [!from_lanes && index % 4 == 1, index % 4 >= 2];
    if from_lanes {
        majors[0] = false;
    }
    let mut words = Vec::new();
    for (operand, rows) in [m, n].into_iter().enumerate() {
        let mode = [index % 4, index / 3 % 4][operand];
        let width = [16, 128, 64, 32][mode as usize];
        let [start, leading, stride] = place(random, rows, majors[operand], width, per_chunk);
        words.extend([start + A_BYTES * operand as u32, leading, stride, mode]);
    }
    let [a, b] = majors.map(u32::from);
    let descriptor = 1 << 4 | format << 7 | format << 10 | a << 15 | b << 16 | (n / 8) << 17 | (m / 16) << 24;
    words.extend([descriptor, u32::from(index % 5 != 4), n, u32::from(m == 64)]);
    let kind = index % 3;
    let element = |random: &mut Random| -> u32 {
        let integer = random.below(9) as i32 - 4;
        let number = if kind == 0 { integer as f32 } else { random.unit() * f32::exp2(random.below(8) as f32 - 4.0) };
        match (wide, format) {
            (true, 0) => encode_f16(number),
            (true, _) => encode_bf16(number),
            // The upper byte of the f16, so cut.
            (false, 1) => encode_f16(number) >> 8,
            (false, _) if kind == 0 => {
                [0, 0x38, 0x40, 0x44, 0x48][integer.unsigned_abs() as usize] | u32::from(integer < 0) << 7
            }
            (false, _) => random.below(0x7F) | random.below(2) << 7,
        }
    };
    let word = |random: &mut Random| match wide {
        false => (0..4).fold(0, |bits, _| bits << 8 | element(random)),
        true => element(random) << 16 | element(random),
    };
    words.extend((0..128 * 8).map(|_| word(random)));
    for _ in 0..128 * COLUMNS {
        let d = if kind == 0 { random.below(1 << 10) as f32 - 512.0 } else { random.unit() };
        words.push(d.to_bits());
    }
    words.extend((0..IMAGE_WORDS).map(|_| word(random)));
    words
}
