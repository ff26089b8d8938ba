//! Matrix descriptors of `wgmma` and `tcgen05`: what their bits say, and where the 16-byte chunks of an operand are.
//!
//! PTX ISA, "Matrix Descriptor Format" and "Canonical Layouts". All offsets are in bytes, W is the swizzle's width, and a
//! chunk is 8 elements of 16 bits or 16 of 8:
//!
//! | | chunk `c` (of 2) along K of row `r`: K-major | chunk `j` along M or N of column `k`: MN-major |
//! | --- | --- | --- |
//! | none | `r % 8 * 16 + r / 8 * stride + c * leading` | `k % 8 * 16 + k / 8 * leading + j * stride` |
//! | W | `r % 8 * W + r / 8 * stride + c * 16` | `k % 8 * W + k / 8 * stride + j % (W / 16) * 16 + j / (W / 16) * leading` |
//!
//! That is added to the start address, and of the sum bits 4 to 6 (W = 128; 4 and 5 of 64, 4 of 32) are xored with those
//! from bit 7 on. So the pattern hangs on the address, not on where the operand starts: a start within a pattern's first
//! row is the operand further along that row.
use super::error::Kind;

/// Bytes of a chunk, and of K that one instruction multiplies twice that.
pub(super) const CHUNK: u32 = 16;

/// Which dimension is contiguous in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Major {
    /// K: `imm-trans` 0.
    K,
    /// M of A, N of B: `imm-trans` 1.
    Mn,
}

/// A descriptor's fields, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    /// 16 without a swizzle.
    width: u32,
}

/// Kind and detail of what is wrong with a descriptor.
pub(super) type Wrong = (Kind, String);

/// Bits that a field covers.
const FIELDS: u64 = 0x3FFF | 0x3FFF << 16 | 0x3FFF << 32 | 7 << 49 | 3 << 62;

impl Descriptor {
    /// What the bits say.
    pub fn decode(bits: u64) -> Result<Self, Wrong> {
        let field = |shift: u32| ((bits >> shift & 0x3FFF) as u32) << 4;
        if bits & !FIELDS != 0 {
            return Err((Kind::BadOperand, format!("descriptor {bits:#018x}: bits outside of its fields")));
        }
        let base = bits >> 49 & 7;
        if base != 0 {
            let detail = format!(
                "descriptor {bits:#018x}: base offset {base}; only patterns at their boundary, 0, are simulated"
            );
            return Err((Kind::BadOperand, detail));
        }
        let width = [CHUNK, 128, 64, 32][(bits >> 62) as usize];
        Ok(Self { start: field(0), leading: field(16), stride: field(32), width })
    }

    /// What the bits of a shared memory descriptor of `tcgen05` say.
    pub fn decode_tcgen05(bits: u64) -> Result<Self, Wrong> {
        let refuse = |what: String| Err((Kind::BadOperand, format!("descriptor {bits:#018x}: {what}")));
        let offsets = 0x3FFF | 0x3FFF << 16 | 0x3FFF << 32;
        let (rest, swizzle) = (bits & !offsets & !(7 << 61), bits >> 61);
        if rest != 1 << 46 {
            return refuse(format!(
                "bits {rest:#x} besides offsets and swizzle; allowed are 1 in bits 46 to 48 and, as only patterns at their boundary and relative offsets are simulated, no others"
            ));
        }
        let width = match swizzle {
            0 => CHUNK,
            2 => 128,
            4 => 64,
            6 => 32,
            _ => return refuse(format!("swizzle {swizzle}; 0, 2, 4 and 6 are simulated")),
        };
        let field = |shift: u32| ((bits >> shift & 0x3FFF) as u32) << 4;
        Ok(Self { start: field(0), leading: field(16), stride: field(32), width })
    }

    /// Bytes after which the swizzle repeats: eight rows.
    fn pattern(&self) -> u32 {
        if self.width == CHUNK { CHUNK } else { 8 * self.width }
    }

    /// The addresses of an operand's chunks: K-major those of row 0, 1, …, `rows` of them, two a row; MN-major those of
    /// column 0, 1, … of K, `rows / per_chunk` a column. `per_chunk` is the elements of a chunk.
    pub fn chunks(&self, major: Major, rows: u32, per_chunk: u32) -> Result<Vec<u32>, Wrong> {
        let (width, pattern) = (self.width, self.pattern());
        let swizzled = width != CHUNK;
        let across = self.start % width; // Where in its row the operand starts.
        if self.start % pattern >= width {
            let detail = format!(
                "the operand starts at shared {:#x}, not in the first row of a pattern of {pattern} bytes",
                self.start
            );
            return Err((Kind::Misaligned, detail));
        }
        let per_row = width / CHUNK;
        let in_row = match major {
            Major::K => 2,
            Major::Mn => (rows / per_chunk).min(per_row),
        };
        if swizzled && across + in_row * CHUNK > width {
            let detail = format!("{} bytes from byte {across} of a row that has {width}", in_row * CHUNK);
            return Err((Kind::BadOperand, detail));
        }
        let uses_leading = major == Major::Mn && rows / per_chunk > per_row;
        for (name, bytes, used) in [("stride", self.stride, true), ("leading", self.leading, uses_leading)] {
            if swizzled && used && !bytes.is_multiple_of(pattern) {
                let detail = format!("{name} byte offset {bytes} is not a multiple of the pattern's {pattern} bytes");
                return Err((Kind::Misaligned, detail));
            }
        }
        if major == Major::Mn && !rows.is_multiple_of(per_chunk) {
            return Err((Kind::BadOperand, format!("{rows} rows, MN-major; allowed are multiples of {per_chunk}")));
        }
        let (leading, stride) = (self.leading, self.stride);
        let (columns, rows_in_chunks) = (2 * per_chunk, rows / per_chunk);
        let place = |offset: u32| {
            let address = self.start + offset;
            address ^ (address >> 7 & (per_row - 1)) << 4
        };
        Ok(match (major, swizzled) {
            (Major::K, false) => grid(rows, 2, |r, c| place(r % 8 * 16 + r / 8 * stride + c * leading)),
            (Major::K, true) => grid(rows, 2, |r, c| place(r % 8 * width + r / 8 * stride + c * 16)),
            (Major::Mn, false) => {
                grid(columns, rows_in_chunks, |k, j| place(k % 8 * 16 + k / 8 * leading + j * stride))
            }
            (Major::Mn, true) => grid(columns, rows_in_chunks, |k, j| {
                place(k % 8 * width + k / 8 * stride + j % per_row * 16 + j / per_row * leading)
            }),
        })
    }
}

fn grid(outer: u32, inner: u32, at: impl Fn(u32, u32) -> u32) -> Vec<u32> {
    (0..outer * inner).map(|i| at(i / inner, i % inner)).collect()
}
