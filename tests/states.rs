//! Attention in parts, put together: states over disjoint keys, and a prefix that a batch shares, compared with the same
//! request unsplit. That a request unsplit is right is `tests/decode.rs`'s. On a GPU where there is one, else on the simulator.
#![cfg(feature = "sim")]
use half::bf16;
use qkv::{
    AlibiSlopes, Batch, Bf16, BlockTable, Buffer, CacheLayout, CacheShape, Capture, DType, Decode, Device, DeviceSpan,
    Error, F32, Geometry, Graph, HeadDim, KvCache, Lse, Mask, MergeStates, Need, Output, Plan, PlanOptions, Positions,
    PrefixPlan, Query, QueryLens, SeqLens, Sinks, Spans, Splits, States, TreeMask, Unsupported, Workspace,
};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by each test: on a GPU, a capture keeps other threads' copies off the context's legacy default stream.
static CONTEXT: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    CONTEXT.lock().unwrap_or_else(PoisonError::into_inner)
}

const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const DIM: usize = 64;
const PAGE: usize = 16;
const PAGES: usize = 16;
/// Pages of a sequence; the first two are the same in all.
const COLUMNS: usize = 5;
const PREFIX: u32 = 2 * PAGE as u32;
const LENGTHS: [u32; 3] = [PREFIX + 20, PREFIX + 3, PREFIX + 48];
const STARTS: [u32; 4] = [0, 1, 4, 6];
const TOKENS: usize = 6;

/// Three sequences that share a prefix of two pages, in random numbers.
struct Shared {
    device: Device,
    q: Buffer,
    k: Buffer,
    v: Buffer,
    table: Buffer,
    lengths: Buffer,
    sinks: Buffer,
    slopes: Buffer,
    positions: Buffer,
    tree: Buffer,
}

/// What a launch wrote: outputs and log-sum-exps.
type Answer = [Vec<f32>; 2];

fn words(buffer: &Buffer) -> Result<Vec<f32>, Error> {
    Ok(buffer.read()?.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect())
}

fn close([out, lse]: &Answer, [other_out, other_lse]: &Answer, what: &str) {
    assert_eq!((out.len(), lse.len()), (other_out.len(), other_lse.len()));
    let far = |(a, b): (&f32, &f32)| (a - b).abs() > 0.01;
    assert!(!out.iter().zip(other_out).any(far), "{what}: {out:?} {other_out:?}");
    assert!(!lse.iter().zip(other_lse).any(far), "{what}: {lse:?} {other_lse:?}");
}

