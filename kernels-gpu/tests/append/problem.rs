//! An append on the simulator without the host library: buffers, the launch, and every byte of the cache afterwards.
use super::reference::{self, E4M3, E5M2};
use cuda_std::sim::{self, Grid, Memory, Options};
use kernels_gpu::abi::{AppendParams, CacheFlags, CacheSide, Rows};
use kernels_gpu::append::CHUNK;
use kernels_gpu::config::APPEND_THREADS;
use kernels_gpu::element::{CacheKind, ElementKind};
use kernels_gpu::kernels::{EntryInfo, Params, Role, run};
use kernels_gpu::memory::Global;

/// What a cache holds before, and where nothing is written also after.
const UNTOUCHED: u8 = 0xC5;

/// By what K and V are scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Factors that the host knows, of K and of V.
    Host(f32, f32),
    /// The same times what is read on the device.
    Device { host: (f32, f32), device: (f32, f32) },
    /// The same divided by what is read on the device.
    Dividing { host: (f32, f32), device: (f32, f32) },
    /// FP8 with a scale a token and head.
    Rows,
}

#[derive(Clone, Debug)]
pub struct Problem {
    pub entry: &'static EntryInfo,
    pub head_dim: usize,
    pub heads: usize,
    pub page_size: usize,
    pub pages: usize,
    pub slots: Vec<i64>,
    /// Heads outside of tokens in a page.
    pub hnd: bool,
    /// Bytes between rows of the new tokens that nobody may read, and between pages that nobody may write.
    pub gap: usize,
    pub scaling: Scaling,
    pub interleaved: bool,
    /// Bits of element `[side, token, head, column]`.
    pub element: fn(usize, usize, usize, usize) -> u16,
    /// Blocks besides those that have work.
    pub idle_blocks: u32,
}

/// A side's bytes by position.
#[derive(Clone, Copy)]
struct Layout {
    page: usize,
    token: usize,
    head: usize,
}

impl Layout {
    fn of(problem: &Problem, row_bytes: usize, gap: usize) -> Self {
        let (tokens, heads) = (problem.page_size, problem.heads);
        let page = tokens * heads * row_bytes + gap;
        match problem.hnd {
            true => Self { page, token: row_bytes, head: tokens * row_bytes },
            false => Self { page, token: heads * row_bytes, head: row_bytes },
        }
    }

    fn at(&self, page: usize, token: usize, head: usize) -> usize {
        page * self.page + token * self.token + head * self.head
    }

    fn side(&self, base: u64) -> CacheSide {
        let [page_stride, token_stride, head_stride] = [self.page, self.token, self.head].map(|bytes| bytes as i64);
        CacheSide { base: Global::new(base), page_stride, token_stride, head_stride }
    }
}

/// Of K and of V: elements and scales.
#[derive(Clone, PartialEq, Eq)]
pub struct Cache {
    pub elements: [Vec<u8>; 2],
    pub scales: [Vec<u8>; 2],
}

impl Problem {
    pub fn kinds(&self) -> (ElementKind, CacheKind) {
        let Role::Append { src, kv } = self.entry.role else { panic!("{} does not append", self.entry.name) };
        (src, kv)
    }

    fn row_bytes(&self) -> usize {
        self.head_dim * self.kinds().1.bits() as usize / 8
    }

    /// Bytes of scales that a row has.
    fn scale_bytes(&self) -> usize {
        match self.kinds().1 {
            CacheKind::NvFp4 => self.head_dim / 16,
            CacheKind::Fp8E4M3 | CacheKind::Fp8E5M2 if self.scaling == Scaling::Rows => 4,
            _ => 0,
        }
    }

    fn elements(&self) -> Layout {
        Layout::of(self, self.row_bytes(), self.gap)
    }

    fn scales(&self, side: usize) -> Layout {
        let bytes = self.scale_bytes();
        let layout = Layout::of(self, bytes, self.gap);
        match side == 1 && self.interleaved && !self.hnd {
            // Four tokens of a head are together.
            true => Layout { head: 4 * bytes, ..layout },
            false => layout,
        }
    }

