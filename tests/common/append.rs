//! An append through the public API, and what every byte of the cache must be after it, by the reference quantiser.
use kernels_gpu::element::{CacheKind, ElementKind};
use kernels_gpu::kernels::Role;
use qkv::testing::format::decode;
use qkv::testing::quantise::{Codes, Fp8Row, Nvfp4Block};
use qkv::{
    Append, Bf16, BlockScales, Buffer, CacheFor, CacheLayout, CacheShape, DType, Device, Error, F16, Format, Fp8E4M3,
    Fp8E5M2, Fp8Scales, GlobalScale, HeadDim, Interleaved, KernelId, KvCache, Linear, NewTokens, NvFp4, NvFp4Scales,
    PackedLayout, ScaleOrder, SlotMapping, Stream, TensorScale, TokenScales,
};

/// What a cache holds before, and where nothing is written also after.
const UNTOUCHED: u8 = 0xC5;

/// Where rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// K and V in buffers of their own, heads inside tokens.
    Nhd,
    /// The same, tokens inside heads.
    Hnd,
    /// One buffer of both, tokens inside heads; NVFP4's block scales in its pages.
    Pair,
}

/// By what K and V are scaled; of 16-bit caches nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Numbers that the host knows.
    Host(f32, f32),
    /// Numbers in device memory.
    Device(f32, f32),
    /// Their reciprocals, the host's; NVFP4 alone.
    Divides(f32, f32),
    /// Their reciprocals in device memory; NVFP4 alone.
    DeviceDivides(f32, f32),
    /// A scale a token and head; FP8 alone.
    Rows,
}

/// New tokens and the cache that they go to.
#[derive(Clone, Debug)]
pub struct Case {
    pub src: DType,
    pub kv: CacheKind,
    pub head_dim: HeadDim,
    pub kv_heads: usize,
    pub page_size: usize,
    pub pages: usize,
    pub slots: Vec<i64>,
    pub place: Place,
    pub scaling: Scaling,
    /// Of NVFP4's V.
    pub interleaved: bool,
}

/// The case of an append entry: eleven tokens in any order over five pages, three of them skipped, two heads.
pub fn case(src: ElementKind, kv: CacheKind, head_dim: HeadDim) -> Case {
    Case {
        src: if src == ElementKind::Bf16 { DType::Bf16 } else { DType::F16 },
        kv,
        head_dim,
        kv_heads: 2,
        page_size: 8,
        pages: 5,
        slots: vec![17, -1, 39, 0, 16, -9, 3, 7, i64::MIN, 22, 8],
        place: Place::Nhd,
        scaling: Scaling::Host(0.037, 1.9),
        interleaved: false,
    }
}

/// The cases of an entry: each kind of scale, place and order at one head dimension or another.
pub fn cases(role: &Role) -> Vec<Case> {
    let &Role::Append { src, kv } = role else { return Vec::new() };
    let (k, v) = (0.037, 1.9);
    let scalings = match kv {
        CacheKind::Bf16 | CacheKind::F16 => vec![Scaling::Host(1.0, 1.0)],
        CacheKind::Fp8E4M3 | CacheKind::Fp8E5M2 => vec![Scaling::Host(k, v), Scaling::Device(k, v), Scaling::Rows],
        CacheKind::NvFp4 => {
            vec![Scaling::Host(k, v), Scaling::Device(k, v), Scaling::Divides(k, v), Scaling::DeviceDivides(k, v)]
        }
    };
    let mut cases = Vec::new();
    for place in [Place::Nhd, Place::Hnd, Place::Pair] {
        for &scaling in &scalings {
            let orders = if kv == CacheKind::NvFp4 && place != Place::Nhd { &[false, true][..] } else { &[false] };
            for &interleaved in orders {
                let head_dim = HeadDim::ALL[cases.len() % 4];
                cases.push(Case { place, scaling, interleaved, ..case(src, kv, head_dim) });
            }
        }
    }
    cases
}

/// Buffers of K and of V (or of both), and of their scales.
type Bytes = [Vec<u8>; 4];

/// The case's memory on a device.
pub struct Memory<'c> {
    case: &'c Case,
    sources: [Buffer; 2],
    slots: Buffer,
    /// As [`Bytes`].
    cache: [Buffer; 4],
    factors: [Buffer; 2],
}

impl Case {
    fn shape(&self) -> CacheShape {
        let Self { pages, page_size, kv_heads, head_dim, .. } = *self;
        CacheShape { pages, page_size, kv_heads, head_dim }
    }

