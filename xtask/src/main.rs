//! The project's commands: `cargo xtask demo | test | lint | bundle | ptx | setup`.
//!
//! `demo` and `test` are the two that a newcomer types: each first makes sure of what it needs (`setup`), then runs.
//! Everything that is installed goes to one folder of the user's cache and nowhere else.
mod build;
mod bundle;
mod debian;
mod demo;
mod device;
mod lint;
mod setup;
mod step;
mod suites;
mod wheels;

use anyhow::Result;
use clap::{Parser, Subcommand};
use cuda_builder::Arch;
use std::{ffi::OsString, path::PathBuf, process::ExitCode};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "qkv's own commands: set up, show, test, bundle")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Decode activations caught inside published models, on the GPU or, without one, on the simulator
    Demo {
        /// Files as in tests/golden (all of those where none is named), and options of `qkv demo`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Pass all tests: kernels through ptxas, suites with their minimum counts, documentation examples
    Test {
        /// Only this part: kernels, suites or doc
        #[arg(long)]
        only: Option<suites::Part>,
        /// Also every kernel, not some, through ptxas for the chips that take the others' code: minutes more
        #[arg(long)]
        full: bool,
    },
    /// Write what a GPU machine without Rust needs: the program, the GPU tests, the examples, `run-tests`
    Bundle {
        /// Folder to write to
        dir: PathBuf,
        /// Architecture, for example sm_90a; repeat or separate by commas (default: all)
        #[arg(long, value_delimiter = ',')]
        arch: Vec<Arch>,
    },
    /// Write the PTX of every entry as text, DIR/ARCH/ENTRY.ptx
    Ptx {
        /// Folder to write to
        dir: PathBuf,
        /// Architecture, for example sm_90a; repeat or separate by commas (default: all)
        #[arg(long, value_delimiter = ',')]
        arch: Vec<Arch>,
        /// Also write the cubin that ptxas makes of each
        #[arg(long)]
        cubin: bool,
    },
    /// Formatting, clippy on host and device code, documentation: warnings are errors
    Lint,
    /// Make sure of a compiler for the kernels, and of ptxas and the disassemblers
    Setup,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Task::Demo { arguments } => demo::demo(&arguments),
        Task::Test { only, full } => suites::test(only, full),
        Task::Bundle { dir, arch } => bundle::bundle(&dir, &arch),
        Task::Ptx { dir, arch, cubin } => device::ptx(&dir, &arch, cubin),
        Task::Lint => lint::lint(),
        Task::Setup => setup::tools(setup::Needs::Everything).map(|_| ()),
    }
    .map(|()| ExitCode::SUCCESS);
    finish(result)
}

/// A failed program's own exit code, where that is what failed; else 1 with the reason.
fn finish(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| match error.downcast_ref::<step::Failed>() {
        Some(failed) if failed.code != 0 => {
            eprintln!("{failed}");
            ExitCode::from(failed.code)
        }
        _ => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    })
}
