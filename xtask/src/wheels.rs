//! ptxas, nvdisasm and cuobjdump from NVIDIA's Python packages: programs alone, no GPU, no driver, no Python code run.
use crate::{step, step::Step};
use anyhow::{Context as _, Result};
use std::{fs, path::Path, process::Command};

/// Major release: its ptxas knows `sm_100f`, and its cubins load on drivers of CUDA 13.
const PACKAGES: [&str; 3] = ["nvidia-cuda-nvcc==13.*", "nvidia-cuda-nvdisasm==13.*", "nvidia-cuda-cuobjdump==13.*"];

/// Unpacks them to `target`.
pub fn install(target: &Path) -> Result<()> {
    eprintln!("    installing {} to {}", PACKAGES.join(", "), target.display());
    let draft = target.with_extension("draft");
    remove(&draft)?;
    let step = Step::begin("downloading ptxas and the disassemblers (about 60 MB)");
    // --no-deps: the packages' dependencies are the toolkit's libraries, 320 MB that no assembler needs. --target: the
    // system's Python is managed by the system, and refuses anything else.
    step::output(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--no-deps", "--disable-pip-version-check"])
            .args(["--progress-bar", "off", "--target"])
            .arg(&draft)
            .args(PACKAGES),
    )
    .context("ptxas comes from NVIDIA's Python packages (python3 with pip)")?;
    remove(target)?;
    fs::rename(&draft, target).with_context(|| format!("cannot write {}", target.display()))?;
    step.end();
    Ok(())
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
