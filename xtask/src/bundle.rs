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
    let mut made: Vec<(PathBuf, PathBuf)> = Vec::new();
    step::part("build: the program", || {
        let what = ["-p", "qkv", "--bin", "qkv", "--no-default-features", "--features", PROGRAM];
        for executable in executables("build", &what, archs, None)? {
            made.push((executable.path, dir.join(executable.target)));
        }
        Ok(())
    })?;
    step::part("build: the examples", || {
        // PTX alone: the machine code of three architectures in every example would be half of the bundle.
        let kernels = build::root().join("target/bundle-ptx");
        device::write(&kernels, archs)?;
        // One by one: built together, each would get the features of all.
        for package in EXAMPLES {
            for executable in executables("build", &["-p", package], archs, Some(&kernels))? {
                made.push((executable.path, dir.join("examples").join(executable.target)));
            }
        }
        Ok(())
    })?;
    step::part("build: the GPU tests", || {
        let what = ["-p", "qkv", "--no-run", "--test", "gpu", "--no-default-features", "--features", TESTS];
        for executable in executables("test", &what, archs, None)? {
            // cargo lists the program too: tests may run it.
            if executable.target == "gpu" {
                made.push((executable.path, dir.join("gpu-tests")));
            }
        }
        Ok(())
    })?;
    step::part("build: kernels with a barrier left out", || faulty(&dir.join("faulty")))?;
    let examples = EXAMPLES.map(|name| Path::new("examples").join(name));
    for name in [PathBuf::from("qkv"), PathBuf::from("gpu-tests")].into_iter().chain(examples) {
        ensure!(made.iter().any(|(_, to)| *to == dir.join(&name)), "cargo made no {}", name.display());
    }
    write(dir, &made)
}

/// Faults that `tests/sanitize.sh` expects a sanitizer to find, each with the kernel that it looks at.
const FAULTS: [(&str, &str); 2] =
    [("merge_full", "decode_d64_bf16_bf16_few"), ("scores_full", "decode_d256_bf16_bf16_few")];

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

fn write(dir: &Path, made: &[(PathBuf, PathBuf)]) -> Result<()> {
    let examples = dir.join("examples");
    if examples.is_dir() {
        fs::remove_dir_all(&examples)?; // an example that was renamed would stay and be run
    }
    fs::create_dir_all(&examples).with_context(|| format!("cannot write {}", examples.display()))?;
    for (from, to) in made {
        let bytes = fs::copy(from, to).with_context(|| format!("cannot write {}", to.display()))?;
        println!("{bytes:>10} {}", to.display());
    }
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
