//! One case on the GPU: its copies in memory, one graph over them, the median replay.
use super::cases::{Asked, Case, Kind};
use super::check::{self, HostCopy, Sample};
use super::inputs::{Normals, walk};
use super::sizes::Sizes;
use super::stored::{Rows, Timed, TimedQuery};
use super::{BenchError, COLD_BYTES, Measured};
use crate::{
    AnyOutput, Append, Batch, Bf16, BlockTable, Buffer, CacheDType, CacheFor, CacheLayout, CacheShape, Capture, DType,
    Decode, Device, DeviceSpan, Error, Event, F16, Format, Graph, KvCache, NewTokens, Output, Plan, PlanOptions,
    PrefixPlan, QueryLens, SeqLens, SlotMapping, Stream, Workspace,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Replays timed, of a decode or an append.
pub(super) const REPLAYS: usize = 11;

/// What a case's graph walks over, and how often it is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Walk {
    /// Caches.
    caches: usize,
    /// Block tables and outputs, spread over the caches.
    copies: usize,
    /// Calls a graph, over the copies in turn.
    calls: usize,
    /// Replays timed.
    replays: usize,
}

impl Walk {
    /// A decode finds its cache cold. A prefill has work for its time and not bytes: it is called on the same inputs again
    /// and again, fewer times the longer it takes.
    fn new(case: &Case, sizes: &Sizes) -> Self {
        if case.kind == Kind::Prefill {
            let calls = if case.tokens <= 2048 { 10 } else { 2 };
            return Self { caches: 1, copies: 1, calls, replays: if case.tokens <= 8192 { 7 } else { 3 } };
        }
        // A window reads little of a cache: other pages of the same cache are as cold as another cache.
        let copies_of = copies(sizes.touched_bytes);
        Self { caches: copies(2 * sizes.side_bytes), copies: copies_of, calls: copies_of, replays: REPLAYS }
    }
}

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
    fn fill<T: Format, K: Timed<T>, Q: TimedQuery<T>>(
        device: &Device,
        case: &Case,
        sizes: &Sizes,
        normals: &Normals,
        Walk { caches: cache_count, copies: count, .. }: Walk,
    ) -> Result<Self, BenchError> {
        let mut random = SmallRng::seed_from_u64(11);
        let pool = normals.encoded(T::DTYPE);
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        walk(pool, sizes.q_bytes, &mut random, &mut q);
        let query = upload(device, &Q::encode(&mut q))?;
        let (mut caches, mut on_device, mut samples) = (Vec::new(), Vec::new(), Vec::new());
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
        Ok(Self { query, seq_lens, caches, copies: on_device, samples })
    }

    /// The largest error of the sampled rows.
    fn error<T: Format>(&self) -> Result<f64, BenchError> {
        let mut worst = 0.0f64;
        for (index, samples) in &self.samples {
            worst = worst.max(check::error(samples, T::DTYPE, &self.copies[*index].out.read()?)?);
        }
        Ok(worst)
    }
}

/// Times a case and checks what was timed.
///
/// # Errors
/// A case that cannot run, or an output that is not finite.
pub fn measure<T: Format, K: Timed<T> + CacheFor<Q>, Q: TimedQuery<T>>(
    device: &Device,
    case: &Case,
    normals: &Normals,
) -> Result<Measured, BenchError> {
    let sizes = Sizes::new::<T, K>(case)?;
    let walk = Walk::new(case, &sizes);
    let inputs = Inputs::fill::<T, K, Q>(device, case, &sizes, normals, walk)?;
    let us = time::<T, K, Q>(device, case, &sizes, &inputs, walk)?;
    let bytes = (case.kind == Kind::Decode).then_some(sizes.touched_bytes);
    Ok(Measured { us, err: inputs.error::<T>()?, bytes })
}

/// Launches one call.
type Call<'c> = Box<dyn FnMut(&Stream) -> Result<(), Error> + 'c>;

