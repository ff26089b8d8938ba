//! What a device refuses before it launches anything: a plan that does not fit its workspace or its request, page ids out
//! of range, and the devices that are not there. On a GPU where there is one, else on the simulator.
#![cfg(feature = "sim")]
use qkv::{
    AlibiSlopes, AnyOutput, Batch as Sequences, Bf16, BlockTable, Buffer, CacheDType, CacheLayout, CacheShape, DType,
    Decode, Device, DeviceSpan, Error, F16, F32, Format, Fp8E4M3, Fp8Scales, Geometry, HeadDim, KvCache, Lse, Mask,
    Output, Plan, PlanOptions, Positions, Query, QueryLens, SeqLens, SimulatorOptions, Sinks, Spans, TensorScale,
    TokenScales, TreeMask, Workspace,
};

const HEADS: [usize; 2] = [4, 2];
const PAGES: usize = 6;
const LENGTHS: [u32; 2] = [40, 17];

/// Buffers of a batch of two over pages of 16; all zeros but the page table.
struct Batch {
    device: Device,
    q: Buffer,
    out: Buffer,
    k: Buffer,
    v: Buffer,
    table: Buffer,
    lengths: Buffer,
}

impl Batch {
    fn new(ids: [i32; 6]) -> Result<Self, Error> {
        let device = Device::default_device()?;
        let zeros = |bytes: usize| {
            let buffer = device.alloc(bytes)?;
            buffer.write(&vec![0; bytes])?;
            Ok::<_, Error>(buffer)
        };
        let (row, cache) = (2 * 2 * HEADS[0] * 64, 2 * PAGES * 16 * HEADS[1] * 64);
        let batch = Self {
            q: zeros(row)?,
            out: zeros(row)?,
            k: zeros(cache)?,
            v: zeros(cache)?,
            table: zeros(24)?,
            lengths: zeros(8)?,
            device,
        };
        batch.table.write(&ids.map(i32::to_le_bytes).concat())?;
        batch.lengths.write(&LENGTHS.map(u32::to_le_bytes).concat())?;
        Ok(batch)
    }

    fn decode<T: Format>(&self, max_pages: usize) -> Result<Decode<'_, T, T>, Error> {
        let shape = CacheShape { pages: PAGES, page_size: 16, kv_heads: HEADS[1], head_dim: HeadDim::D64 };
        Decode::new(
            Query::new(&self.q, [2, HEADS[0], 64])?,
            KvCache::new(&self.k, &self.v, shape, CacheLayout::Nhd)?,
            BlockTable::with_stride(&self.table, 2, max_pages, 3)?,
            SeqLens::new(&self.lengths, 2)?,
            Output::new(&self.out, [2, HEADS[0], 64])?,
        )
    }

    fn plan(&self, heads: [usize; 2], lengths: &[u32]) -> Result<Plan, Error> {
        let geometry = Geometry::new(64, heads, 16, DType::Bf16, DType::Bf16)?;
        Plan::new(&geometry, lengths, self.device.properties(), &PlanOptions::default())
    }
}

const GOOD: [i32; 6] = [5, 0, 3, 1, 2, 2_147_480_000];

#[test]
fn page_ids_are_checked_before_a_checked_launch() -> Result<(), Error> {
    let launch = |ids| {
        let batch = Batch::new(ids)?;
        let plan = batch.plan(HEADS, &LENGTHS)?;
        let memory = batch.device.alloc(plan.workspace_bytes())?;
        let mut workspace = Workspace::new(&memory);
        let stream = batch.device.default_stream();
        batch.out.write(&vec![0xFF; batch.out.bytes()])?;
        let launched =
            plan.upload(&stream, &mut workspace)?.prepare(&batch.decode::<Bf16>(3)?)?.launch_checked(&stream);
        Ok::<_, Error>((launched, batch.out.read()?))
    };
    let (launched, out) = launch(GOOD)?;
    assert!(launched.is_ok() && out.iter().all(|&byte| byte == 0), "{launched:?}");
    let (launched, out) = launch([5, 0, 6, 1, -2, 0])?;
    let error = launched.expect_err("two bad ids");
    assert!(matches!(error, Error::PageId { sequence: 0, page: 2, id: 6, pages: 6 }), "{error}");
    assert!(out.iter().all(|&byte| byte == 0xFF), "nothing is launched");
    let error = launch([5, 0, 0, 1, -2, 0])?.0.expect_err("a bad id");
    assert_eq!(error.to_string(), "block_table[1][1] is -2; allowed: 0 to 5 (the cache has 6 pages)");
    Ok(())
}

