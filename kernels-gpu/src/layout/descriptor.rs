//! Matrix descriptors: how `wgmma` finds an operand in shared memory (PTX ISA, "Matrix Descriptor Format").
//!
//! | bits | |
//! | --- | --- |
//! | 0 to 13 | start address / 16 |
//! | 16 to 29 | leading byte offset / 16 |
//! | 32 to 45 | stride byte offset / 16 |
//! | 49 to 51 | base offset: 0, as tiles begin at a boundary of their swizzle's pattern |
//! | 62, 63 | swizzle: 0 none, 1 of 128 bytes, 2 of 64, 3 of 32 |
//!
//! A tile of attention is `[columns / 64][rows][64]` of 16-bit elements: 128-byte rows, of which eight are a pattern of
//! 1024 bytes, swizzled as [`super::swizzle`] has it (and as a tensor copy with a 128-byte swizzle leaves it); the next 64
//! columns are `rows × 128` bytes on. It is an operand in two ways, without moving a byte: K-major where the product runs
//! over columns (Q and K in S = Q K^T), MN-major where it runs over rows (V in O += P V).
use crate::memory::Shared;
use core::marker::PhantomData;

/// Bytes of a row of a tile with the widest swizzle.
pub const ROW_BYTES: u32 = 128;
/// Bytes of K that one instruction multiplies: 16 elements of 16 bits, 32 of 8.
const STEP_BYTES: u32 = 32;

/// Which chunks of 16 bytes are exchanged in a row: those of row `r` of a pattern of eight with `r` modulo the chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// None: chunks lie where strides say.
    None,
    /// Eight chunks in rows of 128 bytes.
    Bytes128,
    /// Four chunks in rows of 64 bytes; two rows are exchanged alike.
    Bytes64,
    /// Two chunks in rows of 32 bytes; four rows are exchanged alike.
    Bytes32,
}

impl Swizzle {
    /// Bytes of a row: 16 without a swizzle.
    pub const fn width(self) -> u32 {
        match self {
            Self::None => 16,
            Self::Bytes128 => 128,
            Self::Bytes64 => 64,
            Self::Bytes32 => 32,
        }
    }
}

/// A field of 14 bits.
#[inline(always)]
const fn field(bytes: u32) -> u64 {
    ((bytes & 0x3_FFFF) >> 4) as u64
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::KMajor {}
    impl Sealed for super::MnMajor {}
}

/// Which dimension of an operand is contiguous.
pub trait Major: sealed::Sealed + Copy + 'static {
    /// `imm-trans` of the instruction.
    const TRANSPOSED: i32;
}

/// K is contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KMajor;

/// M of A or N of B is contiguous; of 16-bit elements alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MnMajor;

impl Major for KMajor {
    const TRANSPOSED: i32 = 0;
}
impl Major for MnMajor {
    const TRANSPOSED: i32 = 1;
}

/// An operand in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Descriptor<M> {
    /// What the instruction is given.
    pub bits: u64,
    major: PhantomData<M>,
}

impl<M> Descriptor<M> {
    /// An operand at `start`, a multiple of 16, or with a swizzle of width W within the first row of a pattern of `8 W` bytes
    /// at a multiple of that. What the offsets (below 256 KiB, multiples of 16, or of the pattern) are the distances of:
    ///
    /// | | `leading` | `stride` |
    /// | --- | --- | --- |
    /// | K-major, no swizzle | chunks of 16 bytes along K | 8 rows |
    /// | K-major, swizzled | unused | 8 rows |
    /// | MN-major, no swizzle | 8 of K | 8 elements along M or N |
    /// | MN-major, swizzled | W bytes along M or N | 8 of K |
    #[inline(always)]
    pub const fn new(start: Shared<u8>, leading: u32, stride: u32, swizzle: Swizzle) -> Self {
        let mode = match swizzle {
            Swizzle::None => 0,
            Swizzle::Bytes128 => 1,
            Swizzle::Bytes64 => 2,
            Swizzle::Bytes32 => 3,
        };
        let bits = field(start.address) | field(leading) << 16 | field(stride) << 32 | mode << 62;
        Self { bits, major: PhantomData }
    }

    /// The operand `bytes` (a multiple of 16) further on in shared memory.
    #[inline(always)]
    pub const fn byte_offset(self, bytes: u32) -> Self {
        Self { bits: self.bits + (bytes >> 4) as u64, major: PhantomData }
    }
}

impl Descriptor<KMajor> {
    /// Rows of a tile as rows of the operand: the first step along K, of 32 bytes. The tile is at a multiple of 1024; more
    /// rows are more patterns of eight, 1024 bytes apart.
    #[inline(always)]
    pub const fn of_rows(tile: Shared<u8>) -> Self {
        Self::new(tile, 16, 8 * ROW_BYTES, Swizzle::Bytes128)
    }

    /// The same of a tile `[rows / 8][columns / 64][8][64]`, whose patterns of eight rows are a whole row of the tile apart.
    #[inline(always)]
    pub const fn of_grouped_rows(tile: Shared<u8>, columns: u32) -> Self {
        Self::new(tile, 16, 8 * ROW_BYTES * (columns / 64), Swizzle::Bytes128)
    }

    /// Step `step` along K, of a tile with `rows` rows (8 where they are grouped): `step % 4 * 32 + step / 4 * rows * 128` bytes further on.
    #[inline(always)]
    pub const fn step(self, step: u32, rows: u32) -> Self {
        let in_row = ROW_BYTES / STEP_BYTES;
        self.byte_offset(step % in_row * STEP_BYTES + step / in_row * rows * ROW_BYTES)
    }
}

impl Descriptor<MnMajor> {
    /// Columns of a tile with `rows` rows as rows of the operand: the first step along K, of 16 rows of the tile. The tile is
    /// at a multiple of 1024; the next 64 columns are `rows * 128` bytes on, the next eight rows 1024.
    #[inline(always)]
    pub const fn of_columns(tile: Shared<u8>, rows: u32) -> Self {
        Self::new(tile, rows * ROW_BYTES, 8 * ROW_BYTES, Swizzle::Bytes128)
    }

    /// Step `step` along K: `step * 16` rows of 128 bytes further on.
    #[inline(always)]
    pub const fn step(self, step: u32) -> Self {
        self.byte_offset(step * 16 * ROW_BYTES)
    }

    /// The first step of a tile `[rows / 8][columns / 64][8][64]`.
    #[inline(always)]
    pub const fn of_grouped_columns(tile: Shared<u8>, columns: u32) -> Self {
        Self::new(tile, 8 * ROW_BYTES, 8 * ROW_BYTES * (columns / 64), Swizzle::Bytes128)
    }

    /// Step `step` along K, of such a tile.
    #[inline(always)]
    pub const fn grouped_step(self, step: u32, columns: u32) -> Self {
        self.byte_offset(step * 16 * ROW_BYTES * (columns / 64))
    }
}
