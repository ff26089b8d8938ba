//! A family or a kernel that must answer: taken where it can, refused with every reason where it cannot, when a plan is made.
use qkv::{
    Arch, CacheDType, DType, Family, Geometry, KernelChoice, KernelId, Need, Plan, PlanOptions, Properties, QueryDType,
    Unsupported, Variant, kernels, support,
};

const BLACKWELL: Arch = Arch { major: 10, minor: 0 };

fn named(name: &str) -> KernelId {
    KernelId::named(name).expect("a kernel")
}

/// Of bf16 over its own cache, for 8 query heads a KV head and so many query tokens.
fn forced(arch: Arch, head_dim: usize, q_len: usize, kernel: KernelChoice) -> Result<KernelId, Unsupported> {
    support(arch, head_dim, DType::Bf16, DType::Bf16, 16, 8, Variant { q_len, kernel, ..Variant::PLAIN })
}

#[test]
fn what_can_answer_does() {
    let (wgmma, portable) = (KernelChoice::Family(Family::Wgmma), KernelChoice::Family(Family::Portable));
    let name = |found: Result<KernelId, Unsupported>| found.expect("supported").to_string();
    assert_eq!(name(forced(Arch::HOPPER, 512, 1, wgmma)), "prefill_d512_bf16_bf16");
    assert_eq!(name(forced(Arch::HOPPER, 512, 1000, portable)), "decode_d512_bf16_bf16_many");
    assert_eq!(name(forced(Arch::HOPPER, 64, 1, portable)), "decode_d64_bf16_bf16_eight");
    // A decode kernel takes any number of rows, as more items.
    let eight = KernelChoice::Kernel(named("decode_d64_bf16_bf16_eight"));
    assert_eq!(name(forced(BLACKWELL, 64, 1000, eight)), "decode_d64_bf16_bf16_eight");
    // Alone: nothing stands behind it.
    let variant = Variant { q_len: 1000, kernel: eight, ..Variant::PLAIN };
    assert_eq!(kernels(Arch::HOPPER, 64, DType::Bf16, DType::Bf16, 16, 8, variant).map(|found| found.len()), Ok(1));
}

#[test]
fn what_cannot_answer_is_refused_with_every_reason() {
    let wgmma = KernelChoice::Family(Family::Wgmma);
    let needs = |found: Result<KernelId, Unsupported>| found.expect_err("something is wrong").needs;
    let arch = Need::ForcedArch { family: Family::Wgmma, arch: BLACKWELL };
    assert_eq!(needs(forced(BLACKWELL, 128, 1000, wgmma)), std::slice::from_ref(&arch));
    let (q, kv) = (QueryDType::Bf16, CacheDType::NvFp4);
    let variant = Variant { kernel: wgmma, ..Variant::PLAIN };
    let found = support(BLACKWELL, 128, DType::Bf16, kv, 24, 8, variant);
    let family = Need::ForcedFamily { family: Family::Wgmma, head_dim: 128, q, kv };
    assert_eq!(needs(found), [Need::PageSize { value: 24 }, family, arch.clone()]);

    let kernel = named("prefill_d256_f16_f16");
    let found = forced(BLACKWELL, 128, 1, KernelChoice::Kernel(kernel));
    let head_dim = Need::ForcedHeadDim { kernel, head_dim: 128 };
    let formats = Need::ForcedFormats { kernel, q, kv: CacheDType::Bf16 };
    // What its blocks need is more than a chip of 99 KiB has.
    let own = Need::SharedMemory { kernel, bytes: kernel.info().shared_bytes(), most: 99 << 10 };
    assert_eq!(needs(found), [head_dim.clone(), formats.clone(), arch]);
    let ada = Arch { major: 8, minor: 9 };
    let found = forced(ada, 128, 1, KernelChoice::Kernel(kernel));
    assert_eq!(needs(found), [head_dim, formats, Need::ForcedArch { family: Family::Wgmma, arch: ada }, own]);

    let append = named("append_bf16_bf16");
    let found = forced(Arch::HOPPER, 64, 1, KernelChoice::Kernel(append));
    assert_eq!(needs(found), [Need::ForcedRole { kernel: append }]);
    // Too old for any, which is said once, and with too little shared memory for this one.
    let turing = Arch { major: 7, minor: 5 };
    let kernel = named("decode_d64_bf16_bf16_eight");
    let small = Need::SharedMemory { kernel, bytes: kernel.info().shared_bytes(), most: 64 << 10 };
    let found = forced(turing, 64, 1, KernelChoice::Family(Family::Portable));
    assert_eq!(needs(found), [Need::Arch { arch: turing }, small]);
}

