//! What the probes of `wgmma` must give, by the tables of the ISA: fragments, canonical layouts, and where a swizzle moves
//! 16 bytes to.
use super::summed;
use kernels_gpu::layout::swizzle::chunk_offset;
use kernels_gpu::probe::flight::{STEPS, TILE_BYTES};
use kernels_gpu::probe::products::{D, HEAD};

/// The numbers of an operand in shared memory: element (row, k).
pub struct Stored<'a> {
    /// Start, leading and stride byte offset, swizzle.
    pub place: &'a [u32],
    /// M or N is contiguous.
    pub transposed: bool,
    /// Shared memory.
    pub image: &'a [u32],
    /// Bytes of an element.
    pub size: u32,
}

impl Stored<'_> {
    /// The element's code.
    pub fn bits(&self, row: u32, k: u32) -> u32 {
        let [start, leading, stride, mode] = [0, 1, 2, 3].map(|i| self.place[i]);
        let size = self.size;
        // In units of 16 bytes along the contiguous dimension, T of the ISA's table.
        let per_unit = 16 / size;
        let offset = match (self.transposed, mode) {
            (false, 0) => row % 8 * 16 + row / 8 * stride + k / per_unit * leading + k % per_unit * size,
            (false, _) => row % 8 * width(mode) + row / 8 * stride + k * size,
            (true, 0) => row % per_unit * size + row / per_unit * stride + k % 8 * 16 + k / 8 * leading,
            (true, _) => {
                let bytes = row * size;
                bytes % width(mode) + bytes / width(mode) * leading + k % 8 * width(mode) + k / 8 * stride
            }
        };
        let address = start + offset;
        // Swizzle<B, 4, 3>: B bits from bit 7 on are added, without carry, to those from bit 4 on.
        let moved = [0, 7, 3, 1][mode as usize];
        let byte = address ^ (address >> 7 & moved) << 4;
        self.image[byte as usize / 4] >> (8 * (byte % 4)) & if size == 1 { 0xFF } else { 0xFFFF }
    }
}

fn width(mode: u32) -> u32 {
    [16, 128, 64, 32][mode as usize]
}

pub fn e4m3(bits: u32) -> f64 {
    let (exponent, fraction) = (bits >> 3 & 15, f64::from(bits & 7));
    let magnitude =
        if exponent == 0 { fraction / 512.0 } else { (1.0 + fraction / 8.0) * f64::exp2(f64::from(exponent) - 7.0) };
    if bits >> 7 == 1 { -magnitude } else { magnitude }
}

/// A block's product, against the sum of what its elements' products are.
pub fn check(name: &str, x: &[u32], y: &[u32]) -> Result<(), String> {
    let words: Vec<&str> = name.split('_').collect();
    let (format, majors) = (words[2], words[5]);
    let columns = y.len() / 64;
    let from_registers = words[3] == "rs";
    let size = if format == "e4m3" { 1 } else { 2 };
    let value = |bits: u32| match format {
        "bf16" => f64::from(f32::from_bits(bits << 16)),
        "f16" => half::f16::from_bits(bits as u16).to_f64(),
        _ => e4m3(bits),
    };
    let image = &x[D as usize + 64 * columns..];
    let stored = |first: usize, transposed: bool| Stored { place: &x[first..first + 4], transposed, image, size };
    let (in_a, in_b) = (stored(0, majors.starts_with('m')), stored(4, majors.ends_with('n')));
    let depth = 32 / size;
    let a = |row: u32, k: u32| {
        if !from_registers {
            return value(in_a.bits(row, k));
        }
        // Of a warp's sixteen rows, lane l has l / 4 and that + 8; of each half of K, 4 bytes.
        let (half, within) = (k / (depth / 2), k % (depth / 2) * size);
        let thread = row / 16 * 32 + row % 8 * 4 + within / 4;
        let register = half * 2 + row % 16 / 8;
        let word = x[(HEAD + 4 * thread + register) as usize];
        value(word >> (8 * (within % 4)) & if size == 1 { 0xFF } else { 0xFFFF })
    };
    for (index, &result) in y.iter().enumerate() {
        let (thread, register) = (index / (columns / 2), index % (columns / 2));
        let (warp, lane) = (thread / 32, thread % 32);
        let row = (16 * warp + lane / 4 + 8 * (register / 2 % 2)) as u32;
        let column = (register / 4 * 8 + lane % 4 * 2 + register % 2) as u32;
        let before = if x[8] == 0 { 0.0 } else { f64::from(f32::from_bits(x[D as usize + index])) };
        let terms: Vec<f64> = (0..depth).map(|k| a(row, k) * value(in_b.bits(column, k))).chain([before]).collect();
        // The adder of 8-bit products keeps 13 bits behind the largest term's first.
        let right = match format {
            "e4m3" => narrowly_summed(&terms, f32::from_bits(result)),
            _ => summed(&terms, f32::from_bits(result)),
        };
        if !right {
            return Err(format!("d[{row}][{column}] is {} = {result:#010x} of {terms:?}", f32::from_bits(result)));
        }
    }
    Ok(())
}

pub fn narrowly_summed(terms: &[f64], result: f32) -> bool {
    let (sum, largest) = (terms.iter().sum::<f64>(), terms.iter().fold(0.0f64, |most, term| most.max(term.abs())));
    if terms.iter().map(|term| term.abs()).sum::<f64>() < 8192.0 && terms.iter().all(|term| term.fract() == 0.0) {
        return f64::from(result) == sum;
    }
    (f64::from(result) - sum).abs() <= terms.len() as f64 * f64::exp2(-13.0) * largest
}

/// O = (Q K^T) V summed over the steps: integers, exactly.
pub fn flight(x: &[u32], y: &[u32]) -> Result<(), String> {
    let tile = |index: u32, row: u32, column: u32| {
        let byte = TILE_BYTES * index + chunk_offset(row, column / 8, 128) + column % 8 * 2;
        f64::from(f32::from_bits(x[byte as usize / 4] >> (8 * (byte % 4)) << 16))
    };
    let sum = |product: &dyn Fn(u32) -> f64| (0..64).map(product).sum::<f64>();
    let mut o = vec![0.0; 64 * 64];
    for step in 0..STEPS {
        for row in 0..64 {
            let s: Vec<f64> = (0..64).map(|key| sum(&|d| tile(0, row, d) * tile(1 + 2 * step, key, d))).collect();
            for column in 0..64 {
                o[(64 * row + column) as usize] += sum(&|key| s[key as usize] * tile(2 + 2 * step, key, column));
            }
        }
    }
    for (index, &result) in y.iter().enumerate() {
        let (thread, register) = (index / 32, index % 32);
        let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (register / 2 % 2);
        let column = register / 4 * 8 + thread % 4 * 2 + register % 2;
        let expected = o[64 * row + column] as f32;
        if result != expected.to_bits() {
            return Err(format!("o[{row}][{column}] is {}, not {expected}", f32::from_bits(result)));
        }
    }
    Ok(())
}