#[test]
fn a_workspace_too_small_or_misaligned() -> Result<(), Error> {
    let batch = Batch::new(GOOD)?;
    let plan = batch.plan(HEADS, &LENGTHS)?;
    let needed = plan.workspace_bytes();
    let memory = batch.device.alloc(needed + 16)?;
    let whole = DeviceSpan::from(&memory);
    let stream = batch.device.default_stream();
    let mut small = Workspace::new(whole.slice(0, needed - 1)?);
    let error = plan.upload(&stream, &mut small).expect_err("one byte short");
    assert_eq!(error.to_string(), format!("workspace has {} bytes; the plan needs {needed}", needed - 1));
    let mut odd = Workspace::new(whole.slice(8, needed)?);
    let error = plan.upload(&stream, &mut odd).expect_err("not aligned");
    assert!(matches!(error, Error::Misaligned { field: "workspace", multiple: 16, .. }), "{error}");
    Ok(())
}

#[test]
fn a_request_that_is_not_the_planned_one() -> Result<(), Error> {
    let batch = Batch::new(GOOD)?;
    let stream = batch.device.default_stream();
    let refused = |heads, lengths: &[u32], max_pages: usize| -> Result<String, Error> {
        let plan = batch.plan(heads, lengths)?;
        let memory = batch.device.alloc(plan.workspace_bytes())?;
        let mut workspace = Workspace::new(&memory);
        let planned = plan.upload(&stream, &mut workspace)?;
        let prepared = planned.prepare(&batch.decode::<Bf16>(max_pages)?);
        Ok(prepared.err().map(|e| e.to_string()).unwrap_or_default())
    };
    assert_eq!(refused(HEADS, &LENGTHS, 3)?, "");
    assert_eq!(refused([8, 2], &LENGTHS, 3)?, "query heads is 4, but planned q_heads is 8; they must be equal");
    assert_eq!(refused(HEADS, &[40], 3)?, "query tokens is 2, but planned lengths is 1; they must be equal");
    assert_eq!(
        refused(HEADS, &LENGTHS, 2)?,
        "block_table has 2 pages a sequence; sequence 0 is planned for 40 tokens, which need 3 pages of 16"
    );
    let plan = batch.plan(HEADS, &LENGTHS)?;
    let memory = batch.device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let planned = plan.upload(&stream, &mut workspace)?;
    let error = planned.prepare(&batch.decode::<F16>(3)?).expect_err("another format");
    assert_eq!(error.to_string(), "query holds fp16, but the plan is for bf16; they must be equal");
    Ok(())
}

/// A request of two sequences and two query tokens, answered in `output`.
fn request<'a>(
    batch: &'a Batch,
    query_lens: QueryLens<'a>,
    output: impl Into<AnyOutput<'a>>,
) -> Result<Decode<'a, Bf16, Bf16>, Error> {
    let shape = CacheShape { pages: PAGES, page_size: 16, kv_heads: HEADS[1], head_dim: HeadDim::D64 };
    Decode::with_query_lens(
        Query::new(&batch.q, [2, HEADS[0], 64])?,
        query_lens,
        KvCache::new(&batch.k, &batch.v, shape, CacheLayout::Nhd)?,
        BlockTable::new(&batch.table, 2, 3)?,
        SeqLens::new(&batch.lengths, 2)?,
        output,
    )
}

fn drafts<'a>(batch: &'a Batch, query_lens: QueryLens<'a>) -> Result<Decode<'a, Bf16, Bf16>, Error> {
    request(batch, query_lens, Output::<Bf16>::new(&batch.out, [2, HEADS[0], 64])?)
}

