//! What a request may be given besides its tensors, and what it may not: outputs of other formats, query tokens, masks, and
//! states to merge. Addresses here are of no memory.
use qkv::{
    AlibiSlopes, AnyOutput, Bf16, BlockTable, CacheLayout, CacheShape, Decode, DeviceSpan, Error, F16, F32, Fp8E4M3,
    HeadDim, KvCache, Lse, Mask, MergeStates, Need, Output, OutputFormat, OutputKind, Positions, Query, QueryLens,
    SeqLens, Sinks, Spans, States, TensorScale, TreeMask, Unsupported,
};

/// `bytes` at an address that nothing is read from.
fn span(bytes: usize) -> DeviceSpan<'static> {
    at(4096, bytes)
}

fn at(address: u64, bytes: usize) -> DeviceSpan<'static> {
    // SAFETY: no work is launched with it.
    unsafe { DeviceSpan::new(address, bytes) }
}

fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error").to_string()
}

type Request = Result<Decode<'static, Bf16, Bf16>, Error>;

/// Two sequences with 8 query heads.
fn request(query_lens: QueryLens<'static>, tokens: usize) -> Request {
    let shape = CacheShape { pages: 4, page_size: 16, kv_heads: 2, head_dim: HeadDim::D128 };
    Decode::with_query_lens(
        Query::new(span(1 << 20), [tokens, 8, 128])?,
        query_lens,
        KvCache::new(span(1 << 20), span(1 << 20), shape, CacheLayout::Nhd)?,
        BlockTable::new(span(1 << 10), 2, 4)?,
        SeqLens::new(span(1 << 10), 2)?,
        Output::<F32>::new(span(1 << 20), [tokens, 8, 128])?,
    )
}

fn drafts() -> Request {
    request(QueryLens::Ragged(&[0, 1, 5]), 5)
}

