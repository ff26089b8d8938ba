//! Which cache a case has, and K and V as that cache stores them: codes, scales, and the numbers that these are.
//!
//! Factors of a whole tensor have 8 significant bits, so that code times scale times factor is exact in f32 and the oracle
//! judges what kernels do with the numbers, not how quantising changed them.
use super::format;
use super::quantise::{Codes, Nvfp4Block};
use crate::{CacheDType, DType};
use half::bf16;
use kernels_gpu::element::CacheKind;
use kernels_gpu::layout::nvfp4;

/// A case's cache, and what kind of scales it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CaseCache {
    /// Of the queries' format.
    #[default]
    Own,
    /// FP8 with 4 exponent bits.
    Fp8E4M3(Fp8Kind),
    /// FP8 with 5 exponent bits.
    Fp8E5M2(Fp8Kind),
    /// NVFP4.
    NvFp4(NvFp4Kind),
}

/// The scales of an FP8 case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fp8Kind {
    /// One of a tensor, which the host knows.
    Tensor,
    /// One of a tensor, which the device reads.
    OnDevice,
    /// One a token and head.
    TokenHead,
}

impl Fp8Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tensor, Self::OnDevice, Self::TokenHead];
}

/// The scales of an NVFP4 case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NvFp4Kind {
    /// Whether V's block scales are four tokens at a time.
    pub interleaved: bool,
    /// Whether block scales lie in the cache's pages.
    pub in_pages: bool,
    /// Whether the global scales are given as what divides.
    pub divides: bool,
    /// Whether the device reads them.
    pub on_device: bool,
}

impl NvFp4Kind {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..16).map(|bits| Self {
            interleaved: bits & 1 != 0,
            in_pages: bits & 2 != 0,
            divides: bits & 4 != 0,
            on_device: bits & 8 != 0,
        })
    }
}

impl CaseCache {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let fp8 = |of: fn(Fp8Kind) -> Self| Fp8Kind::ALL.into_iter().map(of);
        let four = NvFp4Kind::all().map(Self::NvFp4);
        [Self::Own].into_iter().chain(fp8(Self::Fp8E4M3)).chain(fp8(Self::Fp8E5M2)).chain(four)
    }

    /// One of a format for queries of `q`, if they read it; which one of its kinds, `seed` says.
    pub fn of(format: CacheDType, q: DType, seed: u64) -> Option<Self> {
        let kinds: Vec<Self> = Self::all().filter(|cache| cache.dtype(q) == format).collect();
        let index = seed.checked_rem(kinds.len() as u64)?;
        kinds.get(index as usize).copied()
    }

    /// As [`CaseCache::of`], by the name that kernels have for the format.
    pub fn of_kind(kind: CacheKind, q: DType, seed: u64) -> Option<Self> {
        Self::of(CacheDType::of(kind), q, seed)
    }

    /// The cache's format, for queries of `q`.
    pub fn dtype(self, q: DType) -> CacheDType {
        match self {
            Self::Own => q.into(),
            Self::Fp8E4M3(_) => CacheDType::Fp8E4M3,
            Self::Fp8E5M2(_) => CacheDType::Fp8E5M2,
            Self::NvFp4(_) => CacheDType::NvFp4,
        }
    }

    /// Bytes of the codes of a row, and of its scales.
    pub const fn row_bytes(self, head_dim: usize) -> (usize, usize) {
        match self {
            Self::Own => (2 * head_dim, 0),
            Self::Fp8E4M3(Fp8Kind::TokenHead) | Self::Fp8E5M2(Fp8Kind::TokenHead) => (head_dim, size_of::<f32>()),
            Self::Fp8E4M3(_) | Self::Fp8E5M2(_) => (head_dim, 0),
            Self::NvFp4(_) => (head_dim / 2, head_dim / nvfp4::BLOCK as usize),
        }
    }

    /// The largest number of the format before the factor; `None`: there is no factor.
    const fn largest(self) -> Option<f32> {
        match self {
            Self::Fp8E4M3(Fp8Kind::Tensor | Fp8Kind::OnDevice) => Some(448.0),
            Self::Fp8E5M2(Fp8Kind::Tensor | Fp8Kind::OnDevice) => Some(57344.0),
            Self::NvFp4(_) => Some(448.0 * 6.0),
            Self::Own | Self::Fp8E4M3(Fp8Kind::TokenHead) | Self::Fp8E5M2(Fp8Kind::TokenHead) => None,
        }
    }

    /// The factor of a side whose largest magnitude is `largest`: with it the largest code is the format's largest.
    pub fn factor(self, largest: f32) -> f32 {
        self.largest().map_or(1.0, |codes| short(largest / codes))
    }

    /// As [`CaseCache::factor`], with all bits: as a server calibrates it, `amax / 448` (57344 in e5m2), so that nothing
    /// saturates and no step is coarser than it must be.
    ///
    /// In NVFP4 `amax / (6 * 448)`: the block with the largest number has the largest scale that e4m3 has, which leaves
    /// small blocks as far as can be from scales below e4m3's normal numbers, with fewer bits, and from 0. FlashInfer's
    /// `amax / 448` gives up a factor of six of that for as much headroom above `amax`, where what is quantised here has
    /// no numbers.
    pub fn server_factor(self, amax: f32) -> f32 {
        self.largest().map_or(1.0, |codes| (amax / codes).max(f32::MIN_POSITIVE))
    }

    /// `rows` of `head_dim` numbers as the cache stores them.
    pub fn store(self, q: DType, rows: &[f32], head_dim: usize, factor: f32) -> Stored {
        match self {
            Self::Own => Stored::own(q, rows),
            Self::Fp8E4M3(kind) => fp8(&Codes::e4m3(), 448.0, kind, rows, head_dim, factor),
            Self::Fp8E5M2(kind) => fp8(&Codes::e5m2(), 57344.0, kind, rows, head_dim, factor),
            Self::NvFp4(_) => four_bits(rows, factor),
        }
    }
}

