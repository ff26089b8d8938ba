//! `qkv bench`: decode, prefill or append on a GPU, timed by the rule below, one JSON object a line.
//!
//! It is the rule of every figure that the project records, whichever library it is of.
//!
//! **Decode.** A case is captured in a CUDA graph that walks once over enough copies of its inputs to exceed the L2 cache
//! several times ([`COLD_BYTES`] of KV cache, at least 2 copies, at most 512), pages in random order, q, K and V drawn from
//! N(0, 1). A case that reads little of its cache has as many block tables, over fewer copies of the cache, with other
//! pages where it reads. Narrow caches are written by the append kernel, with queries in bf16. The figure is the median
//! of 11 replays over the number of calls; a call is what the plan for these lengths launches: decode, and the merge of
//! its splits; of a shared prefix both passes and their merge. Planning and uploads are outside. `err` is the largest
//! error of sampled rows of the timed output against the CPU, relative to the largest |output|.
//!
//! **Prefill** is the same but for the copies: its time goes into products, so that one set of inputs is called on 10 times
//! a graph, or twice where a sequence has more than 2048 tokens, and replayed 7 times, or 3 above 8192 tokens. All tokens of
//! each sequence are queries, or its last ones; `tflops` counts 4 D for each pair of a query row and a key, of a token's own
//! square of keys half where attention is causal.
//!
//! Drawing gigabytes would take longer than timing: 32 Mi numbers are drawn once, and each side of each copy is a walk
//! over them from a random start. Every element is N(0, 1); what repeats is 64 MiB apart.
pub mod append;
pub mod cases;
pub mod check;
pub mod inputs;
pub mod lines;
pub mod narrow;
pub mod ragged;
pub mod sizes;
pub mod stored;
pub mod timing;

use super::report::{self, run::Run};
use super::{CliError, DeviceChoice, Outcome, say};
use crate::{Bf16, Device, Error, F16, Format, Fp8E4M3, Fp8E5M2, NvFp4, QueryDType};
use cases::{Case, Cases, Kind};
use indicatif::{ProgressBar, ProgressStyle};
use inputs::Normals;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stored::{Timed, TimedQuery};

/// KV cache that a graph walks over, at least: several times the largest L2 (50 MB on H100, 60 on H200).
pub const COLD_BYTES: usize = 400 << 20;

/// An error above this, relative to the largest |output|, is no rounding any more: the case's time does not count.
const LARGEST_ERROR: f64 = 0.02;

/// Arguments of `qkv bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Cases: models, loads and cache formats, as JSON
    #[arg(long)]
    pub cases: PathBuf,
    /// What to time
    #[arg(long, value_enum, value_delimiter = ',', default_value = "decode")]
    pub kind: Vec<KindChoice>,
    /// Cache formats instead of the file's; instead of bf16 in prefill
    #[arg(long, value_delimiter = ',')]
    pub kv: Vec<String>,
    /// Format of queries: e4m3, with a cache of it (--kv e4m3); bf16, or with an f16 cache f16, without
    #[arg(long, value_parser = narrow::queries)]
    pub q: Option<QueryDType>,
    /// Only these models of the file
    #[arg(long, value_delimiter = ',')]
    pub models: Vec<String>,
    /// Loads instead of the file's, as 1x32768,64x4096: sequences, and tokens of each
    #[arg(long, value_delimiter = ',', value_parser = cases::load)]
    pub loads: Vec<[usize; 2]>,
    /// Tokens a page instead of the file's, a power of two from 1 to 1024
    #[arg(long, value_parser = super::page_size)]
    pub page: Option<usize>,
    /// Lets a sequence's pages follow one another in memory; in random order without
    #[arg(long)]
    pub contiguous: bool,
    /// Of decode: query tokens a sequence, the last of its tokens, as drafts are
    #[arg(long, default_value_t = 1)]
    pub q_len: usize,
    /// Of prefill: so many last tokens of each sequence are queries, as of a prompt that comes in chunks; all without
    #[arg(long)]
    pub chunk: Option<usize>,
    /// A sliding window: keys before its own that a query token sees
    #[arg(long)]
    pub window: Option<u32>,
    /// Of decode: tokens, whole pages, that all sequences have in the same pages before those of the load. Each is timed twice:
    /// planned as any batch, and reading these once for all
    #[arg(long, conflicts_with = "window")]
    pub shared_prefix: Option<usize>,
    /// Times appends of this many tokens instead of decodes
    #[arg(long, conflicts_with_all = ["kind", "loads", "q", "q_len", "chunk", "window", "shared_prefix", "contiguous"])]
    pub append: Option<usize>,
    /// Of decode: this many sequences (128 if no number follows) of lengths that differ as a server's do, 1 to 131072 tokens and
    /// most of them short, instead of the file's loads
    #[arg(long, num_args = 0..=1, default_missing_value = "128", value_name = "SEQUENCES")]
    #[arg(conflicts_with_all = ["loads", "shared_prefix", "append"])]
    pub ragged: Option<usize>,
    /// Begin no case after this many seconds
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Where to run; timing the simulator would mean nothing
    #[arg(long, value_enum, default_value_t = DeviceChoice::Cuda)]
    pub device: DeviceChoice,
    /// Also a figure and a page of all lines in this folder: roofline.svg, roofline.png, index.html
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub uses: report::Uses,
}

/// Kinds that `--kind` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum KindChoice {
    /// Few query tokens a sequence
    Decode,
    /// All tokens of each sequence as queries
    Prefill,
}

