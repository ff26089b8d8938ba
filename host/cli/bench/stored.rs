//! The caches that a benchmark times: their scales, and rows of them as numbers again.
use crate::cache::{CacheFor, CacheFormat};
use crate::testing::format;
use crate::testing::quantise::{Codes, Nvfp4Block};
use crate::{
    Bf16, Buffer, CacheDType, CacheShape, DType, Error, F16, Format, Fp8E4M3, Fp8E5M2, Fp8Scales, GlobalScale, NvFp4,
    NvFp4Scales, Query, QueryFormat, TensorScale,
};
use kernels_gpu::layout::nvfp4;

/// What FP8 codes are multiplied by: N(0, 1) reaches some 5.5, 448 / 64 is 7.
const FP8_SCALE: f32 = 1.0 / 64.0;

/// What NVFP4's blocks are multiplied by: their scales are then amax / 6 * 448, at most 448 for 6.
const NVFP4_GLOBAL: f32 = 1.0 / 448.0;

/// A format whose cache is timed with queries of `T`.
pub trait Timed<T: Format>: CacheFor<T> + CacheFormat {
    /// Its scales.
    ///
    /// # Errors
    /// None that these numbers have.
    fn scales<'a>() -> Result<Self::Scales<'a>, Error>;
}

/// A format of queries that is timed, with results of `T`.
pub trait TimedQuery<T: Format>: QueryFormat {
    /// The bytes of queries, and `numbers` of `T` rounded to what these are.
    fn encode(numbers: &mut Vec<u8>) -> Vec<u8>;

    /// Queries `[tokens, heads, head_dim]` of such bytes.
    ///
    /// # Errors
    /// As [`Query::new`].
    fn query(bytes: &Buffer, shape: [usize; 3]) -> Result<Query<'_, Self>, Error>;
}

impl<T: Format> TimedQuery<T> for T {
    fn encode(numbers: &mut Vec<u8>) -> Vec<u8> {
        numbers.clone()
    }

    fn query(bytes: &Buffer, shape: [usize; 3]) -> Result<Query<'_, Self>, Error> {
        Query::new(bytes, shape)
    }
}

impl TimedQuery<Bf16> for Fp8E4M3 {
    // A power of two: codes times it are numbers of bf16.
    fn encode(numbers: &mut Vec<u8>) -> Vec<u8> {
        let (e4m3, values) = (Codes::e4m3(), format::decode_bytes(DType::Bf16, numbers));
        let codes: Vec<u8> = values.iter().map(|value| e4m3.encode(value / FP8_SCALE)).collect();
        let rounded: Vec<f32> = codes.iter().map(|&code| e4m3.decode(code) * FP8_SCALE).collect();
        *numbers = format::encode_bytes(DType::Bf16, &rounded);
        codes
    }

    fn query(bytes: &Buffer, shape: [usize; 3]) -> Result<Query<'_, Self>, Error> {
        Query::quantised(bytes, shape, FP8_SCALE)
    }
}

macro_rules! timed {
    ($($name:ty: $($q:ident)*, $scales:expr;)*) => {$($(
        impl Timed<$q> for $name {
            fn scales<'a>() -> Result<Self::Scales<'a>, Error> {
                $scales
            }
        }
    )*)*};
}

timed! {
    Bf16: Bf16, Ok(());
    F16: F16, Ok(());
    Fp8E4M3: Bf16 F16, fp8();
    Fp8E5M2: Bf16 F16, fp8();
    NvFp4: Bf16 F16, {
        let global = GlobalScale::multiplies(NVFP4_GLOBAL)?;
        Ok(NvFp4Scales::in_pages(global, global))
    };
}

fn fp8<'a>() -> Result<Fp8Scales<'a>, Error> {
    let scale = TensorScale::value(FP8_SCALE)?;
    Ok(Fp8Scales::per_tensor(scale, scale))
}

/// Reads rows of a side in the NHD layout, NVFP4's block scales behind their page's elements.
pub struct Rows {
    format: CacheDType,
    shape: CacheShape,
    codes: Codes,
    /// NVFP4's elements, whose scales are `codes`.
    e2m1: Codes,
}

impl Rows {
    /// Of a cache of `format` and `shape`.
    pub fn new(format: CacheDType, shape: CacheShape) -> Self {
        let codes = if format == CacheDType::Fp8E5M2 { Codes::e5m2() } else { Codes::e4m3() };
        Self { format, shape, codes, e2m1: Codes::e2m1() }
    }

    /// The row of a head of a page's token in the bytes of a side.
    pub fn row(&self, side: &[u8], page: usize, token: usize, head: usize) -> Vec<f32> {
        let CacheShape { page_size, kv_heads, head_dim, .. } = self.shape;
        let d = head_dim.get();
        let (in_page, rows) = (token * kv_heads + head, page_size * kv_heads);
        let part = |at: usize, bytes: usize| &side[at..at + bytes];
        let sixteen = |dtype| format::decode_bytes(dtype, part(2 * d * (page * rows + in_page), 2 * d));
        match self.format {
            CacheDType::Bf16 => sixteen(DType::Bf16),
            CacheDType::F16 => sixteen(DType::F16),
            CacheDType::Fp8E4M3 | CacheDType::Fp8E5M2 => {
                let row = part(d * (page * rows + in_page), d);
                row.iter().map(|&code| self.codes.decode(code) * FP8_SCALE).collect()
            }
            CacheDType::NvFp4 => {
                let (data, blocks) = (d / 2, d / nvfp4::BLOCK as usize);
                let at = page * rows * (data + blocks);
                let elements = part(at + in_page * data, data);
                let scales = part(at + rows * data + in_page * blocks, blocks);
                let number = |i: usize| {
                    let step = self.codes.decode(scales[i / nvfp4::BLOCK as usize]) * NVFP4_GLOBAL;
                    self.e2m1.decode(elements[i / 2] >> (4 * (i % 2)) & 15) * step
                };
                (0..d).map(number).collect()
            }
        }
    }

    /// What a row of `values`, exact in the model's format, is once it is stored.
    pub fn quantised(&self, values: &[f32]) -> Vec<f32> {
        match self.format {
            CacheDType::Bf16 | CacheDType::F16 => values.to_vec(),
            CacheDType::Fp8E4M3 | CacheDType::Fp8E5M2 => {
                let stored = |x: &f32| self.codes.decode(self.codes.encode(x / FP8_SCALE)) * FP8_SCALE;
                values.iter().map(stored).collect()
            }
            CacheDType::NvFp4 => {
                let blocks = values.as_chunks().0.iter();
                blocks.flat_map(|block| Nvfp4Block::quantise(block, NVFP4_GLOBAL).numbers(NVFP4_GLOBAL)).collect()
            }
        }
    }
}
