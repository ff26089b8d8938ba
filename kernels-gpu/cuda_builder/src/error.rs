//! What can go wrong between a kernels crate and its PTX; each message names what was tried, found and allowed.
use crate::{Arch, compiler::Rejected};
use std::{fmt::Write as _, path::PathBuf, process::ExitStatus};

/// Why a build of kernels failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no folder to keep compilers and outputs in.
    #[error("no cache folder: set QKV_CACHE, XDG_CACHE_HOME or HOME")]
    NoCache,

    /// No compiler can build the kernels.
    #[error(
        "no rustc can compile the kernels: 1.96 or newer with the source of its own `core` is needed{}",
        list(rejected)
    )]
    NoCompiler {
        /// What was looked at, in order.
        rejected: Vec<Rejected>,
    },

    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },

    /// A program cannot be started.
    #[error("cannot run {program}: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// The system's answer.
        source: std::io::Error,
    },

    /// The folder has no package.
    #[error("{}: not a package: {reason}", path.display())]
    NotAPackage {
        /// Its manifest.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },

    /// The compiler refused the kernels.
    #[error("the kernels do not compile for {arch} ({status}):\n{output}")]
    Compile {
        /// The architecture.
        arch: Arch,
        /// How cargo ended.
        status: ExitStatus,
        /// What cargo and rustc said.
        output: String,
    },

    /// The PTX text is not what the compiler is known to write.
    #[error("PTX for {arch}: {reason}")]
    Ptx {
        /// The architecture.
        arch: Arch,
        /// What was unexpected.
        reason: String,
    },

    /// The entries in the PTX and the list of entries differ.
    #[error("PTX for {arch}: entries missing: [{}], entries without launch bounds: [{}]", missing.join(", "), unlisted.join(", "))]
    Entries {
        /// The architecture.
        arch: Arch,
        /// Listed, not in the PTX.
        missing: Vec<String>,
        /// In the PTX, not listed.
        unlisted: Vec<String>,
    },

    /// ptxas refused an entry.
    #[error("ptxas refuses {entry} for {target} ({status}):\n{output}")]
    Assemble {
        /// What it was to be assembled for.
        target: String,
        /// The entry.
        entry: String,
        /// How ptxas ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },

    /// ptxas took an entry and does not say what it made of it.
    #[error("ptxas reports no registers of {entry} for {target}: {output}")]
    NoReport {
        /// What it was assembled for.
        target: String,
        /// The entry.
        entry: String,
        /// What ptxas said.
        output: String,
    },

    /// ptxas took the entries, but what it says of them is not allowed.
    #[error("kernels below the bar (stack 0, spills 0, no C75xx note):{}", lines(findings))]
    Gate {
        /// One line a finding.
        findings: Vec<String>,
    },

    /// No such architecture.
    #[error("unknown architecture {name:?}: allowed are {}", Arch::ALL.iter().map(|a| a.name()).collect::<Vec<_>>().join(", "))]
    UnknownArch {
        /// What was given.
        name: String,
    },

    /// `QKV_FAULT` names no fault.
    #[error("QKV_FAULT is {name:?}; allowed: {}", known.join(", "))]
    UnknownFault {
        /// What was given.
        name: String,
        /// The faults that there are.
        known: Vec<&'static str>,
    },
}

impl Error {
    /// For `map_err` on a file operation.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { path, source }
    }

    /// For `map_err` on starting a program.
    pub(crate) fn spawn(program: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let program = program.into();
        |source| Self::Spawn { program, source }
    }
}

fn list(rejected: &[Rejected]) -> String {
    rejected.iter().fold(String::new(), |mut text, r| {
        let _ = write!(text, "\n  {}: {}", r.place, r.reason);
        text
    })
}

fn lines(findings: &[String]) -> String {
    findings.iter().fold(String::new(), |mut text, line| {
        let _ = write!(text, "\n  {line}");
        text
    })
}
