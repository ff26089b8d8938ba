//! The command line `qkv` (feature `cli`): arguments in, one of the commands run, an exit status out.
//!
//! Results go to standard output, a line each; progress and errors to standard error. A command returns what happened
//! ([`Outcome`]) or an error; only [`main`] turns either into an exit status.
#[cfg(feature = "cuda")]
pub mod bench;
pub mod demo;
pub mod doctor;
pub mod report;
pub mod support;

use crate::testing::golden::GoldenError;
use crate::{Device, Error, MAX_PAGE_SIZE};
use clap::{Parser, Subcommand, ValueEnum};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// GPU attention kernels written in Rust: paged decode.
#[derive(Debug, Parser)]
#[command(name = "qkv", version, after_help = EXIT_STATUS)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_STATUS: &str = "Exit status:
  0  all went well
  1  something FAILed or went wrong
  2  a file or format asked for needs what does not exist yet (and nothing FAILed), or the arguments are wrong";

#[derive(Debug, Subcommand)]
enum Command {
    /// Computes recorded activations of published models, by decode and by prefill, and compares with their answers
    Demo(demo::Options),
    /// Says what this machine has: toolchain, driver, device, kernels that it can run, and why not the others
    Doctor,
    /// Prints the table of what is supported, or every need of one combination that is unmet
    Support(support::Options),
    /// Draws what `bench` has timed, beside other libraries' times, and compares it with a record; needs no GPU
    Report(report::Options),
    #[cfg(feature = "cuda")]
    /// Times decode or prefill on a GPU, a JSON line a case
    Bench(Box<bench::Options>),
}

/// Writes to standard output. Where nobody reads it any more (`qkv doctor | head`), there is nothing left to do, and the
/// program ends as others do; `println!` would panic.
fn say(text: core::fmt::Arguments<'_>) {
    if let Err(error) = writeln!(std::io::stdout(), "{text}") {
        let status = if error.kind() == std::io::ErrorKind::BrokenPipe { 0 } else { 1 };
        std::process::exit(status);
    }
}

/// How a command went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// All as it should be.
    Ok,
    /// Something asked for does not exist yet.
    Unsupported,
    /// Something is wrong, and the command has said what.
    Failed,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The library's error.
    #[error(transparent)]
    Library(#[from] Error),
    /// No golden file.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// The folder of golden files is not where it is looked for.
    #[error("no golden files: looked for *.safetensors in {0}; name files on the command line")]
    NoGoldenFiles(String),
    /// A file that cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of cases that is none.
    #[error("{path}: not a file of cases: {source}")]
    Cases {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A file of a run's lines that is none.
    #[error("{path}: not a file of measurements: {reason}")]
    Run {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file or folder that cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No figure.
    #[error(transparent)]
    Figure(#[from] report::figure::FigureError),
    /// An argument that no case or format matches.
    #[error("--{option} is {value}; allowed: {allowed}")]
    Argument {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: String,
    },
}

/// Where kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// A GPU if there is one, else the simulator
    Auto,
    /// The simulator
    Sim,
    /// The first GPU
    Cuda,
}

impl DeviceChoice {
    fn open(self) -> Result<Device, CliError> {
        match self {
            Self::Auto => Ok(Device::default_device()?),
            Self::Sim => Ok(Device::simulator()),
            #[cfg(feature = "cuda")]
            Self::Cuda => Ok(Device::cuda(0)?),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda => {
                let allowed = "auto, sim: this program was built without the feature `cuda`".into();
                Err(CliError::Argument { option: "device", value: "cuda".into(), allowed })
            }
        }
    }
}

/// `--page`, refused before anything is read where no cache has such pages.
fn page_size(text: &str) -> Result<usize, String> {
    let page: usize = text.parse().map_err(|error| format!("{error}"))?;
    if page.is_power_of_two() && page <= MAX_PAGE_SIZE {
        Ok(page)
    } else {
        Err(format!("allowed: powers of two from 1 to {MAX_PAGE_SIZE}"))
    }
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Doctor => doctor::run(),
        Command::Support(options) => support::run(&options),
        Command::Report(options) => report::run(&options),
        #[cfg(feature = "cuda")]
        Command::Bench(options) => bench::run(&options),
    };
    match done {
        Ok(Outcome::Ok) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Ok(Outcome::Unsupported) => ExitCode::from(2),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}
