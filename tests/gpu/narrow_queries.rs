//! FP8 queries with FP8 caches on Hopper and Blackwell, against the f64 oracle: longer than on the simulator, as the tensor cores' sums of FP8
//! products keep 14 bits and the simulator's 24.
use super::test_where;
use super::twice::{VARIANTS, Variant, check};
use kernels_gpu::prefill::shape::narrow_prefill_shape;
use libtest_mimic::Trial;
use qkv::testing::case::{Arrangement, CaseShape};
use qkv::testing::stored::{CaseCache, Fp8Kind};
use qkv::testing::variant::{CaseQuery, QueryCounts, VariantShape};
use qkv::{Arch, DType, Family, KernelChoice, Splits};

const SPLITS: [Splits; 4] = [Splits::Auto, Splits::Most, Splits::Never, Splits::FixedSize(256)];

pub fn tests() -> Vec<Trial> {
    let mut shapes: Vec<(String, CaseShape)> = Vec::new();
    for head_dim in [64, 128, 256] {
        let tile = narrow_prefill_shape(head_dim as u32).tile_keys as usize;
        let mut add = |what: &str, turn: usize, of: &[(usize, usize)], change: &dyn Fn(&mut CaseShape)| {
            let (counts, lengths) = of.iter().copied().unzip();
            let query = CaseQuery::Fp8E4M3 { scale: 7.0 / 512.0 };
            let variant = VariantShape { query, queries: QueryCounts::Ragged(counts), ..VariantShape::default() };
            let mut shape = CaseShape {
                format: DType::ALL[turn % 2],
                cache: CaseCache::Fp8E4M3([Fp8Kind::Tensor, Fp8Kind::OnDevice][turn % 2]),
                head_dim,
                kv_heads: 2,
                group: 4,
                page_size: 16,
                arrangement: Arrangement::ALL[turn % 7],
                lengths,
                variant,
                sharpness: 1.0,
                seed: turn as u64,
            };
            change(&mut shape);
            shapes.push((format!("narrow_queries::d{head_dim}::{what}"), shape));
        };
        let tokens: Vec<_> = [1, 2, tile - 1, tile, tile + 1, 2 * tile + 1, 0, 1009].map(|length| (1, length)).into();
        add("single_tokens", 0, &tokens, &|_| ());
        let prompts: Vec<_> = [1, tile - 1, tile + 1, 331].map(|length| (length, length)).into();
        add("prompts", 1, &prompts, &|_| ());
        add("long", 2, &[(3, 8191), (1, 16384)], &|_| ());
        add("chunks", 3, &[(40, 2000), (5, 83), (0, 64), (50, 20), (3, 0)], &|_| ());
        for (turn, group) in [1, 3, 5, 7, 8, 16, 31, 64].into_iter().enumerate() {
            let of = [(130_usize.div_ceil(group), 300), (1, 9)];
            add(&format!("group_{group}"), turn, &of, &|shape| shape.group = group);
        }
        for (turn, page_size) in [1, 2, 8, 32, 128, 1024].into_iter().enumerate() {
            add(&format!("page_{page_size}"), turn, &[(23, 571), (9, 30)], &|shape| shape.page_size = page_size);
        }
        for (turn, sharpness) in [0.01, 8.0, 60.0].into_iter().enumerate() {
            let of = [(20, 1300), (2, 190)];
            add(&format!("sharpness_{sharpness}"), turn, &of, &|shape| shape.sharpness = sharpness);
        }
        let window: Variant = ("window", |variant| variant.left = Some(100));
        for (turn, (what, change)) in [window].into_iter().chain(VARIANTS).enumerate() {
            add(what, turn, &[(90, 740), (1, 77), (36, 36)], &|shape| change(&mut shape.variant));
        }
    }
    let has = |arch: Arch| arch.runs(Family::Wgmma) || arch.runs(Family::Tcgen05);
    shapes
        .into_iter()
        .map(|(name, shape)| test_where(name, has, move |device| check(device, &shape, &SPLITS, KernelChoice::Auto)))
        .collect()
}