#[test]
fn query_tokens_and_masks_other_than_planned() -> Result<(), Error> {
    let batch = Batch::new(GOOD)?;
    let stream = batch.device.default_stream();
    let geometry = *batch.decode::<Bf16>(3)?.geometry();
    let refused = |query_lens, mask, max_q_len, decode: &Decode<'_, Bf16, Bf16>| -> Result<String, Error> {
        let sequences = Sequences::from(&LENGTHS).query_lens(query_lens).mask(mask);
        let options = PlanOptions { max_q_len, ..PlanOptions::default() };
        let plan = Plan::new(&geometry, sequences, batch.device.properties(), &options)?;
        let memory = batch.device.alloc(plan.workspace_bytes())?;
        let mut workspace = Workspace::new(&memory);
        let planned = plan.upload(&stream, &mut workspace)?;
        Ok(planned.prepare(decode).err().map(|e| e.to_string()).unwrap_or_default())
    };
    let ragged = QueryLens::Ragged(&[0, 0, 2]);
    let (one, other) = (drafts(&batch, QueryLens::One)?, drafts(&batch, ragged)?);
    assert_eq!(refused(QueryLens::One, Mask::CAUSAL, None, &one)?, "");
    assert_eq!(refused(QueryLens::Uniform(1), Mask::CAUSAL, None, &one)?, "");
    assert_eq!(refused(QueryLens::Ragged(&[0, 1, 2]), Mask::CAUSAL, None, &one)?, "");
    assert_eq!(refused(ragged, Mask::CAUSAL, None, &other)?, "");
    let text = "sequence 0 has query tokens 0 to 0, but the plan is for 0 to 1; they must be equal";
    assert_eq!(refused(QueryLens::One, Mask::CAUSAL, None, &other)?, text);
    let text = "sequence 1 has query tokens 1 to 2, but the plan is for 1 to 3; they must be equal";
    assert_eq!(refused(QueryLens::Ragged(&[0, 1, 3]), Mask::CAUSAL, None, &one)?, text);
    let text = "the mask is all keys to the left and 0 to the right, but the plan is for 7 keys to the left and 0 to the \
                right; they must be equal";
    assert_eq!(refused(QueryLens::One, Mask::sliding_window(7), None, &one)?, text);
    assert_eq!(refused(QueryLens::One, Mask::sliding_window(7), None, &one.mask(Mask::sliding_window(7))?)?, "");
    // Rows of the tree have bits for 32 tokens: enough for this plan, not for later ones of its captured launches.
    let bits = batch.device.alloc(8)?;
    let tree = drafts(&batch, ragged)?.tree(TreeMask::new(&bits, 2, 2)?)?;
    assert_eq!(refused(ragged, Mask::CAUSAL, Some(32), &tree)?, "");
    let text = "tree bits a query token is 32; allowed: at least the most query tokens of a sequence";
    assert_eq!(refused(ragged, Mask::CAUSAL, Some(33), &tree)?, text);
    Ok(())
}

/// What a window leaves out is never read, so its pages may be anything.
#[test]
fn page_ids_before_a_window_are_not_looked_at() -> Result<(), Error> {
    let launch = |left: u32, moved: bool| {
        let batch = Batch::new([-1, 77, 3, 1, 2, 0])?;
        let mask = Mask::sliding_window(left);
        let geometry = *batch.decode::<Bf16>(3)?.geometry();
        let sequences = Sequences::from(&LENGTHS).mask(mask);
        let plan = Plan::new(&geometry, sequences, batch.device.properties(), &PlanOptions::default())?;
        let memory = batch.device.alloc(plan.workspace_bytes())?;
        let mut workspace = Workspace::new(&memory);
        let stream = batch.device.default_stream();
        let positions = batch.device.alloc(8)?;
        positions.write(&LENGTHS.map(|length| length - 1).map(u32::to_le_bytes).concat())?;
        let mut decode = batch.decode::<Bf16>(3)?.mask(mask)?;
        if moved {
            decode = decode.positions(Positions::new(&positions, 2)?)?;
        }
        let planned = plan.upload(&stream, &mut workspace)?;
        planned.prepare(&decode)?.launch_checked(&stream)
    };
    // Of 40 keys in pages of 16: key 39 and the 7 before it are the third page's.
    assert!(launch(7, false).is_ok());
    let error = launch(8, false).expect_err("key 31 is the second page's");
    assert!(matches!(error, Error::PageId { sequence: 0, page: 1, id: 77, .. }), "{error}");
    let error = launch(7, true).expect_err("positions may be anywhere");
    assert!(matches!(error, Error::PageId { sequence: 0, page: 0, id: -1, .. }), "{error}");
    Ok(())
}

#[test]
fn a_stream_of_another_device() -> Result<(), Error> {
    let batch = Batch::new(GOOD)?;
    let plan = batch.plan(HEADS, &LENGTHS)?;
    let memory = batch.device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let planned = plan.upload(&batch.device.default_stream(), &mut workspace)?;
    let mut prepared = planned.prepare(&batch.decode::<Bf16>(3)?)?;
    let other = Device::simulator_with(SimulatorOptions::default()).default_stream();
    assert!(matches!(prepared.launch(&other), Err(Error::OtherDevice { field: "stream", .. })));
    assert!(prepared.launch(&batch.device.default_stream()).is_ok());
    Ok(())
}