    /// Bytes of a row's elements and of its scales.
    fn row_bytes(&self) -> [usize; 2] {
        let dim = self.head_dim.get();
        match self.kv {
            CacheKind::Bf16 | CacheKind::F16 => [2 * dim, 0],
            CacheKind::Fp8E4M3 | CacheKind::Fp8E5M2 => [dim, if self.scaling == Scaling::Rows { 4 } else { 0 }],
            CacheKind::NvFp4 => [dim / 2, dim / 16],
        }
    }

    /// Whether block scales lie in the pages.
    fn in_pages(&self) -> bool {
        self.place == Place::Pair && self.kv == CacheKind::NvFp4
    }

    fn empty(&self) -> Bytes {
        let rows = self.pages * self.page_size * self.kv_heads;
        let [row, scales] = self.row_bytes();
        let of = |bytes: usize| vec![UNTOUCHED; bytes];
        match self.place {
            Place::Pair if self.in_pages() => [of(2 * rows * (row + scales)), vec![], vec![], vec![]],
            Place::Pair => [of(2 * rows * row), vec![], of(rows * scales), of(rows * scales)],
            _ => [of(rows * row), of(rows * row), of(rows * scales), of(rows * scales)],
        }
    }

    /// The bits of a source element: moderate numbers, and in the last head any bits at all.
    fn element(&self, side: usize, token: usize, head: usize, column: usize) -> u16 {
        let index = (((side * 100 + token) * 64 + head) * 512 + column) as u64;
        let z = index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = ((z ^ (z >> 27)) >> 24) as u32;
        if head + 1 == self.kv_heads && token > 2 {
            return word as u16;
        }
        (word & 0x83FF | (11 + (word >> 16) % 9) << 10) as u16
    }

    fn row(&self, side: usize, token: usize, head: usize) -> Vec<u16> {
        (0..self.head_dim.get()).map(|column| self.element(side, token, head, column)).collect()
    }

    /// What a reader multiplies by.
    fn global(&self, side: usize) -> f32 {
        let of = |k, v| if side == 0 { k } else { v };
        match self.scaling {
            Scaling::Host(k, v) | Scaling::Device(k, v) => of(k, v),
            Scaling::Divides(k, v) | Scaling::DeviceDivides(k, v) => 1.0 / of(k, v),
            Scaling::Rows => 1.0,
        }
    }

    /// A row's elements and its scales, as bytes.
    fn quantised(&self, side: usize, bits: &[u16]) -> (Vec<u8>, Vec<u8>) {
        let row: Vec<f32> = bits.iter().map(|&bits| decode(self.src, bits)).collect();
        let fp8 = |codes: Codes| match self.scaling {
            Scaling::Rows => {
                let row = Fp8Row::quantise(&codes, &row);
                (row.codes, row.scale.to_le_bytes().to_vec())
            }
            _ => (row.iter().map(|x| codes.encode(x / self.global(side))).collect(), vec![]),
        };
        match self.kv {
            CacheKind::Bf16 | CacheKind::F16 => (bits.iter().flat_map(|bits| bits.to_le_bytes()).collect(), vec![]),
            CacheKind::Fp8E4M3 => fp8(Codes::e4m3()),
            CacheKind::Fp8E5M2 => fp8(Codes::e5m2()),
            CacheKind::NvFp4 => {
                let blocks = row.as_chunks().0.iter().map(|block| Nvfp4Block::quantise(block, self.global(side)));
                let blocks: Vec<_> = blocks.collect();
                (blocks.iter().flat_map(|b| b.elements).collect(), blocks.iter().map(|b| b.scale).collect())
            }
        }
    }

    /// Buffer and first byte of a row of `bytes` in a region that begins at `region` of each page.
    fn at(&self, [page, token, head]: [usize; 3], bytes: usize, page_bytes: usize, region: usize) -> usize {
        let inside = if self.place == Place::Nhd && bytes > 0 {
            token * self.kv_heads + head
        } else {
            head * self.page_size + token
        };
        page * page_bytes + region + inside * bytes
    }

