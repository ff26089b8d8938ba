//! Tensor maps: how a kernel's bulk copies find a box of a tensor, and how its tile lies in shared memory.
//!
//! [`TiledLayout`] says it in plain data, checked against what the hardware takes. The host makes of it the 128 opaque bytes
//! that a kernel is given as a parameter: the driver's encoding (`cuTensorMapEncodeTiled`), or the simulator's.
//!
//! A tile's rows are the box's rows, packed, the first dimension innermost. A swizzle of 2^s chunks of 16 bytes stores chunk
//! `c` of the 128 bytes `r` of shared memory as chunk `c ^ (r % 2^s)`; a tile with a whole pattern (8, 4 or 2 rows of 128
//! bytes) begins at a multiple of it. Elements of a box outside of the tensor arrive as zeros, and are not stored.
use core::fmt;

/// A tensor map as a kernel is given it, in a parameter whose address is a multiple of 64.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct TensorMap(pub [u64; 16]);

static_assertions::const_assert_eq!(size_of::<TensorMap>(), 128);

impl TensorMap {
    /// None: for a kernel that does not use it.
    pub const NONE: Self = Self([0; 16]);
}

impl fmt::Debug for TensorMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TensorMap")
    }
}

/// How the 16-byte chunks of a tile are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TileSwizzle {
    /// Not at all.
    None,
    /// Within 32 bytes.
    Bytes32,
    /// Within 64 bytes.
    Bytes64,
    /// Within 128 bytes.
    Bytes128,
}

impl TileSwizzle {
    /// log2 of the chunks that are exchanged, and the number that the driver gives it.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// Bytes of a row of the box: any multiple of 16 where there is no swizzle (`None`).
    pub const fn row_bytes(self) -> Option<u32> {
        match self {
            Self::None => None,
            _ => Some(16 << self.code()),
        }
    }
}

/// A tensor and the box that a copy moves; dimension 0 is the innermost, whose elements are side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TiledLayout {
    /// Dimensions, 2 to 5. What is beyond them in the arrays below is not read.
    pub rank: u32,
    /// Bytes of an element: 1 or 2.
    pub element_bytes: u32,
    /// Elements of each dimension.
    pub sizes: [u64; 5],
    /// Bytes from one index of dimension `i + 1` to the next.
    pub strides: [u64; 4],
    /// Elements of the box in each dimension.
    pub box_sizes: [u32; 5],
    /// Of the tile.
    pub swizzle: TileSwizzle,
}

/// What the hardware does not take, with what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorMapError {
    /// The number of dimensions.
    Rank(u32),
    /// The size of an element.
    ElementBytes(u32),
    /// The size of a dimension.
    Size { dimension: u32, size: u64 },
    /// The bytes of the innermost dimension, of which the hardware takes whole chunks: of 200 a store writes 208 (measured on an
    /// H100).
    Row(u64),
    /// The stride of a dimension.
    Stride { dimension: u32, stride: u64 },
    /// The box's size in a dimension.
    BoxSize { dimension: u32, size: u32 },
    /// The bytes of the box's rows.
    RowBytes { bytes: u32, swizzle: TileSwizzle },
    /// The bytes of the box.
    TileBytes(u64),
    /// The tensor's address.
    Address(u64),
}

impl fmt::Display for TensorMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Rank(rank) => write!(f, "a tensor map of {rank} dimensions; 2 to 5 are allowed"),
            Self::ElementBytes(bytes) => write!(f, "elements of {bytes} bytes; 1 and 2 are allowed"),
            Self::Size { dimension, size } => {
                write!(f, "{size} elements in dimension {dimension}; 1 to 2^32 are allowed")
            }
            Self::Row(bytes) => write!(f, "rows of {bytes} bytes; multiples of 16 are allowed"),
            Self::Stride { dimension, stride } => {
                write!(f, "a stride of {stride} bytes in dimension {dimension}; multiples of 16 below 2^40 are allowed")
            }
            Self::BoxSize { dimension, size } => {
                write!(f, "a box of {size} elements in dimension {dimension}; 1 to 256 are allowed")
            }
            Self::RowBytes { bytes, swizzle } => match swizzle.row_bytes() {
                None => write!(f, "a box with rows of {bytes} bytes; multiples of 16 are allowed"),
                Some(only) => write!(f, "a box with rows of {bytes} bytes; with this swizzle {only} are allowed"),
            },
            Self::TileBytes(bytes) => write!(f, "a box of {bytes} bytes; at most {MAX_TILE_BYTES} are allowed"),
            Self::Address(address) => write!(f, "a tensor at {address:#x}; multiples of 16 are allowed"),
        }
    }
}

impl core::error::Error for TensorMapError {}

/// The shared memory of a block.
const MAX_TILE_BYTES: u64 = 227 << 10;

impl TiledLayout {
    /// Bytes of the tile: what each copy completes, zeros included.
    pub const fn tile_bytes(&self) -> u64 {
        let (mut bytes, mut dimension) = (self.element_bytes as u64, 0);
        while dimension < self.rank as usize {
            bytes *= self.box_sizes[dimension] as u64;
            dimension += 1;
        }
        bytes
    }

