//! Decode in a program that uses `cust` for its memory, streams and context: `cargo run -p example-cust`.
//!
//! With the feature `cust` this library answers the driver's functions that `cust` would else be linked to, so the
//! program builds without a toolkit and starts without a driver.
use cust::context::Context;
use cust::memory::{CopyDestination, DeviceBuffer};
use cust::stream::{Stream, StreamFlags};
use qkv::{Bf16, BlockTable, CacheLayout, Decode, Device, KvCache};
use qkv::{Output, Plan, PlanOptions, Query, SeqLens, Workspace};
use sample::{BATCH, LENGTHS, MAX_PAGES, ROWS, SHAPE, Sample};
use std::process::ExitCode;

fn decode(sample: &Sample) -> Result<(String, Vec<u16>), Box<dyn std::error::Error>> {
    // All of cust's own.
    cust::init(cust::CudaFlags::empty())?;
    let context = Context::new(cust::device::Device::get_device(0)?)?;
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
    let (k, v) = (DeviceBuffer::from_slice(&sample.k)?, DeviceBuffer::from_slice(&sample.v)?);
    let (q, out) = (DeviceBuffer::from_slice(&sample.q)?, DeviceBuffer::from_slice(&vec![0; sample.q.len()])?);
    let (table, lengths) =
        (DeviceBuffer::from_slice(&sample.block_table)?, DeviceBuffer::from_slice(&sample.seq_lens)?);

    // The same context and stream as ours; the buffers are taken by reference, as views.
    let device = Device::from_cust(&context)?;
    // SAFETY: of this context, and dropped at the end of this function, after the last use.
    let ours = unsafe { device.cust_stream(&stream) };
    let decode = Decode::<Bf16, Bf16>::new(
        Query::new(&q, ROWS)?,
        KvCache::new(&k, &v, SHAPE, CacheLayout::Nhd)?,
        BlockTable::new(&table, BATCH, MAX_PAGES)?,
        SeqLens::new(&lengths, BATCH)?,
        Output::new(&out, ROWS)?,
    )?;
    let plan = Plan::new(decode.geometry(), &LENGTHS, device.properties(), &PlanOptions::default())?;
    let memory = DeviceBuffer::from_slice(&vec![0u8; plan.workspace_bytes()])?;
    let mut workspace = Workspace::new(&memory);
    // Page ids are checked on the device first: the first bad one would be the error, and nothing launched.
    plan.upload(&ours, &mut workspace)?.prepare(&decode)?.launch_checked(&ours)?;

    // cust sees our work: it is on its stream.
    stream.synchronize()?;
    let mut words = vec![0; sample.q.len()];
    out.copy_to(&mut words)?;
    Ok((device.properties().name.clone(), words))
}

fn main() -> ExitCode {
    let sample = Sample::new();
    sample::finish(&sample, decode(&sample))
}
