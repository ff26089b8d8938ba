//! What the simulator's tests share: short launches, and errors checked by kind, operation and source line.
use cuda_std::sim::{Delivery, Error, Grid, Kind, Memory, Options, Report, launch};

/// One block of `warps` warps with 4 KiB of shared memory.
pub const fn block(warps: u32) -> Grid<'static> {
    Grid { name: "kernel", blocks: 1, threads: warps * 32, shared_bytes: 4096, early: false, cluster: 1 }
}

/// Runs `body` on one block with memory of its own.
#[allow(dead_code, reason = "not every suite has a use for it")]
pub fn run(warps: u32, body: &(dyn Fn() + Sync)) -> Result<Report, Error> {
    launch(&Memory::new(), &block(warps), &Options::default(), body)
}

/// Options with copies delivered at `delivery`.
#[allow(dead_code, reason = "not every suite has a use for it")]
pub fn delivering(delivery: Delivery) -> Options {
    Options { delivery, ..Options::default() }
}

/// The line of `source` that ends in the comment `marker`.
#[allow(dead_code, reason = "not every suite has a use for it")]
pub fn line(source: &str, marker: &str) -> u32 {
    let ending = format!("// <- {marker}");
    let mut lines = (1..).zip(source.lines()).filter(|(_, line)| line.ends_with(&ending)).map(|(number, _)| number);
    let found = lines.next().unwrap_or_else(|| panic!("no line ends in {ending}"));
    assert_eq!(lines.next(), None, "several lines end in {ending}");
    found
}

/// Asserts that a launch failed with `kind` by `operation` at the line of `source` that `marker` marks.
#[track_caller]
#[allow(dead_code, reason = "not every suite has a use for it")]
pub fn assert_fails(outcome: Result<Report, Error>, kind: Kind, operation: &str, source: &str, marker: &str) -> Error {
    let error = outcome.expect_err("the simulator reported nothing");
    let found = (error.kind, error.operation, error.location.map(|location| location.line()));
    assert_eq!(found, (kind, operation, Some(line(source, marker))), "{error}");
    error
}

/// Asserts who the other side of `error` is.
#[track_caller]
#[allow(dead_code, reason = "not every suite has a use for it")]
pub fn assert_against(error: &Error, operation: &str, source: &str, marker: &str) {
    let other = error.other.map(|(_, operation, location)| (operation, location.line()));
    assert_eq!(other, Some((operation, line(source, marker))), "{error}");
}
