//! A cache of any format, made of codes drawn at random: what is in memory, and the numbers that it stands for.
use super::{Problem, upload};
use cuda_std::sim::Memory;
use half::{bf16, f16};
use kernels_gpu::abi::{CacheFlags, CacheSide};
use kernels_gpu::element::CacheKind;
use kernels_gpu::layout::nvfp4;
use kernels_gpu::memory::Global;

/// What the scales of a narrow cache are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// One number a side, known to the host.
    Host,
    /// One number a side, in device memory.
    Device,
    /// Its reciprocal there.
    DeviceReciprocal,
    /// FP8: one a token and head.
    Tokens,
    /// NVFP4: V's blocks four tokens at a time.
    Interleaved,
}

/// The factor of a whole side.
pub const SIDE_SCALE: [f32; 2] = [0.375, 1.5];

/// An e4m3 without NaN by its definition: bias 7, subnormals in steps of 2^-9.
fn e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = if exponent == 0 { fraction / 512.0 } else { (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7) };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

fn e2m1(code: u8) -> f32 {
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)] * if code & 8 == 0 { 1.0 } else { -1.0 }
}

impl Problem {
    fn code(&self, what: usize, kv: u32, token: u32, column: u32) -> u8 {
        let bits = self.hash(what as u64, kv, token, column);
        let (sign, low) = ((bits >> 24 & 0x80) as u8, bits as u8);
        match self.shape.cache {
            // Below 1.875 x 2, subnormals and zeros with it.
            CacheKind::Fp8E4M3 => sign | (low % 0x48),
            CacheKind::Fp8E5M2 => sign | (low % 0x42),
            _ => low & 15,
        }
    }

    fn block_scale(&self, what: usize, kv: u32, token: u32, block: u32) -> u8 {
        // 2^-9 to 1.875, and a zero now and then.
        (self.hash(4 + what as u64, kv, token, block) % 0x40) as u8
    }

    fn token_scale(&self, what: usize, kv: u32, token: u32) -> f32 {
        // 0 belongs to a token whose row was all zeros.
        let bits = self.hash(6 + what as u64, kv, token, 0);
        if bits.is_multiple_of(7) { 0.0 } else { (bits % 1000 + 1) as f32 / 400.0 }
    }

    /// Element `column` of K (`what` 1) or V (2).
    pub fn cached(&self, what: usize, kv: u32, token: u32, column: u32) -> f32 {
        let side = SIDE_SCALE[what - 1];
        let code = self.code(what, kv, token, column);
        let tokens = self.scaling == Scaling::Tokens;
        let scale = if tokens { self.token_scale(what, kv, token) } else { side };
        match self.shape.cache {
            CacheKind::Bf16 => bf16::from_f32(self.value(what as u64, kv, token, column)).to_f32(),
            CacheKind::F16 => f16::from_f32(self.value(what as u64, kv, token, column)).to_f32(),
            CacheKind::Fp8E4M3 => e4m3(code) * scale,
            CacheKind::Fp8E5M2 => f16::from_bits(u16::from(code) << 8).to_f32() * scale,
            CacheKind::NvFp4 => e2m1(code) * e4m3(self.block_scale(what, kv, token, column / 16)) * side,
        }
    }

    /// Bytes of a row in memory.
    fn row(&self, what: usize, kv: u32, token: u32) -> Vec<u8> {
        let d = self.shape.head_dim;
        let sixteen = |column| self.value(what as u64, kv, token, column);
        match self.shape.cache {
            CacheKind::Bf16 => (0..d).flat_map(|c| bf16::from_f32(sixteen(c)).to_le_bytes()).collect(),
            CacheKind::F16 => (0..d).flat_map(|c| f16::from_f32(sixteen(c)).to_le_bytes()).collect(),
            CacheKind::Fp8E4M3 | CacheKind::Fp8E5M2 => (0..d).map(|c| self.code(what, kv, token, c)).collect(),
            CacheKind::NvFp4 => (0..d / 2)
                .map(|pair| self.code(what, kv, token, 2 * pair) | self.code(what, kv, token, 2 * pair + 1) << 4)
                .collect(),
        }
    }