    fn empty(&self) -> Cache {
        let bytes = |layout: Layout| vec![UNTOUCHED; self.pages * layout.page];
        Cache { elements: [0, 1].map(|_| bytes(self.elements())), scales: [0, 1].map(|side| bytes(self.scales(side))) }
    }

    fn row(&self, side: usize, token: usize, head: usize) -> Vec<u16> {
        (0..self.head_dim).map(|column| (self.element)(side, token, head, column)).collect()
    }

    /// What the tensor of `side` is scaled by.
    fn scale(&self, side: usize) -> f32 {
        let of = |(k, v): (f32, f32)| if side == 0 { k } else { v };
        match self.scaling {
            Scaling::Host(k, v) => of((k, v)),
            Scaling::Device { host, device } => of(host) * of(device),
            Scaling::Dividing { host, device } => of(host) / of(device),
            Scaling::Rows => 1.0,
        }
    }

    /// The cache as it must be, token by token.
    pub fn expected(&self) -> Cache {
        let ((src, kv), mut cache) = (self.kinds(), self.empty());
        for (token, &slot) in self.slots.iter().enumerate() {
            let Ok(slot) = usize::try_from(slot) else { continue };
            if slot >= self.pages * self.page_size {
                continue;
            }
            let (page, in_page) = (slot / self.page_size, slot % self.page_size);
            for (side, head) in [0, 1].into_iter().flat_map(|side| (0..self.heads).map(move |head| (side, head))) {
                let bits = self.row(side, token, head);
                let row: Vec<f32> = bits.iter().map(|&bits| reference::number(src, bits)).collect();
                let (elements, scales) = match kv {
                    CacheKind::Bf16 | CacheKind::F16 => (bits.iter().flat_map(|b| b.to_le_bytes()).collect(), vec![]),
                    CacheKind::NvFp4 => reference::nvfp4(&row, self.scale(side)),
                    CacheKind::Fp8E4M3 | CacheKind::Fp8E5M2 => {
                        let codes = if kv == CacheKind::Fp8E4M3 { E4M3 } else { E5M2 };
                        match self.scaling {
                            Scaling::Rows => {
                                let (codes, scale) = reference::fp8_row(&codes, &row);
                                (codes, scale.to_le_bytes().to_vec())
                            }
                            _ => (reference::fp8(&codes, &row, self.scale(side)), vec![]),
                        }
                    }
                };
                let at = self.elements().at(page, in_page, head);
                cache.elements[side][at..at + elements.len()].copy_from_slice(&elements);
                for (block, &byte) in scales.iter().enumerate() {
                    let at = match side == 1 && self.interleaved {
                        false => self.scales(side).at(page, in_page, head) + block,
                        true => self.scales(side).at(page, in_page - in_page % 4, head) + 4 * block + in_page % 4,
                    };
                    cache.scales[side][at] = byte;
                }
            }
        }
        cache
    }

