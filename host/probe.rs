//! For the tests on a GPU (feature `probe`): one-instruction entries on either kind of device, and other code in place of
//! a kernel's, such as one with a fault planted that a sanitizer should find. Nothing of it is in a shipped build.
use crate::device::{Backend, Buffer, Device};
use crate::driver::launch::Grid;
use crate::error::Error;
use cuda_std::sim;
use kernels_gpu::layout::tensor_map::{TensorMap, TiledLayout};
use kernels_gpu::memory::Global;
use kernels_gpu::probe::hopper;
pub use kernels_gpu::probe::hopper::{HOPPER_PROBES, HopperParams, HopperProbe};
pub use kernels_gpu::probe::{PROBES, ProbeInfo, ProbeParams};
use std::path::Path;

/// A result word that no thread has written.
pub const UNWRITTEN: u32 = 0xA5A5_A5A5;

/// Runs `probe` with a block for every `input_words` of `input`, and gives the results of all blocks.
///
/// # Errors
/// An input that is not whole blocks; on the simulator what the probe did wrong; the driver's.
pub fn run(device: &Device, probe: &'static ProbeInfo, input: &[u32]) -> Result<Vec<u32>, Error> {
    let words = probe.input_words as usize;
    if input.is_empty() || !input.len().is_multiple_of(words) || input.len() / words > 1 << 20 {
        let allowed = "1 to 2^20 blocks of the probe's operands";
        return Err(Error::Value { field: "input", value: format!("{} words", input.len()), allowed });
    }
    let blocks = (input.len() / words) as u32;
    let (operands, results) = (upload(device, input)?, unwritten(device, blocks * probe.output_words)?);
    let params = ProbeParams { input: Global::new(operands.address()), output: Global::new(results.address()) };
    let ProbeInfo { name, threads, shared_bytes, .. } = *probe;
    let grid = Grid { blocks, threads, shared_bytes, cluster: 1, early: false };
    // SAFETY: both buffers are live, and of the lengths that the probe says, until the launch is over; the simulator checks
    // every address.
    unsafe { launch(device, name, &grid, &params, kernels_gpu::probe::run) }?;
    words_of(&results)
}

/// Runs `probe` on the operands of [`hopper::BLOCKS`] blocks, and gives the results of all of them.
///
/// # Errors
/// Another number of operands; on the simulator what the probe did wrong; the driver's, which may be too old for tensor maps
/// or for clusters.
pub fn run_hopper(device: &Device, probe: &'static HopperProbe, input: &[u32]) -> Result<Vec<u32>, Error> {
    let blocks = hopper::BLOCKS;
    if input.len() != (blocks * probe.input_words) as usize {
        let allowed = "the operands of 32 blocks";
        return Err(Error::Value { field: "input", value: format!("{} words", input.len()), allowed });
    }
    let (operands, results) = (upload(device, input)?, unwritten(device, blocks * probe.output_words)?);
    let map = |layout: Option<TiledLayout>, of: &Buffer| {
        layout.map_or(Ok(TensorMap::NONE), |layout| device.tensor_map(&layout, of.address()))
    };
    let params = HopperParams {
        maps: [map(probe.input_map, &operands)?, map(probe.output_map, &results)?],
        input: Global::new(operands.address()),
        output: Global::new(results.address()),
    };
    let HopperProbe { name, threads, shared_bytes, cluster, .. } = *probe;
    let grid = Grid { blocks, threads, shared_bytes, cluster, early: false };
    // SAFETY: as above; the maps are of these buffers.
    unsafe { launch(device, name, &grid, &params, hopper::run) }?;
    words_of(&results)
}

/// Launches probe `name` on either kind of device, and waits for it.
///
/// # Safety
/// `params` is the struct that the probe takes, of live buffers of the lengths that it says; `simulated` runs its body.
unsafe fn launch<P: Sync>(
    device: &Device,
    name: &'static str,
    grid: &Grid,
    params: &P,
    simulated: unsafe fn(&'static str, &P),
) -> Result<(), Error> {
    match device.backend() {
        // SAFETY: the caller's promise; the launch is over when this returns.
        Backend::Cuda(context) => unsafe { context.probe(name, grid, core::ptr::from_ref(params).cast()) },
        Backend::Simulator(simulator) => {
            let Grid { blocks, threads, shared_bytes, cluster, early } = *grid;
            let grid = sim::Grid { name, blocks, threads, shared_bytes, early, cluster };
            // SAFETY: the caller's promise.
            simulator.probe(&grid, &|| unsafe { simulated(name, params) })
        }
    }
}

fn upload(device: &Device, words: &[u32]) -> Result<Buffer, Error> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let buffer = device.alloc(bytes.len())?;
    buffer.write(&bytes)?;
    Ok(buffer)
}

fn unwritten(device: &Device, words: u32) -> Result<Buffer, Error> {
    upload(device, &vec![UNWRITTEN; words as usize])
}

fn words_of(results: &Buffer) -> Result<Vec<u32>, Error> {
    let bytes = results.read()?;
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// The PTX in `QKV_PTX_OVERRIDE_DIR/<entry>.ptx`, ended by NUL, where there is such a file; it says so on the standard
/// error, so that no run with other code passes for one with the shipped.
pub(crate) fn replacement(entry: &str) -> Result<Option<Vec<u8>>, Error> {
    let Some(dir) = std::env::var_os("QKV_PTX_OVERRIDE_DIR").filter(|dir| !dir.is_empty()) else { return Ok(None) };
    let path = Path::new(&dir).join(format!("{entry}.ptx"));
    if !path.is_file() {
        return Ok(None);
    }
    eprintln!("{entry}: code replaced by {}", path.display());
    let mut code =
        std::fs::read(&path).map_err(|error| Error::DamagedImage { reason: format!("{}: {error}", path.display()) })?;
    code.push(0);
    Ok(Some(code))
}
