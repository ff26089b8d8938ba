//! What `tcgen05.mma` is told: the bits of an instruction descriptor, and where rows and columns of D are in tensor memory.
//!
//! PTX ISA, "Instruction descriptor" and "Data path layout organization"; M is over all blocks of the group:
//!
//! | `cta_group` | M | row, column of D | block, lane, column |
//! | --- | --- | --- | --- |
//! | 1 | 128 (layout D) | `r`, `c` | 0, `r`, `c` |
//! | 1 | 64 (layout F) | `r`, `c` | 0, `r / 16 * 32 + r % 16`, `c` |
//! | 2 | 256 (layout A) | `r`, `c` | `r / 128`, `r % 128`, `c` |
//! | 2 | 128 (layout B) | `r`, `c` | `r / 64`, `r % 64 + c / (N / 2) * 64`, `c % (N / 2)` |
//!
//! A in tensor memory is read in the lane of the D that it makes, so with layout B it is there twice.
use crate::sim::descriptor::{Major, Wrong};
use crate::sim::error::Kind;
use crate::sim::products::Format;

/// What one instruction multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub group: u32,
    pub m: u32,
    pub n: u32,
    pub a: Format,
    pub b: Format,
    pub a_major: Major,
    pub b_major: Major,
}

/// The D of one lane: columns `first` to `first + width` of a row of its block's part of A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub lane: u32,
    pub row: u32,
    pub first: u32,
}

/// Bits that a field of the descriptor covers, of those that are simulated.
const FIELDS: u32 = 3 << 4 | 7 << 7 | 7 << 10 | 3 << 15 | 0x3F << 17 | 0x1F << 24;

impl Instruction {
    /// What the bits say to `kind::f16` (`wide`) or `kind::f8f6f4`.
    pub fn decode(bits: u32, wide: bool, group: u32) -> Result<Self, Wrong> {
        let refuse = |what: String| Err((Kind::BadOperand, format!("instruction descriptor {bits:#010x}: {what}")));
        let field = |low: u32, width: u32| bits >> low & ((1 << width) - 1);
        if bits & !FIELDS != 0 {
            return refuse("bits outside of the fields that are simulated".to_owned());
        }
        if field(4, 2) != 1 {
            return refuse(format!("D of format {}; 1, f32, is simulated", field(4, 2)));
        }
        let format = |code| match (wide, code) {
            (true, 0) => Some(Format::F16),
            (true, 1) => Some(Format::Bf16),
            (false, 0) => Some(Format::E4m3),
            (false, 1) => Some(Format::E5m2),
            _ => None,
        };
        let (Some(a), Some(b)) = (format(field(7, 3)), format(field(10, 3))) else {
            return refuse(format!("formats {} and {}; 0 and 1 are simulated", field(7, 3), field(10, 3)));
        };
        if wide && a != b {
            return refuse("A and B of different 16-bit formats".to_owned());
        }
        let (n, m) = (field(17, 6) * 8, field(24, 5) * 16);
        let multiple = match (group, m) {
            (1, 64) => 8,
            (1, 128) => 16,
            (2, 128 | 256) => 32,
            _ => return refuse(format!("M of {m}; allowed are 64 and 128 of one block, 128 and 256 of two")),
        };
        if n == 0 || n > 256 || n % multiple != 0 {
            return refuse(format!("N of {n}; allowed are multiples of {multiple} up to 256"));
        }
        let major = |low| if field(low, 1) == 1 { Major::Mn } else { Major::K };
        Ok(Self { group, m, n, a, b, a_major: major(15), b_major: major(16) })
    }

    /// Rows of A, and of B, in each block.
    pub fn rows(&self) -> [u32; 2] {
        [self.m / self.group, self.n / self.group]
    }

    /// K.
    pub fn depth(&self) -> usize {
        self.a.depth()
    }

    /// Whether each block's rows are in the lower lanes and again, for the other half of the columns, in the upper.
    fn is_folded(&self) -> bool {
        self.group == 2 && self.m == 128
    }

    /// Columns of tensor memory that D takes.
    pub fn width(&self) -> u32 {
        if self.is_folded() { self.n / 2 } else { self.n }
    }

    /// Whether D may begin in that lane: M = 64 uses half of each warp's lanes, either half.
    pub fn begins_in(&self, lane: u32) -> bool {
        lane == 0 || lane == 16 && self.group == 1 && self.m == 64
    }

    /// D of a block, lane by lane, which begins in lane `base`.
    pub fn places(&self, base: u32) -> impl Iterator<Item = Place> {
        let (folded, sparse, width) = (self.is_folded(), self.group == 1 && self.m == 64, self.width());
        (0..if sparse { 64 } else { 128 }).map(move |i| match (folded, sparse) {
            (true, _) => Place { lane: i, row: i % 64, first: i / 64 * width },
            (_, true) => Place { lane: base + i / 16 * 32 + i % 16, row: i, first: 0 },
            _ => Place { lane: i, row: i, first: 0 },
        })
    }
}