    /// Runs the entry on the simulator.
    pub fn run(&self) -> Result<Cache, sim::Error> {
        let memory = Memory::new();
        let upload = |bytes: &[u8]| {
            let at = memory.alloc(bytes.len());
            memory.write(at, bytes).map(|()| at)
        };
        let (tokens, row_bytes) = (self.slots.len(), 2 * self.head_dim);
        // Tokens and heads of the source apart by what nobody wrote: reading there is an error.
        let (head_stride, token_stride) = (row_bytes + self.gap, self.heads * (row_bytes + self.gap) + 2 * self.gap);
        let source = |side: usize| {
            let base = memory.alloc((tokens * token_stride).max(1));
            for (token, head) in (0..tokens).flat_map(|token| (0..self.heads).map(move |head| (token, head))) {
                let bytes: Vec<u8> = self.row(side, token, head).iter().flat_map(|b| b.to_le_bytes()).collect();
                memory.write(base + (token * token_stride + head * head_stride) as u64, &bytes)?;
            }
            let (token_stride, head_stride) = (token_stride as i64, head_stride as i64);
            Ok::<_, sim::Error>(Rows { base: Global::new(base), token_stride, head_stride })
        };
        let before = self.empty();
        let elements = [upload(&before.elements[0])?, upload(&before.elements[1])?];
        let scales = [upload(&before.scales[0])?, upload(&before.scales[1])?];
        let scale_side = |side: usize| match self.scale_bytes() {
            0 => CacheSide::NONE,
            _ => self.scales(side).side(scales[side]),
        };
        let ((k_scale, v_scale), device, divides) = match self.scaling {
            Scaling::Host(k, v) => ((k, v), None, 0),
            Scaling::Device { host, device } => (host, Some(device), 0),
            Scaling::Dividing { host, device } => (host, Some(device), CacheFlags::K_DIVIDES | CacheFlags::V_DIVIDES),
            // Not to be looked at.
            Scaling::Rows => ((f32::NAN, f32::NAN), None, 0),
        };
        let scalar = |x: f32| upload(&x.to_le_bytes()).map(Global::new);
        let (k_scale_at, v_scale_at) = match device {
            Some((k, v)) => (scalar(k)?, scalar(v)?),
            None => (Global::NULL, Global::NULL),
        };
        let slots: Vec<u8> = self.slots.iter().flat_map(|slot| slot.to_le_bytes()).collect();
        let params = AppendParams {
            k: source(0)?,
            v: source(1)?,
            k_cache: self.elements().side(elements[0]),
            v_cache: self.elements().side(elements[1]),
            k_scales: scale_side(0),
            v_scales: scale_side(1),
            k_scale_at,
            v_scale_at,
            slots: Global::new(upload(&slots)?),
            k_scale,
            v_scale,
            tokens: tokens as u32,
            kv_heads: self.heads as u32,
            head_dim: self.head_dim as u32,
            page_shift: self.page_size.ilog2(),
            cache_slots: (self.pages * self.page_size) as i64,
            flags: divides | if self.interleaved { CacheFlags::V_INTERLEAVED } else { 0 },
            reserved: 0,
        };
        let threads = (tokens * self.heads * self.head_dim) as u32 / CHUNK;
        let entry = self.entry;
        let blocks = threads.div_ceil(APPEND_THREADS) + self.idle_blocks;
        let grid = Grid { name: entry.name, blocks, threads: entry.threads, shared_bytes: 0, early: false, cluster: 1 };
        let options = Options { seed: 3, ..Options::default() };
        // SAFETY: the addresses are of this memory, and the simulator checks each access.
        sim::launch(&memory, &grid, &options, &|| unsafe { run(entry.name, &Params::Append(params)) })?;
        let mut after = before;
        for side in 0..2 {
            memory.read(elements[side], &mut after.elements[side])?;
            memory.read(scales[side], &mut after.scales[side])?;
        }
        Ok(after)
    }

    /// Runs, and compares every byte.
    #[track_caller]
    pub fn check(&self) {
        let what = format!("{} {:?}", self.entry.name, (self.head_dim, self.scaling, self.hnd, self.interleaved));
        let (got, expected) = (self.run().unwrap_or_else(|error| panic!("{what}: {error}")), self.expected());
        for side in 0..2 {
            let name = ["k", "v"][side];
            let layout = self.elements();
            let wrong = |got: &[u8], expected: &[u8]| got.iter().zip(expected).position(|(got, right)| got != right);
            if let Some(at) = wrong(&got.scales[side], &expected.scales[side]) {
                let (got, right) = (got.scales[side][at], expected.scales[side][at]);
                panic!("{what}: byte {at} of {name}'s scales is {got:#04x}, not {right:#04x}");
            }
            if let Some(at) = wrong(&got.elements[side], &expected.elements[side]) {
                let (got, right) = (got.elements[side][at], expected.elements[side][at]);
                panic!("{what}: byte {at} (page {}) of {name} is {got:#04x}, not {right:#04x}", at / layout.page);
            }
        }
    }
}
