//! One case on the GPU: its copies in memory, one graph over them, the median replay.
use super::cases::DecodeCase;
use super::check::{self, HostCopy, Sample};
use super::inputs::{Normals, shuffled_pages, walk};
use super::stored::{Rows, Timed};
use super::{BenchError, COLD_BYTES, Measured};
use crate::testing::format;
use crate::{
    Append, BlockTable, Buffer, CacheDType, CacheLayout, CacheShape, Capture, Decode, Device, DeviceSpan, Error, Event,
    Format, Geometry, Graph, HeadDim, KvCache, NewTokens, Output, Plan, PlanOptions, Query, SeqLens, SlotMapping,
    Stream, Workspace,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Replays timed.
const REPLAYS: usize = 11;

/// Copies of an input of `bytes`: enough to exceed the L2 several times.
pub(super) fn copies(bytes: usize) -> usize {
    COLD_BYTES.div_ceil(bytes.max(1)).clamp(2, 512)
}

/// A case's sizes, checked.
struct Sizes {
    geometry: Geometry,
    shape: CacheShape,
    /// Planned lengths.
    lengths: Vec<u32>,
    /// Pages of the cache, as ids count them.
    page_ids: i32,
    /// Pages a sequence.
    table_width: usize,
    /// Bytes of K, and of V, in the model's format.
    source_bytes: usize,
    /// Bytes of K, and of V, in the cache.
    side_bytes: usize,
    /// Bytes of q, and of the output.
    q_bytes: usize,
}

impl Sizes {
    fn new<T: Format, K: Timed<T>>(case: &DecodeCase) -> Result<Self, BenchError> {
        let DecodeCase { head_dim, q_heads, kv_heads, batch, tokens, page_size, .. } = *case;
        let geometry = Geometry::new(head_dim, [q_heads, kv_heads], page_size, T::DTYPE, K::CACHE)?;
        let load = || BenchError::Load { batch, tokens };
        let table_width = tokens.div_ceil(page_size);
        let pages = batch.checked_mul(table_width).filter(|&pages| pages > 0).ok_or_else(load)?;
        let page_ids = i32::try_from(pages).map_err(|_| load())?;
        let lengths = vec![u32::try_from(tokens).map_err(|_| load())?; batch];
        let row = head_dim * T::DTYPE.bytes();
        let sized = |tokens: usize, heads: usize| tokens.checked_mul(heads * row).ok_or_else(load);
        let head_dim = HeadDim::try_from(head_dim)?;
        let source_bytes = sized(pages * page_size, kv_heads)?;
        Ok(Self {
            geometry,
            shape: CacheShape { pages, page_size, kv_heads, head_dim },
            lengths,
            page_ids,
            table_width,
            source_bytes,
            side_bytes: source_bytes / row * K::CACHE.row_bytes(head_dim),
            q_bytes: sized(batch, q_heads)?,
        })
    }
}

/// One copy in device memory.
struct DeviceCopy {
    k: Buffer,
    v: Buffer,
    table: Buffer,
    out: Buffer,
}

/// Where K and V of a narrow cache come from: buffers in the model's format, and a slot for each token.
struct Source {
    k: Buffer,
    v: Buffer,
    slots: Buffer,
}

impl Source {
    fn new(device: &Device, sizes: &Sizes) -> Result<Self, Error> {
        let slots = 0..(sizes.shape.pages * sizes.shape.page_size) as i64;
        let slots: Vec<u8> = slots.flat_map(i64::to_le_bytes).collect();
        let (k, v) = (device.alloc(sizes.source_bytes)?, device.alloc(sizes.source_bytes)?);
        Ok(Self { k, v, slots: upload(device, &slots)? })
    }

    /// A side each for K and V, as the append kernel quantises them.
    fn append<T: Format, K: Timed<T>>(
        &self,
        device: &Device,
        sizes: &Sizes,
        [k, v]: [&[u8]; 2],
    ) -> Result<[Buffer; 2], Error> {
        self.k.write(k)?;
        self.v.write(v)?;
        let pages = [device.alloc(sizes.side_bytes)?, device.alloc(sizes.side_bytes)?];
        let CacheShape { page_size, kv_heads, head_dim, .. } = sizes.shape;
        let tokens = sizes.shape.pages * page_size;
        let rows = [tokens, kv_heads, head_dim.get()];
        let [k, v] = [NewTokens::<T>::new(&self.k, rows)?, NewTokens::new(&self.v, rows)?];
        let layout = CacheLayout::Nhd;
        let cache = KvCache::<K>::with_scales(&pages[0], &pages[1], sizes.shape, layout, K::scales()?)?;
        let stream = device.default_stream();
        Append::new(k, v, &cache, SlotMapping::new(&self.slots, tokens)?)?.launch(&stream)?;
        stream.synchronize()?;
        Ok(pages)
    }
}

/// All that a case's graph reads and writes, and rows of the first and last copy's output as the CPU has them.
struct Inputs {
    query: Buffer,
    seq_lens: Buffer,
    copies: Vec<DeviceCopy>,
    samples: Vec<(usize, Vec<Sample>)>,
}

impl Inputs {
    fn fill<T: Format, K: Timed<T>>(
        device: &Device,
        case: &DecodeCase,
        sizes: &Sizes,
        normals: &Normals,
    ) -> Result<Self, BenchError> {
        let mut random = SmallRng::seed_from_u64(11);
        let pool = normals.encoded(T::DTYPE);
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        walk(pool, sizes.q_bytes, &mut random, &mut q);
        let (mut on_device, mut samples) = (Vec::new(), Vec::new());
        let count = copies(2 * sizes.side_bytes);
        let rows = &Rows::new(K::CACHE, sizes.shape);
        let narrow = CacheDType::from(T::DTYPE) != K::CACHE;
        let source = if narrow { Some(Source::new(device, sizes)?) } else { None };
        for index in 0..count {
            walk(pool, sizes.source_bytes, &mut random, &mut k);
            walk(pool, sizes.source_bytes, &mut random, &mut v);
            let table = shuffled_pages(sizes.page_ids, &mut random);
            let [k_pages, v_pages] = match &source {
                None => [upload(device, &k)?, upload(device, &v)?],
                Some(source) => source.append::<T, K>(device, sizes, [&k, &v])?,
            };
            if index == 0 || index + 1 == count {
                if narrow {
                    (k, v) = (k_pages.read()?, v_pages.read()?);
                }
                let copy = HostCopy { format: T::DTYPE, rows, k: &k, v: &v, table: &table, q: &q };
                samples.push((index, check::samples(case, &copy)));
            }
            on_device.push(DeviceCopy {
                k: k_pages,
                v: v_pages,
                table: upload(device, &le_bytes(table.iter().map(|id| id.to_le_bytes())))?,
                out: upload(device, &vec![0xFF; q.len()])?,
            });
        }
        let seq_lens = upload(device, &le_bytes(sizes.lengths.iter().map(|length| length.to_le_bytes())))?;
        Ok(Self { query: upload(device, &q)?, seq_lens, copies: on_device, samples })
    }

    /// The largest error of the sampled rows.
    fn error<T: Format>(&self) -> Result<f64, BenchError> {
        let mut worst = 0.0f64;
        for (index, samples) in &self.samples {
            let output = format::decode_bytes(T::DTYPE, &self.copies[*index].out.read()?);
            worst = worst.max(check::error(samples, &output)?);
        }
        Ok(worst)
    }
}

/// Times a case and checks what was timed.
///
/// # Errors
/// A case that cannot run, or an output that is not finite.
pub fn measure<T: Format, K: Timed<T>>(
    device: &Device,
    case: &DecodeCase,
    normals: &Normals,
) -> Result<Measured, BenchError> {
    let sizes = Sizes::new::<T, K>(case)?;
    let inputs = Inputs::fill::<T, K>(device, case, &sizes, normals)?;
    let us = time::<T, K>(device, case, &sizes, &inputs)?;
    Ok(Measured { us, err: inputs.error::<T>()?, gbps: None })
}

/// Microseconds a call.
fn time<T: Format, K: Timed<T>>(
    device: &Device,
    case: &DecodeCase,
    sizes: &Sizes,
    inputs: &Inputs,
) -> Result<f64, Error> {
    // The lengths do not change between replays, so the grid needs no room for other plans.
    let options = PlanOptions { capture: Capture::ThisPlan, ..PlanOptions::default() };
    let plan = Plan::new(&sizes.geometry, &sizes.lengths, device.properties(), &options)?;
    let scratch = device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(DeviceSpan::from(&scratch));
    let stream = device.new_stream()?;
    let planned = plan.upload(&stream, &mut workspace)?;
    let rows = [case.batch, case.q_heads, case.head_dim];
    let mut calls = Vec::with_capacity(inputs.copies.len());
    for copy in &inputs.copies {
        let decode = Decode::new(
            Query::<T>::new(&inputs.query, rows)?,
            KvCache::<K>::with_scales(&copy.k, &copy.v, sizes.shape, CacheLayout::Nhd, K::scales()?)?,
            BlockTable::new(&copy.table, case.batch, sizes.table_width)?,
            SeqLens::new(&inputs.seq_lens, case.batch)?,
            Output::<T>::new(&copy.out, rows)?,
        )?;
        calls.push(planned.prepare(&decode)?);
    }
    for call in calls.iter_mut().take(2) {
        call.launch(&stream)?;
        call.launch(&stream)?;
    }
    stream.synchronize()?;
    let graph = Graph::capture(&stream, || calls.iter_mut().try_for_each(|call| call.launch(&stream)))?;
    median_us(device, &stream, graph, calls.len())
}

/// The median of [`REPLAYS`] replays, in microseconds a call.
pub(super) fn median_us(device: &Device, stream: &Stream, mut graph: Graph, calls: usize) -> Result<f64, Error> {
    let mut replay = || {
        // SAFETY: the caller keeps every buffer that the captured calls use until the figure is returned, and the stream
        // is the only one in use.
        unsafe { graph.launch(stream) }
    };
    replay()?;
    replay()?;
    let (begin, end) = (Event::new(device)?, Event::new(device)?);
    let mut times = Vec::with_capacity(REPLAYS);
    for _ in 0..REPLAYS {
        begin.record(stream)?;
        replay()?;
        end.record(stream)?;
        times.push(f64::from(begin.milliseconds_to(&end)?) * 1e3 / calls as f64);
    }
    stream.synchronize()?;
    times.sort_by(f64::total_cmp);
    Ok(times[REPLAYS / 2])
}

pub(super) fn upload(device: &Device, bytes: &[u8]) -> Result<Buffer, Error> {
    let buffer = device.alloc(bytes.len())?;
    buffer.write(bytes)?;
    Ok(buffer)
}

fn le_bytes(values: impl Iterator<Item = [u8; 4]>) -> Vec<u8> {
    values.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bf16;

    #[test]
    fn copies_exceed_the_l2() {
        assert_eq!(copies(2 << 20), 200);
        assert_eq!(copies(64 << 20), 7);
        assert_eq!(copies(2 << 30), 2);
        assert_eq!(copies(1), 512);
        assert_eq!(copies(0), 512);
    }

    #[test]
    fn loads_out_of_range_are_refused() {
        let of = |batch, tokens, page_size| {
            let (model, kv) = ("m".to_owned(), "bf16".to_owned());
            let case = DecodeCase { model, head_dim: 64, q_heads: 8, kv_heads: 8, batch, tokens, kv, page_size };
            Sizes::new::<Bf16, Bf16>(&case)
        };
        let sizes = of(3, 20, 16).expect("a load");
        assert_eq!((sizes.table_width, sizes.page_ids, sizes.side_bytes), (2, 6, 6 * 16 * 8 * 64 * 2));
        for (batch, tokens) in [(0, 20), (3, 0), (usize::MAX, 20), (1 << 31, 1), (1, usize::MAX)] {
            assert!(matches!(of(batch, tokens, 16), Err(BenchError::Load { .. })), "{batch} of {tokens}");
        }
        assert!(matches!(of(1, 1, 24), Err(BenchError::Library(Error::Value { field: "page_size", .. }))));
    }
}
