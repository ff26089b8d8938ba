//! Kernels that were chosen without asking the chip: found by a crash, or by the first user's request.
use qkv::{
    ARCHES, Arch, Batch, CacheDType, DType, Error, Family, Geometry, HeadDim, KernelChoice, Mask, Need, Plan,
    PlanOptions, Properties, QueryLens, Variant, kernels, support,
};

const AMPERE_86: Arch = Arch { major: 8, minor: 6 };
const BLACKWELL: Arch = Arch { major: 10, minor: 0 };
const BLACKWELL_120: Arch = Arch { major: 12, minor: 0 };

/// A GPU of `arch` whose blocks may have `kib` KiB.
fn device(arch: Arch, kib: u32) -> Properties {
    Properties {
        name: "test".into(),
        arch,
        multiprocessors: 84,
        shared_per_multiprocessor: (kib + 1) << 10,
        shared_per_block: kib << 10,
        families: Family::ALL.to_vec(),
        clusters: [66, 30, 15, 7],
    }
}

/// Caches that bf16 queries read.
fn caches() -> impl Iterator<Item = CacheDType> {
    CacheDType::ALL.into_iter().filter(|kv| *kv != CacheDType::F16)
}

fn planned(head_dim: HeadDim, kv: CacheDType, batch: Batch<'_>, properties: &Properties) -> Result<Plan, Error> {
    let geometry = Geometry::new(head_dim.get(), [16, 2], 16, DType::Bf16, kv)?;
    Plan::new(&geometry, batch, properties, &PlanOptions::default())
}

/// "Unsupported max_mma_kv: 0" at run time (vLLM #48114): at head dimension 512 a tile of a GPU with 99 KiB had room for 0 keys.
/// Here every GPU has a kernel that fits, and a GPU with less is refused with the numbers when the plan is made.
#[test]
fn head_dim_512_in_99_kib() -> Result<(), Error> {
    for (head_dim, kv) in HeadDim::ALL.into_iter().flat_map(|dim| caches().map(move |kv| (dim, kv))) {
        for q_len in [1, 6, 300] {
            let batch = Batch::from(&[300]).query_lens(QueryLens::Uniform(q_len));
            let kernel = planned(head_dim, kv, batch, &device(AMPERE_86, 99))?.kernel();
            assert!(kernel.info().shared_bytes() <= 99 << 10, "{kernel}");
            assert!(kernel.tiling().is_some_and(|tiling| tiling.tile_keys > 0), "{kernel}");
            let small = planned(head_dim, kv, batch, &device(AMPERE_86, 16))
                .map(|plan| plan.kernel())
                .expect_err("nothing fits");
            let Error::Unsupported(unsupported) = small else { panic!("{small}") };
            let bytes = kernel.info().shared_bytes();
            assert_eq!(unsupported.needs, [Need::SharedMemory { kernel, bytes, most: 16 << 10 }]);
        }
    }
    Ok(())
}

/// Head dimension 512 crashed on SM86 after it had been added for all (vLLM #48114); here it is answered by kernels of Ampere.
#[test]
fn head_dim_512_on_sm_86() {
    for kv in caches() {
        let found = kernels(AMPERE_86, 512, DType::Bf16, kv, 16, 8, Variant::PLAIN).expect("supported");
        assert!(found.iter().all(|kernel| kernel.family() == Family::Portable), "{found:?}");
    }
}

/// vLLM #48082: drafts of 6 tokens with an FP8 cache at head dimension 512 on a B200 had no cubin, and the server crashed. That
/// each kernel has its code is `every_kernel_that_selection_names_has_code_on_every_chip` in `host/module.rs`; that it is loaded
/// with the plan, not by the first launch, is in `tests/driver.rs`.
#[test]
fn drafts_at_head_dim_512_with_an_fp8_cache_on_every_chip() {
    for (arch, q_len) in ARCHES.into_iter().flat_map(|arch| (1..=16).map(move |q_len| (arch, q_len))) {
        for kv in caches() {
            let variant = Variant { q_len, ..Variant::PLAIN };
            let found = support(arch, 512, DType::Bf16, kv, 16, 8, variant);
            assert!(found.is_ok(), "{arch}, {q_len} tokens, {kv}: {found:?}");
        }
    }
}

/// vLLM #43562: NVFP4 on SM120 was an `AttributeError` at the first request, and elsewhere asked for SM100.
#[test]
fn nvfp4_on_every_chip() {
    for (arch, head_dim) in ARCHES.into_iter().flat_map(|arch| HeadDim::ALL.map(|dim| (arch, dim.get()))) {
        let found = support(arch, head_dim, DType::Bf16, CacheDType::NvFp4, 16, 8, Variant::PLAIN);
        assert!(found.is_ok(), "{arch}: {found:?}");
    }
    let found = support(BLACKWELL_120, 512, DType::Bf16, CacheDType::NvFp4, 16, 8, Variant::PLAIN).expect("supported");
    assert_eq!(found.to_string(), "decode_d512_bf16_nvfp4_eight");
}

/// vLLM's FlashInfer backend has sinks on one generation and no attention but a decoder's.
#[test]
fn sinks_and_non_causal_attention_on_every_chip() -> Result<(), Error> {
    for arch in ARCHES {
        for kv in caches() {
            let variant = Variant { sinks: true, ..Variant::PLAIN };
            assert!(support(arch, 64, DType::Bf16, kv, 16, 8, variant).is_ok(), "{arch}, {kv}");
            let batch = Batch::from(&[40]).query_lens(QueryLens::Uniform(5)).mask(Mask::FULL);
            planned(HeadDim::D64, kv, batch, &device(arch, arch.shared_per_block() >> 10))?;
        }
    }
    Ok(())
}

/// vLLM #40677: a head size that a backend has not is refused at selection, with the reason; so is a kernel that was asked for by
/// name on a chip that cannot run it.
#[test]
fn a_head_dim_or_a_kernel_that_there_is_not_is_refused_at_selection() {
    let refused = |head_dim, kernel| {
        let variant = Variant { kernel, ..Variant::PLAIN };
        support(BLACKWELL, head_dim, DType::Bf16, DType::Bf16, 16, 8, variant).expect_err("no kernel").to_string()
    };
    assert_eq!(refused(96, KernelChoice::Auto), "no kernel for head_dim 96 (allowed: 64, 128, 256, 512)");
    let words = "no kernel for the choice of wgmma on architecture sm_100 (allowed: sm_90)";
    assert_eq!(refused(128, KernelChoice::Family(Family::Wgmma)), words);
}
