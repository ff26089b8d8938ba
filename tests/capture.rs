//! Captured launches: one graph serves every later plan in the workspace, lengths on the device may change between
//! replays, and those past the planned ones are clamped to them. On a GPU where there is one; else on the simulator,
//! which records launches and replays them.
#![cfg(feature = "sim")]
use core::ops::Range;
use half::bf16;
use qkv::{
    Arch, Batch as Sequences, Bf16, BlockTable, Buffer, CacheLayout, CacheShape, Capture, Decode, Device, Error, Event,
    Graph, HeadDim, KvCache, Mask, Output, Plan, PlanOptions, Query, QueryLens, SeqLens, SimulatorOptions, Splits,
    Workspace,
};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by each test: on a GPU, a capture keeps other threads' copies off the context's legacy default stream.
static CONTEXT: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    CONTEXT.lock().unwrap_or_else(PoisonError::into_inner)
}

const HEADS: [usize; 2] = [6, 2];
const PAGES: usize = 64;
const PAGE: usize = 16;
/// Pages of a sequence.
const COLUMNS: usize = PAGES / 2;
const DIM: usize = 64;

/// Two sequences, q all zeros, so that every key has the same weight and the answer is the mean of the values.
struct Batch {
    device: Device,
    q: Buffer,
    k: Buffer,
    v: Buffer,
    out: Buffer,
    table: Buffer,
    lengths: Buffer,
}

impl Batch {
    fn new() -> Result<Self, Error> {
        Self::of(2)
    }

    /// With so many query tokens together.
    fn of(tokens: usize) -> Result<Self, Error> {
        Self::on(Device::default_device()?, tokens)
    }

    fn on(device: Device, tokens: usize) -> Result<Self, Error> {
        let filled = |bytes: Vec<u8>| {
            let buffer = device.alloc(bytes.len())?;
            buffer.write(&bytes)?;
            Ok::<_, Error>(buffer)
        };
        let rows = vec![0; 2 * tokens * HEADS[0] * DIM];
        // Pages in reverse; the value of page p, slot s is that of its token.
        let pages = (0..2 * COLUMNS).map(|at| (PAGES - 1 - at) as i32);
        let row = |token: usize| bf16::from_f32(value(token)).to_le_bytes().repeat(HEADS[1] * DIM);
        let keys = (0..PAGES).flat_map(|page| {
            let at = PAGES - 1 - page;
            (0..PAGE).map(move |slot| (at % COLUMNS) * PAGE + slot)
        });
        Ok(Self {
            q: filled(rows.clone())?,
            out: filled(rows)?,
            k: filled(vec![0; 2 * PAGES * PAGE * HEADS[1] * DIM])?,
            v: filled(keys.flat_map(row).collect())?,
            table: filled(pages.flat_map(i32::to_le_bytes).collect())?,
            lengths: filled(vec![0; 8])?,
            device,
        })
    }

    fn decode(&self) -> Result<Decode<'_, Bf16, Bf16>, Error> {
        self.decode_of(QueryLens::One)
    }

    fn decode_of<'a>(&'a self, query_lens: QueryLens<'a>) -> Result<Decode<'a, Bf16, Bf16>, Error> {
        let tokens = self.q.bytes() / (2 * HEADS[0] * DIM);
        let shape = CacheShape { pages: PAGES, page_size: PAGE, kv_heads: HEADS[1], head_dim: HeadDim::D64 };
        Decode::with_query_lens(
            Query::new(&self.q, [tokens, HEADS[0], DIM])?,
            query_lens,
            KvCache::new(&self.k, &self.v, shape, CacheLayout::Nhd)?,
            BlockTable::new(&self.table, 2, COLUMNS)?,
            SeqLens::new(&self.lengths, 2)?,
            Output::<Bf16>::new(&self.out, [tokens, HEADS[0], DIM])?,
        )
    }

    fn set_lengths(&self, lengths: [u32; 2]) -> Result<(), Error> {
        self.out.write(&vec![0xFF; self.out.bytes()])?;
        self.lengths.write(&lengths.map(u32::to_le_bytes).concat())
    }

    /// Asserts that the output is that of sequences of these lengths.
    fn assert_means(&self, lengths: [u32; 2]) -> Result<(), Error> {
        self.assert_means_of(lengths.map(|length| 0..length as usize))
    }

    /// Asserts that each query token's output is the mean of the values of these keys, and that nobody wrote the others'.
    fn assert_means_of(&self, keys: impl IntoIterator<Item = Range<usize>>) -> Result<(), Error> {
        let (out, mut keys) = (self.out.read()?, keys.into_iter());
        for row in out.chunks_exact(2 * HEADS[0] * DIM) {
            let Some(keys) = keys.next() else {
                assert!(row.iter().all(|&byte| byte == 0xFF), "a query token too many");
                continue;
            };
            let mean = keys.clone().map(value).sum::<f32>() / (keys.len() as f32).max(1.0);
            for element in row.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()) {
                assert!((element - mean).abs() <= 0.01 * mean, "{element} for {mean} of keys {keys:?}");
            }
        }
        assert!(keys.next().is_none(), "a query token without an output");
        Ok(())
    }
}

