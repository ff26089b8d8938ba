//! Decode on the GPU against the f64 oracle: every entry, and what requests vary (group, page size, layout, lengths,
//! splits). All that must not be read is NaN or a page id far outside; a second run gives the same bits.
use super::common::judge::{Exact, bits};
use super::test;
use libtest_mimic::{Failed, Trial};
use qkv::testing::case::{Arrangement, CaseShape};
use qkv::testing::paged::Paged;
use qkv::testing::run::{DeviceCase, RunOptions};
use qkv::testing::stored::CaseCache;
use qkv::testing::variant::VariantShape;
use qkv::{DType, Device, Splits};

/// Both row classes, with and without rows to spare, and more rows than an item has.
const GROUPS: [usize; 9] = [1, 5, 7, 8, 12, 16, 17, 35, 64];
const PAGE_SIZES: [usize; 4] = [1, 16, 64, 1024];

pub fn tests() -> Vec<Trial> {
    let mut shapes: Vec<(String, CaseShape)> = Vec::new();
    for head_dim in [64, 128, 256, 512] {
        for format in [DType::Bf16, DType::F16] {
            let base = CaseShape {
                format,
                cache: CaseCache::Own,
                head_dim,
                kv_heads: 2,
                group: 5,
                page_size: 16,
                arrangement: Arrangement::Nhd,
                lengths: ragged(head_dim),
                variant: VariantShape::default(),
                sharpness: 1.0,
                seed: head_dim as u64,
            };
            let name = |what: String| format!("decode::d{head_dim}_{}::{what}", format.name());
            for (index, group) in GROUPS.into_iter().enumerate() {
                // The other things go round, so that every pair meets somewhere.
                let (page_size, arrangement) = (PAGE_SIZES[index % 4], Arrangement::ALL[index % 7]);
                let shape = CaseShape { group, page_size, arrangement, seed: index as u64, ..base.clone() };
                shapes.push((name(format!("group_{group}")), shape));
            }
            for (index, page_size) in PAGE_SIZES.into_iter().enumerate() {
                let arrangement = Arrangement::ALL[(index + 3) % 7];
                let shape = CaseShape { page_size, arrangement, group: 8 + 16 * (index % 2), ..base.clone() };
                shapes.push((name(format!("page_{page_size}")), shape));
            }
            for arrangement in Arrangement::ALL {
                let shape = CaseShape { arrangement, kv_heads: 3, group: 6, ..base.clone() };
                shapes.push((name(format!("{arrangement:?}").to_lowercase()), shape));
            }
            // Every kind of narrow cache; the rest goes round.
            for (index, cache) in CaseCache::all().filter(|&cache| cache != CaseCache::Own).enumerate() {
                let shape = CaseShape {
                    cache,
                    group: GROUPS[index % 9],
                    page_size: [16, 4, 64][index % 3],
                    arrangement: Arrangement::ALL[index % 7],
                    seed: index as u64,
                    ..base.clone()
                };
                shapes.push((name(format!("{}_{index}", cache.dtype(format))), shape.suited()));
            }
            // Attention on few keys, one long sequence, many short ones, nothing at all.
            let sharp = CaseShape { sharpness: 8.0, ..base.clone() };
            shapes.push((name("sharp".into()), sharp));
            shapes.push((name("long".into()), CaseShape { lengths: vec![9973], group: 4, ..base.clone() }));
            let many = (0..150).map(|i| (i * 37) % 61).collect();
            shapes.push((name("batch_150".into()), CaseShape { lengths: many, kv_heads: 1, ..base.clone() }));
            shapes.push((name("no_keys".into()), CaseShape { lengths: vec![0, 0, 0], ..base }));
        }
    }
    shapes.into_iter().map(|(name, shape)| test(name, move |device| check(device, &shape))).collect()
}

/// 0, 1, a tile and one more or less, primes, and enough for every slot of every ring to be used again.
fn ragged(head_dim: usize) -> Vec<usize> {
    let tile = 2048 / head_dim.min(128);
    vec![0, 1, tile - 1, tile, tile + 1, 131, 0, 4 * tile, 641]
}

fn check(device: &Device, shape: &CaseShape) -> Result<(), Failed> {
    let case = shape.build();
    let exact = Exact::new(&case);
    let paged = Paged::new(&case, shape.page_size, shape.arrangement, shape.seed);
    let on_device = DeviceCase::new(device, &case, &paged)?;
    for splits in [Splits::Never, Splits::Auto, Splits::Most, Splits::FixedSize(97)] {
        let answer = on_device.run(splits)?;
        exact.judge(&answer).map_err(|what| format!("{splits:?}, {}: {what}", answer.kernel))?;
        let again = on_device.run(splits)?;
        if bits(&answer) != bits(&again) {
            return Err(format!("{splits:?}, {}: another run, another answer", answer.kernel).into());
        }
    }
    // A plan for longer sequences serves shorter ones.
    let planned = case.lengths().iter().map(|length| length + 2 * shape.page_size as u32).collect();
    let answer = on_device.run(RunOptions { splits: Splits::Most, planned: Some(planned), ..RunOptions::default() })?;
    exact.judge(&answer).map_err(|what| format!("planned for more, {}: {what}", answer.kernel))?;
    Ok(())
}
