//! Decode without a GPU: the kernels' own source on the simulator, every race and bound checked.
//!
//! `cargo run -p example-simulator`. All but the first line of `decode` is the same on a GPU.
use qkv::{Bf16, BlockTable, Buffer, CacheLayout, Decode, Device, Error, KvCache};
use qkv::{Lse, Output, Plan, PlanOptions, Query, SeqLens, Workspace, check_page_table};
use sample::{BATCH, LENGTHS, MAX_PAGES, Q_HEADS, ROWS, SHAPE, Sample};
use std::process::ExitCode;

fn decode(sample: &Sample) -> Result<(String, Vec<u16>), Box<dyn std::error::Error>> {
    let device = Device::simulator();
    let stream = device.default_stream();

    // Memory: the library's own buffers; any device address serves (see the examples cudarc and cust).
    let (k, v) = (upload(&device, bytes(&sample.k))?, upload(&device, bytes(&sample.v))?);
    let (q, out) = (upload(&device, bytes(&sample.q))?, device.alloc(2 * sample.q.len())?);
    let table = upload(&device, sample.block_table.iter().flat_map(|id| id.to_le_bytes()))?;
    let lengths = upload(&device, sample.seq_lens.iter().flat_map(|length| length.to_le_bytes()))?;
    let lse = device.alloc(4 * BATCH * Q_HEADS)?;

    // The request: views of that memory. What does not fit is refused here, by field and value.
    check_page_table(&sample.block_table, MAX_PAGES, &LENGTHS, SHAPE.page_size, SHAPE.pages)?;
    let decode = Decode::<Bf16, Bf16>::new(
        Query::new(&q, ROWS)?,
        KvCache::new(&k, &v, SHAPE, CacheLayout::Nhd)?,
        BlockTable::new(&table, BATCH, MAX_PAGES)?,
        SeqLens::new(&lengths, BATCH)?,
        Output::new(&out, ROWS)?,
    )?
    .lse(Lse::new(&lse, BATCH, Q_HEADS)?)?;

    // The plan: once a step of the model, from the lengths alone; the same for all layers of this geometry.
    let plan = Plan::new(decode.geometry(), &LENGTHS, device.properties(), &PlanOptions::default())?;
    let memory = device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let planned = plan.upload(&stream, &mut workspace)?;

    // The launch: once a layer.
    planned.prepare(&decode)?.launch(&stream)?;
    stream.synchronize()?;

    let (items, merges) = (plan.items().len(), plan.merges().len());
    println!("{}: {items} work items, {merges} merges", plan.kernel());
    let first = lse.read()?.first_chunk::<4>().map(|bytes| f32::from_le_bytes(*bytes));
    println!("log-sum-exp of the first row: {}", first.unwrap_or(f32::NAN));
    let words = out.read()?.chunks_exact(2).map(|word| u16::from_le_bytes([word[0], word[1]])).collect();
    Ok((device.properties().name.clone(), words))
}

fn upload(device: &Device, bytes: impl Iterator<Item = u8>) -> Result<Buffer, Error> {
    let bytes: Vec<u8> = bytes.collect();
    let buffer = device.alloc(bytes.len())?;
    buffer.write(&bytes)?;
    Ok(buffer)
}

fn bytes(words: &[u16]) -> impl Iterator<Item = u8> {
    words.iter().flat_map(|word| word.to_le_bytes())
}

fn main() -> ExitCode {
    let sample = Sample::new();
    sample::finish(&sample, decode(&sample))
}
