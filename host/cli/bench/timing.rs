//! One case on the GPU: its copies in memory, one graph over them, the median replay.
use super::cases::DecodeCase;
use super::check::{self, HostCopy, Sample};
use super::inputs::{Normals, shuffled_pages, walk};
use super::{BenchError, COLD_BYTES, Measured};
use crate::testing::format;
use crate::{
    BlockTable, Buffer, CacheLayout, CacheShape, Capture, Decode, Device, DeviceSpan, Error, Event, Format, Geometry,
    Graph, HeadDim, KvCache, Output, Plan, PlanOptions, Query, SeqLens, Stream, Workspace,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Replays timed.
const REPLAYS: usize = 11;

/// Copies of an input of `bytes`: enough to exceed the L2 several times.
const fn copies(bytes: usize) -> usize {
    let enough = COLD_BYTES.div_ceil(if bytes == 0 { 1 } else { bytes });
    if enough < 2 {
        2
    } else if enough > 512 {
        512
    } else {
        enough
    }
}

/// One copy in device memory.
struct DeviceCopy {
    k: Buffer,
    v: Buffer,
    table: Buffer,
    out: Buffer,
}

/// Times a case and checks what was timed.
///
/// # Errors
/// A case that cannot run, or an output that is not finite.
pub fn measure<T: Format>(device: &Device, case: &DecodeCase, normals: &Normals) -> Result<Measured, BenchError> {
    let DecodeCase { head_dim, q_heads, kv_heads, batch, tokens, page_size, .. } = *case;
    let geometry = Geometry::new(head_dim, [q_heads, kv_heads], page_size, T::DTYPE, T::DTYPE)?;
    let load = || BenchError::Load { batch, tokens };
    let table_width = tokens.div_ceil(page_size);
    let pages = batch.checked_mul(table_width).filter(|&pages| pages > 0).ok_or_else(load)?;
    let page_ids = i32::try_from(pages).map_err(|_| load())?;
    let lengths = vec![u32::try_from(tokens).map_err(|_| load())?; batch];
    let element = T::DTYPE.bytes();
    let sized = |rows: usize, heads: usize| rows.checked_mul(heads * head_dim * element).ok_or_else(load);
    let (side_bytes, q_bytes) = (sized(pages * page_size, kv_heads)?, sized(batch, q_heads)?);

    let mut random = SmallRng::seed_from_u64(11);
    let pool = normals.encoded(T::DTYPE);
    let q = walk(&pool, q_bytes, &mut random);
    let query = upload(device, &q)?;
    let seq_lens = upload(device, &le_bytes(lengths.iter().map(|l| l.to_le_bytes())))?;

    let mut on_device = Vec::new();
    let mut samples = Vec::new();
    let count = copies(2 * side_bytes);
    for index in 0..count {
        let (k, v) = (walk(&pool, side_bytes, &mut random), walk(&pool, side_bytes, &mut random));
        let table = shuffled_pages(page_ids, &mut random);
        on_device.push(DeviceCopy {
            k: upload(device, &k)?,
            v: upload(device, &v)?,
            table: upload(device, &le_bytes(table.iter().map(|id| id.to_le_bytes())))?,
            out: upload(device, &vec![0xFF; q.len()])?,
        });
        if index == 0 || index + 1 == count {
            let copy = HostCopy { format: T::DTYPE, k, v, table, q: q.clone() };
            samples.push((index, check::samples(case, &copy)));
        }
    }

    // The lengths do not change between replays, so the grid needs no room for other plans.
    let options = PlanOptions { capture: Capture::ThisPlan, ..PlanOptions::default() };
    let plan = Plan::new(&geometry, &lengths, device.properties(), &options)?;
    let scratch = device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(DeviceSpan::from(&scratch));
    let stream = device.new_stream()?;
    let planned = plan.upload(&stream, &mut workspace)?;
    let shape = CacheShape { pages, page_size, kv_heads, head_dim: HeadDim::try_from(head_dim)? };
    let rows = [batch, q_heads, head_dim];
    let mut calls = Vec::with_capacity(count);
    for copy in &on_device {
        let decode = Decode::new(
            Query::<T>::new(&query, rows)?,
            KvCache::<T>::new(&copy.k, &copy.v, shape, CacheLayout::Nhd)?,
            BlockTable::new(&copy.table, batch, table_width)?,
            SeqLens::new(&seq_lens, batch)?,
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
    let us = median_us(device, &stream, graph, count)?;
    let err = worst_error::<T>(&on_device, &samples)?;
    Ok(Measured { us, err })
}

/// The median of [`REPLAYS`] replays, in microseconds a call.
fn median_us(device: &Device, stream: &Stream, mut graph: Graph, calls: usize) -> Result<f64, Error> {
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

fn worst_error<T: Format>(copies: &[DeviceCopy], samples: &[(usize, Vec<Sample>)]) -> Result<f64, BenchError> {
    let mut worst = 0.0f64;
    for (index, samples) in samples {
        let output = format::decode_bytes(T::DTYPE, &copies[*index].out.read()?);
        worst = worst.max(check::error(samples, &output)?);
    }
    Ok(worst)
}

fn upload(device: &Device, bytes: &[u8]) -> Result<Buffer, Error> {
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
