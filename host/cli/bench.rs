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
pub mod narrow;
pub mod sizes;
pub mod stored;
pub mod timing;

use super::{CliError, DeviceChoice, Outcome, say};
use crate::{Bf16, Device, Error, F16, Format, Fp8E4M3, Fp8E5M2, NvFp4, QueryDType};
use cases::{Asked, Case, Cases, Kind, Narrowed};
use indicatif::{ProgressBar, ProgressStyle};
use inputs::Normals;
use serde_json::json;
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
    /// Begin no case after this many seconds
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Where to run; timing the simulator would mean nothing
    #[arg(long, value_enum, default_value_t = DeviceChoice::Cuda)]
    pub device: DeviceChoice,
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
    /// Bytes read and written a nanosecond, of an append.
    pub gbps: Option<f64>,
}

/// Runs the benchmark.
///
/// # Errors
/// No GPU, a file of cases that is none, an unknown model. A case that cannot run is a line.
pub fn run(options: &Options) -> Result<Outcome, CliError> {
    let cases = asked(&Cases::read(&options.cases)?, options)?;
    let device = options.device.open()?;
    if device.is_simulator() {
        let (value, allowed) = ("sim".into(), "cuda: times of the simulator would mean nothing".into());
        return Err(CliError::Argument { option: "device", value, allowed });
    }
    let begin = Instant::now();
    let bar = progress(cases.len());
    let normals = Normals::draw(inputs::POOL);
    let mut worst = Outcome::Ok;
    for case in &cases {
        bar.set_message(case.to_string());
        let seconds = options.seconds.unwrap_or(u64::MAX);
        let done = if begin.elapsed() > Duration::from_secs(seconds) {
            Err(BenchError::OutOfTime { seconds })
        } else {
            measure(&device, case, &normals)
        };
        let line = line(case, &done);
        bar.suspend(|| say(format_args!("{line}")));
        bar.inc(1);
        worst = worst.max(match done {
            Ok(measured) if measured.err < narrow::largest_error(case) => Outcome::Ok,
            Err(BenchError::CacheFormat { .. } | BenchError::Library(Error::Unsupported(_))) => Outcome::Unsupported,
            Ok(_) | Err(_) => Outcome::Failed,
        });
    }
    bar.finish_and_clear();
    Ok(worst)
}

/// The cases that the options ask for: kind by kind, with and without sharing where there is a prefix.
fn asked(file: &Cases, options: &Options) -> Result<Vec<Case>, CliError> {
    let Options { models, loads, kv, page, .. } = options;
    let narrowed = Narrowed { models, loads, kv, page: *page };
    let has = |kind| options.kind.contains(&kind);
    // What one kind alone is asked for would be left out of the other in silence.
    let alone = |option, value: &dyn core::fmt::Display, kind: &str| {
        let allowed = format!("with --kind {kind} alone");
        Err(CliError::Argument { option, value: value.to_string(), allowed })
    };
    match (options.shared_prefix, options.chunk) {
        (Some(prefix), _) if has(KindChoice::Prefill) => return alone("shared-prefix", &prefix, "decode"),
        (_, Some(chunk)) if has(KindChoice::Decode) => return alone("chunk", &chunk, "prefill"),
        _ if options.q_len != 1 && has(KindChoice::Prefill) => return alone("q-len", &options.q_len, "decode"),
        _ => {}
    }
    let mut cases = Vec::new();
    if has(KindChoice::Decode) {
        let prefix = options.shared_prefix.unwrap_or(0);
        let shared: &[bool] = if prefix > 0 { &[false, true] } else { &[false] };
        for case in file.decode_cases(narrowed)? {
            let asked = Asked { q_len: options.q_len, prefix, ..case.asked };
            cases.extend(shared.iter().map(|&shared| Case { asked: Asked { shared, ..asked }, ..case.clone() }));
        }
    }
    if has(KindChoice::Prefill) {
        cases.extend(file.prefill_cases(narrowed, options.chunk)?);
    }
    for case in &mut cases {
        (case.asked.window, case.asked.contiguous) = (options.window, options.contiguous);
        case.asked.narrow = options.q.is_some();
    }
    if let Some(tokens) = options.append {
        // One case a model and format: loads are decode's.
        cases.iter_mut().for_each(|case| (case.kind, case.batch, case.tokens) = (Kind::Append, 1, tokens));
        let mut seen = std::collections::HashSet::new();
        cases.retain(|case| seen.insert(case.clone()));
    }
    Ok(cases)
}

