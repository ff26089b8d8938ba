//! What a device refuses before it launches anything: a plan that does not fit its workspace or its request, page ids out
//! of range, and the devices that are not there. On a GPU where there is one, else on the simulator.
#![cfg(feature = "sim")]
use qkv::{
    Bf16, BlockTable, Buffer, CacheDType, CacheLayout, CacheShape, DType, Decode, Device, DeviceSpan, Error, F16,
    Format, Fp8E4M3, Fp8Scales, Geometry, HeadDim, KvCache, Lse, Output, Plan, PlanOptions, Query, SeqLens,
    SimulatorOptions, TensorScale, TokenScales, Workspace,
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
