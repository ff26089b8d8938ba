//! Decode on candle's tensors: q is a candle tensor, so is the cache, and so is what comes back, all on candle's stream.
//!
//! Needs nvcc to build, as candle with CUDA does. candle gives device addresses and a stream's handle through cudarc, and
//! its default stream is the special handle 2 (the thread's own): launch from the thread that uses the tensors.
use candle_core::cuda::CudaDType;
use candle_core::cuda::cudarc::driver::{CudaStream, DevicePtr, DeviceRepr, SyncOnDrop};
use candle_core::{Device as CandleDevice, Layout, Storage, Tensor};
use half::bf16;
use qkv::{Bf16, BlockTable, CacheLayout, Decode, Device, DeviceSpan, Driver, KvCache};
use qkv::{Output, Plan, PlanOptions, Query, SeqLens, Workspace};
use sample::{BATCH, LENGTHS, MAX_PAGES, ROWS, SHAPE, Sample};
use std::ops::Deref;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A tensor's storage and layout, held for reading.
type Held<'t, S> = (S, &'t Layout);

/// A view of a contiguous tensor's memory, and the guard that tells candle, when it is dropped, that this stream has used
/// it: keep it past the launch.
fn view<'a, T: CudaDType + DeviceRepr + 'a>(
    held: &'a Held<'_, impl Deref<Target = Storage>>,
    stream: &'a CudaStream,
) -> Result<(DeviceSpan<'a>, SyncOnDrop<'a>)> {
    let Storage::Cuda(storage) = &*held.0 else { return Err("a tensor that is not on the GPU".into()) };
    let Some((begin, end)) = held.1.contiguous_offsets() else { return Err("a tensor that is not contiguous".into()) };
    let (address, guard) = storage.as_cuda_slice::<T>()?.device_ptr(stream);
    // SAFETY: the storage is held for 'a, and freed in the order of the stream that the work is on.
    let span = unsafe { DeviceSpan::new(address, end * size_of::<T>()) };
    Ok((span.slice(begin * size_of::<T>(), (end - begin) * size_of::<T>())?, guard))
}

/// Attention of one token a sequence: q `[batch, q_heads, head_dim]`, k and v `[pages, page_size, kv_heads, head_dim]`,
/// all bf16; block table `[batch, max_pages]` and lengths `[batch]`, i32. `lengths` are the host's copy, for the plan.
fn attend(q: &Tensor, cache: [&Tensor; 2], block_table: &Tensor, seq_lens: &Tensor, lengths: &[u32]) -> Result<Tensor> {
    let CandleDevice::Cuda(candle) = q.device() else { return Err("q is not on the GPU".into()) };
    let stream = candle.cuda_stream();
    // A server makes the device, the workspace and the plan once a step, not once a layer.
    // SAFETY: candle's context is the primary one, live as long as its device; it is retained once more here.
    let device = unsafe { Device::from_primary_context(stream.context().cu_ctx().cast()) }?;
    // SAFETY: of this context, and held by `stream` until after the last use.
    let ours = unsafe { device.stream(stream.cu_stream().cast()) };

    let out = q.zeros_like()?;
    let rows = <[usize; 3]>::try_from(q.dims()).map_err(|_| "q is not [batch, q_heads, head_dim]")?;
    let [k, v] = cache;
    {
        let held = [q, k, v, block_table, seq_lens, &out].map(Tensor::storage_and_layout);
        let (q, _q) = view::<bf16>(&held[0], &stream)?;
        let ((k, _k), (v, _v)) = (view::<bf16>(&held[1], &stream)?, view::<bf16>(&held[2], &stream)?);
        let (table, _table) = view::<i32>(&held[3], &stream)?;
        let (seq_lens, _seq_lens) = view::<i32>(&held[4], &stream)?;
        // Read-locked, yet written: nobody else has this tensor yet.
        let (result, _result) = view::<bf16>(&held[5], &stream)?;
        let decode = Decode::<Bf16, Bf16>::new(
            Query::new(q, rows)?,
            KvCache::new(k, v, SHAPE, CacheLayout::Nhd)?,
            BlockTable::new(table, lengths.len(), block_table.dim(1)?)?,
            SeqLens::new(seq_lens, lengths.len())?,
            Output::new(result, rows)?,
        )?;
        let plan = Plan::new(decode.geometry(), lengths, device.properties(), &PlanOptions::default())?;
        let memory = device.alloc(plan.workspace_bytes())?;
        let mut workspace = Workspace::new(&memory);
        plan.upload(&ours, &mut workspace)?.prepare(&decode)?.launch(&ours)?;
        ours.synchronize()?; // the workspace is freed here
    }
    Ok(out)
}

fn decode(sample: &Sample) -> Result<(String, Vec<u16>)> {
    Driver::find()?;
    let gpu = CandleDevice::new_cuda(0)?;
    let halves = |words: &[u16], shape: &[usize]| {
        let numbers: Vec<bf16> = words.iter().map(|&word| bf16::from_bits(word)).collect();
        Tensor::from_vec(numbers, shape, &gpu)
    };
    let pages = [SHAPE.pages, SHAPE.page_size, SHAPE.kv_heads, SHAPE.head_dim.get()];
    let (k, v) = (halves(&sample.k, &pages)?, halves(&sample.v, &pages)?);
    let table = Tensor::from_slice(&sample.block_table, (BATCH, MAX_PAGES), &gpu)?;
    let lengths = Tensor::from_slice(&sample.seq_lens, BATCH, &gpu)?;
    let out = attend(&halves(&sample.q, &ROWS)?, [&k, &v], &table, &lengths, &LENGTHS)?;
    let words = out.flatten_all()?.to_vec1::<bf16>()?.into_iter().map(bf16::to_bits).collect();
    Ok(("candle's GPU".to_owned(), words))
}

fn main() -> ExitCode {
    let sample = Sample::new();
    sample::finish(&sample, decode(&sample))
}
