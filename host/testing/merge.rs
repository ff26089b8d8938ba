//! States merged on a device: what several devices have of one batch, or several passes.
use super::case::Case;
use super::run::{Answer, floats};
use super::told::Told;
use crate::{Buffer, Device, Error, KernelId, Lse, MergeStates, States};
use std::time::Instant;

/// A state: f32 outputs `[tokens, q_heads, D]`, and log-sum-exps `[tokens, q_heads]`.
pub type State = (Vec<f32>, Vec<f32>);

/// Merges states of all of `case`'s rows into the output that the case asks for, with its sinks.
///
/// # Errors
/// Too many states, or the device's own error.
pub fn merge(device: &Device, case: &Case, states: &[State]) -> Result<Answer, Error> {
    let told = Told::new(device, case)?;
    let upload = |bytes: Vec<u8>| {
        let buffer = device.alloc(bytes.len().max(16))?;
        buffer.write(&bytes).map(|()| buffer)
    };
    let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let o = upload(states.iter().flat_map(|(o, _)| bytes(o)).collect())?;
    let logs = upload(states.iter().flat_map(|(_, lse)| bytes(lse)).collect())?;
    let (rows, lse_bytes) = ([case.tokens(), case.q_heads], 4 * case.tokens() * case.q_heads);
    let (out, lse) = (filled(device, told.output_bytes())?, filled(device, lse_bytes)?);
    let states_view = States::new(&o, &logs, [states.len(), rows[0], rows[1], case.head_dim])?;
    let merge = MergeStates::new(states_view, told.output(&out)?)?.lse(Lse::new(&lse, rows[0], rows[1])?)?;
    let merge = match told.sinks()? {
        Some(sinks) => merge.sinks(sinks)?,
        None => merge,
    };
    let (stream, begin) = (device.default_stream(), Instant::now());
    merge.launch(&stream)?;
    stream.synchronize()?;
    let elapsed = begin.elapsed();
    let (out, strayed) = told.read(&out.read()?);
    let lse = lse.read()?;
    let (lse, behind) = lse.split_at(lse_bytes);
    Ok(Answer {
        out,
        lse: floats(lse),
        strayed: strayed || behind.iter().any(|&byte| byte != 0xFF),
        kernel: KernelId::named("combine").ok_or(Error::NoKernel { role: "combine" })?,
        splits: states.len(),
        neighbours: 1,
        elapsed,
    })
}

/// Memory that is NaN throughout.
pub(super) fn filled(device: &Device, bytes: usize) -> Result<Buffer, Error> {
    let buffer = device.alloc(bytes.max(16))?;
    buffer.write(&vec![0xFF; buffer.bytes()])?;
    Ok(buffer)
}