/// Why a case has no time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The library's error.
    #[error(transparent)]
    Library(#[from] Error),
    /// No cache format.
    #[error("cache format {format} (allowed: bf16, f16, e4m3, e5m2, nvfp4)")]
    CacheFormat {
        /// The format.
        format: String,
    },
    /// An infinity or a NaN in the timed output.
    #[error("the timed output has {value} at element {index}")]
    NotFinite {
        /// Where.
        index: usize,
        /// What.
        value: f32,
    },
    /// Not begun in time.
    #[error("not begun within --seconds {seconds}")]
    OutOfTime {
        /// The limit.
        seconds: u64,
    },
    /// Batch or length out of range.
    #[error("{batch} sequences of {tokens} tokens; allowed: at least 1 of at least 1, in less than 2^31 pages")]
    Load {
        /// Sequences.
        batch: usize,
        /// Tokens each.
        tokens: usize,
    },
    /// More query tokens than tokens, or none.
    #[error("{q_len} query tokens a sequence; allowed: 1 to the load's {tokens} tokens")]
    QueryTokens {
        /// Query tokens.
        q_len: usize,
        /// Tokens.
        tokens: usize,
    },
    /// A shared prefix with a part of a page.
    #[error("a shared prefix of {prefix} tokens; allowed: multiples of the page's {page_size}")]
    Prefix {
        /// Its tokens.
        prefix: usize,
        /// Tokens a page.
        page_size: usize,
    },
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Microseconds a call.
    pub us: f64,
    /// Largest error of the sampled rows.
    pub err: f64,
    /// What is read and written at least: of a decode K and V, each byte once; `None` for a prefill, whose work is operations.
    pub bytes: Option<usize>,
}

/// Runs the benchmark.
///
/// # Errors
/// No GPU, a file that is none, an unknown model, a report that cannot be written. A case that cannot run is a line.
pub fn run(options: &Options) -> Result<Outcome, CliError> {
    let cases = lines::asked(&Cases::read(&options.cases)?, options)?;
    let mut files = options.uses.read()?;
    let ceilings = report::run::first_of_each(options.uses.ceiling.iter().chain(&files.peers.ceilings));
    if let Some(record) = &mut files.record {
        lines::narrow(record, options);
        lines::comparable(record, &ceilings)?;
    }
    let device = options.device.open()?;
    if device.is_simulator() {
        let (value, allowed) = ("sim".into(), "cuda: times of the simulator would mean nothing".into());
        return Err(CliError::Argument { option: "device", value, allowed });
    }
    let mut printed = vec![json!({ "kind": "machine", "name": device.properties().name })];
    printed.extend(ceilings.iter().map(|(name, rate)| lines::ceiling(name, *rate)));
    printed.iter().for_each(|line| say(format_args!("{line}")));
    let worst = timed(&device, &cases, options.seconds, &mut printed);
    let ours = Run::of_lines(printed).map_err(|reason| CliError::Run { path: "standard output".into(), reason })?;
    if let Some(dir) = &options.report {
        report::write(dir, &ours, &files.peers)?;
    }
    Ok(worst.max(files.judge(&ours)))
}

/// Times the cases, and prints a line of each.
fn timed(device: &Device, cases: &[Case], seconds: Option<u64>, printed: &mut Vec<Value>) -> Outcome {
    let begin = Instant::now();
    let bar = progress(cases.len());
    bar.set_message("drawing numbers");
    let normals = Normals::draw(inputs::POOL);
    let mut worst = Outcome::Ok;
    for case in cases {
        bar.set_message(case.to_string());
        let seconds = seconds.unwrap_or(u64::MAX);
        let done = if begin.elapsed() > Duration::from_secs(seconds) {
            Err(BenchError::OutOfTime { seconds })
        } else {
            measure(device, case, &normals)
        };
        let line = lines::line(case, &done);
        bar.suspend(|| say(format_args!("{line}")));
        bar.inc(1);
        printed.push(line);
        worst = worst.max(match done {
            Ok(measured) if measured.err < narrow::largest_error(case) => Outcome::Ok,
            Err(BenchError::CacheFormat { .. } | BenchError::Library(Error::Unsupported(_))) => Outcome::Unsupported,
            Ok(_) | Err(_) => Outcome::Failed,
        });
    }
    bar.finish_and_clear();
    worst
}

fn measure(device: &Device, case: &Case, normals: &Normals) -> Result<Measured, BenchError> {
    if case.asked.narrow {
        return narrow::measure(device, case, normals);
    }
    match case.kv.as_str() {
        "bf16" => one::<Bf16, Bf16>(device, case, normals),
        "f16" => one::<F16, F16>(device, case, normals),
        "e4m3" => one::<Bf16, Fp8E4M3>(device, case, normals),
        "e5m2" => one::<Bf16, Fp8E5M2>(device, case, normals),
        "nvfp4" => one::<Bf16, NvFp4>(device, case, normals),
        _ => Err(BenchError::CacheFormat { format: case.kv.clone() }),
    }
}

fn one<T: TimedQuery<T> + Format, K: Timed<T>>(
    device: &Device,
    case: &Case,
    normals: &Normals,
) -> Result<Measured, BenchError> {
    match case.kind {
        Kind::Append => append::measure::<T, K>(device, case, normals),
        Kind::Decode | Kind::Prefill => timing::measure::<T, K, T>(device, case, normals),
    }
}

fn progress(cases: usize) -> ProgressBar {
    let bar = ProgressBar::new(cases as u64);
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} [{bar:20}] {elapsed} {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
