//! `qkv bench --append`: new tokens written into pages, by the rule of decode: a graph that walks over copies of tokens and
//! cache until the L2 is exceeded, slots in random order, the median of 11 replays.
//!
//! `bytes` counts what has to move: K and V read in the model's format, codes and block scales written. `err` is the
//! largest difference between what a sampled row's codes stand for and what the reference quantiser makes of its tokens,
//! over the row's largest number: 0, as append is exact.
use super::cases::Case;
use super::inputs::{Normals, walk};
use super::stored::{Rows, Timed};
use super::timing::{REPLAYS, copies, median_us, upload};
use super::{BenchError, Measured};
use crate::testing::format;
use crate::{
    Append, Buffer, CacheLayout, CacheShape, Device, Error, Format, Graph, HeadDim, KvCache, NewTokens, SlotMapping,
};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Rows compared of the first copy.
const ROWS: usize = 64;

struct Copy {
    source: [Buffer; 2],
    pages: [Buffer; 2],
    slots: Buffer,
}

/// Times an append of `case.tokens` tokens.
///
/// # Errors
/// A case that cannot run.
pub fn measure<T: Format, K: Timed<T>>(
    device: &Device,
    case: &Case,
    normals: &Normals,
) -> Result<Measured, BenchError> {
    let Case { kv_heads, tokens, page_size, .. } = *case;
    let head_dim = HeadDim::try_from(case.head_dim)?;
    let pages = tokens.div_ceil(page_size);
    let shape = CacheShape { pages, page_size, kv_heads, head_dim };
    let source_bytes = tokens * kv_heads * case.head_dim * T::DTYPE.bytes();
    let side_bytes = pages * page_size * kv_heads * K::CACHE.row_bytes(head_dim);
    let mut random = SmallRng::seed_from_u64(13);
    let mut slots: Vec<i64> = (0..(pages * page_size) as i64).collect();
    let (mut first, mut bytes, mut all) = (None, [Vec::new(), Vec::new()], Vec::new());
    for _ in 0..copies(2 * (source_bytes + side_bytes)) {
        for side in &mut bytes {
            walk(normals.encoded(T::DTYPE), source_bytes, &mut random, side);
        }
        slots.shuffle(&mut random);
        let chosen: Vec<u8> = slots[..tokens].iter().flat_map(|slot| slot.to_le_bytes()).collect();
        all.push(Copy {
            source: [upload(device, &bytes[0])?, upload(device, &bytes[1])?],
            pages: [device.alloc(side_bytes)?, device.alloc(side_bytes)?],
            slots: upload(device, &chosen)?,
        });
        first.get_or_insert_with(|| (bytes.clone(), slots.clone()));
    }
    let us = time::<T, K>(device, shape, tokens, &all)?;
    let mut err = 0.0f64;
    if let (Some((bytes, slots)), Some(copy)) = (first, all.first()) {
        let rows = Rows::new(K::CACHE, shape);
        for (source, pages) in bytes.iter().zip(&copy.pages) {
            let pages = pages.read()?;
            for _ in 0..ROWS {
                let (token, head) = (random.random_range(0..tokens), random.random_range(0..kv_heads));
                let row = 2 * case.head_dim;
                let values = format::decode_bytes(T::DTYPE, &source[(token * kv_heads + head) * row..][..row]);
                let slot = slots[token] as usize;
                let stored = rows.row(&pages, slot / page_size, slot % page_size, head);
                err = err.max(largest_difference(&stored, &rows.quantised(&values)));
            }
        }
    }
    let moved = 2 * (source_bytes + tokens * kv_heads * K::CACHE.row_bytes(head_dim));
    Ok(Measured { us, err, bytes: Some(moved) })
}

/// The largest difference over the largest expected number.
fn largest_difference(stored: &[f32], expected: &[f32]) -> f64 {
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    let pairs = stored.iter().zip(expected);
    let worst = pairs.fold(0.0f32, |worst, (a, b)| if a == b { worst } else { worst.max((a - b).abs()) });
    if stored.iter().any(|x| x.is_nan()) { f64::INFINITY } else { f64::from(worst / largest) }
}

fn time<T: Format, K: Timed<T>>(device: &Device, shape: CacheShape, tokens: usize, all: &[Copy]) -> Result<f64, Error> {
    let stream = device.new_stream()?;
    let rows = [tokens, shape.kv_heads, shape.head_dim.get()];
    let mut calls = Vec::with_capacity(all.len());
    for copy in all {
        let [k, v] = [NewTokens::<T>::new(&copy.source[0], rows)?, NewTokens::new(&copy.source[1], rows)?];
        let layout = CacheLayout::Nhd;
        let cache = KvCache::<K>::with_scales(&copy.pages[0], &copy.pages[1], shape, layout, K::scales()?)?;
        calls.push(Append::new(k, v, &cache, SlotMapping::new(&copy.slots, tokens)?)?);
    }
    calls.iter().try_for_each(|call| call.launch(&stream))?;
    stream.synchronize()?;
    let graph = Graph::capture(&stream, || calls.iter().try_for_each(|call| call.launch(&stream)))?;
    median_us(device, &stream, graph, calls.len(), REPLAYS)
}
