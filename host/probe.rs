//! For the tests on a GPU (feature `probe`): one-instruction entries on either kind of device, and other code in place of
//! a kernel's, such as one with a fault planted that a sanitizer should find. Nothing of it is in a shipped build.
use crate::device::{Backend, Device};
use crate::error::Error;
use kernels_gpu::memory::Global;
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
    let upload = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let buffer = device.alloc(bytes.len())?;
        buffer.write(&bytes)?;
        Ok::<_, Error>(buffer)
    };
    let operands = upload(input)?;
    let results = upload(&vec![UNWRITTEN; (blocks * probe.output_words) as usize])?;
    let params = ProbeParams { input: Global::new(operands.address()), output: Global::new(results.address()) };
    match device.backend() {
        // SAFETY: both buffers are live, and of the lengths that the probe says; the launch is over when this returns.
        Backend::Cuda(context) => unsafe { context.probe(probe, blocks, &params) }?,
        Backend::Simulator(simulator) => simulator.probe(probe, blocks, &params)?,
    }
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