#[test]
fn outputs_have_the_bytes_of_their_format() -> Result<(), Error> {
    fn needs<F: OutputFormat>(make: fn(DeviceSpan<'static>) -> Result<Output<'static, F>, Error>, bytes: usize) {
        let rows = 3 * 4 * 64;
        let any = AnyOutput::from(make(span(rows * bytes)).expect("enough"));
        assert_eq!(any.kind(), F::KIND);
        assert!(matches!(make(span(rows * bytes - 1)), Err(Error::BufferTooSmall { field: "output", .. })));
        assert!(matches!(make(at(4104, rows * bytes)), Err(Error::Misaligned { multiple: 16, .. })));
    }
    needs::<Bf16>(|span| Output::new(span, [3, 4, 64]), 2);
    needs::<F16>(|span| Output::new(span, [3, 4, 64]), 2);
    needs::<F32>(|span| Output::new(span, [3, 4, 64]), 4);
    needs::<Fp8E4M3>(|span| Output::quantised(span, [3, 4, 64], TensorScale::ONE), 1);
    assert_eq!(<Fp8E4M3 as OutputFormat>::KIND, OutputKind::Fp8E4M3);
    // Strides are in elements: 68 are 272 bytes in f32, and 68 in e4m3.
    assert!(Output::<F32>::with_strides(span(1 << 16), [3, 4, 64], [272, 68]).is_ok());
    let scale = TensorScale::value(0.5)?;
    let odd = Output::quantised_with_strides(span(1 << 16), [3, 4, 64], [272, 68], scale);
    assert_eq!(message(odd), "output head stride is 68 bytes; allowed: multiples of 16");
    let overlapping = Output::quantised_with_strides(span(1 << 16), [3, 4, 64], [128, 64], scale);
    assert!(matches!(overlapping, Err(Error::Overlap { field: "output token stride", least: 256, .. })));
    assert!(Output::quantised_with_strides(span(1 << 16), [3, 4, 64], [320, 80], scale).is_ok());
    Ok(())
}

#[test]
fn views_too_short_or_misaligned() {
    assert_eq!(message(Sinks::new(span(31), 8)), "sinks has 31 bytes; its shape and strides need 32");
    assert_eq!(message(AlibiSlopes::new(span(31), 8)), "alibi slopes has 31 bytes; its shape and strides need 32");
    assert_eq!(message(Positions::new(span(19), 5)), "positions has 19 bytes; its shape and strides need 20");
    assert_eq!(message(Spans::new(span(39), 5)), "spans has 39 bytes; its shape and strides need 40");
    assert_eq!(message(TreeMask::new(span(39), 5, 33)), "tree has 39 bytes; its shape and strides need 40");
    assert!(TreeMask::new(span(20), 5, 32).is_ok() && TreeMask::new(span(40), 5, 64).is_ok());
    assert_eq!(message(TreeMask::new(span(20), 5, 0)), "tree max_q_len is 0; allowed: 1 to 524288");
    let long = TreeMask::new(span(1 << 20), 5, 524_289);
    assert_eq!(message(long), "tree max_q_len is 524289; allowed: 1 to 524288");
    assert!(TreeMask::new(span(5 << 16), 5, 524_288).is_ok());
    for misaligned in [
        Sinks::new(at(4098, 64), 8).map(|_| ()),
        AlibiSlopes::new(at(4098, 64), 8).map(|_| ()),
        Positions::new(at(4098, 64), 8).map(|_| ()),
        Spans::new(at(4098, 64), 8).map(|_| ()),
        TreeMask::new(at(4098, 64), 8, 8).map(|_| ()),
    ] {
        assert!(matches!(misaligned, Err(Error::Misaligned { multiple: 4, .. })), "{misaligned:?}");
    }
    assert!(matches!(Spans::new(span(16), usize::MAX / 4), Err(Error::TooLarge { field: "spans" })));
    assert!(Positions::new(at(0, 0), 0).is_ok());
}

#[test]
fn query_tokens_that_disagree_with_the_batch() {
    assert!(drafts().is_ok() && request(QueryLens::Uniform(3), 6).is_ok() && request(QueryLens::One, 2).is_ok());
    assert!(request(QueryLens::Ragged(&[0, 0, 0]), 0).is_ok(), "nobody has a query token");
    let text = "query tokens is 5, but query_lens tokens is 6; they must be equal";
    assert_eq!(message(request(QueryLens::Uniform(3), 5)), text);
    assert_eq!(message(request(QueryLens::Ragged(&[0, 2, 6]), 5)), text);
    let text = "cu_seqlens_q entries is 2, but sequences + 1 is 3; they must be equal";
    assert_eq!(message(request(QueryLens::Ragged(&[0, 5]), 5)), text);
    assert_eq!(message(request(QueryLens::Ragged(&[0, 6, 5]), 5)), "cu_seqlens_q[2] is 5; allowed: 6 to 2147483647");
    assert_eq!(message(request(QueryLens::Uniform(0), 0)), "query tokens a sequence is 0; allowed: 1 to 524288");
    let text = "query tokens is 3, but seq_lens batch is 2; they must be equal";
    assert_eq!(message(request(QueryLens::One, 3)), text);
}

#[test]
fn additions_of_other_shapes() {
    let with = |add: fn(Decode<'static, Bf16, Bf16>) -> Request| drafts().and_then(add);
    assert_eq!(
        message(with(|r| r.sinks(Sinks::new(span(64), 7)?))),
        "sinks q_heads is 7, but query heads is 8; they must be equal"
    );
    assert_eq!(
        message(with(|r| r.alibi(AlibiSlopes::new(span(64), 2)?))),
        "alibi slopes q_heads is 2, but query heads is 8; they must be equal"
    );
    assert_eq!(
        message(with(|r| r.positions(Positions::new(span(64), 2)?))),
        "positions tokens is 2, but query tokens is 5; they must be equal"
    );
    assert_eq!(
        message(with(|r| r.spans(Spans::new(span(64), 4)?, true))),
        "spans tokens is 4, but query tokens is 5; they must be equal"
    );
    assert_eq!(
        message(with(|r| r.tree(TreeMask::new(span(64), 6, 4)?))),
        "tree tokens is 6, but query tokens is 5; they must be equal"
    );
    let long = request(QueryLens::Ragged(&[0, 1, 34]), 34).and_then(|r| r.tree(TreeMask::new(span(256), 34, 32)?));
    let text = "tree bits a query token is 32; allowed: at least the most query tokens of a sequence";
    assert_eq!(message(long), text);
    // All that goes together.
    let all = with(|r| {
        r.mask(Mask::sliding_window(3))?
            .softcap(30.0)?
            .sinks(Sinks::new(span(64), 8)?)?
            .alibi(AlibiSlopes::new(span(64), 8)?)?
            .positions(Positions::new(span(64), 5)?)?
            .tree(TreeMask::new(span(64), 5, 4)?)?
            .lse(Lse::new(span(1 << 10), 5, 8)?)
    });
    assert!(all.is_ok(), "{all:?}");
}

#[test]
fn a_tree_with_spans() {
    let tree = |r: Decode<'static, Bf16, Bf16>| r.tree(TreeMask::new(span(64), 5, 4)?);
    let spans = |r: Decode<'static, Bf16, Bf16>| r.spans(Spans::new(span(64), 5)?, false);
    for both in [drafts().and_then(tree).and_then(spans), drafts().and_then(spans).and_then(tree)] {
        let Err(Error::Unsupported(Unsupported { needs })) = both else { panic!("{both:?}") };
        assert_eq!(needs, [Need::TreeWithSpans]);
    }
}

#[test]
fn soft_caps_out_of_range() {
    for refused in [0.0, -30.0, 1e-31, 2e30, f32::NAN, f32::INFINITY] {
        let request = drafts().and_then(|r| r.softcap(refused));
        assert!(matches!(request, Err(Error::Value { field: "softcap", .. })), "{refused}");
    }
    assert_eq!(message(drafts().and_then(|r| r.softcap(0.0))), "softcap is 0e0; allowed: 1e-30 to 1e30");
    assert!(drafts().and_then(|r| r.softcap(1e-30)?.softcap(1e30)).is_ok());
}

#[test]
fn masks_in_words() {
    assert_eq!(Mask::sliding_window(127).to_string(), "127 keys to the left and 0 to the right");
    assert_eq!(Mask::FULL.to_string(), "all keys to the left and all to the right");
}

const STATES: [usize; 4] = [2, 5, 8, 64];
const ROWS: usize = 5 * 8;

fn states() -> Result<States<'static>, Error> {
    States::new(at(1 << 20, 4 * 2 * ROWS * 64), at(1 << 21, 4 * 2 * ROWS), STATES)
}

#[test]
fn states_that_do_not_fit() {
    let of = |shape| States::new(span(1 << 20), span(1 << 20), shape);
    assert!(states().is_ok() && of([1, 0, 8, 64]).is_ok());
    assert_eq!(message(of([0, 5, 8, 64])), "states is 0; allowed: 1 to 512");
    assert_eq!(message(of([513, 5, 8, 64])), "states is 513; allowed: 1 to 512");
    assert!(matches!(of([2, 5, 8, 80]), Err(Error::HeadDim { value: 80 })));
    let short = States::new(span(4 * 2 * ROWS * 64 - 1), span(1 << 10), STATES);
    assert!(matches!(short, Err(Error::BufferTooSmall { field: "states", needed: 20_480, .. })));
    let short = States::new(span(1 << 20), span(4 * 2 * ROWS - 1), STATES);
    assert!(matches!(short, Err(Error::BufferTooSmall { field: "states' lse", needed: 320, .. })));
    let odd = States::new(at(4104, 1 << 20), span(1 << 10), STATES);
    assert!(matches!(odd, Err(Error::Misaligned { field: "states", multiple: 16, .. })));
    let huge = at(1 << 20, 1 << 45);
    let many = States::new(huge, huge, [1, 1 << 17, 128, 64]);
    let text = "states' tokens * q_heads * q_heads is 2147483648; allowed: below 2^31";
    assert_eq!(message(many), text);
    let many = States::new(huge, huge, [1, (1 << 28) + 1, 1, 512]);
    let text = "states' tokens * q_heads * head_dim is 137438953984; allowed: below 2^37";
    assert_eq!(message(many), text);
    assert!(matches!(of([2, usize::MAX / 8, 8, 64]), Err(Error::TooLarge { .. })));
}

#[test]
fn merges_of_other_shapes_and_in_shared_memory() -> Result<(), Error> {
    let output = |address, shape| Output::<F16>::new(at(address, 1 << 16), shape);
    let good = || MergeStates::new(states()?, output(1 << 22, [5, 8, 64])?);
    assert!(good().is_ok());
    let of = |shape| message(output(1 << 22, shape).and_then(|output| MergeStates::new(states()?, output)));
    assert_eq!(of([4, 8, 64]), "output tokens is 4, but states tokens is 5; they must be equal");
    assert_eq!(of([5, 4, 64]), "output heads is 4, but states q_heads is 8; they must be equal");
    assert_eq!(of([5, 8, 128]), "output head_dim is 128, but states head_dim is 64; they must be equal");
    let lse = |address, heads| good()?.lse(Lse::new(at(address, 1 << 10), 5, heads)?);
    assert_eq!(message(lse(1 << 23, 7)), "lse q_heads is 7, but states q_heads is 8; they must be equal");
    assert!(lse(1 << 23, 8).is_ok());
    let overlap = |what| format!("{what} overlap in device memory; what is written shares no byte with anything else");
    assert_eq!(message(lse(1 << 22, 8)), overlap("lse and output"));
    assert_eq!(message(lse(1 << 21, 8)), overlap("lse and states' lse"));
    let inside = MergeStates::new(states()?, output(1 << 20, [5, 8, 64])?);
    assert_eq!(message(inside), overlap("output and states"));
    let sinks = |address, heads| good()?.sinks(Sinks::new(at(address, 64), heads)?);
    assert_eq!(message(sinks(1 << 23, 4)), "sinks q_heads is 4, but states q_heads is 8; they must be equal");
    assert_eq!(message(sinks((1 << 22) + 16, 8)), overlap("output and sinks"));
    Ok(())
}
