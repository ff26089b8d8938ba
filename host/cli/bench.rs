//! `qkv bench`: decode or append on a GPU, timed by the rule below, one JSON object a line.
//!
//! It is the rule of every figure that the project records, whichever library it is of.
//!
//! A case is captured in a CUDA graph that walks once over enough copies of its inputs to exceed the L2 cache several
//! times ([`COLD_BYTES`] of KV cache, at least 2 copies, at most 512), pages in random order, q, K and V drawn from
//! N(0, 1). A case that reads little of its cache has as many block tables, over fewer copies of the cache, with other
//! pages where it reads. Narrow caches are written by the append kernel, with queries in bf16. The figure is the median
//! of 11 replays over the number of calls; a call is what the plan for these lengths launches: decode, and the merge of
//! its splits; of a shared prefix both passes and their merge. Planning and uploads are outside. `err` is the largest
//! error of sampled rows of the timed output against the CPU, relative to the largest |output|.
//!
//! Drawing gigabytes would take longer than timing: 32 Mi numbers are drawn once, and each side of each copy is a walk
//! over them from a random start. Every element is N(0, 1); what repeats is 64 MiB apart.
pub mod append;
pub mod cases;
pub mod check;
pub mod inputs;
pub mod sizes;
pub mod stored;
pub mod timing;

use super::{CliError, DeviceChoice, Outcome, say};
use crate::{Bf16, Device, Error, F16, Format, Fp8E4M3, Fp8E5M2, NvFp4};
use cases::{Asked, Cases, DecodeCase};
use indicatif::{ProgressBar, ProgressStyle};
use inputs::Normals;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use stored::Timed;

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
    /// Cache formats instead of the file's
    #[arg(long, value_delimiter = ',')]
    pub kv: Vec<String>,
    /// Only these models of the file
    #[arg(long, value_delimiter = ',')]
    pub models: Vec<String>,
    /// Loads instead of the file's, as 1x32768,64x4096: sequences, and tokens of each
    #[arg(long, value_delimiter = ',', value_parser = cases::load)]
    pub loads: Vec<[usize; 2]>,
    /// Query tokens a sequence: the last of its tokens, as drafts are
    #[arg(long, default_value_t = 1)]
    pub q_len: usize,
    /// A sliding window: keys before its own that a query token sees
    #[arg(long)]
    pub window: Option<u32>,
    /// Tokens, whole pages, that all sequences have in the same pages before those of the load. Each case is timed twice:
    /// planned as any batch, and reading these once for all
    #[arg(long, conflicts_with = "window")]
    pub shared_prefix: Option<usize>,
    /// Times appends of this many tokens instead of decodes
    #[arg(long, conflicts_with_all = ["loads", "q_len", "window", "shared_prefix"])]
    pub append: Option<usize>,
    /// Begin no case after this many seconds
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Where to run; timing the simulator would mean nothing
    #[arg(long, value_enum, default_value_t = DeviceChoice::Cuda)]
    pub device: DeviceChoice,
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
    /// Bytes read and written a nanosecond, of an append.
    pub gbps: Option<f64>,
}

/// Runs the benchmark.
///
/// # Errors
/// No GPU, a file of cases that is none, an unknown model. A case that cannot run is a line.
pub fn run(options: &Options) -> Result<Outcome, CliError> {
    let cases = Cases::read(&options.cases)?.decode_cases(&options.models, &options.loads, &options.kv)?;
    let mut cases: Vec<DecodeCase> = cases.into_iter().flat_map(|case| asked(case, options)).collect();
    if let Some(tokens) = options.append {
        // One case a model and format: loads are decode's.
        cases.iter_mut().for_each(|case| (case.batch, case.tokens) = (1, tokens));
        let mut seen = std::collections::HashSet::new();
        cases.retain(|case| seen.insert(case.clone()));
    }
    let device = options.device.open()?;
    if device.is_simulator() {
        let (value, allowed) = ("sim".into(), "cuda: times of the simulator would mean nothing".into());
        return Err(CliError::Argument { option: "device", value, allowed });
    }
    let begin = Instant::now();
    let bar = progress(cases.len());
    let normals = Normals::draw(inputs::POOL);
    let kind = if options.append.is_some() { "append" } else { "decode" };
    let mut worst = Outcome::Ok;
    for case in &cases {
        bar.set_message(case.to_string());
        let seconds = options.seconds.unwrap_or(u64::MAX);
        let done = if begin.elapsed() > Duration::from_secs(seconds) {
            Err(BenchError::OutOfTime { seconds })
        } else {
            measure(&device, case, &normals, options.append.is_some())
        };
        let DecodeCase { model, batch, tokens, kv, .. } = case;
        let mut line = json!({ "kind": kind, "name": "qkv", "model": model, "b": batch, "s": tokens, "kv": kv });
        describe(&mut line, case.asked);
        match &done {
            Ok(Measured { us, err, gbps }) => {
                (line["us"], line["err"]) = (json!(us), json!(err));
                if let Some(gbps) = gbps {
                    line["gbps"] = json!(gbps);
                }
            }
            Err(error) => (line["kind"], line["error"]) = (json!("error"), json!(error.to_string())),
        }
        bar.suspend(|| say(format_args!("{line}")));
        bar.inc(1);
        worst = worst.max(match done {
            Ok(measured) if measured.err < LARGEST_ERROR => Outcome::Ok,
            Err(BenchError::CacheFormat { .. }) => Outcome::Unsupported,
            Ok(_) | Err(_) => Outcome::Failed,
        });
    }
    bar.finish_and_clear();
    Ok(worst)
}

/// A case with what the options ask for; with and without sharing where there is a prefix.
fn asked(case: DecodeCase, options: &Options) -> Vec<DecodeCase> {
    let prefix = options.shared_prefix.unwrap_or(0);
    let asked = Asked { q_len: options.q_len, window: options.window, prefix, shared: false };
    let ways = if prefix > 0 { vec![false, true] } else { vec![false] };
    ways.into_iter().map(|shared| DecodeCase { asked: Asked { shared, ..asked }, ..case.clone() }).collect()
}

/// What a case asks for besides, in its line.
fn describe(line: &mut serde_json::Value, asked: Asked) {
    let Asked { q_len, window, prefix, shared } = asked;
    if q_len != 1 {
        line["q_len"] = json!(q_len);
    }
    if let Some(left) = window {
        line["window_left"] = json!(left);
    }
    if prefix > 0 {
        (line["prefix"], line["shared"]) = (json!(prefix), json!(shared));
    }
}

fn measure(device: &Device, case: &DecodeCase, normals: &Normals, append: bool) -> Result<Measured, BenchError> {
    match case.kv.as_str() {
        "bf16" => one::<Bf16, Bf16>(device, case, normals, append),
        "f16" => one::<F16, F16>(device, case, normals, append),
        "e4m3" => one::<Bf16, Fp8E4M3>(device, case, normals, append),
        "e5m2" => one::<Bf16, Fp8E5M2>(device, case, normals, append),
        "nvfp4" => one::<Bf16, NvFp4>(device, case, normals, append),
        _ => Err(BenchError::CacheFormat { format: case.kv.clone() }),
    }
}

fn one<T: Format, K: Timed<T>>(
    device: &Device,
    case: &DecodeCase,
    normals: &Normals,
    append: bool,
) -> Result<Measured, BenchError> {
    if append { append::measure::<T, K>(device, case, normals) } else { timing::measure::<T, K>(device, case, normals) }
}

fn progress(cases: usize) -> ProgressBar {
    let bar = ProgressBar::new(cases as u64);
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} [{bar:20}] {msg} {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
