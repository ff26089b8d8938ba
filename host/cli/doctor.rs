//! `qkv doctor`: what this machine and this program have, and which kernels run here and why not the others.
use super::{CliError, Outcome, say};
use crate::{Arch, Device, Error, KernelId};
use cuda_builder::{Assembler, Cache, Compiler};

/// Prints the report.
///
/// # Errors
/// None; a GPU that cannot be used or that cannot run a kernel is [`Outcome::Failed`]. Without a driver or a device the
/// simulator is described, and that is [`Outcome::Ok`].
pub fn run() -> Result<Outcome, CliError> {
    say(format_args!("qkv           {}", env!("CARGO_PKG_VERSION")));
    toolchain();
    #[cfg(feature = "cuda")]
    if let Some(outcome) = gpu() {
        return Ok(outcome);
    }
    #[cfg(not(feature = "cuda"))]
    say(format_args!("GPU code      none: this program was built without the feature `cuda`"));
    describe(&Device::simulator());
    Ok(kernels(None, |_| Ok("simulated".to_owned())))
}

/// What there is for GPUs, and the kernels of the first one; `None` where there is no GPU.
#[cfg(feature = "cuda")]
fn gpu() -> Option<Outcome> {
    let built_in = crate::built_in();
    let form = if built_in.assembled { "PTX and machine code" } else { "PTX" };
    say(format_args!("GPU code      {form} for {}, made by {}", built_in.targets.join(", "), built_in.made_by));
    match crate::Driver::find() {
        Ok(crate::Driver { cuda_version, devices }) => {
            say(format_args!(
                "driver        CUDA {}.{}, devices: {devices}",
                cuda_version / 1000,
                cuda_version % 1000 / 10
            ));
        }
        Err(error) => say(format_args!("driver        none: {error}")),
    }
    match Device::cuda(0) {
        Ok(device) => {
            describe(&device);
            Some(kernels(Some(device.properties().arch), |kernel| device.load(kernel)))
        }
        Err(error @ (Error::NoDriver { .. } | Error::NoDevice { .. })) => {
            say(format_args!("GPU           none: {error}"));
            None
        }
        Err(error) => {
            say(format_args!("device        cannot be used: {error}"));
            Some(kernels(None, |_| Err(error.clone())))
        }
    }
}

/// What builds kernels here: needed to build this library, not to run this program.
fn toolchain() {
    let cache = match Cache::of_user() {
        Ok(cache) => cache,
        Err(error) => return say(format_args!("toolchain     none: {error}")),
    };
    match Compiler::find(&cache) {
        Ok(found) => {
            say(format_args!("compiler      rustc {} ({}): {}", found.release, found.origin, found.rustc.display()))
        }
        Err(cuda_builder::Error::NoCompiler { rejected }) => {
            say(format_args!("compiler      none that can build kernels (this program needs none)"));
            for one in rejected {
                say(format_args!("              {}: {}", one.place, one.reason));
            }
        }
        Err(error) => say(format_args!("compiler      none: {error}")),
    }
    match Assembler::find(&cache) {
        Ok(found) => say(format_args!("ptxas         {}: {}", found.version, found.ptxas.display())),
        Err(rejected) => {
            say(format_args!("ptxas         none (the driver compiles PTX)"));
            for one in rejected {
                say(format_args!("              {}: {}", one.place, one.reason));
            }
        }
    }
}

fn describe(device: &Device) {
    let p = device.properties();
    say(format_args!("device        {}, {}, {} multiprocessors", p.name, p.arch, p.multiprocessors));
    let (block, all) = (p.shared_per_block >> 10, p.shared_per_multiprocessor >> 10);
    say(format_args!("              {block} KiB of shared memory a block, {all} a multiprocessor"));
}

/// A line a kernel: how it runs, or why it does not, which is no failure on a GPU `arch` that it is not for.
fn kernels(arch: Option<Arch>, how: impl Fn(KernelId) -> Result<String, Error>) -> Outcome {
    say(format_args!("kernels"));
    let mut outcome = Outcome::Ok;
    for kernel in KernelId::all() {
        let name = kernel.to_string();
        match how(kernel) {
            Ok(how) => say(format_args!("  {name:26}  yes  {how}")),
            Err(error) => {
                say(format_args!("  {name:26}  no   {error}"));
                let elsewhere = arch.is_some_and(|arch| !arch.runs(kernel.family()));
                if !elsewhere {
                    outcome = Outcome::Failed;
                }
            }
        }
    }
    outcome
}
