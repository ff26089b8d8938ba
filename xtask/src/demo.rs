//! `cargo xtask demo`: builds the program for what the machine has, and runs its demonstration.
use crate::{build, setup, step};
use anyhow::Result;
use std::{ffi::OsString, path::Path};

/// What the NVIDIA kernel driver leaves where it runs; nothing is loaded to find out.
const DRIVER: [&str; 3] = ["/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg"];

/// Runs `qkv demo ARGUMENTS`.
pub fn demo(arguments: &[OsString]) -> Result<()> {
    let has_driver = DRIVER.iter().any(|path| Path::new(path).exists());
    // Without a GPU no PTX is built: the simulator runs the same kernels from the same source.
    let features = if has_driver {
        step::part("setup", || setup::tools(setup::Needs::Compiler))?;
        "cli,sim,cuda"
    } else {
        eprintln!("    no NVIDIA driver here: the kernels run on the simulator, and nothing needs installing");
        "cli,sim"
    };
    let options = |command: &mut std::process::Command| {
        command.args(["--release", "--no-default-features", "--features", features, "--bin", "qkv"]);
    };
    step::part("build", || {
        let mut command = build::cargo("build");
        options(&mut command);
        step::run(&mut command)
    })?;
    let mut command = build::cargo("run");
    options(&mut command);
    step::run(command.args(["--quiet", "--", "demo"]).args(arguments))
}
