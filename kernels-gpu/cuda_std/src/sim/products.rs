//! What `wgmma` computes: D = A B or D + A B of 64 × N, with K of 32 bytes.
//!
//! Products are exact in f64, as are bf16, f16 and e4m3 there; an element's are summed in the order of k, then the
//! accumulator is added, in f64, and the sum is rounded to f32 once, to nearest. The ISA leaves order and rounding open,
//! and the hardware's adder keeps fewer bits: the last bits of a result may differ there, with e4m3 more than the last.
use super::arithmetic::canonical;
use super::descriptor::Major;
use super::eight_bit;
use half::{bf16, f16};

/// Rows of A and D.
pub(super) const ROWS: usize = 64;

/// What the elements of A and B are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Bf16,
    F16,
    E4m3,
    E5m2,
}

impl Format {
    /// Elements of a chunk; K is twice that.
    pub const fn per_chunk(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 8,
            Self::E4m3 | Self::E5m2 => 16,
        }
    }

    /// K of one instruction.
    pub const fn depth(self) -> usize {
        2 * self.per_chunk()
    }

    /// The numbers in some bytes.
    pub fn numbers(self, bytes: &[u8], mut each: impl FnMut(usize, f64)) {
        match self {
            Self::Bf16 | Self::F16 => {
                for (i, pair) in bytes.chunks_exact(2).enumerate() {
                    let bits = u16::from_le_bytes([pair[0], pair[1]]);
                    each(
                        i,
                        if self == Self::Bf16 { bf16::from_bits(bits).to_f64() } else { f16::from_bits(bits).to_f64() },
                    );
                }
            }
            // The upper byte of the f16.
            Self::E5m2 => {
                bytes.iter().enumerate().for_each(|(i, &code)| each(i, f16::from_bits(u16::from(code) << 8).to_f64()));
            }
            Self::E4m3 => {
                for (i, &code) in bytes.iter().enumerate() {
                    each(i, f16::from_bits(eight_bit::cvt_rn_f16x2_e4m3x2(u32::from(code)) as u16).to_f64());
                }
            }
        }
    }
}

/// A matrix `[64][K]` from the registers of a warpgroup's threads, as the ISA spreads it: as `mma.m16n8k16` has it, warp
/// `w` rows 16 w to 16 w + 15. A register is 4 bytes along K.
pub(super) fn from_registers(format: Format, lanes: impl Iterator<Item = [u32; 4]>) -> Vec<f64> {
    let depth = format.depth();
    let per_register = depth / 8;
    let mut a = vec![0.0; ROWS * depth];
    for (thread, registers) in lanes.enumerate() {
        let (warp, lane) = (thread / 32, thread % 32);
        for (register, word) in registers.iter().enumerate() {
            let row = 16 * warp + lane / 4 + register % 2 * 8;
            let k = register / 2 * (depth / 2) + lane % 4 * per_register;
            format.numbers(&word.to_le_bytes(), |i, number| a[row * depth + k + i] = number);
        }
    }
    a
}

/// A matrix of `rows` rows from its chunks, in the order that `Descriptor::chunks` has them: element (row, k) goes to `at(row, k)`.
pub(super) fn from_chunks<'a>(
    format: Format,
    major: Major,
    rows: usize,
    chunks: impl Iterator<Item = &'a [u8]>,
    matrix: &mut [f64],
    at: impl Fn(usize, usize) -> usize,
) {
    let per_chunk = format.per_chunk();
    for (index, chunk) in chunks.enumerate() {
        format.numbers(chunk, |i, number| {
            let (row, k) = match major {
                Major::K => (index / 2, index % 2 * per_chunk + i),
                Major::Mn => (index % (rows / per_chunk) * per_chunk + i, index / (rows / per_chunk)),
            };
            matrix[at(row, k)] = number;
        });
    }
}

/// `d + a b`, or `a b` without `add`: d `[64][columns]`, a `[64][depth]`, b `[depth][columns]`.
pub(super) fn multiply(d: &mut [f32], add: bool, a: &[f64], b: &[f64], columns: usize) {
    let depth = b.len() / columns;
    let mut sums = [0.0f64; 256];
    for (d, a) in d.chunks_exact_mut(columns).zip(a.chunks_exact(depth)) {
        let sums = &mut sums[..columns];
        sums.fill(0.0);
        for (factor, b) in a.iter().zip(b.chunks_exact(columns)) {
            sums.iter_mut().zip(b).for_each(|(sum, value)| *sum += factor * value);
        }
        for (element, sum) in d.iter_mut().zip(sums) {
            let before = if add { f64::from(*element) } else { 0.0 };
            *element = canonical((*sum + before) as f32);
        }
    }
}

/// Row and column of D that register `register` of thread `thread` of the warpgroup is.
pub(super) fn place(thread: usize, register: usize) -> (usize, usize) {
    let (warp, lane) = (thread / 32, thread % 32);
    (16 * warp + lane / 4 + register / 2 % 2 * 8, register / 4 * 8 + lane % 4 * 2 + register % 2)
}
