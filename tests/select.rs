//! Selection: every supported request has its kernel, every unmet need is named, and the support table says no more and
//! no less than `support` does.
use kernels_gpu::element::{CacheKind, ElementKind};
use kernels_gpu::kernels::Role;
use qkv::{
    ARCHES, Arch, CacheDType, DType, HeadDim, KernelChoice, KernelId, MAX_GROUP, MAX_QUERY_TOKENS, Need, OutputKind,
    QueryDType, Status, Unsupported, Variant, support, support_table,
};
use std::collections::BTreeSet;

#[path = "select/chips.rs"]
mod chips;
#[path = "select/choice.rs"]
mod choice;

/// The formats of queries and cache that a decode kernel is for.
fn formats(id: KernelId) -> Option<(ElementKind, CacheKind)> {
    match id.info().role {
        Role::Decode { q, kv, .. } => Some((q, kv)),
        _ => None,
    }
}

const HOPPER: Arch = Arch::HOPPER;
const BLACKWELL: Arch = Arch { major: 10, minor: 0 };

fn kernel(head_dim: usize, dtype: DType, page_size: usize, group: usize) -> Result<KernelId, Unsupported> {
    support(HOPPER, head_dim, dtype, dtype, page_size, group, Variant::PLAIN)
}

#[test]
fn every_head_dim_format_page_and_group_has_a_kernel() {
    let mut used = BTreeSet::new();
    for dim in HeadDim::ALL {
        for (q, kv) in DType::ALL.into_iter().flat_map(|q| CacheDType::ALL.map(|kv| (q, kv))) {
            for group in 1..=MAX_GROUP {
                for page_size in (0..=10).map(|shift| 1 << shift) {
                    let found = support(HOPPER, dim.get(), q, kv, page_size, group, Variant::PLAIN);
                    let Ok(id) = found else {
                        assert_ne!(kv, q.into(), "{found:?}");
                        continue;
                    };
                    let shape = id.shape().expect("a decode kernel");
                    assert_eq!(shape.head_dim as usize, dim.get());
                    // Groups past 16 take the kernel that has more rows, but for two items of 16 up to D = 256.
                    let few = if dim == HeadDim::D512 { 16 } else { 32 };
                    assert_eq!(shape.rows() > 16, group > few, "{id} for a group of {group}");
                    used.insert(id);
                }
            }
        }
    }
    let decodes: BTreeSet<_> = KernelId::all().filter(|id| id.shape().is_some()).collect();
    assert_eq!(used, decodes, "a decode kernel that nothing selects");
}

#[test]
fn names_say_what_kernels_are_for() {
    let id = kernel(128, DType::Bf16, 16, 8).expect("supported");
    assert_eq!(id.to_string(), "decode_d128_bf16_bf16_eight");
    assert_eq!(kernel(512, DType::F16, 16, 17).expect("supported").to_string(), "decode_d512_f16_f16_many");
    for id in KernelId::all() {
        assert_eq!(KernelId::named(&id.to_string()), Some(id));
    }
    assert_eq!(KernelId::named("decode_d96_bf16_bf16_few"), None);
}

#[test]
fn every_unmet_need_is_listed() {
    let old = Arch { major: 7, minor: 5 };
    let all = Variant { q_len: 600_000, tree: true, spans: true, alibi: true, shared_prefix: true, ..Variant::PLAIN };
    let Unsupported { needs } = support(old, 96, DType::Bf16, DType::F16, 24, 65, all).expect_err("nothing is right");
    let expected = [
        Need::Arch { arch: old },
        Need::HeadDim { value: 96 },
        Need::Formats { q: QueryDType::Bf16, kv: CacheDType::F16 },
        Need::PageSize { value: 24 },
        Need::Group { value: 65 },
        Need::QueryLength { value: 600_000 },
        Need::TreeWithSpans,
        Need::SpansWithSharedPrefix,
        Need::PositionsWithSharedPrefix,
    ];
    assert_eq!(needs, expected);
}

