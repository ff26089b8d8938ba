//! One case on the GPU: its copies in memory, one graph over them, the median replay.
use super::cases::{Asked, DecodeCase};
use super::check::{self, HostCopy, Sample};
use super::inputs::{Normals, walk};
use super::sizes::Sizes;
use super::stored::{Rows, Timed};
use super::{BenchError, COLD_BYTES, Measured};
use crate::testing::format;
use crate::{
    AnyOutput, Append, Batch, Bf16, BlockTable, Buffer, CacheDType, CacheLayout, CacheShape, Capture, DType, Decode,
    Device, DeviceSpan, Error, Event, F16, Format, Graph, KvCache, Mask, NewTokens, Output, Plan, PlanOptions,
    PrefixPlan, Query, QueryLens, SeqLens, SlotMapping, Stream, Workspace,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Replays timed.
const REPLAYS: usize = 11;

/// Copies of an input of `bytes`: enough to exceed the L2 several times.
pub(super) fn copies(bytes: usize) -> usize {
    COLD_BYTES.div_ceil(bytes.max(1)).clamp(2, 512)
}

/// What one call reads and writes.
struct DeviceCopy {
    /// Index of its cache.
    cache: usize,
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
    /// K and V.
    caches: Vec<[Buffer; 2]>,
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
        let (mut caches, mut on_device, mut samples) = (Vec::new(), Vec::new(), Vec::new());
        // A window reads little of a cache: other pages of the same cache are as cold as another cache.
        let (cache_count, count) = (copies(2 * sizes.side_bytes), copies(sizes.touched_bytes));
        let rows = &Rows::new(K::CACHE, sizes.shape);
        let narrow = CacheDType::from(T::DTYPE) != K::CACHE;
        let source = if narrow { Some(Source::new(device, sizes)?) } else { None };
        for cache in 0..cache_count {
            walk(pool, sizes.source_bytes, &mut random, &mut k);
            walk(pool, sizes.source_bytes, &mut random, &mut v);
            let [k_pages, v_pages] = match &source {
                None => [upload(device, &k)?, upload(device, &v)?],
                Some(source) => source.append::<T, K>(device, sizes, [&k, &v])?,
            };
            if narrow && [0, cache_count - 1].contains(&cache) {
                (k, v) = (k_pages.read()?, v_pages.read()?);
            }
            for index in (cache..count).step_by(cache_count) {
                let table = sizes.table(&mut random);
                // The first call, and the last of the last cache.
                if index == 0 || cache + 1 == cache_count && index + cache_count >= count {
                    let copy = HostCopy { format: T::DTYPE, rows, k: &k, v: &v, table: &table, q: &q };
                    samples.push((on_device.len(), check::samples(case, &copy)));
                }
                on_device.push(DeviceCopy {
                    cache,
                    table: upload(device, &le_bytes(table.iter().map(|id| id.to_le_bytes())))?,
                    out: upload(device, &vec![0xFF; q.len()])?,
                });
            }
            caches.push([k_pages, v_pages]);
        }
        let seq_lens = upload(device, &le_bytes(sizes.lengths.iter().map(|length| length.to_le_bytes())))?;
        Ok(Self { query: upload(device, &q)?, seq_lens, caches, copies: on_device, samples })
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

/// Launches one call.
type Call<'c> = Box<dyn FnMut(&Stream) -> Result<(), Error> + 'c>;

/// Microseconds a call.
fn time<T: Format, K: Timed<T>>(
    device: &Device,
    case: &DecodeCase,
    sizes: &Sizes,
    inputs: &Inputs,
) -> Result<f64, Error> {
    let Asked { prefix, shared, .. } = case.asked;
    // The lengths do not change between replays, so the grid needs no room for other plans.
    let options = PlanOptions { capture: Capture::ThisPlan, ..PlanOptions::default() };
    let batch = Batch::from(&sizes.lengths).query_lens(query_lens(case)).mask(mask(case));
    let stream = device.new_stream()?;
    if shared {
        let plan = PrefixPlan::new(&sizes.geometry, prefix as u32, batch, device.properties(), &options)?;
        let scratch = device.alloc(plan.workspace_bytes())?;
        let mut workspace = Workspace::new(DeviceSpan::from(&scratch));
        let planned = plan.upload(&stream, &mut workspace)?;
        let call = |copy| -> Result<Call<'_>, Error> {
            let mut prepared = planned.prepare(&decode::<T, K>(case, sizes, inputs, copy)?)?;
            Ok(Box::new(move |stream| prepared.launch(stream)))
        };
        let calls = inputs.copies.iter().map(call).collect::<Result<_, _>>()?;
        return replayed(device, &stream, calls);
    }
    let plan = Plan::new(&sizes.geometry, batch, device.properties(), &options)?;
    let scratch = device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(DeviceSpan::from(&scratch));
    let planned = plan.upload(&stream, &mut workspace)?;
    let call = |copy| -> Result<Call<'_>, Error> {
        let mut prepared = planned.prepare(&decode::<T, K>(case, sizes, inputs, copy)?)?;
        Ok(Box::new(move |stream| prepared.launch(stream)))
    };
    let calls = inputs.copies.iter().map(call).collect::<Result<_, _>>()?;
    replayed(device, &stream, calls)
}

fn query_lens(case: &DecodeCase) -> QueryLens<'static> {
    QueryLens::Uniform(case.asked.q_len as u32)
}

fn mask(case: &DecodeCase) -> Mask {
    Mask { left: case.asked.window, ..Mask::CAUSAL }
}

/// The request of one call.
fn decode<'i, T: Format, K: Timed<T>>(
    case: &DecodeCase,
    sizes: &Sizes,
    inputs: &'i Inputs,
    copy: &'i DeviceCopy,
) -> Result<Decode<'i, T, K>, Error> {
    let rows = [case.batch * case.asked.q_len, case.q_heads, case.head_dim];
    let [k, v] = &inputs.caches[copy.cache];
    let decode = Decode::with_query_lens(
        Query::<T>::new(&inputs.query, rows)?,
        query_lens(case),
        KvCache::<K>::with_scales(k, v, sizes.shape, CacheLayout::Nhd, K::scales()?)?,
        BlockTable::new(&copy.table, case.batch, sizes.table_width)?,
        SeqLens::new(&inputs.seq_lens, case.batch)?,
        output::<T>(&copy.out, rows)?,
    )?;
    decode.mask(mask(case))
}

/// An output of the queries' format.
fn output<T: Format>(buffer: &Buffer, shape: [usize; 3]) -> Result<AnyOutput<'_>, Error> {
    Ok(match T::DTYPE {
        DType::Bf16 => Output::<Bf16>::new(buffer, shape)?.into(),
        DType::F16 => Output::<F16>::new(buffer, shape)?.into(),
    })
}

/// The calls one after another in a graph: microseconds each.
fn replayed(device: &Device, stream: &Stream, mut calls: Vec<Call<'_>>) -> Result<f64, Error> {
    for call in calls.iter_mut().take(2) {
        call(stream)?;
        call(stream)?;
    }
    stream.synchronize()?;
    let graph = Graph::capture(stream, || calls.iter_mut().try_for_each(|call| call(stream)))?;
    median_us(device, stream, graph, calls.len())
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

    #[test]
    fn copies_exceed_the_l2() {
        assert_eq!(copies(2 << 20), 200);
        assert_eq!(copies(64 << 20), 7);
        assert_eq!(copies(2 << 30), 2);
        assert_eq!(copies(1), 512);
        assert_eq!(copies(0), 512);
    }
}
