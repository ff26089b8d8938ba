//! `cargo xtask lint`: what a reader should not have to look for. Warnings are errors here and nowhere else, so that a
//! newer compiler's new warning does not break anybody's build.
use crate::{build, device, setup, step, suites::FEATURES};
use anyhow::{Result, ensure};
use std::process::Command;

/// Sources that are no part of the workspace, below its folder.
const APART: [&str; 3] =
    ["tests/outside/src/main.rs", "kernels-gpu/cuda_builder/tests/kernels/src/lib.rs", "examples/candle/src/main.rs"];

/// Sets of features that must build on their own: a program may want any of them.
const ALONE: [&str; 3] = ["", "sim", "cuda"];

/// Runs every part, also after one failed, and names those that did.
pub fn lint() -> Result<()> {
    step::part("setup", || setup::tools(setup::Needs::Everything))?;
    let parts = [
        ("rustfmt", step::part("rustfmt", rustfmt)),
        ("clippy of the host code", step::part("clippy of the host code", host)),
        ("clippy of the device code", device::clippy()),
        ("rustdoc", step::part("rustdoc", rustdoc)),
    ];
    let failed: Vec<&str> = parts.iter().filter(|(_, result)| result.is_err()).map(|(name, _)| *name).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn rustfmt() -> Result<()> {
    step::run(build::cargo("fmt").args(["--all", "--check"]))?;
    let mut command = Command::new("rustfmt");
    step::run(command.args(["--edition", "2024", "--check"]).args(APART).current_dir(build::root()))
}

fn host() -> Result<()> {
    let all = clippy(&["--workspace", "--all-targets", "--features", FEATURES]);
    // The probes on a GPU, which no other set of features has.
    let probes = clippy(&["-p", "qkv", "--all-targets", "--features", "probe,testing,sim"]);
    let alone = ALONE.map(|features| clippy(&["-p", "qkv", "--lib", "--no-default-features", "--features", features]));
    [all, probes].into_iter().chain(alone).try_for_each(|mut command| step::run(without_kernels(&mut command)))
}

/// As documentation is built: the kernels' code is not looked at here, and to compile it takes minutes.
fn without_kernels(command: &mut Command) -> &mut Command {
    command.env("DOCS_RS", "1")
}

fn rustdoc() -> Result<()> {
    let mut command = build::cargo("doc");
    command.args(["--workspace", "--no-deps", "--document-private-items", "--features", FEATURES]);
    step::run(without_kernels(&mut command).env("RUSTDOCFLAGS", "-D warnings").current_dir(build::root()))
}

/// clippy with warnings as errors.
fn clippy(what: &[&str]) -> Command {
    let mut command = build::cargo("clippy");
    command.args(what).args(["--", "-D", "warnings"]).current_dir(build::root());
    command
}