    /// The buffers as they must be.
    pub fn expected(&self) -> Bytes {
        let mut bytes = self.empty();
        let [row, scales] = self.row_bytes();
        let tokens = self.page_size * self.kv_heads;
        for (token, &slot) in self.slots.iter().enumerate().filter(|&(_, &slot)| slot >= 0) {
            let (page, in_page) = (slot as usize / self.page_size, slot as usize % self.page_size);
            for (side, head) in [0, 1].into_iter().flat_map(|side| (0..self.kv_heads).map(move |head| (side, head))) {
                let (elements, stored) = self.quantised(side, &self.row(side, token, head));
                let place = [page, in_page, head];
                let in_pages = if self.in_pages() { scales } else { 0 };
                let (buffer, page_bytes, region) = match self.place {
                    Place::Pair => (0, 2 * tokens * (row + in_pages), side * tokens * (row + in_pages)),
                    _ => (side, tokens * row, 0),
                };
                let at = self.at(place, row, page_bytes, region);
                bytes[buffer][at..at + row].copy_from_slice(&elements);
                let (buffer, page_bytes, region) = match self.in_pages() {
                    true => (0, page_bytes, region + tokens * row),
                    false => (2 + side, tokens * scales, 0),
                };
                for (index, &byte) in stored.iter().enumerate() {
                    let at = if self.kv == CacheKind::NvFp4 && side == 1 && self.interleaved {
                        // [page_size / 4, D / 16, 4] of each head.
                        let tile = self.at([page, 0, head], scales, page_bytes, region) + in_page / 4 * 4 * scales;
                        tile + 4 * index + in_page % 4
                    } else if self.kv != CacheKind::NvFp4 {
                        // Of FP8 always [pages, page_size, kv_heads].
                        page * page_bytes + (in_page * self.kv_heads + head) * scales + index
                    } else {
                        self.at(place, scales, page_bytes, region) + index
                    };
                    bytes[buffer][at] = byte;
                }
            }
        }
        bytes
    }
}

impl<'c> Memory<'c> {
    /// Buffers with new tokens, slots and factors; the cache holds [`UNTOUCHED`].
    pub fn new(device: &Device, case: &'c Case) -> Result<Self, Error> {
        let upload = |bytes: &[u8]| {
            let buffer = device.alloc(bytes.len())?;
            buffer.write(bytes).map(|()| buffer)
        };
        let source = |side: usize| {
            let rows = (0..case.slots.len()).flat_map(|token| (0..case.kv_heads).map(move |head| (token, head)));
            // A row between each two is no new token's.
            let row = |(token, head)| [case.row(side, token, head), vec![0x7FFF; case.head_dim.get()]].concat();
            upload(&rows.flat_map(row).flat_map(u16::to_le_bytes).collect::<Vec<_>>())
        };
        let [a, b, c, d] = case.empty();
        let (k, v) = match case.scaling {
            Scaling::Device(k, v) | Scaling::DeviceDivides(k, v) => (k, v),
            _ => (f32::NAN, f32::NAN),
        };
        Ok(Self {
            case,
            sources: [source(0)?, source(1)?],
            slots: upload(&case.slots.iter().flat_map(|slot| slot.to_le_bytes()).collect::<Vec<_>>())?,
            cache: [upload(&a)?, upload(&b)?, upload(&c)?, upload(&d)?],
            factors: [upload(&k.to_le_bytes())?, upload(&v.to_le_bytes())?],
        })
    }