#[test]
fn each_need_alone_is_enough() {
    let needs = |result: Result<KernelId, Unsupported>| result.expect_err("one thing is wrong").needs;
    assert_eq!(needs(kernel(96, DType::F16, 16, 8)), [Need::HeadDim { value: 96 }]);
    for page_size in [0, 24, 2048] {
        assert_eq!(needs(kernel(64, DType::F16, page_size, 8)), [Need::PageSize { value: page_size }]);
    }
    for group in [0, 65] {
        assert_eq!(needs(kernel(64, DType::F16, 16, group)), [Need::Group { value: group }]);
    }
    let message = |variant| {
        support(HOPPER, 64, DType::F16, DType::F16, 16, 8, variant).expect_err("one thing is wrong").to_string()
    };
    let both = Variant { tree: true, spans: true, ..Variant::PLAIN };
    assert_eq!(message(both), "no kernel for a tree mask with spans (allowed: one of them)");
    let both = Variant { shared_prefix: true, spans: true, ..Variant::PLAIN };
    assert_eq!(message(both), "no kernel for spans with a shared prefix (allowed: one of them)");
    let window = Variant { shared_prefix: true, window: true, ..Variant::PLAIN };
    let positions = "a window or ALiBi with a shared prefix and no positions (allowed: with positions)";
    assert_eq!(message(window), format!("no kernel for {positions}"));
}

/// Whatever goes together, every kernel has, in every format of outputs.
#[test]
fn every_variant_has_a_kernel_alone_and_with_the_others() {
    for bits in 0..1_u32 << 8 {
        let has = |bit: u32| bits >> bit & 1 == 1;
        let variant = Variant {
            q_len: 16,
            window: has(0),
            softcap: has(1),
            sinks: has(2),
            alibi: has(3),
            positions: has(4),
            spans: has(5),
            tree: has(6),
            shared_prefix: has(7),
            token_scales: false,
            output: None,
            kernel: KernelChoice::Auto,
        };
        let excluded = variant.spans && (variant.tree || variant.shared_prefix)
            || variant.shared_prefix && (variant.window || variant.alibi) && !variant.positions;
        for (head_dim, kv) in HeadDim::ALL.into_iter().flat_map(|d| CacheDType::ALL.map(|kv| (d.get(), kv))) {
            for output in [None, Some(OutputKind::F16), Some(OutputKind::F32), Some(OutputKind::Fp8E4M3)] {
                let found = support(HOPPER, head_dim, DType::Bf16, kv, 16, 8, Variant { output, ..variant });
                assert_eq!(found.is_ok(), !excluded && kv != CacheDType::F16, "{variant:?}: {found:?}");
            }
        }
    }
}

/// The kernel is that of the rows: query heads a KV head times query tokens of a sequence.
#[test]
fn query_tokens_are_rows() {
    let rows = |group, q_len| {
        let variant = Variant { q_len, ..Variant::PLAIN };
        let found = support(Arch::OLDEST, 256, DType::Bf16, DType::Bf16, 16, group, variant).expect("supported");
        found.shape().expect("a decode kernel").rows()
    };
    assert_eq!((rows(1, 8), rows(1, 9), rows(4, 2), rows(3, 3)), (8, 16, 8, 16));
    assert_eq!((rows(4, 4), rows(17, 1), rows(2, 16), rows(3, 11)), (16, 16, 16, 64));
    assert_eq!((rows(64, 1), rows(1, 64), rows(64, MAX_QUERY_TOKENS)), (64, 64, 64));
}

