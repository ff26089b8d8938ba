//! Tests that need a GPU, as one program that a machine without Rust can run: started in the project's folder, it takes
//! the golden files from `tests/golden`. Arguments are those of any Rust test program (`--list`, a part of a name, ...).
//!
//! Without a GPU every test is reported as ignored, none as passed. `short::` is one small case for each kernel, for
//! sanitizers (`tests/sanitize.sh`); `planted::` is ignored unless asked for, because it leaves the context unusable.
use libtest_mimic::{Arguments, Failed, Trial};
use qkv::{Arch, Device, Error};
use std::process::ExitCode;
use std::sync::LazyLock;

mod common;
#[path = "gpu/decode.rs"]
mod decode;
#[path = "gpu/golden.rs"]
mod golden;
#[path = "gpu/launch.rs"]
mod launch;
#[path = "gpu/long_steps.rs"]
mod long_steps;
#[path = "gpu/narrow_queries.rs"]
mod narrow_queries;
#[cfg(feature = "probe")]
#[path = "gpu/probes.rs"]
mod probes;
#[path = "gpu/request.rs"]
mod request;
#[path = "gpu/short.rs"]
mod short;
#[path = "gpu/twice.rs"]
mod twice;
#[path = "gpu/variants.rs"]
mod variants;

/// The first GPU, one for all tests; or why there is none.
static GPU: LazyLock<Result<Device, Error>> = LazyLock::new(|| Device::cuda(0));

fn gpu() -> Result<&'static Device, Failed> {
    GPU.as_ref().map_err(|error| Failed::from(format!("no GPU: {error}")))
}

/// A test that is ignored where there is no GPU. A GPU that cannot be used is no reason to ignore anything.
fn test(name: impl Into<String>, body: impl FnOnce(&'static Device) -> Result<(), Failed> + Send + 'static) -> Trial {
    let absent = matches!(*GPU, Err(Error::NoDriver { .. } | Error::NoDevice { .. }));
    Trial::test(name, move || body(gpu()?)).with_ignored_flag(absent)
}

/// The same of kernels that some chips have: also ignored where the GPU `has` none of them.
fn test_where(
    name: impl Into<String>,
    has: impl FnOnce(Arch) -> bool,
    body: impl FnOnce(&'static Device) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let without = GPU.as_ref().is_ok_and(|device| !has(device.properties().arch));
    let trial = test(name, body);
    if without { trial.with_ignored_flag(true) } else { trial }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One after another: while one test captures a stream, the driver refuses the others' copies on the legacy default
    // stream of the same context (CUDA_ERROR_STREAM_CAPTURE_IMPLICIT), as it would a program's.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    match &*GPU {
        Ok(device) => eprintln!("{} ({})", device.properties().name, device.properties().arch),
        Err(error) => eprintln!("no GPU: {error}"),
    }
    let mut tests = short::tests();
    tests.extend(decode::tests());
    tests.extend(golden::tests());
    tests.extend(launch::tests());
    tests.extend(variants::tests());
    tests.extend(long_steps::tests());
    tests.extend(narrow_queries::tests());
    #[cfg(feature = "probe")]
    tests.extend(probes::tests());
    libtest_mimic::run(&arguments, tests).exit_code()
}
