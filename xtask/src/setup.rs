//! Makes sure of what the other commands need: a rustc for the kernels, ptxas and the disassemblers.
//!
//! What is there is used and said; what is missing is installed into the project's folder of the user's cache, without
//! root and without touching any toolchain that is there. Doing it twice changes nothing.
use crate::{debian, step, step::Step, wheels};
use anyhow::{Context as _, Result, bail};
use cuda_builder::{Assembler, Cache, Compiler, Error, cuda_installation, rust_installation};
use std::{fs::File, process::Command};

/// What to make sure of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// A rustc that compiles kernels.
    Compiler,
    /// That, ptxas and the disassemblers.
    Everything,
}

/// Makes sure of `needs`, says what was chosen, and gives the compiler.
pub fn tools(needs: Needs) -> Result<Compiler> {
    let cache = Cache::of_user()?;
    let compiler = compiler(&cache)?;
    eprintln!("    compiler of the kernels: {compiler}");
    if needs == Needs::Everything {
        let assembler = assembler(&cache)?;
        eprintln!("    assembler of the kernels: ptxas {} ({})", assembler.version, assembler.ptxas.display());
    }
    Ok(compiler)
}

fn compiler(cache: &Cache) -> Result<Compiler> {
    let rejected = match Compiler::find(cache) {
        Ok(compiler) => return Ok(compiler),
        Err(Error::NoCompiler { rejected }) => rejected,
        Err(error) => return Err(error.into()),
    };
    for one in &rejected {
        eprintln!("    no compiler of the kernels: {}: {}", one.place, one.reason);
    }
    if std::env::var_os("QKV_RUSTC").is_some_and(|value| !value.is_empty()) {
        bail!("QKV_RUSTC names a compiler that cannot be used; unset it to have one installed");
    }
    let _lock = installation_lock(cache)?;
    if let Ok(compiler) = Compiler::find(cache) {
        return Ok(compiler); // another process has just installed it
    }
    // Debian's packages are pinned to each other and come from the archive that apt is set to; rustup needs its server.
    let unpacked = match debian::install(&rust_installation(cache)) {
        Ok(()) => Ok(()),
        Err(of_debian) => with_rustup().map_err(|of_rustup| {
            anyhow::anyhow!(
                "no compiler of the kernels could be installed.\n  Debian's packages: {of_debian:#}\n  rustup: {of_rustup:#}\n\
                 As root, `apt-get install --no-remove rustc-web rust-web-src` would do, or QKV_RUSTC=<a rustc 1.96 or \
                 newer with rust-src>"
            )
        }),
    };
    unpacked?;
    cache.touch_stamp()?;
    Compiler::find(cache).context("the compiler was installed but cannot be used")
}

/// The nightly toolchain's source of `core`, and clippy for the device code.
fn with_rustup() -> Result<()> {
    let toolchains = step::output(Command::new("rustup").args(["toolchain", "list"]))?;
    let mut command = Command::new("rustup");
    if toolchains.lines().any(|line| line.starts_with("nightly-")) {
        // The nightly that is there stays as it is: `toolchain install` would update it.
        command.args(["component", "add", "--toolchain", "nightly", "rust-src", "clippy"]);
    } else {
        command.args(["toolchain", "install", "nightly", "--profile", "minimal", "-c", "rust-src", "-c", "clippy"]);
    }
    let step = Step::begin("installing the nightly toolchain's rust-src by rustup");
    step::output(&mut command)?;
    step.end();
    Ok(())
}

fn assembler(cache: &Cache) -> Result<Assembler> {
    if let Ok(assembler) = Assembler::find(cache) {
        return Ok(assembler);
    }
    if std::env::var_os("QKV_PTXAS").is_some_and(|value| !value.is_empty()) {
        bail!("QKV_PTXAS names a ptxas that cannot be used; unset it to have one installed");
    }
    let _lock = installation_lock(cache)?;
    if let Ok(assembler) = Assembler::find(cache) {
        return Ok(assembler);
    }
    wheels::install(&cuda_installation(cache))?;
    cache.touch_stamp()?;
    Assembler::find(cache).map_err(|rejected| {
        let reasons: Vec<String> = rejected.iter().map(|one| format!("{}: {}", one.place, one.reason)).collect();
        anyhow::anyhow!("ptxas was installed but cannot be used: {}", reasons.join("; "))
    })
}

/// One installation at a time; held until the file is dropped.
fn installation_lock(cache: &Cache) -> Result<File> {
    std::fs::create_dir_all(cache.root())?;
    let file = File::create(cache.root().join("setup.lock"))?;
    file.lock()?;
    Ok(file)
}
