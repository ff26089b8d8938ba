//! Prefill kernels of long steps on Hopper, against the f64 oracle: plans choose them for longer batches than the oracle has time for, so here
//! they are asked for.
use super::test_where;
use super::twice::{VARIANTS, Variant, check};
use kernels_gpu::kernels::Role;
use libtest_mimic::Trial;
use qkv::testing::case::{Arrangement, CaseShape};
use qkv::testing::stored::CaseCache;
use qkv::testing::variant::{QueryCounts, VariantShape};
use qkv::{DType, Family, KernelChoice, KernelId, Splits};

const SPLITS: [Splits; 4] = [Splits::Auto, Splits::Most, Splits::Never, Splits::FixedSize(512)];

pub fn tests() -> Vec<Trial> {
    KernelId::all().filter(|kernel| kernel.to_string().ends_with("_long")).flat_map(of_kernel).collect()
}

fn of_kernel(kernel: KernelId) -> Vec<Trial> {
    let Role::Prefill { shape: of_kernel, .. } = kernel.info().role else { panic!("{kernel} is no prefill kernel") };
    let (tile, head_dim) = (of_kernel.tile_keys as usize, of_kernel.head_dim as usize);
    let format = DType::ALL.into_iter().find(|format| kernel.to_string().contains(&format!("_{format}_")));
    let format = format.expect("a format of 16 bits");
    let mut shapes: Vec<(String, CaseShape)> = Vec::new();
    let mut add = |what: &str, of: &[(usize, usize)], change: &dyn Fn(&mut CaseShape)| {
        let (counts, lengths) = of.iter().copied().unzip();
        let variant = VariantShape { queries: QueryCounts::Ragged(counts), ..VariantShape::default() };
        let (turn, cache, page_size) = (shapes.len(), CaseCache::Own, 16);
        let arrangement = Arrangement::ALL[turn % 7];
        let (kv_heads, group, sharpness, seed) = (2, 4, 1.0, turn as u64);
        let mut shape = CaseShape {
            format,
            cache,
            head_dim,
            kv_heads,
            group,
            page_size,
            arrangement,
            lengths,
            variant,
            sharpness,
            seed,
        };
        change(&mut shape);
        shapes.push((format!("{kernel}::{what}"), shape));
    };
    let edges: Vec<_> =
        [1, tile - 1, tile, tile + 1, 2 * tile - 1, 2 * tile + 1, 3 * tile, 1009].map(|n| (n, n)).into();
    add("prompts", &edges, &|_| ());
    add("chunks", &[(40, 2000), (5, 83), (0, 64), (50, 20), (3, 0), (1, 4099)], &|_| ());
    add("long", &[(130, 16384), (1, 8191)], &|_| ());
    for group in [1, 3, 8, 31, 64] {
        add(&format!("group_{group}"), &[(130_usize.div_ceil(group), 700), (1, 9)], &|shape| shape.group = group);
    }
    for page_size in [1, 2, 8, 32, 128, 1024] {
        add(&format!("page_{page_size}"), &[(23, 1171), (9, 30)], &|shape| shape.page_size = page_size);
    }
    let window: Variant = ("window", |variant| variant.left = Some(200));
    for (what, change) in [window].into_iter().chain(VARIANTS) {
        add(what, &[(90, 1740), (1, 77), (36, 36)], &|shape| change(&mut shape.variant));
    }
    let trial = |(name, shape): (String, CaseShape)| {
        test_where(
            name,
            |arch| arch.runs(Family::Wgmma),
            move |device| check(device, &shape, &SPLITS, KernelChoice::Kernel(kernel)),
        )
    };
    shapes.into_iter().map(trial).collect()
}