impl Shared {
    fn new() -> Result<Self, Error> {
        let device = Device::default_device()?;
        let filled = |bytes: Vec<u8>| {
            let buffer = device.alloc(bytes.len())?;
            buffer.write(&bytes)?;
            Ok::<_, Error>(buffer)
        };
        let mut state = 1u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 16_384.0 - 2.0
        };
        let mut numbers = |count| filled((0..count).flat_map(|_| bf16::from_f32(number()).to_le_bytes()).collect());
        let (q, k, v) = (
            numbers(TOKENS * HEADS * DIM)?,
            numbers(PAGES * PAGE * KV_HEADS * DIM)?,
            numbers(PAGES * PAGE * KV_HEADS * DIM)?,
        );
        let table: [[i32; COLUMNS]; 3] = [[9, 2, 0, 14, -1], [9, 2, 5, -1, -1], [9, 2, 12, 1, 7]];
        let floats = |each: fn(usize) -> f32| filled((0..HEADS).flat_map(|head| each(head).to_le_bytes()).collect());
        let positions = LENGTHS.iter().zip(STARTS).zip(&STARTS[1..]);
        let positions =
            positions.flat_map(|((length, begin), end)| (begin..*end).map(move |token| length + token - end));
        // The first token of a sequence, and oneself: two continuations of it.
        let tree = STARTS.windows(2).flat_map(|ends| (0..ends[1] - ends[0]).map(|token| 1u32 | 1 << token));
        Ok(Self {
            table: filled(table.concat().into_iter().flat_map(i32::to_le_bytes).collect())?,
            lengths: filled(LENGTHS.map(u32::to_le_bytes).concat())?,
            sinks: floats(|head| head as f32)?,
            slopes: floats(|head| 0.5 / (1 << head) as f32)?,
            positions: filled(positions.flat_map(u32::to_le_bytes).collect())?,
            tree: filled(tree.flat_map(u32::to_le_bytes).collect())?,
            q,
            k,
            v,
            device,
        })
    }

    fn cache(&self) -> Result<KvCache<'_, Bf16>, Error> {
        let shape = CacheShape { pages: PAGES, page_size: PAGE, kv_heads: KV_HEADS, head_dim: HeadDim::D64 };
        KvCache::new(&self.k, &self.v, shape, CacheLayout::Nhd)
    }

    fn outputs(&self) -> Result<[Buffer; 2], Error> {
        Ok([self.device.alloc(4 * TOKENS * HEADS * DIM)?, self.device.alloc(4 * TOKENS * HEADS)?])
    }

    fn decode<'a>(&'a self, [out, lse]: &'a [Buffer; 2]) -> Result<Decode<'a, Bf16, Bf16>, Error> {
        Decode::with_query_lens(
            Query::new(&self.q, [TOKENS, HEADS, DIM])?,
            QueryLens::Ragged(&STARTS),
            self.cache()?,
            BlockTable::new(&self.table, 3, COLUMNS)?,
            SeqLens::new(&self.lengths, 3)?,
            Output::<F32>::new(out, [TOKENS, HEADS, DIM])?,
        )?
        .lse(Lse::new(lse, TOKENS, HEADS)?)
    }

    fn positions(&self) -> Result<Positions<'_>, Error> {
        Positions::new(&self.positions, TOKENS)
    }

    fn sinks(&self) -> Result<Sinks<'_>, Error> {
        Sinks::new(&self.sinks, HEADS)
    }

    /// The request in one pass a sequence.
    fn unsplit<'a>(&'a self, decode: &Decode<'a, Bf16, Bf16>, mask: Mask) -> Result<(), Error> {
        let options = PlanOptions { splits: Splits::Never, ..PlanOptions::default() };
        let batch = Batch::from(&LENGTHS).query_lens(QueryLens::Ragged(&STARTS)).mask(mask);
        let plan = Plan::new(decode.geometry(), batch, self.device.properties(), &options)?;
        let memory = self.device.alloc(plan.workspace_bytes())?;
        let (stream, mut workspace) = (self.device.default_stream(), Workspace::new(&memory));
        plan.upload(&stream, &mut workspace)?.prepare(decode)?.launch(&stream)?;
        stream.synchronize()
    }

    /// The request with the prefix read once.
    fn cascade<'a>(&'a self, decode: &Decode<'a, Bf16, Bf16>, mask: Mask, splits: Splits) -> Result<(), Error> {
        let options = PlanOptions { splits, ..PlanOptions::default() };
        let batch = Batch::from(&LENGTHS).query_lens(QueryLens::Ragged(&STARTS)).mask(mask);
        let plan = PrefixPlan::new(decode.geometry(), PREFIX, batch, self.device.properties(), &options)?;
        let memory = self.device.alloc(plan.workspace_bytes())?;
        let (stream, mut workspace) = (self.device.default_stream(), Workspace::new(&memory));
        plan.upload(&stream, &mut workspace)?.prepare(decode)?.launch_checked(&stream)?;
        stream.synchronize()
    }
}

/// A way to add something to a request.
type Added = for<'a> fn(&'a Shared, Decode<'a, Bf16, Bf16>) -> Result<Decode<'a, Bf16, Bf16>, Error>;

#[test]
fn a_shared_prefix_is_the_same_as_whole_sequences() -> Result<(), Error> {
    let _alone = alone();
    let shared = Shared::new()?;
    let cases: [(&str, Mask, Added); 6] = [
        ("plain", Mask::CAUSAL, |_, decode| Ok(decode)),
        ("full, with sinks", Mask::FULL, |s, decode| decode.sinks(s.sinks()?)),
        ("window", Mask::sliding_window(25), |s, decode| decode.positions(s.positions()?)),
        ("window of a few", Mask::sliding_window(2), |s, decode| decode.positions(s.positions()?)?.sinks(s.sinks()?)),
        ("soft cap, alibi", Mask::CAUSAL, |s, decode| {
            decode.softcap(2.0)?.alibi(AlibiSlopes::new(&s.slopes, HEADS)?)?.positions(s.positions()?)
        }),
        ("tree", Mask::CAUSAL, |s, decode| decode.tree(TreeMask::new(&s.tree, TOKENS, 3)?)),
    ];
    for (what, mask, added) in cases {
        let (whole, parts) = (shared.outputs()?, shared.outputs()?);
        shared.unsplit(&added(&shared, shared.decode(&whole)?.mask(mask)?)?, mask)?;
        let expected = [words(&whole[0])?, words(&whole[1])?];
        assert!(expected[0].iter().any(|x| x.abs() > 0.1), "{what}: nothing to compare");
        for splits in [Splits::Auto, Splits::Never, Splits::Most] {
            shared.cascade(&added(&shared, shared.decode(&parts)?.mask(mask)?)?, mask, splits)?;
            close(&[words(&parts[0])?, words(&parts[1])?], &expected, what);
        }
    }
    Ok(())
}

