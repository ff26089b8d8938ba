//! New tokens' K and V into the pages of a cache, in the cache's format: the request, checked once, and its launch.
//!
//! [`NewTokens`] of K and of V and a [`SlotMapping`] -> [`Append`] -> [`Append::launch`]. What is stored for which number,
//! bit for bit, is in `docs/append.md` and, as code, in [`testing::quantise`](crate::testing).
use crate::cache::{CacheFor, CacheFormat, KvCache};
use crate::device::{Device, Launch, Stream};
use crate::dtype::Format;
use crate::error::Error;
use crate::geometry::u32_field;
use crate::overlap::{self, Region};
use crate::request::same;
use crate::select::{self, KernelId};
use crate::tensor::{DeviceSpan, Packing, RowsView};
use core::marker::PhantomData;
use kernels_gpu::abi::{AppendParams, Rows};
use kernels_gpu::append::CHUNK;
use kernels_gpu::config::APPEND_THREADS;
use kernels_gpu::kernels::Params;
use kernels_gpu::memory::Global;
use std::collections::HashMap;

/// K or V of new tokens: `[tokens, kv_heads, head_dim]` of format `S`.
#[derive(Clone, Copy, Debug)]
pub struct NewTokens<'a, S> {
    rows: RowsView,
    format: PhantomData<(&'a (), S)>,
}

impl<'a, S: Format> NewTokens<'a, S> {
    /// Contiguous rows of shape `[tokens, kv_heads, head_dim]`.
    ///
    /// # Errors
    /// A head dimension without kernels, a span too short or not aligned to 16 bytes.
    pub fn new(span: impl Into<DeviceSpan<'a>>, shape: [usize; 3]) -> Result<Self, Error> {
        Self::build(span.into(), shape, None)
    }

    /// Rows of shape `[tokens, kv_heads, head_dim]` whose `[token, head]` strides are given, in elements: such as K's
    /// part of the product of all three projections.
    ///
    /// # Errors
    /// As [`NewTokens::new`], and strides that overlap or are not multiples of 16 bytes.
    pub fn with_strides(
        span: impl Into<DeviceSpan<'a>>,
        shape: [usize; 3],
        strides: [usize; 2],
    ) -> Result<Self, Error> {
        Self::build(span.into(), shape, Some(strides))
    }

    fn build(span: DeviceSpan<'a>, shape: [usize; 3], strides: Option<[usize; 2]>) -> Result<Self, Error> {
        let names = ["new tokens", "new tokens' token stride", "new tokens' head stride"];
        let rows = RowsView::new(names, span, Packing::rows::<S>(), shape, strides)?;
        Ok(Self { rows, format: PhantomData })
    }
}

/// Where new tokens go, `[tokens]`, i64: `page * page_size + token of the page`; a negative one is skipped.
#[derive(Clone, Copy, Debug)]
pub struct SlotMapping<'a> {
    address: u64,
    tokens: u32,
    owner: PhantomData<&'a ()>,
}

impl<'a> SlotMapping<'a> {
    /// The slots of `tokens` tokens, contiguous.
    ///
    /// # Errors
    /// A span too short or not aligned to 8 bytes.
    pub fn new(span: impl Into<DeviceSpan<'a>>, tokens: usize) -> Result<Self, Error> {
        let (span, field) = (span.into(), "slot_mapping");
        let needed = tokens.checked_mul(size_of::<i64>()).ok_or(Error::TooLarge { field })?;
        span.check(field, size_of::<i64>() as u64, needed)?;
        Ok(Self { address: span.address(), tokens: u32_field("slot_mapping tokens", tokens)?, owner: PhantomData })
    }

    const fn bytes(&self) -> usize {
        self.tokens as usize * size_of::<i64>()
    }
}

