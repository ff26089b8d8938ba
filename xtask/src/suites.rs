//! `cargo xtask test`: the kernels through ptxas, then every suite with its minimum count, then documentation examples.
//!
//! Suites are built in one go and run one by one, so that each has its time and its count. A suite that passes with
//! fewer tests than it should have fails here: a `cfg` that empties a test file otherwise stays green.
use crate::{
    build::{self, Executable},
    device, setup, step,
};
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
};

/// Features of the tested and linted workspace: everything but the root package's `probe`, which embeds entries that are
/// not shipped; the simulator runs them too.
pub const FEATURES: &str =
    "qkv/cli,qkv/sim,qkv/cuda,qkv/cust,qkv/testing,kernels-gpu/sim,kernels-gpu/probe,qkv-cuda-std/sim";

/// `package suite minimum` a line, and `ignored` where ignored tests count.
const MINIMA: &str = include_str!("../suites.txt");

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Every entry through ptxas.
    Kernels,
    /// Unit and integration tests.
    Suites,
    /// Examples in the documentation.
    Doc,
}

/// Runs all parts, or one.
pub fn test(only: Option<Part>, full: bool) -> Result<()> {
    let wanted = |part| only.is_none_or(|only| only == part);
    step::part("setup", || setup::tools(setup::Needs::Everything))?;
    if wanted(Part::Kernels) {
        step::part("kernels: ptxas, every entry and architecture", device::gate)?;
    }
    let suites = match wanted(Part::Suites) {
        true => step::part("suites: build", build_suites).and_then(|built| run_suites(&built, full)),
        false => Ok(()),
    };
    if wanted(Part::Doc) {
        step::part("documentation examples", || {
            let mut command = build::cargo("test");
            step::run(command.args(["--workspace", "--doc", "--features", FEATURES]).current_dir(build::root()))
        })?;
    }
    suites
}

fn build_suites() -> Result<Vec<Suite>> {
    let mut command = build::cargo("test");
    command.args(["--workspace", "--lib", "--bins", "--tests", "--no-run", "--features", FEATURES]);
    let mut suites: Vec<Suite> =
        build::executables(&mut command)?.into_iter().filter(|e| e.is_test).map(Suite).collect();
    suites.sort_by_key(|suite| (suite.0.package.clone(), suite.name().to_owned()));
    Ok(suites)
}

/// A test harness.
struct Suite(Executable);

impl Suite {
    /// The file of tests, or `lib` or `bin` for the tests inside one.
    fn name(&self) -> &str {
        match self.0.kind.as_str() {
            "test" => &self.0.target,
            "bin" => "bin",
            _ => "lib",
        }
    }
}

/// Runs each suite even after one failed: a run is minutes, and all that is wrong should be known after it.
fn run_suites(built: &[Suite], full: bool) -> Result<()> {
    let minima = minima(MINIMA)?;
    let mut failed = Vec::new();
    let mut total = 0;
    for Minimum { package, suite: name, .. } in &minima {
        if !built.iter().any(|suite| suite.0.package == *package && suite.name() == *name) {
            failed.push(format!("{package} {name}: listed in xtask/suites.txt, but there is no such suite"));
        }
    }
    for suite in built {
        let name = format!("{} {}", suite.0.package, suite.name());
        let listed = minima.iter().find(|one| one.package == suite.0.package && one.suite == suite.name());
        let (minimum, ignored_too) = match listed {
            Some(one) => (one.tests, one.ignored_too),
            // Libraries and programs need no tests inside; a file of tests without a test is a mistake.
            None => (u32::from(suite.0.kind == "test"), false),
        };
        let result = step::part(&name, || {
            let Counts { passed, ignored } = run_suite(&suite.0, full)?;
            if ignored_too {
                let tests = passed + ignored;
                ensure!(tests >= minimum, "{tests} tests passed or were ignored, at least {minimum} were expected");
            } else {
                ensure!(passed >= minimum, "{passed} tests passed, at least {minimum} were expected");
            }
            Ok(passed)
        });
        match result {
            Ok(passed) => total += passed,
            Err(error) => failed.push(format!("{name}: {error:#}")),
        }
    }
    if !failed.is_empty() {
        bail!("{} suites failed:\n  {}", failed.len(), failed.join("\n  "));
    }
    eprintln!("    {total} tests passed in {} suites", built.len());
    Ok(())
}

/// How many tests of a suite passed, and how many it ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    passed: u32,
    ignored: u32,
}

/// Runs a suite as cargo would and counts its tests.
fn run_suite(suite: &Executable, full: bool) -> Result<Counts> {
    let mut child = Command::new(&suite.path)
        .current_dir(&suite.manifest_dir)
        .env("CARGO", build::program())
        .env("CARGO_MANIFEST_DIR", &suite.manifest_dir)
        .env("CARGO_PKG_NAME", &suite.package)
        .env("QKV_FULL", if full { "1" } else { "" })
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", suite.path.display()))?;
    let output = child.stdout.take().context("a suite has no standard output")?;
    let mut counts = None;
    for line in BufReader::new(output).lines() {
        let line = line?;
        counts = counts_in(&line).or(counts);
        writeln!(std::io::stdout(), "{line}")?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "{status}");
    counts.context("no line tells how many tests passed")
}

/// N and M of `test result: ok. N passed; … M ignored; …`.
fn counts_in(line: &str) -> Option<Counts> {
    let (_, counts) = line.split_once("test result: ")?.1.split_once(". ")?;
    let count = |word: &str| counts.split(';').find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok());
    Some(Counts { passed: count("passed")?, ignored: count("ignored")? })
}

/// A line of `suites.txt`.
struct Minimum<'a> {
    package: &'a str,
    suite: &'a str,
    /// Fewest tests.
    tests: u32,
    /// Ignored tests count too.
    ignored_too: bool,
}

/// The lines of `suites.txt`.
fn minima(text: &str) -> Result<Vec<Minimum<'_>>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let ([package, suite, tests] | [package, suite, tests, "ignored"]) = words[..] else {
                bail!("suites.txt: {line:?} is not `package suite minimum` or `package suite minimum ignored`")
            };
            let tests = tests.parse().with_context(|| format!("suites.txt: {line:?}"))?;
            Ok(Minimum { package, suite, tests, ignored_too: words.len() == 4 })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Counts, MINIMA, counts_in, minima};

    #[test]
    fn counts_are_read_from_the_runners_last_line() {
        let line = "test result: ok. 15 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(counts_in(line), Some(Counts { passed: 15, ignored: 2 }));
        assert_eq!(counts_in("test a_result ... ok"), None);
    }

    #[test]
    fn the_table_is_well_formed() {
        assert!(!minima(MINIMA).unwrap().is_empty());
        assert!(minima("qkv decode many").is_err() && minima("qkv decode").is_err());
        let gpu = &minima("qkv gpu 240 ignored").unwrap()[0];
        assert!(gpu.tests == 240 && gpu.ignored_too);
        assert!(!minima("qkv gpu 240").unwrap()[0].ignored_too && minima("qkv gpu 240 passed").is_err());
    }
}