/// Exact in bf16; means of different prefixes differ.
fn value(token: usize) -> f32 {
    (1 + token / 8) as f32
}

fn captured(splits: Splits) -> Result<(), Error> {
    let batch = Batch::new()?;
    let decode = batch.decode()?;
    let stream = batch.device.new_stream()?;
    let options =
        PlanOptions { splits, max_length: Some(512), max_q_len: None, capture: Capture::AnyPlan, ..Default::default() };
    let plan = |lengths: &[u32]| Plan::new(decode.geometry(), lengths, batch.device.properties(), &options);
    let plans = [[40, 17], [500, 3], [0, 512], [0, 0], [300, 300]].map(|lengths| (lengths, plan(&lengths)));
    let first = plan(&[33, 1])?;
    let memory = batch.device.alloc(first.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    batch.set_lengths([33, 1])?;
    let mut graph = {
        let planned = first.upload(&stream, &mut workspace)?;
        let mut prepared = planned.prepare(&decode)?;
        Graph::capture(&stream, || prepared.launch(&stream))?
    };
    assert!(batch.out.read()?.iter().all(|&byte| byte == 0xFF), "a captured launch does not run");
    // SAFETY: every buffer is alive, and the simulator does one thing at a time.
    let mut replay = || unsafe { graph.launch(&stream) };
    replay()?;
    batch.assert_means([33, 1])?;
    for (lengths, later) in plans {
        let later = later?;
        assert!(first.replays(&later));
        later.upload(&stream, &mut workspace)?;
        batch.set_lengths(lengths)?;
        replay()?;
        batch.assert_means(lengths)?;
        // Sequences that are shorter now, and longer than planned.
        let shorter = lengths.map(|length| length / 3);
        batch.set_lengths(shorter)?;
        replay()?;
        batch.assert_means(shorter)?;
        batch.set_lengths(lengths.map(|length| length + 200))?;
        replay()?;
        batch.assert_means(lengths)?;
    }
    Ok(())
}

#[test]
fn one_graph_serves_every_plan_as_planned() -> Result<(), Error> {
    let _alone = alone();
    captured(Splits::Auto)
}

#[test]
fn one_graph_serves_every_plan_uncut() -> Result<(), Error> {
    let _alone = alone();
    captured(Splits::Never)
}

#[test]
fn one_graph_serves_every_plan_in_the_most_shares() -> Result<(), Error> {
    let _alone = alone();
    captured(Splits::Most)
}

#[test]
fn one_graph_serves_every_plan_in_shares_of_a_fixed_size() -> Result<(), Error> {
    let _alone = alone();
    captured(Splits::FixedSize(100))
}

/// Drafts that were accepted are not there the next time: sequences have other query tokens, or none.
#[test]
fn one_graph_serves_plans_of_fewer_query_tokens() -> Result<(), Error> {
    let _alone = alone();
    fewer_query_tokens(
        &Device::default_device()?,
        3,
        &[
            ([33, 3], [0, 3, 6]),
            ([500, 2], [0, 1, 4]),
            ([7, 512], [0, 0, 3]),
            ([300, 300], [0, 2, 3]),
            ([5, 5], [0, 0, 0]),
        ],
    )
}

/// Chunks of prompts on Hopper: of later plans blocks have more items than of the captured one, and fewer, and none.
#[test]
fn one_graph_serves_plans_of_other_chunks() -> Result<(), Error> {
    let _alone = alone();
    let options = SimulatorOptions { arch: Arch::HOPPER, multiprocessors: 3, ..Default::default() };
    let device = match Device::default_device()? {
        simulator if simulator.is_simulator() => Device::simulator_with(options),
        gpu => gpu,
    };
    fewer_query_tokens(
        &device,
        66,
        &[
            ([33, 3], [0, 33, 36]),
            ([70, 200], [0, 66, 132]),
            ([300, 2], [0, 1, 67]),
            ([7, 300], [0, 0, 65]),
            ([5, 5], [0, 0, 0]),
        ],
    )?;
    if let (Arch::HOPPER, Some(ran)) = (device.properties().arch, device.simulated()) {
        assert!(ran.iter().any(|kernel| kernel.info().hopper()), "{ran:?}");
    }
    Ok(())
}

/// Plans of these lengths and query tokens, up to `most` a sequence, by one graph that was captured from the first.
fn fewer_query_tokens(device: &Device, most: u32, plans: &[([u32; 2], [u32; 3])]) -> Result<(), Error> {
    for (splits, left) in
        [(Splits::Auto, None), (Splits::Most, None), (Splits::Auto, Some(40)), (Splits::Most, Some(40))]
    {
        let (batch, mask) = (Batch::on(device.clone(), 2 * most as usize)?, Mask { left, ..Mask::CAUSAL });
        let decode = batch.decode_of(QueryLens::Uniform(most))?.mask(mask)?;
        let stream = batch.device.new_stream()?;
        let options = PlanOptions {
            splits,
            max_length: Some(512),
            max_q_len: Some(most),
            capture: Capture::AnyPlan,
            ..Default::default()
        };
        let plan = |lengths: &[u32], starts: &[u32]| {
            let sequences = Sequences::from(lengths).query_lens(QueryLens::Ragged(starts)).mask(mask);
            Plan::new(decode.geometry(), sequences, batch.device.properties(), &options)
        };
        let first = plan(&[33, 3], &[0, most, 2 * most])?;
        let memory = batch.device.alloc(first.workspace_bytes())?;
        let mut workspace = Workspace::new(&memory);
        let mut graph = {
            let planned = first.upload(&stream, &mut workspace)?;
            let mut prepared = planned.prepare(&decode)?;
            Graph::capture(&stream, || prepared.launch(&stream))?
        };
        for &(lengths, starts) in plans {
            let later = plan(&lengths, &starts)?;
            assert!(first.replays(&later));
            later.upload(&stream, &mut workspace)?;
            batch.set_lengths(lengths)?;
            // SAFETY: every buffer is alive, and the simulator does one thing at a time.
            unsafe { graph.launch(&stream) }?;
            let keys = (0..2).flat_map(|sequence| {
                let (length, q_len) = (lengths[sequence], starts[sequence + 1] - starts[sequence]);
                (0..q_len).map(move |token| {
                    // Below 0 where there are fewer keys than query tokens: such a token sees none.
                    let end = (length + token + 1).saturating_sub(q_len) as usize;
                    left.map_or(0, |left| end.saturating_sub(left as usize + 1))..end
                })
            });
            batch.assert_means_of(keys)?;
        }
    }
    Ok(())
}

/// No kernel runs: its blocks would ask for the length of the first sequence, and there is none.
#[test]
fn a_batch_of_none_is_a_graph_of_nothing() -> Result<(), Error> {
    let _alone = alone();
    let batch = Batch::new()?;
    let none = batch.device.alloc(0)?;
    let shape = CacheShape { pages: PAGES, page_size: PAGE, kv_heads: HEADS[1], head_dim: HeadDim::D64 };
    let decode = Decode::<Bf16, Bf16>::new(
        Query::new(&none, [0, HEADS[0], DIM])?,
        KvCache::new(&batch.k, &batch.v, shape, CacheLayout::Nhd)?,
        BlockTable::new(&none, 0, COLUMNS)?,
        SeqLens::new(&none, 0)?,
        Output::<Bf16>::new(&none, [0, HEADS[0], DIM])?,
    )?;
    let stream = batch.device.new_stream()?;
    let plan = Plan::new(decode.geometry(), &[], batch.device.properties(), &PlanOptions::default())?;
    let memory = batch.device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let planned = plan.upload(&stream, &mut workspace)?;
    let mut prepared = planned.prepare(&decode)?;
    prepared.launch(&stream)?;
    let mut graph = Graph::capture(&stream, || prepared.launch(&stream))?;
    // SAFETY: every buffer is alive, and the simulator does one thing at a time.
    unsafe { graph.launch(&stream)? };
    stream.synchronize()
}

#[test]
fn what_cannot_be_captured_is_refused() -> Result<(), Error> {
    let _alone = alone();
    let batch = Batch::new()?;
    let decode = batch.decode()?;
    let stream = batch.device.new_stream()?;
    let plan = Plan::new(decode.geometry(), &[40, 17], batch.device.properties(), &PlanOptions::default())?;
    let memory = batch.device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let upload = Graph::capture(&stream, || plan.upload(&stream, &mut workspace).map(|_| ()));
    assert!(matches!(upload.err(), Some(Error::Capturing { .. })));
    let planned = plan.upload(&stream, &mut workspace)?;
    let mut prepared = planned.prepare(&decode)?;
    let checked = Graph::capture(&stream, || prepared.launch_checked(&stream));
    assert!(matches!(checked.err(), Some(Error::Capturing { .. })));
    // The stream is as before.
    batch.set_lengths([40, 17])?;
    prepared.launch_checked(&stream)?;
    batch.assert_means([40, 17])
}

#[test]
fn events_take_the_time() -> Result<(), Error> {
    let _alone = alone();
    let device = Device::default_device()?;
    let stream = device.default_stream();
    let (begin, end) = (Event::new(&device)?, Event::new(&device)?);
    begin.record(&stream)?;
    assert!(matches!(begin.milliseconds_to(&end), Err(Error::Value { field: "event", .. })));
    std::thread::sleep(core::time::Duration::from_millis(2));
    end.record(&stream)?;
    assert!(begin.milliseconds_to(&end)? >= 2.0);
    Ok(())
}