#[test]
fn another_stream_than_the_plan_s() -> Result<(), Error> {
    let batch = Batch::new(GOOD)?;
    let plan = batch.plan(HEADS, &LENGTHS)?;
    let memory = batch.device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let planned = plan.upload(&batch.device.default_stream(), &mut workspace)?;
    let mut prepared = planned.prepare(&batch.decode::<Bf16>(3)?)?;
    // SAFETY: 2 is the handle of the thread's own default stream.
    let other = unsafe { batch.device.stream(core::ptr::without_provenance_mut(2)) };
    assert!(matches!(prepared.launch(&other), Err(Error::OtherStream)));
    assert!(matches!(prepared.launch_checked(&other), Err(Error::OtherStream)));
    assert!(prepared.launch(&batch.device.default_stream()).is_ok());
    Ok(())
}

#[test]
fn what_is_written_over_what_is_read() -> Result<(), Error> {
    let batch = Batch::new(GOOD)?;
    let plan = batch.plan(HEADS, &LENGTHS)?;
    let memory = batch.device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let planned = plan.upload(&batch.device.default_stream(), &mut workspace)?;
    let decode = || batch.decode::<Bf16>(3);
    let refused = |decode: &Decode<'_, Bf16, Bf16>| planned.prepare(decode).err().map(|e| e.to_string());
    assert_eq!(refused(&decode()?), None);
    let shape = CacheShape { pages: PAGES, page_size: 16, kv_heads: HEADS[1], head_dim: HeadDim::D64 };
    let in_place = Decode::new(
        Query::<Bf16>::new(&batch.q, [2, HEADS[0], 64])?,
        KvCache::<Bf16>::new(&batch.k, &batch.v, shape, CacheLayout::Nhd)?,
        BlockTable::new(&batch.table, 2, 3)?,
        SeqLens::new(&batch.lengths, 2)?,
        Output::new(&batch.q, [2, HEADS[0], 64])?,
    )?;
    let words = "what is written shares no byte with anything else";
    assert_eq!(refused(&in_place), Some(format!("output and query overlap in device memory; {words}")));
    let lse = decode()?.lse(Lse::new(&batch.out, 2, HEADS[0])?)?;
    assert_eq!(refused(&lse), Some(format!("lse and output overlap in device memory; {words}")));
    let lse = decode()?.lse(Lse::new(&memory, 2, HEADS[0])?)?;
    assert_eq!(refused(&lse), Some(format!("workspace and lse overlap in device memory; {words}")));
    Ok(())
}

/// Whatever a request is given is memory that a launch reads.
#[test]
fn an_output_over_additions() -> Result<(), Error> {
    let batch = Batch::new(GOOD)?;
    let geometry = *batch.decode::<Bf16>(3)?.geometry();
    let everywhere = Sequences::from(&LENGTHS).everywhere();
    let plan = Plan::new(&geometry, everywhere, batch.device.properties(), &PlanOptions::default())?;
    let memory = batch.device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let planned = plan.upload(&batch.device.default_stream(), &mut workspace)?;
    let inside = |at, bytes| DeviceSpan::from(&batch.out).slice(at, bytes);
    let refused = |decode: Decode<'_, Bf16, Bf16>| planned.prepare(&decode).err().map(|e| e.to_string());
    let overlap = |with| {
        Some(format!("output and {with} overlap in device memory; what is written shares no byte with anything else"))
    };
    let decode = || batch.decode::<Bf16>(3);
    assert_eq!(refused(decode()?.sinks(Sinks::new(inside(16, 16)?, 4)?)?), overlap("sinks"));
    assert_eq!(refused(decode()?.alibi(AlibiSlopes::new(inside(32, 16)?, 4)?)?), overlap("alibi slopes"));
    assert_eq!(refused(decode()?.positions(Positions::new(inside(0, 8)?, 2)?)?), overlap("positions"));
    assert_eq!(refused(decode()?.spans(Spans::new(inside(0, 16)?, 2)?, true)?), overlap("spans"));
    assert_eq!(refused(decode()?.tree(TreeMask::new(inside(0, 8)?, 2, 1)?)?), overlap("tree"));
    let scale = TensorScale::on_device(inside(64, 4)?)?;
    let scaled = Output::<Fp8E4M3>::quantised(&batch.out, [2, HEADS[0], 64], scale)?;
    assert_eq!(refused(request(&batch, QueryLens::One, scaled)?), overlap("output scale"));
    // In f32 the same rows have twice the bytes.
    let (bytes, wide) = (4 * 2 * HEADS[0] * 64, batch.device.alloc(8192)?);
    let (out, lse) = (DeviceSpan::from(&wide).slice(0, bytes)?, DeviceSpan::from(&wide).slice(bytes - 32, 32)?);
    let output = Output::<F32>::new(out, [2, HEADS[0], 64])?;
    let lse = request(&batch, QueryLens::One, output)?.lse(Lse::new(lse, 2, HEADS[0])?)?;
    let text = "lse and output overlap in device memory; what is written shares no byte with anything else";
    assert_eq!(refused(lse).as_deref(), Some(text));
    Ok(())
}