/// `scale` with 8 significant bits; of 0, which would be none, 1.
fn short(scale: f32) -> f32 {
    if scale > 0.0 { bf16::from_f32(scale).to_f32() } else { 1.0 }
}

/// Rows as a cache stores them.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The numbers that codes and scales are.
    pub numbers: Vec<f32>,
    /// Codes, a row after the other.
    pub codes: Vec<u8>,
    /// Scales a row, as [`CaseCache::row_bytes`] has them; NVFP4's in the order of blocks.
    pub scales: Vec<u8>,
}

impl Stored {
    /// Rows of a 16-bit format.
    pub fn own(format: DType, rows: &[f32]) -> Self {
        let codes = format::encode_bytes(format, rows);
        Self { numbers: format::decode_bytes(format, &codes), codes, scales: Vec::new() }
    }
}

fn fp8(codes: &Codes, largest: f32, kind: Fp8Kind, rows: &[f32], head_dim: usize, factor: f32) -> Stored {
    let mut stored = Stored { numbers: Vec::new(), codes: Vec::new(), scales: Vec::new() };
    for row in rows.chunks_exact(head_dim) {
        let scale = match kind {
            Fp8Kind::Tensor | Fp8Kind::OnDevice => factor,
            Fp8Kind::TokenHead => {
                let scale = short(row.iter().fold(0.0f32, |most, x| most.max(x.abs())) / largest);
                stored.scales.extend(scale.to_le_bytes());
                scale
            }
        };
        for code in row.iter().map(|x| codes.encode(x / scale)) {
            stored.codes.push(code);
            stored.numbers.push(codes.decode(code) * scale);
        }
    }
    stored
}

fn four_bits(rows: &[f32], global: f32) -> Stored {
    let mut stored = Stored { numbers: Vec::new(), codes: Vec::new(), scales: Vec::new() };
    let (blocks, _) = rows.as_chunks::<{ nvfp4::BLOCK as usize }>();
    for values in blocks {
        let block = Nvfp4Block::quantise(values, global);
        stored.codes.extend(block.elements);
        stored.scales.push(block.scale);
        stored.numbers.extend(block.numbers(global));
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of every kind are near what they were made of, and as long as [`CaseCache::row_bytes`] says.
    #[test]
    fn every_kind_stores_its_rows() {
        let rows: Vec<f32> = (0..3 * 64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
        for cache in CaseCache::all() {
            let factor = cache.factor(3.0);
            let stored = cache.store(DType::F16, &rows, 64, factor);
            let (codes, scales) = cache.row_bytes(64);
            assert_eq!((stored.codes.len(), stored.scales.len()), (3 * codes, 3 * scales), "{cache:?}");
            let worst = rows.iter().zip(&stored.numbers).map(|(x, y)| (x - y).abs()).fold(0.0f32, f32::max);
            let allowed = match cache {
                CaseCache::Own => 0.002,
                CaseCache::Fp8E4M3(_) => 0.13,
                CaseCache::Fp8E5M2(_) => 0.26,
                CaseCache::NvFp4(_) => 0.55,
            };
            assert!(worst < allowed, "{cache:?}: {worst}");
        }
        assert_eq!(CaseCache::all().count(), 23);
        assert_eq!(CaseCache::of(CacheDType::F16, DType::Bf16, 0), None);
    }
}