/// Microseconds a call.
fn time<T: Format, K: Timed<T> + CacheFor<Q>, Q: TimedQuery<T>>(
    device: &Device,
    case: &Case,
    sizes: &Sizes,
    inputs: &Inputs,
    walk: Walk,
) -> Result<f64, Error> {
    let Asked { prefix, shared, .. } = case.asked;
    // The lengths do not change between replays, so the grid needs no room for other plans.
    let options = PlanOptions { capture: Capture::ThisPlan, ..PlanOptions::default() };
    let batch = Batch::from(&sizes.lengths).query_lens(query_lens(case)).mask(case.mask());
    let stream = device.new_stream()?;
    let copies = inputs.copies.iter().cycle().take(walk.calls);
    if shared {
        let plan = PrefixPlan::new(&sizes.geometry, prefix as u32, batch, device.properties(), &options)?;
        let scratch = device.alloc(plan.workspace_bytes())?;
        let mut workspace = Workspace::new(DeviceSpan::from(&scratch));
        let planned = plan.upload(&stream, &mut workspace)?;
        let call = |copy| -> Result<Call<'_>, Error> {
            let mut prepared = planned.prepare(&decode::<T, K, Q>(case, sizes, inputs, copy)?)?;
            Ok(Box::new(move |stream| prepared.launch(stream)))
        };
        let calls = copies.map(call).collect::<Result<_, _>>()?;
        return replayed(device, &stream, calls, walk.replays);
    }
    let plan = Plan::new(&sizes.geometry, batch, device.properties(), &options)?;
    let scratch = device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(DeviceSpan::from(&scratch));
    let planned = plan.upload(&stream, &mut workspace)?;
    let call = |copy| -> Result<Call<'_>, Error> {
        let mut prepared = planned.prepare(&decode::<T, K, Q>(case, sizes, inputs, copy)?)?;
        Ok(Box::new(move |stream| prepared.launch(stream)))
    };
    let calls = copies.map(call).collect::<Result<_, _>>()?;
    replayed(device, &stream, calls, walk.replays)
}

fn query_lens(case: &Case) -> QueryLens<'static> {
    QueryLens::Uniform(case.asked.q_len as u32)
}

/// The request of one call.
fn decode<'i, T: Format, K: Timed<T> + CacheFor<Q>, Q: TimedQuery<T>>(
    case: &Case,
    sizes: &Sizes,
    inputs: &'i Inputs,
    copy: &'i DeviceCopy,
) -> Result<Decode<'i, Q, K>, Error> {
    let rows = [case.batch * case.asked.q_len, case.q_heads, case.head_dim];
    let [k, v] = &inputs.caches[copy.cache];
    let decode = Decode::with_query_lens(
        Q::query(&inputs.query, rows)?,
        query_lens(case),
        KvCache::<K>::with_scales(k, v, sizes.shape, CacheLayout::Nhd, K::scales()?)?,
        BlockTable::new(&copy.table, case.batch, sizes.table_width)?,
        SeqLens::new(&inputs.seq_lens, case.batch)?,
        output::<T>(&copy.out, rows)?,
    )?;
    decode.mask(case.mask())
}

/// An output of the model's format.
fn output<T: Format>(buffer: &Buffer, shape: [usize; 3]) -> Result<AnyOutput<'_>, Error> {
    Ok(match T::DTYPE {
        DType::Bf16 => Output::<Bf16>::new(buffer, shape)?.into(),
        DType::F16 => Output::<F16>::new(buffer, shape)?.into(),
    })
}

/// The calls one after another in a graph: microseconds each.
fn replayed(device: &Device, stream: &Stream, mut calls: Vec<Call<'_>>, replays: usize) -> Result<f64, Error> {
    for call in calls.iter_mut().take(2) {
        call(stream)?;
        call(stream)?;
    }
    stream.synchronize()?;
    let graph = Graph::capture(stream, || calls.iter_mut().try_for_each(|call| call(stream)))?;
    median_us(device, stream, graph, calls.len(), replays)
}

