//! Decode in a program that uses `cudarc` for its memory, streams and context: `cargo run -p example-cudarc`.
//!
//! Nothing of this library knows cudarc. What passes between them are device addresses, a stream's handle and a
//! context's, as with any other CUDA library.
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop, sys};
use qkv::{Bf16, BlockTable, CacheLayout, Decode, Device, DeviceSpan, Driver, KvCache};
use qkv::{Output, Plan, PlanOptions, Query, SeqLens, Workspace};
use sample::{BATCH, LENGTHS, MAX_PAGES, ROWS, SHAPE, Sample};
use std::process::ExitCode;

fn decode(sample: &Sample) -> Result<(String, Vec<u16>), Box<dyn std::error::Error>> {
    // Without a driver cudarc panics; ours says what is missing.
    Driver::find()?;
    // SAFETY: it only tries to load the library.
    if !unsafe { sys::is_culib_present() } {
        return Err("cudarc does not find the driver's library".into());
    }
    // All of cudarc's own.
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let (k, v) = (stream.clone_htod(&sample.k)?, stream.clone_htod(&sample.v)?);
    let (q, mut out) = (stream.clone_htod(&sample.q)?, stream.alloc_zeros::<u16>(sample.q.len())?);
    let (table, lengths) = (stream.clone_htod(&sample.block_table)?, stream.clone_htod(&sample.seq_lens)?);

    // The same context and stream as ours.
    // SAFETY: cudarc's is the primary context, live as long as `context`; it is retained once more here.
    let device = unsafe { Device::from_primary_context(context.cu_ctx().cast()) }?;
    // SAFETY: of this context, and dropped at the end of this function, after the last use.
    let ours = unsafe { device.stream(stream.cu_stream().cast()) };

    {
        // The guards tell cudarc, when they are dropped, that this stream has used the memory: keep them past the launch.
        let ((q, _q), (k, _k), (v, _v)) = (read(&q, &stream), read(&k, &stream), read(&v, &stream));
        let ((table, _table), (lengths, _lengths)) = (read(&table, &stream), read(&lengths, &stream));
        let (out, _out) = write(&mut out, &stream);
        let decode = Decode::<Bf16, Bf16>::new(
            Query::new(q, ROWS)?,
            KvCache::new(k, v, SHAPE, CacheLayout::Nhd)?,
            BlockTable::new(table, BATCH, MAX_PAGES)?,
            SeqLens::new(lengths, BATCH)?,
            Output::new(out, ROWS)?,
        )?;
        let plan = Plan::new(decode.geometry(), &LENGTHS, device.properties(), &PlanOptions::default())?;
        let mut memory = stream.alloc_zeros::<u8>(plan.workspace_bytes())?;
        let (memory, _memory) = write(&mut memory, &stream);
        let mut workspace = Workspace::new(memory);
        plan.upload(&ours, &mut workspace)?.prepare(&decode)?.launch(&ours)?;
    }

    // cudarc sees our work: it is on its stream.
    Ok((device.properties().name.clone(), stream.clone_dtoh(&out)?))
}

/// A slice that is read, as a view.
fn read<'a, T>(slice: &'a CudaSlice<T>, stream: &'a CudaStream) -> (DeviceSpan<'a>, SyncOnDrop<'a>) {
    let (address, guard) = slice.device_ptr(stream);
    // SAFETY: borrowed for 'a, and freed in the order of the stream that the work is on.
    (unsafe { DeviceSpan::new(address, slice.num_bytes()) }, guard)
}

/// A slice that is written, as a view.
fn write<'a, T>(slice: &'a mut CudaSlice<T>, stream: &'a CudaStream) -> (DeviceSpan<'a>, SyncOnDrop<'a>) {
    let bytes = slice.num_bytes();
    let (address, guard) = slice.device_ptr_mut(stream);
    // SAFETY: as above, and borrowed alone.
    (unsafe { DeviceSpan::new(address, bytes) }, guard)
}

fn main() -> ExitCode {
    let sample = Sample::new();
    sample::finish(&sample, decode(&sample))
}