/// New tokens of format `S` for a cache of format `K`, ready to be launched any number of times.
///
/// The cache is written through a shared view, as layers and requests share one: an append and the decode that reads what
/// it stored are ordered by their stream, and need nothing besides where that is the same one. On different streams an
/// event is the caller's, as [`DeviceSpan::new`] has it.
///
/// ```
/// # #[cfg(feature = "sim")]
/// # fn main() -> Result<(), qkv::Error> {
/// use qkv::{Append, Bf16, CacheLayout, CacheShape, Device, Fp8E4M3, Fp8Scales, HeadDim, KvCache};
/// use qkv::{NewTokens, SlotMapping, TensorScale};
///
/// let device = Device::simulator();
/// let stream = device.default_stream();
/// let upload = |bytes: Vec<u8>| -> Result<_, qkv::Error> {
///     let buffer = device.alloc(bytes.len())?;
///     buffer.write(&bytes)?;
///     Ok(buffer)
/// };
/// // Two tokens of one KV head, all elements 1.5 (K) and -3 (V) in bf16; the second is skipped.
/// let (k, v) = (upload([0xC0, 0x3F].repeat(128))?, upload([0x40, 0xC0].repeat(128))?);
/// let slots = upload([17i64, -1].map(i64::to_le_bytes).concat())?;
///
/// // Two pages of 16 tokens; numbers are codes times 0.5 in K and times 2 in V.
/// let shape = CacheShape { pages: 2, page_size: 16, kv_heads: 1, head_dim: HeadDim::D64 };
/// let (k_cache, v_cache) = (upload(vec![0; 2 * 16 * 64])?, upload(vec![0; 2 * 16 * 64])?);
/// let scales = Fp8Scales::per_tensor(TensorScale::value(0.5)?, TensorScale::value(2.0)?);
/// let cache = KvCache::<Fp8E4M3>::with_scales(&k_cache, &v_cache, shape, CacheLayout::Nhd, scales)?;
///
/// let (k, v) = (NewTokens::<Bf16>::new(&k, [2, 1, 64])?, NewTokens::new(&v, [2, 1, 64])?);
/// Append::new(k, v, &cache, SlotMapping::new(&slots, 2)?)?.launch(&stream)?;
/// stream.synchronize()?;
/// let (stored, code) = (k_cache.read()?, 0x44); // 3 in e4m3
/// assert!(stored.iter().enumerate().all(|(byte, &found)| found == if byte / 64 == 17 { code } else { 0 }));
/// assert_eq!(v_cache.read()?[17 * 64], 0xBC); // -1.5
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sim"))]
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Append<'a, S, K> {
    kernel: KernelId,
    blocks: u32,
    params: AppendParams,
    owner: PhantomData<(&'a (), S, K)>,
}

impl<'a, S: Format, K: CacheFor<S> + CacheFormat> Append<'a, S, K> {
    /// K and V of new tokens, and where they go.
    ///
    /// # Errors
    /// Tokens, heads or head dimensions that differ between the views; new tokens, slots or scales in memory that the cache
    /// is written in; K and V of the cache in the same place; more than 2^36 elements of K.
    pub fn new(
        k: NewTokens<'a, S>,
        v: NewTokens<'a, S>,
        cache: &KvCache<'a, K>,
        slots: SlotMapping<'a>,
    ) -> Result<Self, Error> {
        let head_dim = cache.head_dim.get() as u32;
        let names =
            [["new k tokens", "new k heads", "new k head_dim"], ["new v tokens", "new v heads", "new v head_dim"]];
        for ([tokens, heads, dim], rows) in names.into_iter().zip([k.rows, v.rows]) {
            same(tokens, rows.tokens, "slot_mapping tokens", slots.tokens)?;
            same(heads, rows.heads, "cache kv_heads", cache.kv_heads)?;
            same(dim, rows.head_dim.get() as u32, "cache head_dim", head_dim)?;
        }
        Self::check_overlap(&k, &v, cache, &slots)?;
        let threads = u64::from(slots.tokens) * u64::from(cache.kv_heads) * u64::from(head_dim / CHUNK);
        // Threads are counted in 32 bits, up to the end of the last block.
        if threads > u64::from(u32::MAX - APPEND_THREADS) {
            let elements = threads * u64::from(CHUNK);
            let (field, allowed) = ("new tokens * kv_heads * head_dim", "below 2^36");
            return Err(Error::Value { field, value: elements.to_string(), allowed });
        }
        let rows = |view: &RowsView| Rows {
            base: Global::new(view.address),
            token_stride: view.token_stride,
            head_stride: view.head_stride,
        };
        let parts = cache.parts();
        let params = AppendParams {
            k: rows(&k.rows),
            v: rows(&v.rows),
            k_cache: parts.k,
            v_cache: parts.v,
            k_scales: parts.k_scales,
            v_scales: parts.v_scales,
            k_scale_at: parts.k_scale_at,
            v_scale_at: parts.v_scale_at,
            slots: Global::new(slots.address),
            k_scale: parts.k_scale,
            v_scale: parts.v_scale,
            tokens: slots.tokens,
            kv_heads: cache.kv_heads,
            head_dim,
            page_shift: cache.page_size.trailing_zeros(),
            cache_slots: i64::from(cache.pages) * i64::from(cache.page_size),
            flags: parts.flags,
            reserved: 0,
        };
        let kernel = select::append(S::DTYPE, K::CACHE)?;
        Ok(Self { kernel, blocks: (threads as u32).div_ceil(APPEND_THREADS), params, owner: PhantomData })
    }

