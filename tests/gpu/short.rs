//! One small case for each kernel, for tools that make a GPU hundreds of times slower; and a fault that such a tool must
//! find (`tests/sanitize.sh`).
use super::common::append;
use super::common::judge::Exact;
use super::common::merge::spread;
use super::{gpu, test, test_where};
use kernels_gpu::config::{self, RowClass, Shape};
use kernels_gpu::element::{CacheKind, ElementKind, QueryKind};
use kernels_gpu::kernels::{ENTRIES, Role};
use kernels_gpu::prefill::shape::PrefillShape;
use libtest_mimic::{Failed, Trial};
use qkv::testing::case::{Arrangement, CaseShape};
use qkv::testing::paged::{BAD_PAGE, Paged};
use qkv::testing::run::{DeviceCase, RunOptions};
use qkv::testing::stored::CaseCache;
use qkv::testing::variant::{CaseQuery, QueryCounts, VariantShape};
use qkv::{Arch, DType, Device, Error, Family, KernelChoice, KernelId, Splits};

pub fn tests() -> Vec<Trial> {
    let mut tests: Vec<Trial> = ENTRIES
        .iter()
        .map(|entry| {
            let has = |arch: Arch| arch.runs(entry.family());
            test_where(format!("short::{}", entry.name), has, move |device| match entry.role {
                Role::Decode { shape, rows, q, kv } => {
                    decode(device, entry.name, &shape, rows, q.name(), kv, VariantShape::default())
                }
                // D = 512 has the most blocks a merge; states are merged without a plan.
                Role::Combine => {
                    let (shape, class, kv) = (eight(512), RowClass::Eight, CacheKind::Bf16);
                    decode(device, "decode_d512", &shape, class, "bf16", kv, VariantShape::default())?;
                    let numbers = small(&shape, class, DType::Bf16, kv);
                    Ok(spread(&[device], &numbers, &[0, 1, 2], Splits::Never)?)
                }
                Role::Append { .. } => {
                    for case in append::cases(&entry.role) {
                        append::check(device, &case)?;
                    }
                    Ok(())
                }
                Role::CheckPages => check_pages(device),
                Role::Prefill { shape, q, kv } => prefill(device, entry.name, &shape, q, kv),
            })
        })
        .collect();
    // A window, ALiBi and a soft cap: rows with records of their own, and every tile an edge.
    for entry in ENTRIES {
        if let Role::Decode { shape, rows, q: ElementKind::Bf16, kv: kv @ (CacheKind::Bf16 | CacheKind::NvFp4) } =
            entry.role
        {
            let variant = VariantShape { left: Some(40), alibi: true, softcap: Some(30.0), ..VariantShape::default() };
            tests.push(test(format!("short::rows_of_{}", entry.name), move |device| {
                decode(device, entry.name, &shape, rows, "bf16", kv, variant.clone())
            }));
        }
    }
    // Blocks of clusters, of every cache and head dimension.
    for entry in ENTRIES {
        if let Role::Decode { shape, rows, q: ElementKind::Bf16, kv } = entry.role
            && shape.row_warps == 1
        {
            let has = |arch: Arch| arch.runs(Family::Wgmma) || arch.runs(Family::Tcgen05);
            tests.push(test_where(format!("short::clusters_of_{}", entry.name), has, move |device| {
                clusters(device, entry.name, &shape, rows, kv)
            }));
            if shape.column_warps == 1 && kv != CacheKind::NvFp4 {
                tests.push(test_where(format!("short::neighbours_of_{}", entry.name), has, move |device| {
                    neighbours(device, entry.name, &shape, rows, kv)
                }));
            }
            // A plan may make two items of 8 of them.
            if shape.head_dim == 512 && rows == RowClass::Few {
                tests.push(test_where(format!("short::divided_rows_of_{}", entry.name), has, move |device| {
                    divided_rows(device, &entry.name.replace("few", "eight"), &shape, kv)
                }));
            }
        }
    }
    let name = "planted::page_id_out_of_range";
    tests.push(Trial::test(name, || page_id_out_of_range(gpu()?)).with_ignored_flag(true));
    tests
}

const fn eight(head_dim: u32) -> Shape {
    config::shape(head_dim, RowClass::Eight, CacheKind::Bf16)
}

