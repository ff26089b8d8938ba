//! What `wgmma` computes, against plain loops: every number of columns, format, major order and swizzle, A from shared
//! memory and from registers, random operands, bit for bit. Operands are placed by coordinates within a swizzle's pattern,
//! not by addresses as the simulator reads them.
mod common;

use common::{block, delivering};
use cuda_std::sim::op::*;
use cuda_std::sim::{Delivery, Grid, Memory, launch};
use half::{bf16, f16};

/// K of a tile, in bytes: four steps.
const DEPTH_BYTES: usize = 128;
const ROWS: usize = 64;
const B_AT: usize = 8 << 10;
const SHARED_BYTES: usize = 40 << 10;
/// Widths of swizzles by their number in a descriptor; 16 is none.
const WIDTHS: [usize; 4] = [16, 128, 64, 32];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Bf16,
    F16,
    E4m3,
}

impl Format {
    const fn bytes(self) -> usize {
        match self {
            Self::E4m3 => 1,
            _ => 2,
        }
    }

    fn value(self, bits: u32) -> f64 {
        match self {
            Self::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            Self::F16 => f16::from_bits(bits as u16).to_f64(),
            Self::E4m3 => {
                let (exponent, fraction) = ((bits >> 3 & 15) as i32, f64::from(bits & 7));
                let magnitude = match exponent {
                    0 => fraction / 512.0,
                    _ => (1.0 + fraction / 8.0) * f64::from(exponent - 7).exp2(),
                };
                if bits >> 7 == 1 { -magnitude } else { magnitude }
            }
        }
    }

    /// Any number of moderate size.
    fn draw(self, random: &mut Random) -> u32 {
        let x = (random.word() as i32 as f32 / 2f32.powi(31)) * 2f32.powi((random.word() % 9) as i32 - 4);
        match self {
            Self::Bf16 => u32::from(bf16::from_f32(x).to_bits()),
            Self::F16 => u32::from(f16::from_f32(x).to_bits()),
            Self::E4m3 => (random.word() % 0x7F) | (random.word() & 0x80),
        }
    }
}

struct Random(u64);

impl Random {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 ^ (self.0 >> 11) as u32
    }
}

/// A matrix of `rows` (M or N) by K of bits.
struct Matrix {
    format: Format,
    rows: usize,
    bits: Vec<u32>,
}

impl Matrix {
    fn new(format: Format, rows: usize, random: &mut Random) -> Self {
        let bits = (0..rows * DEPTH_BYTES / format.bytes()).map(|_| format.draw(random)).collect();
        Self { format, rows, bits }
    }

    const fn depth(&self) -> usize {
        DEPTH_BYTES / self.format.bytes()
    }

    fn at(&self, row: usize, k: usize) -> u32 {
        self.bits[row * self.depth() + k]
    }
}

/// How a matrix is stored: its major order and its swizzle's number.
#[derive(Clone, Copy, Debug)]
struct Layout {
    transposed: bool,
    mode: usize,
}

impl Layout {
    /// Byte of element (row, k), and the leading and stride byte offsets.
    fn place(self, matrix: &Matrix, row: usize, k: usize) -> usize {
        let (size, width) = (matrix.format.bytes(), WIDTHS[self.mode]);
        // Lines of `width` bytes along the contiguous dimension, eight of them a pattern.
        let (along, line, lines) =
            if self.transposed { (row * size, k, matrix.depth()) } else { (k * size, row, matrix.rows) };
        let (column, within) = (along / width, along % width);
        if width == 16 {
            // Blocks of 8 lines of 16 bytes: [column][line / 8].
            return column * lines * 16 + line * 16 + within;
        }
        // Of eight lines, those of 128 bytes have their own number, those of 64 share one by two, those of 32 by four.
        let twist = line % 8 / (128 / width);
        column * lines * width + line * width + ((within / 16) ^ twist) * 16 + within % 16
    }