/// More rows than the decode kernels hold are a prefill kernel's, where the chip, the formats and the head dimension have one.
#[test]
fn many_query_rows_are_a_prefill_kernels_where_there_is_one() {
    let found = |arch: Arch, head_dim, q: DType, kv: CacheDType, group, q_len| {
        let variant = Variant { q_len, sinks: true, window: true, ..Variant::PLAIN };
        support(arch, head_dim, q, kv, 16, group, variant).expect("supported").to_string()
    };
    let bf16 = |arch, head_dim, group, q_len| found(arch, head_dim, DType::Bf16, CacheDType::Bf16, group, q_len);
    assert_eq!(bf16(HOPPER, 128, 64, 1), "decode_d128_bf16_bf16_many");
    assert_eq!(bf16(HOPPER, 128, 1, 64), "decode_d128_bf16_bf16_many");
    assert_eq!(bf16(HOPPER, 128, 5, 13), "prefill_d128_bf16_bf16");
    assert_eq!(bf16(HOPPER, 64, 64, 2), "prefill_d64_bf16_bf16");
    assert_eq!(bf16(HOPPER, 256, 1, 65), "prefill_d256_bf16_bf16");
    assert_eq!(bf16(HOPPER, 512, 1, 65), "prefill_d512_bf16_bf16");
    assert_eq!(found(HOPPER, 64, DType::F16, CacheDType::F16, 1, MAX_QUERY_TOKENS), "prefill_d64_f16_f16");
    for kv in [CacheDType::Fp8E4M3, CacheDType::Fp8E5M2, CacheDType::NvFp4] {
        assert!(found(HOPPER, 128, DType::Bf16, kv, 8, 100).starts_with("decode_"), "{kv}");
    }
    for arch in [BLACKWELL, Arch { minor: 3, ..BLACKWELL }] {
        for head_dim in HeadDim::ALL {
            let head_dim = head_dim.get();
            assert_eq!(bf16(arch, head_dim, 1, 65), format!("prefill_tcgen05_d{head_dim}_bf16_bf16"), "{arch}");
            assert_eq!(bf16(arch, head_dim, 64, 1), format!("decode_d{head_dim}_bf16_bf16_many"), "{arch}");
        }
    }
    for (major, minor) in [(8, 0), (8, 6), (8, 9), (9, 1), (10, 1), (11, 0), (12, 0), (13, 0)] {
        assert_eq!(bf16(Arch { major, minor }, 128, 8, 100), "decode_d128_bf16_bf16_many", "sm_{major}{minor}");
    }
    // A shared prefix too: its pass has all rows of the batch.
    let shared = Variant { q_len: 100, shared_prefix: true, ..Variant::PLAIN };
    let kernel = support(HOPPER, 128, DType::F16, DType::F16, 16, 1, shared).expect("supported");
    assert_eq!(kernel.to_string(), "prefill_d128_f16_f16");
}

/// FP8 queries are Hopper's and Blackwell's alone, with a cache of their format; of any number of rows.
#[test]
fn narrow_queries_have_a_prefill_kernel_or_every_reason_why_not() {
    let (e4m3, cache) = (QueryDType::Fp8E4M3, CacheDType::Fp8E4M3);
    for (head_dim, group, q_len) in
        [(64, 1, 1), (128, 1, 1), (256, 1, 1), (128, 64, 1), (256, 5, 100), (64, 8, 65), (128, 8, MAX_QUERY_TOKENS)]
    {
        for page_size in [1, 16, 1024] {
            let variant = Variant { q_len, sinks: true, window: true, ..Variant::PLAIN };
            for (arch, unit) in [(HOPPER, ""), (BLACKWELL, "tcgen05_")] {
                let found = support(arch, head_dim, e4m3, cache, page_size, group, variant).expect("supported");
                assert_eq!(found.to_string(), format!("prefill_{unit}d{head_dim}_e4m3_e4m3"));
            }
        }
    }
    let needs = |arch, head_dim, kv, token_scales| {
        let variant = Variant { token_scales, ..Variant::PLAIN };
        support(arch, head_dim, e4m3, kv, 16, 8, variant).expect_err("something is wrong")
    };
    let combination = Need::Combination { head_dim: 512, q: e4m3, kv: cache };
    assert_eq!(needs(HOPPER, 512, cache, false).needs, [combination]);
    let found = support(BLACKWELL, 512, e4m3, cache, 16, 8, Variant::PLAIN).expect("supported");
    assert_eq!(found.to_string(), "prefill_tcgen05_d512_e4m3_e4m3");
    for (major, minor) in [(8, 0), (8, 9), (9, 1), (10, 1), (12, 0)] {
        let arch = Arch { major, minor };
        let refused = needs(arch, 128, cache, false);
        assert_eq!(refused.needs, [Need::QueryArch { arch, q: e4m3 }]);
        let allowed = "allowed: sm_100, sm_103, sm_90";
        assert_eq!(refused.to_string(), format!("no kernel for q e4m3 on architecture {arch} ({allowed})"));
    }
    for kv in CacheDType::ALL.into_iter().filter(|kv| *kv != cache) {
        let text = needs(HOPPER, 128, kv, false).to_string();
        assert_eq!(text, format!("no kernel for q e4m3 with a {kv} cache (allowed: fp8_e4m3)"));
    }
    let (arch, kv) = (Arch::OLDEST, CacheDType::Bf16);
    let all = [Need::QueryArch { arch, q: e4m3 }, Need::Formats { q: e4m3, kv }, Need::TokenScales { q: e4m3 }];
    assert_eq!(needs(arch, 128, kv, true).needs, all);
    let text = needs(HOPPER, 256, cache, true).to_string();
    let token_head = "q e4m3 with scales of the cache a token and head (allowed: one of K and one of V)";
    assert_eq!(text, format!("no kernel for {token_head}"));
    // What 16-bit queries are given on top is refused of none.
    let scales = Variant { token_scales: true, ..Variant::PLAIN };
    assert!(support(HOPPER, 128, DType::Bf16, cache, 16, 8, scales).is_ok());
}

