//! Appends through the public API: append, read back, equal to the reference quantiser byte for byte; and what is refused.
//! On a GPU where there is one, else on the simulator.
use common::append::{Case, Memory, Place, Scaling, case, cases, check};
use kernels_gpu::element::{CacheKind, ElementKind};
use kernels_gpu::kernels::{ENTRIES, Role};
use qkv::{
    Append, Bf16, CacheLayout, CacheShape, Device, Error, Fp8E4M3, Fp8Scales, HeadDim, KvCache, NewTokens, SlotMapping,
    TensorScale, check_slot_mapping,
};

mod common;

fn device() -> Device {
    Device::default_device().expect("the simulator at least")
}

#[test]
fn what_is_read_back_is_what_the_reference_stores() {
    let device = device();
    for entry in ENTRIES {
        for case in cases(&entry.role) {
            let kernel = check(&device, &case).unwrap_or_else(|what| panic!("{}: {what}", entry.name));
            assert_eq!(kernel.to_string(), entry.name);
        }
    }
}

#[test]
fn every_head_dimension_of_every_entry() {
    let device = device();
    for entry in ENTRIES {
        let Role::Append { src, kv } = entry.role else { continue };
        for head_dim in HeadDim::ALL {
            check(&device, &case(src, kv, head_dim)).unwrap_or_else(|what| panic!("{}: {what}", entry.name));
        }
    }
}

#[test]
fn nothing_to_append_is_no_launch() {
    let (src, kv) = (ElementKind::Bf16, CacheKind::Bf16);
    let device = device();
    for slots in [vec![], vec![-1; 40]] {
        check(&device, &Case { slots, ..case(src, kv, HeadDim::D64) }).expect("nothing is written");
    }
}

#[test]
fn a_checked_launch_names_the_first_wrong_token() {
    let device = device();
    let with = |slots: &[i64]| Case { slots: slots.to_vec(), ..case(ElementKind::F16, CacheKind::NvFp4, HeadDim::D64) };
    let refused = |case: &Case| {
        let memory = Memory::new(&device, case).expect("memory");
        let error = memory.launch(&device.default_stream(), true).expect_err("wrong slots");
        // Nothing was launched.
        Memory::compare(&memory).expect_err("the reference wants them stored");
        error
    };
    let past = with(&[5, -1, 39, 38, 6]);
    check(&device, &past).expect("the last slot is a slot");
    assert!(matches!(refused(&with(&[5, -1, 7, 3, 5, 3])), Error::SlotTwice { slot: 5, tokens: [0, 4] }));
    let message = refused(&with(&[1, -1, 8, 1])).to_string();
    assert_eq!(message, "slot_mapping[0] and slot_mapping[3] are both 1; a slot takes one token a launch");

    let error = check_slot_mapping(&[3, -4, 40, 3], 8, 5).expect_err("past the cache");
    assert!(matches!(error, Error::Slot { token: 2, slot: 40, slots: 40 }));
    assert_eq!(
        error.to_string(),
        "slot_mapping[2] is 40; allowed: below 40 (pages * page_size), or below 0 to skip the token"
    );
    check_slot_mapping(&[3, -4, -4, 39], 8, 5).expect("skipped tokens have no slot in common");
    assert!(check_slot_mapping(&[0], 6, 5).is_err());
}

/// A slot past the cache is skipped where nobody checks, so that no byte outside of it is written.
#[test]
fn an_unchecked_launch_writes_nothing_outside() {
    let device = device();
    let inside = Case { place: Place::Pair, ..case(ElementKind::Bf16, CacheKind::Fp8E4M3, HeadDim::D128) };
    let mut wild = inside.clone();
    for (slot, far) in wild.slots.iter_mut().filter(|slot| **slot < 0).zip([40, 1 << 40, i64::MAX]) {
        *slot = far;
    }
    let memory = Memory::new(&device, &wild).expect("memory");
    memory.launch(&device.default_stream(), false).expect("a launch");
    let expected = Memory::new(&device, &inside).expect("memory");
    expected.launch(&device.default_stream(), false).expect("a launch");
    expected.compare().expect("the same tokens");
    assert!(memory.bytes().expect("bytes") == expected.bytes().expect("bytes"));
    let error = memory.launch(&device.default_stream(), true).expect_err("a check");
    assert!(matches!(error, Error::Slot { token: 1, slot: 40, slots: 40 }), "{error}");
}