    /// Whether the hardware takes it, for a tensor at `address`.
    ///
    /// # Errors
    /// The first thing that it does not take.
    pub fn check(&self, address: u64) -> Result<(), TensorMapError> {
        if !(2..=5).contains(&self.rank) {
            return Err(TensorMapError::Rank(self.rank));
        }
        if !(1..=2).contains(&self.element_bytes) {
            return Err(TensorMapError::ElementBytes(self.element_bytes));
        }
        let rank = self.rank as usize;
        for (dimension, &size) in (0..).zip(&self.sizes[..rank]) {
            if !(1..=1 << 32).contains(&size) {
                return Err(TensorMapError::Size { dimension, size });
            }
        }
        let row = self.sizes[0] * u64::from(self.element_bytes);
        if !row.is_multiple_of(16) {
            return Err(TensorMapError::Row(row));
        }
        for (dimension, &stride) in (1..).zip(&self.strides[..rank - 1]) {
            if !stride.is_multiple_of(16) || stride >= 1 << 40 {
                return Err(TensorMapError::Stride { dimension, stride });
            }
        }
        for (dimension, &size) in (0..).zip(&self.box_sizes[..rank]) {
            if !(1..=256).contains(&size) {
                return Err(TensorMapError::BoxSize { dimension, size });
            }
        }
        let bytes = self.box_sizes[0] * self.element_bytes;
        if !bytes.is_multiple_of(16) || self.swizzle.row_bytes().is_some_and(|only| bytes != only) {
            return Err(TensorMapError::RowBytes { bytes, swizzle: self.swizzle });
        }
        if self.tile_bytes() > MAX_TILE_BYTES {
            return Err(TensorMapError::TileBytes(self.tile_bytes()));
        }
        if !address.is_multiple_of(16) {
            return Err(TensorMapError::Address(address));
        }
        Ok(())
    }

    /// The simulator's tensor map of a tensor at `address`.
    ///
    /// # Errors
    /// As for [`Self::check`].
    #[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
    pub fn simulated(&self, address: u64) -> Result<TensorMap, TensorMapError> {
        self.check(address)?;
        let Self { rank, element_bytes, sizes, strides, box_sizes, swizzle } = *self;
        let swizzle = swizzle.code();
        let map = cuda_std::sim::TiledMap { address, rank, element_bytes, sizes, strides, box_sizes, swizzle };
        Ok(TensorMap(map.to_words()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: TiledLayout = TiledLayout {
        rank: 2,
        element_bytes: 2,
        sizes: [128, 40, 0, 0, 0],
        strides: [256, 0, 0, 0],
        box_sizes: [64, 32, 0, 0, 0],
        swizzle: TileSwizzle::Bytes128,
    };

    #[test]
    fn a_layout_that_the_hardware_takes_passes() {
        assert_eq!(LAYOUT.check(1024), Ok(()));
        assert_eq!(LAYOUT.tile_bytes(), 4096);
        let any_row = TiledLayout { box_sizes: [24, 256, 0, 0, 0], swizzle: TileSwizzle::None, ..LAYOUT };
        assert_eq!(any_row.check(16), Ok(()));
    }

    #[test]
    fn errors_name_what_is_allowed() {
        let refused = |layout: TiledLayout, text: &str| {
            let error = layout.check(1024).unwrap_err();
            assert!(error.to_string().ends_with(text), "{error}");
        };
        refused(TiledLayout { rank: 6, ..LAYOUT }, "2 to 5 are allowed");
        refused(TiledLayout { element_bytes: 4, ..LAYOUT }, "1 and 2 are allowed");
        refused(TiledLayout { sizes: [128, 0, 0, 0, 0], ..LAYOUT }, "dimension 1; 1 to 2^32 are allowed");
        refused(TiledLayout { sizes: [100, 40, 0, 0, 0], ..LAYOUT }, "rows of 200 bytes; multiples of 16 are allowed");
        refused(TiledLayout { strides: [24, 0, 0, 0], ..LAYOUT }, "multiples of 16 below 2^40 are allowed");
        refused(TiledLayout { box_sizes: [64, 257, 0, 0, 0], ..LAYOUT }, "1 to 256 are allowed");
        refused(TiledLayout { box_sizes: [32, 32, 0, 0, 0], ..LAYOUT }, "with this swizzle 128 are allowed");
        refused(
            TiledLayout { box_sizes: [4, 32, 0, 0, 0], swizzle: TileSwizzle::None, ..LAYOUT },
            "rows of 8 bytes; multiples of 16 are allowed",
        );
        let large = TiledLayout { rank: 3, box_sizes: [64, 256, 256, 0, 0], sizes: [64, 256, 256, 0, 0], ..LAYOUT };
        refused(TiledLayout { strides: [128, 32768, 0, 0], ..large }, "at most 232448 are allowed");
        assert_eq!(LAYOUT.check(8), Err(TensorMapError::Address(8)));
    }
}