    fn descriptor(self, matrix: &Matrix, start: usize, step: usize) -> (u64, bool) {
        let width = WIDTHS[self.mode];
        let lines = if self.transposed { matrix.depth() } else { matrix.rows };
        let columns_apart = lines * width;
        // Without a swizzle the two offsets of an MN-major operand mean the other one.
        let (leading, stride) =
            if width == 16 && self.transposed { (128, columns_apart) } else { (columns_apart, 8 * width) };
        let further = match self.transposed {
            false => 32 * step / width * columns_apart + 32 * step % width,
            true => 32 / matrix.format.bytes() * step * width,
        };
        let field = |bytes: usize| (bytes as u64 >> 4) & 0x3FFF;
        let bits = field(start + further) | field(leading) << 16 | field(stride) << 32 | (self.mode as u64) << 62;
        (bits, self.transposed)
    }
}

struct Case {
    a: Matrix,
    b: Matrix,
    a_layout: Layout,
    b_layout: Layout,
    from_registers: bool,
    add: bool,
}

impl Case {
    /// Bytes of shared memory, as words.
    fn image(&self) -> Vec<u32> {
        let mut bytes = vec![0u8; SHARED_BYTES];
        for (matrix, layout, start) in [(&self.a, self.a_layout, 0), (&self.b, self.b_layout, B_AT)] {
            for row in 0..matrix.rows {
                for k in 0..matrix.depth() {
                    let at = start + layout.place(matrix, row, k);
                    let size = matrix.format.bytes();
                    bytes[at..at + size].copy_from_slice(&matrix.at(row, k).to_le_bytes()[..size]);
                }
            }
        }
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// Registers of A for a step: word 0 row `lane / 4`, word 1 that + 8, words 2 and 3 the other half of K.
    fn fragment(&self, thread: usize, step: usize) -> [u32; 4] {
        let (size, lane) = (self.a.format.bytes(), thread % 32);
        let (per_word, per_step) = (4 / size, 32 / size);
        std::array::from_fn(|word| {
            let row = thread / 32 * 16 + lane / 4 + word % 2 * 8;
            let k = step * per_step + word / 2 * per_step / 2 + lane % 4 * per_word;
            (0..per_word).fold(0, |bits, i| bits | self.a.at(row, k + i) << (8 * size * i))
        })
    }

    /// D by the documented order: per step, products in the order of k in f64, then d, rounded to f32 once.
    fn expected(&self, d: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let (columns, per_step) = (self.b.rows, 32 / self.a.format.bytes());
        let element = |i: usize| {
            let (row, column) = (i / columns, i % columns);
            (0..4).fold(d(row, column), |before, step| {
                let k = step * per_step..(step + 1) * per_step;
                let product = |k| self.a.format.value(self.a.at(row, k)) * self.b.format.value(self.b.at(column, k));
                let sum: f64 = k.map(product).fold(0.0, |sum, product| sum + product);
                (sum + if step > 0 || self.add { f64::from(before) } else { 0.0 }) as f32
            })
        };
        (0..ROWS * columns).map(element).collect()
    }

    fn run(&self, delivery: Delivery) {
        let (image, columns) = (self.image(), self.b.rows);
        let before = |row: usize, column: usize| (row * 100 + column) as f32 / 64.0 - 30.0;
        let expected = self.expected(before);
        let grid = Grid { shared_bytes: SHARED_BYTES as u32, ..block(4) };
        launch(&Memory::new(), &grid, &delivering(delivery), &|| {
            let thread = thread_idx_x() as usize;
            let base = dynamic_shared();
            for (word, &bits) in image.iter().enumerate().skip(thread).step_by(128) {
                st_shared_b32(base + 4 * word as u32, [bits]);
            }
            fence_proxy_async_shared();
            sync_threads();
            let place = |register: usize| {
                let lane = thread % 32;
                let row = thread / 32 * 16 + lane / 4 + if register & 2 != 0 { 8 } else { 0 };
                (row, register / 4 * 8 + lane % 4 * 2 + register % 2)
            };
            let mut d: Vec<f32> =
                (0..columns / 2).map(|register| before(place(register).0, place(register).1)).collect();
            let fenced = wgmma_fence();
            let mut state = fenced;
            for step in 0..4 {
                let b = self.b_layout.descriptor(&self.b, base as usize + B_AT, step);
                let add = step > 0 || self.add;
                state = if self.from_registers {
                    let a = self.fragment(thread, step);
                    match self.a.format {
                        Format::Bf16 => wgmma_bf16_rs(state, &mut d, fenced, a, b, add),
                        Format::F16 => wgmma_f16_rs(state, &mut d, fenced, a, b, add),
                        Format::E4m3 => wgmma_e4m3_rs(state, &mut d, fenced, a, b, add),
                    }
                } else {
                    let a = self.a_layout.descriptor(&self.a, base as usize, step);
                    match self.a.format {
                        Format::Bf16 => wgmma_bf16_ss(state, &mut d, a, b, add),
                        Format::F16 => wgmma_f16_ss(state, &mut d, a, b, add),
                        Format::E4m3 => wgmma_e4m3_ss(state, &mut d, a, b, add),
                    }
                };
                assert!(d[0].is_nan(), "poisoned");
            }
            wgmma_commit_group();
            wgmma_wait_group(0);
            wgmma_take(state, &mut d);
            for (register, &found) in d.iter().enumerate() {
                let (row, column) = place(register);
                let expected = expected[row * columns + column];
                assert_eq!(found.to_bits(), expected.to_bits(), "row {row} column {column}: {found}, not {expected}");
            }
        })
        .unwrap_or_else(|error| {
            let (format, a, b) = (self.a.format, self.a_layout, self.b_layout);
            panic!("{format:?} of {columns} columns, A {a:?}, B {b:?}, {}: {error}", self.from_registers)
        });
    }
}

fn every_layout(format: Format, columns: usize) {
    let mut random = Random(columns as u64 + format as u64);
    let majors: &[bool] = if format == Format::E4m3 { &[false] } else { &[false, true] };
    for (index, mode) in (0..4).enumerate() {
        for &b_transposed in majors {
            let b_layout = Layout { transposed: b_transposed, mode };
            let mut run = |a_layout: Layout, from_registers: bool| {
                let (a, b) = (Matrix::new(format, ROWS, &mut random), Matrix::new(format, columns, &mut random));
                let add = random.word().is_multiple_of(2);
                let delivery = if index % 2 == 0 { Delivery::Latest } else { Delivery::Earliest };
                Case { a, b, a_layout, b_layout, from_registers, add }.run(delivery);
            };
            for &transposed in majors {
                // A has another swizzle than B, each with each over the numbers of columns.
                let mode = (mode + columns.trailing_zeros() as usize) % 4;
                run(Layout { transposed, mode }, false);
            }
            run(Layout { transposed: false, mode: 1 }, true);
        }
    }
}

macro_rules! layouts {
    ($($name:ident: $format:ident $columns:literal;)*) => {$(
        #[test]
        fn $name() {
            every_layout(Format::$format, $columns);
        }
    )*};
}

layouts! {
    bf16_of_32_columns: Bf16 32;
    bf16_of_64_columns: Bf16 64;
    bf16_of_128_columns: Bf16 128;
    bf16_of_256_columns: Bf16 256;
    f16_of_32_columns: F16 32;
    f16_of_64_columns: F16 64;
    f16_of_128_columns: F16 128;
    f16_of_256_columns: F16 256;
    e4m3_of_32_columns: E4m3 32;
    e4m3_of_64_columns: E4m3 64;
    e4m3_of_128_columns: E4m3 128;
    e4m3_of_256_columns: E4m3 256;
}
