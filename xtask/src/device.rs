//! The kernels as device code: their PTX and what ptxas says of it, and clippy on what the host build does not see.
use crate::{build, setup, step};
use anyhow::{Context as _, Result, ensure};
use cuda_builder::{Arch, Built, CudaBuilder, LaunchBounds};
use kernels_gpu::{fault::Fault, kernels::ENTRIES};
use std::path::{Path, PathBuf};

/// The folder of the kernels.
fn kernels() -> PathBuf {
    build::root().join("kernels-gpu")
}

/// The build of the shipped kernels, as `build.rs` has it.
pub fn builder(archs: &[Arch]) -> CudaBuilder {
    let entries = ENTRIES
        .iter()
        .map(|entry| LaunchBounds::new(entry.name, entry.threads, entry.min_blocks, |arch| entry.is_for(arch)));
    CudaBuilder::of_project(build::root(), entries)
        .archs(archs.iter().copied())
        .on_progress(|line| eprintln!("    {line}"))
}

/// Writes `DIR/<arch>/<entry>.ptx` and prints what ptxas says of each.
pub fn ptx(dir: &Path, archs: &[Arch], cubin: bool) -> Result<()> {
    let needs = if cubin { setup::Needs::Everything } else { setup::Needs::Compiler };
    setup::tools(needs)?;
    // What ptxas would refuse to ship is still worth reading.
    let faults = Fault::ALL.iter().map(|fault| fault.name());
    let built = builder(archs).gate(false).fault_from_environment(faults)?.build()?;
    built.write(dir, cubin)?;
    report(&built);
    for finding in built.findings() {
        eprintln!("warning: {finding}");
    }
    eprintln!("    written to {}", dir.display());
    Ok(())
}

/// Writes `DIR/<arch>/<entry>.ptx` of the shipped kernels and nothing else; what was in DIR before is removed.
pub fn write(dir: &Path, archs: &[Arch]) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(builder(archs).build()?.write(dir, false)?)
}

/// Every entry for every architecture through ptxas, with the gate on stack, spills and notes.
pub fn gate() -> Result<()> {
    let built = builder(Arch::ALL).build()?;
    let assembler = built.assembler.as_ref().context("no ptxas: the kernels cannot be checked")?;
    report(&built);
    let counts: Vec<usize> = built.modules.iter().map(|module| module.entries.len()).collect();
    let listed = |arch: &Arch| ENTRIES.iter().filter(|entry| entry.is_for(arch.name())).count();
    let listed: Vec<usize> = Arch::ALL.iter().map(listed).collect();
    ensure!(counts == listed, "entries an architecture: {counts:?}, listed {listed:?}");
    let reports = built.modules.iter().flat_map(|module| &module.entries).filter(|entry| entry.assembled.is_some());
    let reports = reports.count();
    ensure!(reports == listed.iter().sum::<usize>(), "ptxas reported on {reports} entries");
    eprintln!("    {reports} kernels taken by ptxas {}: stack 0, spills 0, no C75xx note", assembler.version);
    Ok(())
}

fn report(built: &Built) {
    for module in &built.modules {
        for entry in &module.entries {
            if let Some(assembled) = &entry.assembled {
                println!("{:8} {:28} {}", module.arch.name(), entry.name, assembled.report);
            }
        }
    }
}

/// clippy on the kernels as they are compiled for a GPU, shipped and probe entries.
pub fn clippy() -> Result<()> {
    let compiler = setup::tools(setup::Needs::Compiler)?;
    let clippy = compiler.rustc.with_file_name("cargo-clippy");
    ensure!(clippy.is_file(), "{} has no clippy beside it", compiler);
    // cargo finds its subcommand on PATH, and rustup's clippy cannot load the other compiler's libraries.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = clippy.parent().map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
    let path = std::env::join_paths(folders)?;
    for arch in Arch::ALL {
        let mut command = compiler.cargo_command("clippy");
        command
            .arg("--manifest-path")
            .arg(kernels().join("Cargo.toml"))
            .args(["-p", "kernels-gpu", "--lib", "--features", "probe"])
            .args(["--target", "nvptx64-nvidia-cuda", "-Zbuild-std=core", "--target-dir"])
            .arg(build::root().join("target/device-clippy"))
            .env("PATH", &path)
            // What differs between architectures goes to the kernels alone: `core` is checked once.
            .env("CARGO_ENCODED_RUSTFLAGS", format!("-Ctarget-cpu={}", Arch::Sm90a))
            .args(["--", "-D", "warnings", "--cfg", &format!("qkv_sm=\"{}\"", arch.cfg())]);
        step::part(&format!("clippy of the device code, {arch}"), || step::run(&mut command))?;
    }
    Ok(())
}