#[test]
fn messages_say_what_would_do() {
    let message = |found: Result<KernelId, Unsupported>| found.expect_err("something is wrong").to_string();
    let kernel = KernelChoice::Kernel(named("prefill_d128_e4m3_e4m3"));
    let words = "no kernel for the choice of prefill_d128_e4m3_e4m3 at head_dim 64 (allowed: 128); the choice of \
                 prefill_d128_e4m3_e4m3 for q bf16 with a bf16 cache (allowed: q e4m3 with a fp8_e4m3 cache); the choice of \
                 wgmma on architecture sm_100 (allowed: sm_90)";
    assert_eq!(message(forced(BLACKWELL, 64, 1, kernel)), words);
    let variant = Variant { kernel: KernelChoice::Family(Family::Wgmma), ..Variant::PLAIN };
    let found = message(support(Arch::HOPPER, 64, DType::F16, CacheDType::NvFp4, 16, 1, variant));
    let words = "no kernel for the choice of wgmma at head_dim 64 of q f16 with a nvfp4 cache (allowed: 64 of bf16 with bf16, 64 of \
                 f16 with fp16, 128 of bf16 with bf16, 128 of f16 with fp16, 256 of bf16 with bf16, 256 of f16 with fp16, 512 \
                 of bf16 with bf16, 512 of f16 with fp16, 64 of e4m3 with fp8_e4m3, 128 of e4m3 with fp8_e4m3, 256 of e4m3 with \
                 fp8_e4m3)";
    assert_eq!(found, words);
    let found = message(forced(Arch::HOPPER, 64, 1, KernelChoice::Kernel(named("combine"))));
    assert_eq!(
        found,
        "no kernel for the choice of combine, which is no attention (allowed: decode and prefill kernels)"
    );
}

fn hopper() -> Properties {
    Properties {
        name: "test".into(),
        arch: Arch::HOPPER,
        multiprocessors: 132,
        shared_per_multiprocessor: 228 << 10,
        shared_per_block: 227 << 10,
        families: Family::ALL.to_vec(),
        clusters: [66, 30, 15, 7],
    }
}

/// A prompt of bf16 at head_dim 512, planned for a GPU.
fn planned(properties: &Properties, kernel: KernelChoice) -> Result<String, String> {
    let geometry = Geometry::new(512, [8, 2], 16, DType::Bf16, CacheDType::Bf16).expect("a geometry");
    let batch = qkv::Batch::from(&[300]).query_lens(qkv::QueryLens::Uniform(300));
    let plan = Plan::new(&geometry, batch, properties, &PlanOptions { kernel, ..PlanOptions::default() });
    plan.map(|plan| plan.kernel().to_string()).map_err(|error| error.to_string())
}

/// What a device has not, of code or of shared memory, its plans do without; a choice that needs it is refused there.
#[test]
fn a_plan_takes_what_the_device_has() {
    let (auto, wgmma) = (KernelChoice::Auto, KernelChoice::Family(Family::Wgmma));
    assert_eq!(planned(&hopper(), auto), Ok("prefill_d512_bf16_bf16".into()));
    let portable = Ok("decode_d512_bf16_bf16_many".into());
    assert_eq!(planned(&hopper(), KernelChoice::Family(Family::Portable)), portable);
    let without = Properties { families: vec![Family::Portable], ..hopper() };
    assert_eq!(planned(&without, auto), portable);
    let words = "no kernel for sm_90 in family wgmma, whose code this build has not (see QKV_ARCH)";
    assert_eq!(planned(&without, wgmma), Err(words.into()));
    let small = Properties { shared_per_block: 99 << 10, ..hopper() };
    assert_eq!(planned(&small, auto), portable);
    let bytes = named("prefill_d512_bf16_bf16").info().shared_bytes();
    let words = format!("no kernel for 101376 bytes of shared memory a block (prefill_d512_bf16_bf16 has {bytes})");
    assert_eq!(planned(&small, wgmma), Err(words));
    let none = Properties { families: Vec::new(), ..hopper() };
    let refused = planned(&none, auto).expect_err("no code at all");
    assert!(refused.contains("sm_90 in family wgmma") && refused.contains("sm_90 in family portable"), "{refused}");
}
