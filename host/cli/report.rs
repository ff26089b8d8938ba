//! `qkv report`: a run's lines as a figure and a page, beside other libraries' and against a record. `qkv bench` ends with
//! the same where it is asked for.
pub mod against;
pub mod figure;
pub mod page;
pub mod run;
pub mod table;

use super::{CliError, Outcome, say};
use against::Comparison;
use run::Run;
use std::path::{Path, PathBuf};
use table::Report;

/// Names of the files.
const SVG: &str = "roofline.svg";
const PNG: &str = "roofline.png";
const PAGE: &str = "index.html";

/// What is done with a run.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Uses {
    /// Lines of other libraries on the same cases, shown beside ours, and the run's ceilings: a JSON array, or lines
    #[arg(long, value_name = "FILE")]
    pub peers: Option<PathBuf>,
    /// Ceilings of the run, as read=3079,copy=3017,gemm-bf16=799: GB/s, and TFLOP/s of matrix products; those of --peers without
    #[arg(long, value_delimiter = ',', value_parser = ceiling, value_name = "NAME=RATE")]
    pub ceiling: Vec<(String, f64)>,
    /// A record, in the format of --peers: fails where a case's part of its own run's ceiling is more than 5 % below that of the
    /// record, or is missing
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
}

/// Arguments of `qkv report`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Lines of `qkv bench`, or a JSON array that has them
    #[arg(long, value_name = "FILE")]
    pub ours: PathBuf,
    /// Where roofline.svg, roofline.png and index.html are written; made if it is not there
    #[arg(long, value_name = "DIR", required_unless_present = "against")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub uses: Uses,
}

/// `NAME=RATE`.
fn ceiling(text: &str) -> Result<(String, f64), String> {
    let wrong = || format!("allowed: NAME=RATE, NAME being one of {}, RATE above 0", run::CEILINGS.join(", "));
    let (name, rate) = text.split_once('=').ok_or_else(wrong)?;
    let rate = rate.parse().ok().filter(|&rate: &f64| rate.is_finite() && rate > 0.0).ok_or_else(wrong)?;
    if run::CEILINGS.contains(&name) { Ok((name.to_owned(), rate)) } else { Err(wrong()) }
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be read, or written.
pub fn run(options: &Options) -> Result<Outcome, CliError> {
    let mut ours = Run::read(&options.ours)?;
    let files = options.uses.read()?;
    ours.rate_by_shapes(&files.peers);
    // What is said on the command line is meant to be; those of the file are of the very run.
    ours.ceilings = run::first_of_each(options.uses.ceiling.iter().chain(&ours.ceilings).chain(&files.peers.ceilings));
    if let Some(dir) = &options.out {
        write(dir, &ours, &files.peers)?;
    }
    Ok(files.judge(&ours))
}

/// The files that a run is put beside.
#[derive(Debug, Default)]
pub struct Files {
    /// Other libraries'.
    pub peers: Run,
    /// A record.
    pub record: Option<Run>,
}

impl Uses {
    /// Reads them: before anything is timed.
    ///
    /// # Errors
    /// One that cannot be read.
    pub fn read(&self) -> Result<Files, CliError> {
        let read = |path: &Option<PathBuf>| path.as_deref().map(Run::read).transpose();
        Ok(Files { peers: read(&self.peers)?.unwrap_or_default(), record: read(&self.against)? })
    }
}

impl Files {
    /// Compares a run with the record, where there is one, and prints how.
    pub fn judge(&self, ours: &Run) -> Outcome {
        let Some(record) = &self.record else { return Outcome::Ok };
        let comparison = Comparison::new(record, ours);
        say(format_args!("{comparison}"));
        if comparison.holds() { Outcome::Ok } else { Outcome::Failed }
    }
}

/// Writes the figure and the page.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn write(dir: &Path, ours: &Run, peers: &Run) -> Result<(), CliError> {
    let report = Report::new(ours, peers);
    let svg = figure::svg(&report)?;
    let files =
        [(SVG, svg.clone().into_bytes()), (PNG, figure::png(&svg)?), (PAGE, page::html(&report, &svg).into_bytes())];
    let error = |path: &Path| {
        let path = path.to_owned();
        move |source| CliError::Write { path, source }
    };
    std::fs::create_dir_all(dir).map_err(error(dir))?;
    files.iter().try_for_each(|(name, bytes)| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).map_err(error(&path))
    })
}
