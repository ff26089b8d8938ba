//! Each instruction on the chip and on the simulator, on the same operands: both as the ISA says, and where it leaves no
//! choice the same bits.
use super::test;
use libtest_mimic::{Failed, Trial};
use qkv::Device;
use qkv::probe::{UNWRITTEN, run};

#[path = "../../kernels-gpu/tests/probes/operands.rs"]
mod operands;
#[path = "../../kernels-gpu/tests/probes/rules.rs"]
mod rules;

pub fn tests() -> Vec<Trial> {
    operands::all().into_iter().map(|trials| test(trials.probe.name, move |device| run_one(device, &trials))).collect()
}

/// Compares, unless the chip has no such instruction.
fn run_one(device: &Device, trials: &operands::Trials) -> Result<(), Failed> {
    let arch = device.properties().arch.to_string();
    if trials.probe.hopper && arch != "sm_90a" {
        println!("{}: {arch} has no such instruction", trials.probe.name);
        return Ok(());
    }
    compare(device, trials)
}

fn compare(device: &Device, trials: &operands::Trials) -> Result<(), Failed> {
    let (probe, input) = (trials.probe, &trials.input);
    let chip = run(device, probe, input)?;
    let simulated = run(&Device::simulator(), probe, input)?;
    // What differs is said first: it is the news.
    let words = chip.iter().zip(&simulated).enumerate();
    let different: Vec<_> = words.filter(|(_, (chip, simulated))| chip != simulated).collect();
    if rules::is_exact(probe)
        && let Some((index, (chip, simulated))) = different.first()
    {
        let count = different.len();
        return Err(
            format!("{count} words differ; word {index}: chip {chip:#010x}, simulator {simulated:#010x}").into()
        );
    }
    rules::check(probe, input, &chip, UNWRITTEN).map_err(|what| format!("the chip: {what}"))?;
    rules::check(probe, input, &simulated, UNWRITTEN).map_err(|what| format!("the simulator: {what}"))?;
    println!("{}: {} of {} words differ from the simulator's", probe.name, different.len(), chip.len());
    Ok(())
}
