//! What `tcgen05` is told of its operands (PTX ISA, "Tensorcore 5th Generation": "Shared memory descriptor" and "Instruction descriptor").
//!
//! [`SmemDescriptor`], where an operand is in shared memory; its tiles are those of [`super::descriptor`]:
//!
//! | bits | |
//! | --- | --- |
//! | 0 to 13 | start address / 16 |
//! | 16 to 29 | leading byte offset / 16 |
//! | 32 to 45 | stride byte offset / 16 |
//! | 46 to 48 | 1 |
//! | 49 to 51 | base offset: 0, as tiles begin at a boundary of their swizzle's pattern |
//! | 52 | 0: the leading offset is relative |
//! | 61 to 63 | swizzle: 0 none, 2 of 128 bytes, 4 of 64, 6 of 32 |
//!
//! [`InstructionDescriptor`], what is multiplied, for kinds f16 and f8f6f4:
//!
//! | bits | |
//! | --- | --- |
//! | 4, 5 | D: 1, f32 |
//! | 7 to 9, 10 to 12 | A and B: f16 0, bf16 1; e4m3 0, e5m2 1 |
//! | 15, 16 | A and B: 1 if MN-major |
//! | 17 to 22 | N / 8 |
//! | 24 to 28 | M / 16 |
use super::descriptor::{KMajor, Major, MnMajor, ROW_BYTES, Swizzle};
use crate::memory::Shared;
use core::marker::PhantomData;

/// Bytes of K that one instruction multiplies: 16 elements of 16 bits, 32 of 8.
const STEP_BYTES: u32 = 32;
/// Bits 46 to 48.
const VERSION: u64 = 1 << 46;

#[inline(always)]
const fn field(bytes: u32) -> u64 {
    ((bytes & 0x3_FFFF) >> 4) as u64
}

/// An operand in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct SmemDescriptor<M> {
    /// What the instruction is given.
    pub bits: u64,
    major: PhantomData<M>,
}

impl<M> SmemDescriptor<M> {
    /// An operand at `start`; start, offsets and swizzle mean what they do for
    /// [`Descriptor::new`](super::descriptor::Descriptor::new).
    #[inline(always)]
    pub const fn new(start: Shared<u8>, leading: u32, stride: u32, swizzle: Swizzle) -> Self {
        let mode = match swizzle {
            Swizzle::None => 0,
            Swizzle::Bytes128 => 2,
            Swizzle::Bytes64 => 4,
            Swizzle::Bytes32 => 6,
        };
        let bits = field(start.address) | field(leading) << 16 | field(stride) << 32 | VERSION | mode << 61;
        Self { bits, major: PhantomData }
    }

    /// The operand `bytes` (a multiple of 16) further on in shared memory.
    #[inline(always)]
    pub const fn byte_offset(self, bytes: u32) -> Self {
        Self { bits: self.bits + (bytes >> 4) as u64, major: PhantomData }
    }
}

impl SmemDescriptor<KMajor> {
    /// Rows of a tile `[parts][rows][128 bytes]` as rows of the operand: the first step along K, of 32 bytes. The tile is at a
    /// multiple of 1024.
    #[inline(always)]
    pub const fn of_rows(tile: Shared<u8>) -> Self {
        Self::new(tile, 0, 8 * ROW_BYTES, Swizzle::Bytes128)
    }

    /// The same of a tile `[rows / 8][parts][8][128 bytes]`.
    #[inline(always)]
    pub const fn of_grouped_rows(tile: Shared<u8>, parts: u32) -> Self {
        Self::new(tile, 0, 8 * ROW_BYTES * parts, Swizzle::Bytes128)
    }

    /// Step `step` along K, of a tile with `rows` rows (8 where they are grouped): `step % 4 * 32 + step / 4 * rows * 128` bytes further on.
    #[inline(always)]
    pub const fn step(self, step: u32, rows: u32) -> Self {
        let in_row = ROW_BYTES / STEP_BYTES;
        self.byte_offset(step % in_row * STEP_BYTES + step / in_row * rows * ROW_BYTES)
    }
}