#[test]
fn a_launch_in_a_capture_is_replayed_and_a_check_refused() {
    let device = device();
    let case = Case { scaling: Scaling::Rows, ..case(ElementKind::Bf16, CacheKind::Fp8E5M2, HeadDim::D64) };
    let memory = Memory::new(&device, &case).expect("memory");
    let stream = device.new_stream().expect("a stream");
    let capture = |launch: &mut dyn FnMut() -> Result<(), Error>| qkv::Graph::capture(&stream, launch);
    let checked = capture(&mut || memory.launch(&stream, true).map(|_| ()));
    assert!(matches!(checked, Err(Error::Capturing { .. })), "a check in a capture");
    let mut graph = capture(&mut || memory.launch(&stream, false).map(|_| ())).expect("a graph");
    memory.compare().expect_err("a capture runs nothing");
    // SAFETY: the case's memory is alive, and the stream is waited for below.
    unsafe { graph.launch(&stream) }.expect("a launch");
    stream.synchronize().expect("its end");
    memory.compare().expect("the tokens");
}

/// What does not fit together is refused when the request is made.
#[test]
fn requests_that_do_not_fit_are_refused() {
    let device = device();
    let buffer = |bytes: usize| device.alloc(bytes).expect("memory");
    let shape = CacheShape { pages: 2, page_size: 16, kv_heads: 2, head_dim: HeadDim::D64 };
    let (cache_k, cache_v, new) = (buffer(4096), buffer(4096), buffer(2 * 3 * 2 * 128));
    let slots = buffer(64);
    let scales = |k, v| Fp8Scales::per_tensor(k, v);
    let one = TensorScale::ONE;
    let cache = |k, v, scales| KvCache::<Fp8E4M3>::with_scales(k, v, shape, CacheLayout::Nhd, scales);
    let good = cache(&cache_k, &cache_v, scales(one, one)).expect("a cache");
    let tokens = |shape| NewTokens::<Bf16>::new(&new, shape).expect("tokens");
    let mapping = |tokens| SlotMapping::new(&slots, tokens).expect("slots");
    let three = tokens([3, 2, 64]);
    Append::new(three, three, &good, mapping(3)).expect("K and V may be the same tokens");

    let mismatch = |k, v, count| match Append::new(k, v, &good, mapping(count)) {
        Err(Error::Mismatch { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(mismatch(tokens([2, 2, 64]), three, 3), "new k tokens");
    assert_eq!(mismatch(three, three, 4), "new k tokens");
    assert_eq!(mismatch(three, tokens([3, 1, 64]), 3), "new v heads");
    assert_eq!(mismatch(three, tokens([3, 2, 128]), 3), "new v head_dim");

    let shared = |result: Result<Append<'_, Bf16, Fp8E4M3>, Error>| match result {
        Err(Error::SharedMemory { field, other }) => (field, other),
        other => panic!("{other:?}"),
    };
    let inside = NewTokens::new(&cache_v, [3, 2, 64]).expect("tokens");
    assert_eq!(shared(Append::new(three, inside, &good, mapping(3))), ("v cache", "new v"));
    let inside = SlotMapping::new(&cache_k, 3).expect("slots");
    assert_eq!(shared(Append::new(three, three, &good, inside)), ("k cache", "slot_mapping"));
    let inside = scales(one, TensorScale::on_device(&cache_k).expect("a scale"));
    let bad = cache(&cache_k, &cache_v, inside).expect("a cache to read");
    assert_eq!(shared(Append::new(three, three, &bad, mapping(3))), ("k cache", "v scale"));
    let bad = cache(&cache_k, &cache_k, scales(one, one)).expect("a cache to read");
    assert_eq!(shared(Append::new(three, three, &bad, mapping(3))), ("k cache", "v cache"));

    assert!(matches!(SlotMapping::new(&slots, 9), Err(Error::BufferTooSmall { field: "slot_mapping", .. })));
    let span = qkv::DeviceSpan::from(&slots).slice(4, 60).expect("a span");
    assert!(matches!(SlotMapping::new(span, 3), Err(Error::Misaligned { field: "slot_mapping", multiple: 8, .. })));
    let strided = NewTokens::<Bf16>::with_strides(&new, [3, 2, 64], [132, 64]);
    assert!(matches!(strided, Err(Error::Misaligned { field: "new tokens' token stride", .. })));
}