fn small(shape: &Shape, rows: RowClass, format: DType, kv: CacheKind) -> CaseShape {
    // Two shares, each of which uses a slot of the ring again, and a part of a tile.
    let share = (shape.stages() + 1) * shape.teams * shape.tile_keys;
    CaseShape {
        format,
        // One kind of scales for each head dimension and row class.
        cache: CaseCache::of_kind(kv, format, u64::from(shape.head_dim / 64) + rows as u64)
            .expect("the list's kernels read their caches"),
        head_dim: shape.head_dim as usize,
        kv_heads: 1,
        group: shape.rows() as usize - 3,
        page_size: 16,
        arrangement: Arrangement::Nhd,
        lengths: vec![2 * share as usize - 5],
        variant: VariantShape::default(),
        sharpness: 1.0,
        seed: 1,
    }
}

fn decode(
    device: &Device,
    kernel: &str,
    shape: &Shape,
    rows: RowClass,
    format: &str,
    kv: CacheKind,
    variant: VariantShape,
) -> Result<(), Failed> {
    let windowed = variant.left.is_some();
    let numbers = CaseShape { variant, ..small(shape, rows, format.parse()?, kv) }.suited();
    let case = numbers.build();
    let paged = Paged::new(&case, numbers.page_size, numbers.arrangement, numbers.seed);
    let share = (shape.stages() + 1) * shape.teams * shape.tile_keys;
    let answer = DeviceCase::new(device, &case, &paged)?.run(Splits::FixedSize(share))?;
    let shares = if windowed { 1..=2 } else { 2..=2 };
    if !answer.kernel.to_string().starts_with(kernel) || !shares.contains(&answer.splits) {
        return Err(format!("{} with {} shares ran", answer.kernel, answer.splits).into());
    }
    Exact::on_chip(&case).judge(&answer)?;
    Ok(())
}

/// Two shares of four blocks each, and whole sequences of eight, and of 16 where the chip has room for such a cluster.
fn clusters(device: &Device, kernel: &str, shape: &Shape, rows: RowClass, kv: CacheKind) -> Result<(), Failed> {
    let numbers = small(shape, rows, DType::Bf16, kv).suited();
    let case = numbers.build();
    let paged = Paged::new(&case, numbers.page_size, numbers.arrangement, numbers.seed);
    let on = DeviceCase::new(device, &case, &paged)?;
    let share = (shape.stages() + 1) * shape.teams * shape.tile_keys;
    let most = if device.properties().clusters[3] > 0 { 3 } else { 2 };
    for (splits, cluster) in
        [(Splits::FixedSize(share), 4), (Splits::Never, 8), (Splits::Never, 16)].into_iter().take(most)
    {
        let answer = on.run(RunOptions { splits, cluster: Some(cluster), ..RunOptions::default() })?;
        if answer.kernel.to_string() != kernel {
            return Err(format!("{} ran", answer.kernel).into());
        }
        Exact::on_chip(&case).judge(&answer)?;
    }
    Ok(())
}

/// Two KV heads of so many sequences that most places have a block: blocks begin in pairs, each with an item of its own.
fn neighbours(device: &Device, kernel: &str, shape: &Shape, rows: RowClass, kv: CacheKind) -> Result<(), Failed> {
    let places = shape.min_blocks * device.properties().multiprocessors;
    let lengths = (0..places as usize / 4 + 1).map(|sequence| 17 + sequence % 60).collect();
    let numbers = CaseShape { kv_heads: 2, lengths, ..small(shape, rows, DType::Bf16, kv) }.suited();
    let case = numbers.build();
    let paged = Paged::new(&case, numbers.page_size, numbers.arrangement, numbers.seed);
    let on = DeviceCase::new(device, &case, &paged)?;
    for splits in [Splits::Never, Splits::Most] {
        let answer = on.run(RunOptions { splits, cluster: Some(1), ..RunOptions::default() })?;
        if answer.kernel.to_string() != kernel || answer.neighbours != 2 {
            return Err(format!("{} ran, {} blocks together", answer.kernel, answer.neighbours).into());
        }
        Exact::on_chip(&case).judge(&answer)?;
    }
    Ok(())
}

