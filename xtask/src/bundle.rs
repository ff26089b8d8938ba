//! `cargo xtask bundle DIR`: what a GPU machine without Rust needs, in one folder that is easily copied.
use crate::{build, device, setup, step};
use anyhow::{Context as _, Result, ensure};
use cuda_builder::Arch;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// A bundle has to travel; this is what it may weigh: of sm_90a 57 MiB, a quarter of them the examples'.
const LIMIT_BYTES: u64 = 64 << 20;

/// Of the programs: everything that a GPU machine can use.
const PROGRAM: &str = "cli,sim,cuda,cust";

/// Packages of the workspace, each with the features that its own manifest names.
const EXAMPLES: [&str; 3] = ["example-simulator", "example-cust", "example-cudarc"];

/// Of the GPU tests: that, the strategies, and the entries that run one instruction each.
const TESTS: &str = "cli,sim,cuda,cust,testing,probe";

/// Runs everything that is in the bundle; the golden files are found from the folder that it is started in.
const RUN_TESTS: &str = r#"#!/bin/sh
# Runs the GPU tests, the demonstration and the examples of this bundle; start it in the project's folder.
# Arguments go to the tests: `run-tests --list`, `run-tests decode`.
here=$(cd "$(dirname "$0")" && pwd)
status=0
"$here/gpu-tests" "$@" || status=1
[ $# -gt 0 ] && exit $status
"$here/qkv" doctor || status=1
"$here/qkv" demo || status=1
for example in "$here"/examples/*; do
    [ -x "$example" ] || continue
    echo "==> ${example##*/}"
    "$example" || status=1
done
exit $status
"#;

/// Builds and writes it.
pub fn bundle(dir: &Path, archs: &[Arch]) -> Result<()> {
    step::part("setup", || setup::tools(setup::Needs::Everything))?;
    // An example that was renamed would stay and be run, and a program that cargo no longer makes pass for made.
    let examples = dir.join("examples");
    if examples.is_dir() {
        fs::remove_dir_all(&examples)?;
    }
    for program in ["qkv", "gpu-tests"].map(|name| dir.join(name)) {
        if program.is_file() {
            fs::remove_file(program)?;
        }
    }
    fs::create_dir_all(&examples).with_context(|| format!("cannot write {}", examples.display()))?;
    step::part("build: the program", || {
        let what = ["-p", "qkv", "--bin", "qkv", "--no-default-features", "--features", PROGRAM];
        place(executables("build", &what, archs, None)?, |target| (target == "qkv").then(|| dir.join("qkv")))
    })?;
    step::part("build: the examples", || {
        // PTX alone: the machine code of three architectures in every example would be half of the bundle.
        let kernels = build::root().join("target/bundle-ptx");
        device::write(&kernels, archs)?;
        // One by one: built together, each would get the features of all.
        for package in EXAMPLES {
            place(executables("build", &["-p", package], archs, Some(&kernels))?, |target| {
                Some(examples.join(target))
            })?;
        }
        Ok(())
    })?;
    step::part("build: the GPU tests", || {
        let what = ["-p", "qkv", "--no-run", "--test", "gpu", "--no-default-features", "--features", TESTS];
        // cargo lists the program too, which tests may run: with the tests' features, and where the one for users was.
        place(executables("test", &what, archs, None)?, |target| (target == "gpu").then(|| dir.join("gpu-tests")))
    })?;
    step::part("build: kernels with a barrier left out", || faulty(&dir.join("faulty")))?;
    let examples = EXAMPLES.map(|name| Path::new("examples").join(name));
    for name in [PathBuf::from("qkv"), PathBuf::from("gpu-tests")].into_iter().chain(examples) {
        ensure!(dir.join(&name).is_file(), "cargo made no {}", name.display());
    }
    finish(dir)
}

/// Copies what cargo made, each to where it `belongs`, before the next build puts another of the same name in its place.
fn place(made: Vec<build::Executable>, belongs: impl Fn(&str) -> Option<PathBuf>) -> Result<()> {
    for build::Executable { target, path, .. } in made {
        if let Some(to) = belongs(&target) {
            let bytes = fs::copy(&path, &to).with_context(|| format!("cannot write {}", to.display()))?;
            println!("{bytes:>10} {}", to.display());
        }
    }
    Ok(())
}

/// Faults that `tests/sanitize.sh` expects a sanitizer to find, each with the kernel that it looks at.
const FAULTS: [(&str, &str); 2] =
    [("merge_full", "decode_d64_bf16_bf16_few"), ("shared_weights", "decode_d256_bf16_bf16_few")];

/// Writes `DIR/<fault>/<kernel>.ptx`, portable: the driver compiles it for whatever GPU is there.
fn faulty(dir: &Path) -> Result<()> {
    for (fault, kernel) in FAULTS {
        let built = device::builder(&[Arch::Sm80]).fault(Some(fault.to_owned())).assemble(false).build()?;
        let entry = built.modules.iter().flat_map(|module| &module.entries).find(|entry| entry.name == kernel);
        let folder = dir.join(fault);
        fs::create_dir_all(&folder).with_context(|| format!("cannot write {}", folder.display()))?;
        fs::write(folder.join(format!("{kernel}.ptx")), &entry.with_context(|| format!("no kernel {kernel}"))?.ptx)?;
    }
    Ok(())
}

/// Stripped release builds for `archs`, or for all, with the kernels compiled or taken from a folder.
fn executables(
    subcommand: &str,
    what: &[&str],
    archs: &[Arch],
    kernels: Option<&Path>,
) -> Result<Vec<build::Executable>> {
    let mut command = build::cargo(subcommand);
    command.args(["--release", "--config", "profile.release.strip=\"symbols\""]).args(what);
    if !archs.is_empty() {
        command.env("QKV_ARCH", archs.iter().map(|arch| arch.name()).collect::<Vec<_>>().join(","));
    }
    if let Some(kernels) = kernels {
        command.env("QKV_PTX_DIR", kernels);
    }
    build::executables(&mut command)
}

/// The script, and whether it all may travel.
fn finish(dir: &Path) -> Result<()> {
    let script = dir.join("run-tests");
    fs::write(&script, RUN_TESTS)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let total = bytes_in(dir)?;
    println!("{total:>10} bytes in all ({:.1} MiB), limit {} MiB", total as f64 / (1 << 20) as f64, LIMIT_BYTES >> 20);
    ensure!(total < LIMIT_BYTES, "the bundle is over its limit; --arch sm_90a makes it smaller");
    Ok(())
}

/// Bytes of all files below `dir`.
fn bytes_in(dir: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        total += if entry.file_type()?.is_dir() { bytes_in(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(total)
}
