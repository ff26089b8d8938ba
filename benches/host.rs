//! What the library costs a server's CPU: planning a step, choosing a kernel, preparing a layer, launching it.
//!
//! `cargo bench --bench host` (a filter may follow, as `plan`). Without a GPU: launches go to the stand-in for libcuda of
//! `tests/driver.rs`, silent, which does next to nothing, so that what is measured is the library's part of a launch. The
//! program starts itself again with the stand-in where the loader looks first.
use divan::{Bencher, black_box};
use qkv::{
    Arch, Bf16, BlockTable, Buffer, CacheLayout, CacheShape, DType, Decode, Device, Error, Family, Geometry, HeadDim,
    KvCache, Output, Plan, PlanOptions, Properties, Query, SeqLens, Stream, Variant, Workspace, support,
};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Says that this process was started with the stand-in.
const STARTED: &str = "QKV_BENCH_STAND_IN";

/// llama3-8b's query and KV heads.
const HEADS: [usize; 2] = [32, 8];

fn main() -> ExitCode {
    if std::env::var_os(STARTED).is_some() {
        divan::main();
        return ExitCode::SUCCESS;
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-driver");
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-DSILENT", "-o"]).arg(folder.join("libcuda.so.1"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/driver/libcuda.c");
    assert!(cc.arg(source).status().expect("a C compiler").success());
    let mut again = Command::new(std::env::current_exe().expect("this program"));
    again.args(std::env::args_os().skip(1)).env(STARTED, "1");
    let error = again.env("LD_LIBRARY_PATH", folder).env("FAKE_DEVICE", "hopper").exec();
    panic!("the program does not start again: {error}");
}

fn h100() -> Properties {
    Properties {
        name: "bench".into(),
        arch: Arch::HOPPER,
        multiprocessors: 132,
        shared_per_multiprocessor: 228 << 10,
        shared_per_block: 227 << 10,
        families: Family::ALL.to_vec(),
        clusters: [66, 30, 15, 7],
    }
}

fn geometry() -> Geometry {
    Geometry::new(128, HEADS, 16, DType::Bf16, DType::Bf16).expect("llama3-8b's")
}

fn plan(bencher: Bencher<'_, '_>, lengths: &[u32]) {
    let (geometry, properties, options) = (geometry(), h100(), PlanOptions::default());
    bencher.bench(|| Plan::new(&geometry, black_box(lengths), &properties, &options));
}

/// Sequences of one length.
#[divan::bench(args = [1, 128, 1024])]
fn plan_even(bencher: Bencher<'_, '_>, sequences: usize) {
    plan(bencher, &vec![2048; sequences]);
}

/// Sequences of 1 to 131072 tokens, short ones more often: every length is another.
#[divan::bench(args = [1, 128, 1024])]
fn plan_ragged(bencher: Bencher<'_, '_>, sequences: usize) {
    let length = |index: usize| 2_f64.powf(17.0 * (index * 619 % 1024) as f64 / 1024.0) as u32;
    plan(bencher, &(0..sequences).map(length).collect::<Vec<_>>());
}

#[divan::bench]
fn select(bencher: Bencher<'_, '_>) {
    let group = HEADS[0] / HEADS[1];
    bencher.bench(|| {
        let [q, kv] = black_box([DType::Bf16, DType::Bf16]);
        support(Arch::HOPPER, black_box(128), q, kv, 16, group, Variant::PLAIN)
    });
}

/// A batch of sequences of 4096 tokens, and where its parts are.
struct Batch {
    device: Device,
    stream: Stream,
    plan: Plan,
    /// Plenty for any of the views: nothing is read.
    memory: [Buffer; 3],
    scratch: Buffer,
    sequences: usize,
}

impl Batch {
    fn new(sequences: usize) -> Result<Self, Error> {
        let device = Device::cuda(0)?;
        let lengths = vec![4096; sequences];
        let plan = Plan::new(&geometry(), &lengths, device.properties(), &PlanOptions::default())?;
        let memory = [device.alloc(64 << 20)?, device.alloc(64 << 20)?, device.alloc(64 << 20)?];
        let (stream, scratch) = (device.new_stream()?, device.alloc(plan.workspace_bytes())?);
        Ok(Self { device, stream, plan, memory, scratch, sequences })
    }

    fn request(&self) -> Result<Decode<'_, Bf16, Bf16>, Error> {
        let ([cache, inputs, out], sequences) = (&self.memory, self.sequences);
        let shape = CacheShape { pages: 1024, page_size: 16, kv_heads: HEADS[1], head_dim: HeadDim::D128 };
        Decode::new(
            Query::new(inputs, [sequences, HEADS[0], 128])?,
            KvCache::new(cache, cache, shape, CacheLayout::Nhd)?,
            BlockTable::new(inputs, sequences, 256)?,
            SeqLens::new(inputs, sequences)?,
            Output::new(out, [sequences, HEADS[0], 128])?,
        )
    }
}

/// A layer's request made and checked against the plan.
#[divan::bench(args = [1, 128])]
fn prepare(bencher: Bencher<'_, '_>, sequences: usize) {
    let batch = Batch::new(sequences).expect("the stand-in's device");
    let mut workspace = Workspace::new(&batch.scratch);
    let planned = batch.plan.upload(&batch.stream, &mut workspace).expect("an upload");
    bencher.bench_local(|| {
        let request = batch.request().expect("a request");
        black_box(planned.prepare(&request).expect("prepared"));
    });
}

/// A launch: of one sequence two kernels, as its keys are cut, of 128 one.
#[divan::bench(args = [1, 128])]
fn launch(bencher: Bencher<'_, '_>, sequences: usize) {
    let batch = Batch::new(sequences).expect("the stand-in's device");
    let mut workspace = Workspace::new(&batch.scratch);
    let planned = batch.plan.upload(&batch.stream, &mut workspace).expect("an upload");
    let request = batch.request().expect("a request");
    let mut prepared = planned.prepare(&request).expect("prepared");
    prepared.launch(&batch.stream).expect("the kernels are loaded");
    bencher.bench_local(|| prepared.launch(&batch.stream).expect("a launch"));
    batch.device.default_stream().synchronize().expect("nothing runs");
}