    /// What a launch writes may overlap nothing that it reads. The cache's own regions may overlap one another by their
    /// ends (packed pages, scales in the pages); one place for K and V is what is refused.
    fn check_overlap(
        k: &NewTokens<'_, S>,
        v: &NewTokens<'_, S>,
        cache: &KvCache<'_, K>,
        slots: &SlotMapping<'_>,
    ) -> Result<(), Error> {
        let [k_cache, v_cache, k_scales, v_scales, k_scale, v_scale] = cache.regions();
        let source = |field, rows: &RowsView| Region { field, address: rows.address, bytes: rows.bytes };
        let read = [
            source("new k", &k.rows),
            source("new v", &v.rows),
            Region { field: "slot_mapping", address: slots.address, bytes: slots.bytes() },
            k_scale,
            v_scale,
        ];
        for written in [k_cache, v_cache, k_scales, v_scales] {
            overlap::check([written], read)?;
        }
        for [one, other] in [[k_cache, v_cache], [k_scales, v_scales]] {
            if one.bytes > 0 && one.address == other.address {
                return Err(Error::SharedMemory { field: one.field, other: other.field });
            }
        }
        Ok(())
    }

    /// The kernel that does it.
    pub const fn kernel(&self) -> KernelId {
        self.kernel
    }

    /// Loads the kernel ahead: what a first launch does otherwise, and a launch in a capture may not.
    ///
    /// # Errors
    /// The driver's.
    pub fn load(&self, device: &Device) -> Result<(), Error> {
        device.load(self.kernel).map(|_| ())
    }

    /// Launches it. Returns before it has run, allocates nothing and waits for nothing; on a stream in capture it becomes
    /// part of the graph (after [`load`](Self::load) or a launch outside), which reads slots and tokens when it runs.
    ///
    /// A slot that is not in the cache is skipped like a negative one. Of two tokens with one slot either may be stored, or
    /// parts of both: [`launch_checked`](Self::launch_checked) refuses them.
    ///
    /// # Errors
    /// The driver's; on the simulator the first fault that the kernel committed, two tokens of one slot among them.
    pub fn launch(&self, stream: &Stream) -> Result<(), Error> {
        if self.blocks == 0 {
            return Ok(());
        }
        let params = Params::Append(self.params);
        let launch = Launch { kernel: self.kernel, blocks: self.blocks, cluster: 1, params: &params, early: false };
        // SAFETY: the views were checked against their buffers and one another, and are borrowed; that they stay until the
        // work is done, on this stream's device, is the promise of whoever made their spans.
        unsafe { stream.device().launch(stream, &launch) }
    }

    /// Waits for the stream, reads the slots to the host, and launches only if each is in the cache or negative, and none
    /// is there twice.
    ///
    /// # Errors
    /// As [`Append::launch`]; a stream in capture; the first token whose slot is past the cache, or is another's before it.
    pub fn launch_checked(&self, stream: &Stream) -> Result<(), Error> {
        if stream.capturing()? {
            return Err(Error::Capturing { what: "the check of the slots waits for the device" });
        }
        stream.synchronize()?;
        let mut bytes = vec![0; self.params.tokens as usize * size_of::<i64>()];
        if !bytes.is_empty() {
            stream.device().read(self.params.slots.address, &mut bytes)?;
        }
        let slots = bytes.as_chunks().0.iter().map(|&slot| i64::from_le_bytes(slot));
        check_slots(slots, self.params.cache_slots)?;
        self.launch(stream)
    }
}

/// Checks a slot mapping on the host: every slot is below `pages * page_size`, and none is there twice. Negative ones are
/// skipped.
///
/// # Errors
/// A page size that is not a power of two up to 1024; the first token whose slot is past the cache, or is another's before
/// it.
pub fn check_slot_mapping(slots: &[i64], page_size: usize, pages: usize) -> Result<(), Error> {
    crate::geometry::check_page_size(page_size)?;
    let pages = u32_field("cache pages", pages)?;
    check_slots(slots.iter().copied(), i64::from(pages) * page_size as i64)
}

fn check_slots(slots: impl Iterator<Item = i64>, cache_slots: i64) -> Result<(), Error> {
    let mut taken = HashMap::new();
    for (token, slot) in slots.enumerate().filter(|&(_, slot)| slot >= 0) {
        if slot >= cache_slots {
            return Err(Error::Slot { token, slot, slots: cache_slots });
        }
        if let Some(earlier) = taken.insert(slot, token) {
            return Err(Error::SlotTwice { slot, tokens: [earlier, token] });
        }
    }
    Ok(())
}