/// Rows of a token among two clusters, by the kernel for 8.
fn divided_rows(device: &Device, kernel: &str, shape: &Shape, kv: CacheKind) -> Result<(), Failed> {
    let numbers = small(shape, RowClass::Few, DType::Bf16, kv).suited();
    let case = numbers.build();
    let paged = Paged::new(&case, numbers.page_size, numbers.arrangement, numbers.seed);
    let kernel = KernelId::all().find(|id| id.to_string() == kernel).ok_or(format!("no {kernel}"))?;
    let kernel = KernelChoice::Kernel(kernel);
    for cluster in [2, 8] {
        let options = RunOptions { splits: Splits::Never, kernel, cluster: Some(cluster), ..RunOptions::default() };
        Exact::on_chip(&case).judge(&DeviceCase::new(device, &case, &paged)?.run(options)?)?;
    }
    Ok(())
}

/// Two shares of an item's rows and some more, each with a slot of its ring used again, and a single token beside them.
fn prefill(device: &Device, kernel: &str, shape: &PrefillShape, q: QueryKind, kv: CacheKind) -> Result<(), Failed> {
    let share = (shape.stages + 1) * shape.tile_keys;
    let tokens = shape.tiling().rows as usize / 3 + 1;
    let (format, query) = CaseQuery::of_kind(q);
    // The first kind of its scales, which are of all of K and of V.
    let cache = CaseCache::of_kind(kv, format, 0).expect("the list's kernels read their caches");
    let numbers = CaseShape {
        head_dim: shape.head_dim as usize,
        group: 3,
        lengths: vec![2 * share as usize - 5, 70],
        variant: VariantShape { query, queries: QueryCounts::Ragged(vec![tokens, 1]), ..VariantShape::default() },
        cache,
        ..small(&eight(shape.head_dim), RowClass::Eight, format, kv)
    };
    let case = numbers.build();
    let paged = Paged::new(&case, numbers.page_size, numbers.arrangement, numbers.seed);
    let chosen = KernelChoice::Kernel(KernelId::named(kernel).expect("the list's"));
    let options = RunOptions { kernel: chosen, ..Splits::FixedSize(share).into() };
    let answer = DeviceCase::new(device, &case, &paged)?.run(options)?;
    if answer.kernel.to_string() != kernel || answer.splits != 2 {
        return Err(format!("{} with {} shares ran", answer.kernel, answer.splits).into());
    }
    Exact::on_chip(&case).judge(&answer)?;
    Ok(())
}

fn check_pages(device: &Device) -> Result<(), Failed> {
    let numbers =
        CaseShape { lengths: vec![40, 0, 100], ..small(&eight(64), RowClass::Eight, DType::Bf16, CacheKind::Bf16) };
    let case = numbers.build();
    let mut paged = Paged::new(&case, numbers.page_size, numbers.arrangement, numbers.seed);
    paged.block_table[2 * paged.table_width + 6] = BAD_PAGE;
    let checked = RunOptions { checked: true, ..RunOptions::default() };
    match DeviceCase::new(device, &case, &paged)?.run(checked) {
        Err(Error::PageId { sequence: 2, page: 6, id: BAD_PAGE, .. }) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

/// `CUDA_ERROR_ILLEGAL_ADDRESS`.
const ILLEGAL_ADDRESS: i32 = 700;
/// `CUDA_ERROR_LAUNCH_FAILED`: what a driver may say of the same where a tool has stopped the kernel.
const LAUNCH_FAILED: i32 = 719;

/// An unchecked launch with a page id out of range: the kernel reads far outside of the cache, and the context is lost.
/// Passes where the driver says so.
fn page_id_out_of_range(device: &Device) -> Result<(), Failed> {
    let numbers = small(&eight(128), RowClass::Eight, DType::Bf16, CacheKind::Bf16);
    let case = numbers.build();
    let mut paged = Paged::new(&case, numbers.page_size, numbers.arrangement, numbers.seed);
    paged.block_table[0] = BAD_PAGE;
    match DeviceCase::new(device, &case, &paged)?.run(Splits::Never) {
        Err(Error::Driver { code: ILLEGAL_ADDRESS | LAUNCH_FAILED, name, .. }) => {
            println!("the driver says {name}");
            Ok(())
        }
        other => Err(format!("{other:?} where an illegal address was read").into()),
    }
}
