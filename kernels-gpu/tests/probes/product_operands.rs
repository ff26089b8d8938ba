//! Operands of the probes of `wgmma`: every swizzle of A with every one of B, strides in two arrangements each, and numbers
//! as for `mma`.
use super::{Random, encode_bf16, encode_f16};
use kernels_gpu::probe::flight;
use kernels_gpu::probe::products::IMAGE_WORDS;

/// What a probe's name says of it.
pub struct Product {
    /// `bf16`, `f16` or `e4m3`.
    pub format: String,
    /// Columns of B and D.
    pub columns: u32,
    /// A is M-major, B is N-major.
    pub transposed: [bool; 2],
}

impl Product {
    /// Of `probe_wgmma_<format>_<ss or rs>_<columns>_<majors>`.
    pub fn of(name: &str) -> Option<Self> {
        let words: Vec<&str> = name.strip_prefix("probe_wgmma_")?.split('_').collect();
        let [format, _, columns, majors] = words[..] else { return None };
        let b_transposed = majors.ends_with('n');
        let (format, columns) = (format.to_owned(), columns.parse().ok()?);
        Some(Self { format, columns, transposed: [majors.starts_with('m'), b_transposed] })
    }
}

/// Bytes of shared memory before B.
const A_BYTES: u32 = 8192;

/// Start, leading and stride byte offset of an operand of `rows`, by its swizzle's width (16: none).
fn place(random: &mut Random, rows: u32, transposed: bool, width: u32, bytes: u32) -> [u32; 3] {
    let second = random.below(2) == 1;
    let spans = |lines: u32, apart: u32| lines.div_ceil(8) * apart <= bytes;
    match (transposed, width) {
        (false, 16) if second => [0, 128, 256], // both halves of eight rows side by side
        (false, 16) => [0, 16 * rows, 128],
        (true, 16) if second => [0, 128, 256],
        (true, 16) => [0, 16 * rows, 128],
        (false, _) => {
            // Any 32 bytes of a row; patterns with gaps where there is room.
            let apart = 8 * width * if second && spans(rows, 16 * width) { 2 } else { 1 };
            [32 * random.below(width / 32), 16, apart]
        }
        (true, _) => {
            let columns = (2 * rows).div_ceil(width);
            // Patterns along M or N first, or along K.
            if second { [0, 8 * width, columns * 8 * width] } else { [0, 16 * width, 8 * width] }
        }
    }
}

/// A block's operands.
pub fn block(name: &str, index: u32, random: &mut Random) -> Vec<u32> {
    let Some(product) = Product::of(name) else { panic!("{name} is no product") };
    let widths = [16, 128, 64, 32];
    let modes = [index % 4, index / 4 % 4];
    let mut words = Vec::new();
    for (operand, (rows, bytes)) in
        [(64, A_BYTES), (product.columns, 4 * IMAGE_WORDS - A_BYTES)].into_iter().enumerate()
    {
        let mode = modes[operand];
        let [start, leading, stride] = place(random, rows, product.transposed[operand], widths[mode as usize], bytes);
        words.extend([start + A_BYTES * operand as u32, leading, stride, mode]);
    }
    words.extend([u32::from(index % 5 != 4), 0, 0, 0]);
    let kind = index % 3;
    let element = |random: &mut Random| -> u32 {
        let integer = random.below(9) as i32 - 4;
        let fraction = random.unit() * f32::exp2(random.below(8) as f32 - 4.0);
        let number = if kind == 0 { integer as f32 } else { fraction };
        match product.format.as_str() {
            "bf16" => encode_bf16(number),
            "f16" => encode_f16(number),
            _ if kind == 0 => {
                [0, 0x38, 0x40, 0x44, 0x48][integer.unsigned_abs() as usize] | u32::from(integer < 0) << 7
            }
            _ => random.below(0x7F) | random.below(2) << 7,
        }
    };
    let word = |random: &mut Random| match product.format.as_str() {
        "e4m3" => (0..4).fold(0, |bits, _| bits << 8 | element(random)),
        _ => element(random) << 16 | element(random),
    };
    words.extend((0..512).map(|_| word(random)));
    for _ in 0..64 * product.columns {
        let d = if kind == 0 { random.below(1 << 10) as f32 - 512.0 } else { random.unit() };
        words.push(d.to_bits());
    }
    words.extend((0..IMAGE_WORDS).map(|_| word(random)));
    words
}

/// A block's operands of the probe of two products in flight: -1, 0 and 1, and V from -4 to 4, so that S is exact in bf16
/// and O in f32. Where an element is makes no difference to a random one.
pub fn flight(random: &mut Random) -> Vec<u32> {
    let words = flight::TILE_BYTES / 4;
    let tile = |most: u32, random: &mut Random| -> Vec<u32> {
        let number = |random: &mut Random| encode_bf16(random.below(2 * most + 1) as f32 - most as f32);
        (0..words).map(|_| number(random) << 16 | number(random)).collect()
    };
    let steps: Vec<u32> = (0..flight::STEPS).flat_map(|_| [tile(1, random), tile(4, random)].concat()).collect();
    [tile(1, random), steps].concat()
}
