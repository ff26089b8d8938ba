//! `qkv demo`: recorded activations through the kernels, two lines a file: some positions decoded, and all of them by one
//! prefill (on the simulator the last `SIMULATED`, where there are more).
//!
//! Each line is a [`Trial`]; what no kernel does yet is `UNSUPPORTED`, told by the same [`support`] that plans ask.
use super::{CliError, DeviceChoice, Outcome, say};
use crate::testing::golden::{Golden, Need};
use crate::testing::trial::{Pass, Quantised, Trial, Verdict, WAYS};
use crate::{CacheDType, DType, Device, Variant, support};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of `qkv demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Golden files (safetensors); without any, those of tests/golden
    pub files: Vec<PathBuf>,
    /// Tokens a page, a power of two from 1 to 1024
    #[arg(long, default_value_t = 16, value_parser = super::page_size)]
    pub page: usize,
    /// Format of the cache: auto (the file's own), bf16, fp16, fp8_e4m3 (or fp8), fp8_e5m2, nvfp4. A narrow cache is filled
    /// by the library's append, and `ok` bounds what attention adds to the error of quantising
    #[arg(long, default_value = "auto", value_parser = cache)]
    pub cache: String,
    /// Where to run
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
    /// Seed of the pages' order
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `--cache`, refused before anything is read where no cache has such a name. What "auto" is, each file says.
fn cache(name: &str) -> Result<String, crate::Error> {
    CacheDType::named(name, DType::Bf16).map(|_| name.into())
}

/// Positions of a file that the simulator computes by prefill, at most: of a file of somebody's own it would take hours for all.
const SIMULATED: usize = 256;

/// Width of what a pass computes.
const TITLE: usize = "prefill of all 150 positions".len();

/// Where golden files are without arguments, beside the working folder and the program.
const FOLDER: &str = "tests/golden";

/// Runs the demonstration.
///
/// # Errors
/// No golden files, no device. A file that cannot be read, or an answer that is wrong, is a line and
/// [`Outcome::Failed`].
pub fn run(options: &Options) -> Result<Outcome, CliError> {
    let named = !options.files.is_empty();
    let files = if named { options.files.clone() } else { find_files()? };
    let device = options.device.open()?;
    let width = files.iter().map(|f| name(f).chars().count()).max().unwrap_or(0);
    let mut worst = Outcome::Ok;
    for file in &files {
        let (outcome, lines) = demonstrate(file, &device, options);
        for text in lines {
            say(format_args!("{:width$}  {text}", name(file)));
        }
        // That a committed file is of another format than --cache is known; a file that somebody asks for is another matter.
        worst = worst.max(if named || outcome != Outcome::Unsupported { outcome } else { Outcome::Ok });
    }
    Ok(worst)
}

/// One file's outcome, and its lines behind the name.
fn demonstrate(file: &Path, device: &Device, options: &Options) -> (Outcome, Vec<String>) {
    let golden = match Golden::read(file) {
        Ok(golden) => golden,
        Err(error) => return (Outcome::Failed, vec![format!("FAIL: {}", error.problem)]),
    };
    let cache = match CacheDType::named(&options.cache, golden.format) {
        Ok(cache) => cache,
        Err(error) => return (Outcome::Failed, vec![format!("FAIL: {error}")]),
    };
    let last = if device.is_simulator() { SIMULATED.min(golden.queries) } else { golden.queries };
    let (mut worst, mut lines) = (Outcome::Ok, Vec::new());
    for pass in [Pass::Decode, Pass::Prefill { last }] {
        let (outcome, line) = computed(&golden, pass, cache, device, options);
        worst = worst.max(outcome);
        // What there is no kernel for at one query token, there is none for at many.
        let all = outcome == Outcome::Unsupported && pass == Pass::Decode;
        lines.push(if all { line } else { format!("{:TITLE$}  {line}", title(&golden, pass)) });
        if all {
            break;
        }
    }
    (worst, lines)
}

/// What a pass computes of a file.
fn title(golden: &Golden, pass: Pass) -> String {
    let (name, count, all) = (pass.name(), pass.positions(golden.queries).len(), golden.queries);
    match pass {
        Pass::Prefill { .. } if count == all => format!("{name} of all {all} positions"),
        Pass::Prefill { .. } => format!("{name} of the last {count} of {all} positions"),
        Pass::Decode => format!("{name} of {count} positions"),
    }
}

/// One pass over a file: its outcome, and its line behind the title.
fn computed(golden: &Golden, pass: Pass, cache: CacheDType, device: &Device, options: &Options) -> (Outcome, String) {
    let group = golden.q_heads / golden.kv_heads;
    let (properties, format) = (device.properties(), golden.format);
    let variant = variant(golden, pass);
    if let Err(unmet) = support(properties.arch, golden.head_dim, format, cache, options.page, group, variant) {
        return (Outcome::Unsupported, format!("UNSUPPORTED: {}", needs(&unmet)));
    }
    let bar = progress(&golden.name);
    bar.set_message("reference on the CPU");
    let Some(trial) = Trial::of(golden, pass, cache, options.page, options.seed) else {
        return (Outcome::Unsupported, format!("UNSUPPORTED: {format} queries of a cache of {cache}"));
    };
    bar.inc(1);
    bar.set_message(pass.name());
    let verdict = trial.judge(device, || bar.inc(1));
    bar.finish_and_clear();
    let device = &properties.name;
    match verdict {
        Err(error) => (Outcome::Failed, format!("{device}  FAIL: {error}")),
        Ok(Verdict { kernel, error, elapsed, failure, quantised }) => {
            let (outcome, word) = match failure {
                None => (Outcome::Ok, "ok".to_owned()),
                Some(what) => (Outcome::Failed, format!("FAIL: {what}")),
            };
            let (bound, time, pass) = (trial.tolerance, seconds(elapsed), pass.name());
            let (append, errors) = match quantised {
                None => (String::new(), format!("error {error:.2e}")),
                Some(Quantised { append, ideal_error, added }) => (
                    format!("{append}  "),
                    format!("error {error:.2e}, quantising alone {ideal_error:.2e}  {pass} adds {added:.2e}"),
                ),
            };
            (outcome, format!("{device}  {append}{kernel}  {errors}  bound {bound}  {time}  {word}"))
        }
    }
}

fn variant(golden: &Golden, pass: Pass) -> Variant {
    let has = |need: fn(&Need) -> bool| golden.needs.iter().any(need);
    let q_len = match pass {
        Pass::Decode => 1,
        Pass::Prefill { .. } => pass.positions(golden.queries).len(),
    };
    Variant {
        q_len,
        window: has(|n| matches!(n, Need::Window(_))),
        softcap: has(|n| matches!(n, Need::SoftCap(_))),
        sinks: has(|n| matches!(n, Need::Sinks(_))),
        ..Variant::PLAIN
    }
}

/// Every unmet need.
fn needs(unmet: &crate::Unsupported) -> String {
    unmet.needs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The golden files, sorted: those of `tests/golden` in the working folder, beside the program, or in the source tree.
fn find_files() -> Result<Vec<PathBuf>, CliError> {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(FOLDER)));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
    let places: Vec<PathBuf> = [Some(PathBuf::from(FOLDER)), beside, Some(source)].into_iter().flatten().collect();
    for place in &places {
        let Ok(entries) = std::fs::read_dir(place) else { continue };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
        files.sort();
        if !files.is_empty() {
            return Ok(files);
        }
    }
    let looked = places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
    Err(CliError::NoGoldenFiles(looked.join(", ")))
}

fn name(file: &Path) -> String {
    file.file_stem().map_or_else(|| file.display().to_string(), |stem| stem.to_string_lossy().into_owned())
}

fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 0.1 { format!("{:.3} ms", 1e3 * seconds) } else { format!("{seconds:.2} s") }
}

fn progress(file: &str) -> ProgressBar {
    let bar = ProgressBar::new(1 + WAYS.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{bar:20}] {msg} {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(file.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