impl SmemDescriptor<MnMajor> {
    /// Columns of a tile `[parts][rows][128 bytes]` as rows of the operand: the first step along K, of 16 rows of the tile where
    /// elements have 16 bits and 32 where they have 8. The tile is at a multiple of 1024.
    #[inline(always)]
    pub const fn of_columns(tile: Shared<u8>, rows: u32) -> Self {
        Self::new(tile, rows * ROW_BYTES, 8 * ROW_BYTES, Swizzle::Bytes128)
    }

    /// The same of a tile `[rows / 8][parts][8][128 bytes]`.
    #[inline(always)]
    pub const fn of_grouped_columns(tile: Shared<u8>, parts: u32) -> Self {
        Self::new(tile, 8 * ROW_BYTES, 8 * ROW_BYTES * parts, Swizzle::Bytes128)
    }

    /// `rows` (a multiple of 8) rows further along K, of a tile whose groups of eight rows have `parts` parts (1 where
    /// they are not grouped): `rows * parts * 128` bytes.
    #[inline(always)]
    pub const fn rows_on(self, rows: u32, parts: u32) -> Self {
        self.byte_offset(rows * parts * ROW_BYTES)
    }

    /// Step `step` along K, of a tile `[rows / 8][parts][8][64]` of 16-bit elements.
    #[inline(always)]
    pub const fn grouped_step(self, step: u32, parts: u32) -> Self {
        self.rows_on(16 * step, parts)
    }

    /// Step `step` along K, of a tile `[rows / 8][parts][8][128]` of 8-bit elements.
    #[inline(always)]
    pub const fn grouped_step_of_8_bits(self, step: u32, parts: u32) -> Self {
        self.rows_on(32 * step, parts)
    }
}

/// Elements of A or B that `kind::f16` multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format16 {
    /// IEEE half precision.
    F16 = 0,
    /// bfloat16.
    Bf16 = 1,
}

/// Elements of A or B that `kind::f8f6f4` multiplies, of those that are used: 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format8 {
    /// e4m3.
    E4m3 = 0,
    /// e5m2.
    E5m2 = 1,
}

/// Shape, formats and majors of a product with D of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct InstructionDescriptor {
    /// What the instruction is given.
    pub bits: u32,
}

impl InstructionDescriptor {
    /// M × N of `kind::f16`, K = 16, by the tensor cores of `GROUP` blocks.
    ///
    /// # Panics
    /// Other than M = 64 (N a multiple of 8) or 128 (of 16) with one block, 128 or 256 (of 32) with two; N from 8 to 256.
    pub const fn f16<const GROUP: u32, A: Major, B: Major>(m: u32, n: u32, a: Format16, b: Format16) -> Self {
        Self::new::<GROUP, A, B>(m, n, a as u32, b as u32)
    }

    /// M × N of `kind::f8f6f4`, K = 32; shapes as for [`Self::f16`].
    ///
    /// # Panics
    /// As [`Self::f16`].
    pub const fn f8f6f4<const GROUP: u32, A: Major, B: Major>(m: u32, n: u32, a: Format8, b: Format8) -> Self {
        Self::new::<GROUP, A, B>(m, n, a as u32, b as u32)
    }

    const fn new<const GROUP: u32, A: Major, B: Major>(m: u32, n: u32, a: u32, b: u32) -> Self {
        let multiple = match (GROUP, m) {
            (1, 64) => 8,
            (1, 128) => 16,
            (2, 128 | 256) => 32,
            _ => panic!("M is 64 or 128 of one block, 128 or 256 of two"),
        };
        assert!(
            n >= multiple && n <= 256 && n.is_multiple_of(multiple),
            "N is a multiple of 8 (M = 64), 16 (128 of one block) or 32 (two blocks), and at most 256"
        );
        let transposed = (A::TRANSPOSED as u32) << 15 | (B::TRANSPOSED as u32) << 16;
        Self { bits: 1 << 4 | a << 7 | b << 10 | transposed | (n >> 3) << 17 | (m >> 4) << 24 }
    }
}