/// A case's line.
fn line(case: &Case, done: &Result<Measured, BenchError>) -> serde_json::Value {
    let Case { kind, model, batch, tokens, kv, page_size, asked, .. } = case;
    let Asked { q_len, causal, window, prefix, shared, contiguous, narrow } = *asked;
    let mut line = json!({ "kind": kind.name(), "name": "qkv", "model": model, "b": batch, "s": tokens });
    if *kind == Kind::Prefill {
        line["causal"] = json!(causal);
    }
    line["kv"] = json!(kv);
    if narrow {
        line["q"] = json!("e4m3");
    }
    if q_len != if *kind == Kind::Prefill { *tokens } else { 1 } {
        line["q_len"] = json!(q_len);
    }
    if let Some(left) = window {
        line["window_left"] = json!(left);
    }
    if prefix > 0 {
        (line["prefix"], line["shared"]) = (json!(prefix), json!(shared));
    }
    line["page"] = json!(page_size);
    if contiguous {
        line["contiguous"] = json!(true);
    }
    match done {
        Ok(Measured { us, err, gbps }) => {
            (line["us"], line["err"]) = (json!(us), json!(err));
            if let Some(gbps) = gbps {
                line["gbps"] = json!(gbps);
            }
            if *kind == Kind::Prefill {
                line["tflops"] = json!(case.flops() / us / 1e6);
            }
        }
        Err(error) => (line["kind"], line["error"]) = (json!("error"), json!(error.to_string())),
    }
    line
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
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} [{bar:20}] {msg} {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }

    fn parsed(arguments: &str) -> Options {
        let arguments = ["bench", "--cases", "FILE"].into_iter().chain(arguments.split_whitespace());
        Arguments::try_parse_from(arguments).expect("arguments").options
    }

    fn lines(arguments: &str) -> Result<Vec<serde_json::Value>, String> {
        let file = r#"{"models": {"m": {"d": 64, "hq": 8, "hkv": 1}},
            "decode": {"page": 16, "loads": [[1, 1024]], "kv": ["bf16", "e4m3"]},
            "prefill": {"page": 16, "loads": [[2, 4096]], "causal": [true, false]}}"#;
        let cases = asked(&Cases::parse(file.as_bytes()).expect("a file of cases"), &parsed(arguments));
        let done = Ok(Measured { us: 1000.0, err: 1e-3, gbps: None });
        cases.map(|cases| cases.iter().map(|case| line(case, &done)).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn decode_is_the_kind_where_none_is_named() {
        let lines = lines("").expect("cases");
        assert_eq!(lines.len(), 2);
        let first = json!({ "kind": "decode", "name": "qkv", "model": "m", "b": 1, "s": 1024, "kv": "bf16", "page": 16,
            "us": 1000.0, "err": 1e-3 });
        assert_eq!(lines[0], first);
    }

    #[test]
    fn both_kinds_of_one_command() {
        let lines = lines("--kind decode,prefill --kv bf16").expect("cases");
        assert_eq!(lines.len(), 3);
        let last = json!({ "kind": "prefill", "name": "qkv", "model": "m", "b": 2, "s": 4096, "causal": false, "kv": "bf16",
            "page": 16, "us": 1000.0, "err": 1e-3, "tflops": 4.0 * 2.0 * 8.0 * 4096.0 * 4096.0 * 64.0 / 1e9 });
        assert_eq!(lines[2], last);
        assert_eq!(lines[1]["tflops"].as_f64().map(|half| 2.0 * half), last["tflops"].as_f64());
    }

    #[test]
    fn what_is_asked_for_besides_is_in_the_line() {
        let asked = "--kind prefill --loads 1x64 --kv nvfp4 --page 64 --contiguous --chunk 16 --window 7";
        let lines = lines(asked).expect("cases");
        let wanted =
            [("q_len", json!(16)), ("page", json!(64)), ("contiguous", json!(true)), ("window_left", json!(7))];
        for (key, value) in wanted.into_iter().chain([("kv", json!("nvfp4")), ("s", json!(64))]) {
            assert_eq!(lines[0][key], value, "{key}");
        }
        let line = &self::lines("--kind prefill --kv e4m3 --q e4m3").expect("cases")[0];
        assert_eq!((&line["kv"], &line["q"]), (&json!("e4m3"), &json!("e4m3")));
        assert!(Arguments::try_parse_from(["bench", "--cases", "FILE", "--q", "bf16"]).is_err());
    }

    #[test]
    fn what_one_kind_alone_has_is_refused_of_the_other() {
        for (arguments, said) in [
            ("--chunk 16", "--chunk is 16; allowed: with --kind prefill alone"),
            ("--kind prefill,decode --chunk 16", "--chunk is 16; allowed: with --kind prefill alone"),
            ("--kind prefill --q-len 2", "--q-len is 2; allowed: with --kind decode alone"),
            ("--kind prefill --shared-prefix 32", "--shared-prefix is 32; allowed: with --kind decode alone"),
        ] {
            assert_eq!(lines(arguments).expect_err(arguments), said);
        }
        let appended = lines("--append 100").expect("cases");
        assert!(appended.len() == 2 && appended.iter().all(|line| line["kind"] == "append" && line["s"] == 100));
    }
}