/// Scales are memory of the request too: a launch reads them.
#[test]
fn an_output_over_scales() -> Result<(), Error> {
    let batch = Batch::new(GOOD)?;
    let geometry = Geometry::new(64, HEADS, 16, DType::Bf16, CacheDType::Fp8E4M3)?;
    let plan = Plan::new(&geometry, &LENGTHS, batch.device.properties(), &PlanOptions::default())?;
    let memory = batch.device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    let planned = plan.upload(&batch.device.default_stream(), &mut workspace)?;
    let rows = PAGES * 16 * HEADS[1];
    let scales = batch.device.alloc(8192)?;
    let part = |at, bytes| DeviceSpan::from(&scales).slice(at, bytes);
    let (k_scales, v_scales) = (part(0, 4 * rows)?, part(4096, 4 * rows)?);
    let prepare = |scales, output: DeviceSpan<'_>| {
        let shape = CacheShape { pages: PAGES, page_size: 16, kv_heads: HEADS[1], head_dim: HeadDim::D64 };
        let side = |buffer| DeviceSpan::from(buffer).slice(0, 64 * rows);
        let decode = Decode::new(
            Query::<Bf16>::new(&batch.q, [2, HEADS[0], 64])?,
            KvCache::<Fp8E4M3>::with_scales(side(&batch.k)?, side(&batch.v)?, shape, CacheLayout::Nhd, scales)?,
            BlockTable::new(&batch.table, 2, 3)?,
            SeqLens::new(&batch.lengths, 2)?,
            Output::new(output, [2, HEADS[0], 64])?,
        )?;
        Ok::<_, Error>(planned.prepare(&decode).err().map(|e| e.to_string()))
    };
    let out = DeviceSpan::from(&batch.out);
    let overlap = |with| {
        Some(format!("output and {with} overlap in device memory; what is written shares no byte with anything else"))
    };
    let (one, there) = (TensorScale::ONE, TensorScale::on_device(out.slice(16, 4)?)?);
    assert_eq!(prepare(Fp8Scales::per_tensor(one, one), out)?, None);
    assert_eq!(prepare(Fp8Scales::per_tensor(there, one), out)?, overlap("k scale"));
    assert_eq!(prepare(Fp8Scales::per_tensor(one, there), out)?, overlap("v scale"));
    let token_head = Fp8Scales::per_token_head(TokenScales::new(k_scales), TokenScales::new(v_scales));
    assert_eq!(prepare(token_head, out)?, None);
    let row = 2 * 2 * HEADS[0] * 64;
    assert_eq!(prepare(token_head, part(4 * rows - 16, row)?)?, overlap("k scales"));
    assert_eq!(prepare(token_head, part(4096, row)?)?, overlap("v scales"));
    Ok(())
}

#[test]
fn more_bytes_than_a_buffer_has() -> Result<(), Error> {
    let buffer = Device::simulator().alloc(8)?;
    assert!(matches!(buffer.write(&[0; 9]), Err(Error::BufferTooSmall { bytes: 8, needed: 9, .. })));
    Ok(())
}

#[cfg(feature = "cuda")]
#[test]
fn a_device_that_is_not_there() {
    match Device::cuda(u32::MAX) {
        // The loader's words, where there is no driver; else how many devices the driver has.
        Err(Error::NoDriver { reason }) => assert!(reason.contains("libcuda"), "{reason}"),
        Err(Error::NoDevice { ordinal, .. }) => assert!(ordinal == u32::MAX || ordinal == 0),
        other => panic!("{other:?}"),
    }
    // Without a usable GPU the simulator takes its place.
    assert!(Device::default_device().is_ok());
}