#[test]
fn the_support_table_is_what_support_says() {
    let table = support_table();
    let formats: BTreeSet<_> = KernelId::all().filter_map(formats).collect();
    let narrow = table.iter().filter(|row| row.q == QueryDType::Fp8E4M3).count();
    assert_eq!(table.len(), ARCHES.len() * HeadDim::ALL.len() * formats.len() + narrow);
    assert_eq!(narrow, 3 + 2 * 4, "of Hopper at head dimensions 64, 128 and 256, of two Blackwells at 512 besides");
    let run = table.iter().filter(|row| row.status == Status::RunOnH100).count();
    assert_eq!(run, HeadDim::ALL.len() * formats.len() + 3, "on one chip");
    for row in table {
        let of = |group| support(row.arch, row.head_dim.get(), row.q, row.kv, 16, group, Variant::PLAIN);
        assert_eq!((of(1), of(8)), (Ok(row.eight), Ok(row.eight)));
        assert_eq!((of(9), of(16)), (Ok(row.few), Ok(row.few)));
        assert_eq!((of(33), of(64)), (Ok(row.many), Ok(row.many)));
        assert_eq!(of(17), Ok(if row.head_dim == HeadDim::D512 { row.many } else { row.few }));
        assert!(row.status != Status::RunOnH100 || row.arch == HOPPER, "{row:?}");
        let prompt = Variant { q_len: 1000, ..Variant::PLAIN };
        let prefill = support(row.arch, row.head_dim.get(), row.q, row.kv, 16, 1, prompt);
        assert_eq!(prefill, Ok(row.prefill.map_or(row.many, |prefill| prefill.kernel)));
        assert_eq!(row.prefill.is_some(), prefill.is_ok_and(|kernel| kernel.info().prefills()));
    }
}

/// "Run on H100" is what a record says: each kernel's own test passed there.
#[test]
fn what_is_said_to_have_run_is_in_the_record() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/record/h100-2026-11-27-d/gpu-tests.log");
    let log = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let passed: Vec<&str> = log
        .lines()
        .filter(|line| line.starts_with("test short::") && line.trim_end().ends_with("... ok"))
        .filter_map(|line| line.trim_start_matches("test short::").split_whitespace().next())
        .collect();
    for row in support_table().iter().filter(|row| row.status == Status::RunOnH100) {
        let prefill = row.prefill.filter(|prefill| prefill.status == Status::RunOnH100);
        let prefill = prefill.into_iter().flat_map(|prefill| [Some(prefill.kernel), prefill.long]).flatten();
        for kernel in [row.eight, row.few, row.many].into_iter().chain(prefill).map(|kernel| kernel.to_string()) {
            assert!(passed.contains(&kernel.as_str()), "{kernel} is not in {}", path.display());
        }
    }
}