/// A captured launch of a shared prefix serves later plans of as many query tokens, whatever is behind the prefix.
#[test]
fn a_captured_prefix_serves_later_plans() -> Result<(), Error> {
    let _alone = alone();
    let shared = Shared::new()?;
    let (whole, parts) = (shared.outputs()?, shared.outputs()?);
    let (request, decode) = (shared.decode(&whole)?, shared.decode(&parts)?);
    let plan = |lengths: &[u32], starts: &[u32], capture| {
        let batch = Batch::from(lengths).query_lens(QueryLens::Ragged(starts));
        let options = PlanOptions { capture, max_q_len: Some(3), ..PlanOptions::default() };
        PrefixPlan::new(decode.geometry(), PREFIX, batch, shared.device.properties(), &options)
    };
    let first = plan(&[PREFIX + 1, PREFIX + 30, PREFIX + 2], &STARTS, Capture::AnyPlan)?;
    let stream = shared.device.new_stream()?;
    let memory = shared.device.alloc(first.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let mut graph = {
        let planned = first.upload(&stream, &mut workspace)?;
        let mut prepared = planned.prepare(&decode)?;
        Graph::capture(&stream, || prepared.launch(&stream))?
    };
    let later = plan(&LENGTHS, &STARTS, Capture::AnyPlan)?;
    assert!(first.replays(&later));
    assert!(!first.replays(&plan(&LENGTHS, &[0, 1, 4, 5], Capture::AnyPlan)?), "fewer query tokens");
    assert!(!plan(&LENGTHS, &STARTS, Capture::ThisPlan)?.replays(&later));
    later.upload(&stream, &mut workspace)?;
    // SAFETY: every buffer is alive, and nothing else is at work.
    unsafe { graph.launch(&stream) }?;
    stream.synchronize()?;
    shared.unsplit(&request, Mask::CAUSAL)?;
    close(&[words(&parts[0])?, words(&parts[1])?], &[words(&whole[0])?, words(&whole[1])?], "replayed");
    Ok(())
}

#[test]
fn states_over_disjoint_keys_merge_to_the_whole() -> Result<(), Error> {
    let _alone = alone();
    let shared = Shared::new()?;
    let whole = shared.outputs()?;
    shared.unsplit(&shared.decode(&whole)?.sinks(shared.sinks()?)?, Mask::CAUSAL)?;

    // The prefix as every sequence's keys, all seen; what is behind it as sequences of their own; and one of nothing.
    let [sets, rows] = [3, TOKENS * HEADS];
    let (o, lse) = (shared.device.alloc(4 * sets * rows * DIM)?, shared.device.alloc(4 * sets * rows)?);
    let part = |buffer, set: usize, bytes: usize| DeviceSpan::from(buffer).slice(set * bytes, bytes);
    let stream = shared.device.default_stream();
    let behind = LENGTHS.map(|length| length - PREFIX);
    for (set, (lengths, first_page, mask)) in
        [([PREFIX; 3], 0, Mask::FULL), (behind, 2, Mask::CAUSAL), ([0; 3], 0, Mask::CAUSAL)].into_iter().enumerate()
    {
        let seq_lens = shared.device.alloc(12)?;
        seq_lens.write(&lengths.map(u32::to_le_bytes).concat())?;
        let table = DeviceSpan::from(&shared.table);
        let table = table.slice(4 * first_page, table.bytes() - 4 * first_page)?;
        let decode = Decode::<Bf16, Bf16>::with_query_lens(
            Query::new(&shared.q, [TOKENS, HEADS, DIM])?,
            QueryLens::Ragged(&STARTS),
            shared.cache()?,
            BlockTable::with_stride(table, 3, COLUMNS - first_page, COLUMNS)?,
            SeqLens::new(&seq_lens, 3)?,
            Output::<F32>::new(part(&o, set, 4 * rows * DIM)?, [TOKENS, HEADS, DIM])?,
        )?
        .lse(Lse::new(part(&lse, set, 4 * rows)?, TOKENS, HEADS)?)?
        .mask(mask)?;
        let batch = Batch::from(&lengths).query_lens(QueryLens::Ragged(&STARTS)).mask(mask);
        let plan = Plan::new(decode.geometry(), batch, shared.device.properties(), &PlanOptions::default())?;
        let memory = shared.device.alloc(plan.workspace_bytes())?;
        let mut workspace = Workspace::new(&memory);
        plan.upload(&stream, &mut workspace)?.prepare(&decode)?.launch(&stream)?;
        stream.synchronize()?;
    }

    let merged = shared.outputs()?;
    let states = States::new(&o, &lse, [sets, TOKENS, HEADS, DIM])?;
    MergeStates::new(states, Output::<F32>::new(&merged[0], [TOKENS, HEADS, DIM])?)?
        .lse(Lse::new(&merged[1], TOKENS, HEADS)?)?
        .sinks(shared.sinks()?)?
        .launch(&stream)?;
    stream.synchronize()?;
    close(&[words(&merged[0])?, words(&merged[1])?], &[words(&whole[0])?, words(&whole[1])?], "merged");
    Ok(())
}

#[test]
fn what_a_shared_prefix_does_not_go_with() -> Result<(), Error> {
    let _alone = alone();
    let shared = Shared::new()?;
    let outputs = shared.outputs()?;
    let spans = shared.device.alloc(8 * TOKENS)?;
    let window = Mask::sliding_window(5);
    let refused = |decode: Decode<'_, Bf16, Bf16>, mask| match shared.cascade(&decode.mask(mask)?, mask, Splits::Auto) {
        Err(Error::Unsupported(Unsupported { needs })) => Ok(needs),
        other => other.map(|()| vec![]),
    };
    let decode = || shared.decode(&outputs);
    assert_eq!(refused(decode()?, window)?, [Need::PositionsWithSharedPrefix]);
    let alibi = decode()?.alibi(AlibiSlopes::new(&shared.slopes, HEADS)?)?;
    assert_eq!(refused(alibi, Mask::CAUSAL)?, [Need::PositionsWithSharedPrefix]);
    let both = decode()?.spans(Spans::new(&spans, TOKENS)?, false)?;
    assert_eq!(refused(both, window)?, [Need::SpansWithSharedPrefix, Need::PositionsWithSharedPrefix]);
    assert_eq!(refused(decode()?, Mask { left: None, right: Some(3) })?, []);

    let plan = |prefix, lengths: &[u32]| {
        let batch = Batch::from(lengths).query_lens(QueryLens::Ragged(&STARTS));
        let (geometry, options) = (*decode()?.geometry(), PlanOptions::default());
        PrefixPlan::new(&geometry, prefix, batch, shared.device.properties(), &options)
    };
    let message = |prefix, lengths: &[u32]| plan(prefix, lengths).err().map(|error| error.to_string());
    let pages = |prefix| Some(format!("prefix_tokens is {prefix}; allowed: whole pages, at least one"));
    assert_eq!((message(0, &LENGTHS), message(24, &LENGTHS)), (pages(0), pages(24)));
    let long = "prefix_tokens is 48; sequence 1 has 50 tokens, the last 3 of them queries; allowed: at most 47";
    assert_eq!(message(48, &[90, 50, 90]).as_deref(), Some(long));
    assert_eq!(message(48, &[49, 51, 50]), None);
    // 2^25 query rows of a KV head, then few enough of those but too many of all heads in the merge.
    let refused = |heads: [usize; 2], sequences: usize| {
        let geometry = Geometry::new(DIM, heads, PAGE, DType::Bf16, DType::Bf16)?;
        let lengths = vec![PREFIX + 4096; sequences];
        let batch = Batch::from(&lengths).query_lens(QueryLens::Uniform(4096));
        let plan = PrefixPlan::new(&geometry, PREFIX, batch, shared.device.properties(), &PlanOptions::default());
        Ok::<_, Error>(plan.err().map(|error| error.to_string()).unwrap_or_default())
    };
    let rows = "query tokens * query heads a KV head is 33554432; allowed: below 2^25 with a shared prefix";
    assert_eq!(refused([64, 1], 128)?, rows);
    let merged = "states' tokens * q_heads * q_heads is 2147483648; allowed: below 2^31";
    assert_eq!(refused([128, 128], 32)?, merged);
    Ok(())
}