/// The median of `replays` replays, in microseconds a call.
pub(super) fn median_us(
    device: &Device,
    stream: &Stream,
    mut graph: Graph,
    calls: usize,
    replays: usize,
) -> Result<f64, Error> {
    let mut replay = || {
        // SAFETY: the caller keeps every buffer that the captured calls use until the figure is returned, and the stream
        // is the only one in use.
        unsafe { graph.launch(stream) }
    };
    replay()?;
    replay()?;
    let (begin, end) = (Event::new(device)?, Event::new(device)?);
    let mut times = Vec::with_capacity(replays);
    for _ in 0..replays {
        begin.record(stream)?;
        replay()?;
        end.record(stream)?;
        times.push(f64::from(begin.milliseconds_to(&end)?) * 1e3 / calls as f64);
    }
    stream.synchronize()?;
    times.sort_by(f64::total_cmp);
    Ok(times[replays / 2])
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
    use crate::{Arch, Fp8E4M3, NvFp4, SimulatorOptions};

    #[test]
    fn copies_exceed_the_l2() {
        assert_eq!(copies(2 << 20), 200);
        assert_eq!(copies(64 << 20), 7);
        assert_eq!(copies(2 << 30), 2);
        assert_eq!(copies(1), 512);
        assert_eq!(copies(0), 512);
    }

    fn case(kind: Kind, load: [usize; 2], kv: &str, asked: Asked) -> Case {
        let ([batch, tokens], model, kv) = (load, "m".to_owned(), kv.to_owned());
        Case { kind, model, head_dim: 64, q_heads: 4, kv_heads: 2, batch, tokens, kv, page_size: 16, asked }
    }

    #[test]
    fn a_prefill_is_called_by_its_length_on_one_set_of_inputs() {
        let of = |tokens| {
            let case = case(Kind::Prefill, [2, tokens], "bf16", Asked { q_len: tokens, ..Asked::default() });
            let sizes = Sizes::new::<Bf16, Bf16>(&case).expect("a load");
            let Walk { caches, copies, calls, replays } = Walk::new(&case, &sizes);
            assert_eq!((caches, copies), (1, 1));
            (calls, replays)
        };
        assert_eq!([of(1024), of(2048), of(2049)], [(10, 7), (10, 7), (2, 7)]);
        assert_eq!([of(8192), of(8193), of(32768)], [(2, 7), (2, 3), (2, 3)]);
        let case = case(Kind::Decode, [16, 8192], "bf16", Asked::default());
        let walk = Walk::new(&case, &Sizes::new::<Bf16, Bf16>(&case).expect("a load"));
        assert_eq!(walk, Walk { caches: 7, copies: 7, calls: 7, replays: 11 });
    }

    /// Times of the simulator mean nothing, but what it computes has to pass the check, whatever is asked for.
    #[test]
    fn what_is_timed_is_right() {
        let (device, normals) = (Device::simulator(), Normals::draw(1 << 16));
        let whole = Asked { q_len: 20, ..Asked::default() };
        for asked in [
            whole,
            Asked { causal: false, ..whole },
            Asked { q_len: 5, contiguous: true, ..whole },
            Asked { q_len: 5, causal: false, window: Some(11), ..whole },
        ] {
            let case = case(Kind::Prefill, [1, 20], "bf16", asked);
            let Measured { us, err, .. } = measure::<Bf16, Bf16, Bf16>(&device, &case, &normals).expect("a time");
            assert!(us > 0.0 && err < 0.01, "{case}: {us} {err}");
        }
        let case = case(Kind::Prefill, [1, 20], "nvfp4", whole);
        let Measured { err, .. } = measure::<Bf16, NvFp4, Bf16>(&device, &case, &normals).expect("a time");
        assert!(err < 0.01, "{case}: {err}");
    }

    #[test]
    fn queries_of_8_bits_are_right_too() {
        let options = SimulatorOptions { arch: Arch::HOPPER, ..SimulatorOptions::default() };
        let (device, normals) = (Device::simulator_with(options), Normals::draw(1 << 16));
        let narrow = Asked { q_len: 20, narrow: true, ..Asked::default() };
        for head_dim in [64, 128] {
            let case = Case { head_dim, ..case(Kind::Prefill, [1, 20], "e4m3", narrow) };
            let Measured { err, .. } = measure::<Bf16, Fp8E4M3, Fp8E4M3>(&device, &case, &normals).expect("a time");
            assert!(err < 0.06, "{case}: {err}");
        }
    }
}