    /// K (`what` 1) or V (2) in memory, pages NHD; what no token has is NaN.
    pub fn cache(&self, memory: &Memory, what: usize) -> CacheSide {
        let row = self.shape.head_dim * self.shape.cache.bits() / 8;
        let strides = [self.page_size * self.kv_heads * row, self.kv_heads * row, row];
        self.side(memory, strides, &|kv, token, slot| places(slot * strides[1], self.row(what, kv, token)))
    }

    /// Their scales.
    pub fn scales(&self, memory: &Memory, what: usize) -> CacheSide {
        let (heads, page, d) = (self.kv_heads, self.page_size, self.shape.head_dim);
        match self.shape.cache {
            CacheKind::NvFp4 => {
                let blocks = nvfp4::scales(d);
                let scale = |kv, token, block| self.block_scale(what, kv, token, block);
                if self.scaling == Scaling::Interleaved && what == 2 {
                    self.side(memory, [heads * page * blocks, blocks, page * blocks], &|kv, token, slot| {
                        (0..blocks).map(|b| (nvfp4::interleaved(slot, b, d), scale(kv, token, b))).collect()
                    })
                } else {
                    let strides = [page * heads * blocks, heads * blocks, blocks];
                    self.side(memory, strides, &|kv, token, slot| {
                        places(slot * strides[1], (0..blocks).map(|b| scale(kv, token, b)).collect())
                    })
                }
            }
            CacheKind::Fp8E4M3 | CacheKind::Fp8E5M2 if self.scaling == Scaling::Tokens => {
                let strides = [page * heads * 4, heads * 4, 4];
                self.side(memory, strides, &|kv, token, slot| {
                    places(slot * strides[1], self.token_scale(what, kv, token).to_le_bytes().to_vec())
                })
            }
            _ => CacheSide::NONE,
        }
    }

    /// Pages of `strides` (page, token, head) whose tokens have the bytes that `places` says, from their page and head on.
    fn side(&self, memory: &Memory, strides: [u32; 3], places: &dyn Fn(u32, u32, u32) -> Vec<(u32, u8)>) -> CacheSide {
        let pages: u32 = (0..self.planned.len()).map(|s| self.pages_of(s)).sum();
        let mut data = vec![0xFF; (pages * strides[0]) as usize];
        for (sequence, &length) in self.lengths.iter().enumerate() {
            for key in 0..length.min(self.planned[sequence]) {
                let page = self.page(sequence, key / self.page_size) * strides[0];
                for head in 0..self.kv_heads {
                    for (at, byte) in places(head + 1000 * sequence as u32, key, key % self.page_size) {
                        data[(page + head * strides[2] + at) as usize] = byte;
                    }
                }
            }
        }
        let [page_stride, token_stride, head_stride] = strides.map(i64::from);
        CacheSide { base: Global::new(upload(memory, &data)), page_stride, token_stride, head_stride }
    }

    /// The factors of K and V that the host knows, where the others are, and the flags.
    pub fn factors(&self, memory: &Memory) -> ([f32; 2], [Global<f32>; 2], u32) {
        let device = |of: fn(f32) -> f32| SIDE_SCALE.map(|scale| Global::new(upload(memory, &of(scale).to_le_bytes())));
        let none = [Global::NULL; 2];
        match (self.shape.cache, self.scaling) {
            (CacheKind::Bf16 | CacheKind::F16, _) | (_, Scaling::Tokens) => ([1.0; 2], none, 0),
            (_, Scaling::Host) => (SIDE_SCALE, none, 0),
            (_, Scaling::Device) => ([1.0; 2], device(|scale| scale), 0),
            (_, Scaling::DeviceReciprocal) => {
                ([1.0; 2], device(|scale| 1.0 / scale), CacheFlags::K_DIVIDES | CacheFlags::V_DIVIDES)
            }
            (_, Scaling::Interleaved) => (SIDE_SCALE, none, CacheFlags::V_INTERLEAVED),
        }
    }
}

fn places(first: u32, bytes: Vec<u8>) -> Vec<(u32, u8)> {
    (first..).zip(bytes).collect()
}