    fn fp8(&self) -> Result<Fp8Scales<'_>, Error> {
        Ok(match self.case.scaling {
            Scaling::Rows => {
                Fp8Scales::per_token_head(TokenScales::new(&self.cache[2]), TokenScales::new(&self.cache[3]))
            }
            Scaling::Host(k, v) => Fp8Scales::per_tensor(TensorScale::value(k)?, TensorScale::value(v)?),
            _ => Fp8Scales::per_tensor(
                TensorScale::on_device(&self.factors[0])?,
                TensorScale::on_device(&self.factors[1])?,
            ),
        })
    }

    fn nvfp4<O: ScaleOrder>(&self) -> Result<NvFp4Scales<'_, O>, Error> {
        let [k_at, v_at] = &self.factors;
        let (k, v) = match self.case.scaling {
            Scaling::Device(..) => (GlobalScale::multiplies_on_device(k_at)?, GlobalScale::multiplies_on_device(v_at)?),
            Scaling::DeviceDivides(..) => {
                (GlobalScale::divides_on_device(k_at)?, GlobalScale::divides_on_device(v_at)?)
            }
            Scaling::Divides(k, v) => (GlobalScale::divides(k)?, GlobalScale::divides(v)?),
            Scaling::Host(k, v) => (GlobalScale::multiplies(k)?, GlobalScale::multiplies(v)?),
            Scaling::Rows => (GlobalScale::multiplies(1.0)?, GlobalScale::multiplies(1.0)?),
        };
        let [.., k_blocks, v_blocks] = &self.cache;
        Ok(match self.case.place {
            Place::Pair => NvFp4Scales::in_pages(k, v),
            Place::Hnd => NvFp4Scales::new(BlockScales::hnd(k_blocks), BlockScales::hnd(v_blocks), k, v),
            Place::Nhd => {
                let dim = self.case.head_dim.get() / 16;
                let token = self.case.kv_heads * dim;
                let strides = [self.case.page_size * token, token, dim];
                NvFp4Scales::new(BlockScales::nhd(k_blocks), BlockScales::with_strides(v_blocks, strides), k, v)
            }
        })
    }

    fn append<'m, S: Format, K: CacheFor<S>>(&'m self, scales: K::Scales<'m>) -> Result<Append<'m, S, K>, Error> {
        let (case, [k, v, ..]) = (self.case, &self.cache);
        let cache = match case.place {
            Place::Nhd => KvCache::<K>::with_scales(k, v, case.shape(), CacheLayout::Nhd, scales)?,
            Place::Hnd => KvCache::with_scales(k, v, case.shape(), CacheLayout::Hnd, scales)?,
            Place::Pair => KvCache::packed_with_scales(k, case.shape(), PackedLayout::PairHnd, scales)?,
        };
        let (tokens, dim) = (case.slots.len(), case.head_dim.get());
        let new = |span: &'m Buffer| {
            NewTokens::<S>::with_strides(span, [tokens, case.kv_heads, dim], [2 * case.kv_heads * dim, 2 * dim])
        };
        Append::new(new(&self.sources[0])?, new(&self.sources[1])?, &cache, SlotMapping::new(&self.slots, tokens)?)
    }

    /// Launches it, checked or not.
    pub fn launch(&self, stream: &Stream, checked: bool) -> Result<KernelId, Error> {
        fn go<S: Format, K: CacheFor<S>>(
            append: Append<'_, S, K>,
            stream: &Stream,
            checked: bool,
        ) -> Result<KernelId, Error> {
            append.load(stream.device())?;
            if checked { append.launch_checked(stream) } else { append.launch(stream) }.map(|()| append.kernel())
        }
        macro_rules! from {
            ($src:ty) => {
                match self.case.kv {
                    CacheKind::Fp8E4M3 => go(self.append::<$src, Fp8E4M3>(self.fp8()?)?, stream, checked),
                    CacheKind::Fp8E5M2 => go(self.append::<$src, Fp8E5M2>(self.fp8()?)?, stream, checked),
                    CacheKind::NvFp4 if self.case.interleaved => {
                        go(self.append::<$src, NvFp4<Interleaved>>(self.nvfp4()?)?, stream, checked)
                    }
                    CacheKind::NvFp4 => go(self.append::<$src, NvFp4<Linear>>(self.nvfp4()?)?, stream, checked),
                    CacheKind::Bf16 | CacheKind::F16 => go(self.append::<$src, $src>(())?, stream, checked),
                }
            };
        }
        match self.case.src {
            DType::Bf16 => from!(Bf16),
            _ => from!(F16),
        }
    }

    /// Compares every byte of the cache and its scales.
    pub fn compare(&self) -> Result<(), String> {
        let expected = self.case.expected();
        for (index, (buffer, right)) in self.cache.iter().zip(&expected).enumerate() {
            let found = if right.is_empty() { vec![] } else { buffer.read().map_err(|error| error.to_string())? };
            if let Some(at) = found.iter().zip(right).position(|(found, right)| found != right) {
                let name = ["k (or all)", "v", "k scales", "v scales"][index];
                return Err(format!(
                    "byte {at} of {name} is {:#04x}, not {:#04x}: {:?}",
                    found[at], right[at], self.case
                ));
            }
        }
        Ok(())
    }

    /// All buffers of the cache, one after another.
    pub fn bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        for buffer in self.cache.iter().filter(|buffer| buffer.bytes() > 0) {
            bytes.extend(buffer.read()?);
        }
        Ok(bytes)
    }
}

/// Runs a case, unchecked and checked, and compares; gives the kernel that ran.
pub fn check(device: &Device, case: &Case) -> Result<KernelId, String> {
    let mut kernel = None;
    for checked in [false, true] {
        let memory = Memory::new(device, case).map_err(|error| error.to_string())?;
        let stream = device.new_stream().map_err(|error| error.to_string())?;
        let launched = memory.launch(&stream, checked).map_err(|error| format!("{error}: {case:?}"))?;
        stream.synchronize().map_err(|error| error.to_string())?;
        memory.compare()?;
        kernel = Some(launched);
    }
    kernel.ok_or_else(|| "nothing ran".into())
}
