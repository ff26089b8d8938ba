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
    let arch = super::GPU.as_ref().ok().map(|device| device.properties().arch.to_string());
    let trial = |trials: operands::Trials| {
        let probe = trials.probe;
        let trial = test(probe.name, move |device| compare(device, &trials));
        // What another chip has no instruction for is ignored there.
        let other_chip = probe.hopper && arch.as_ref().is_some_and(|arch| arch != "sm_90a");
        if other_chip { trial.with_ignored_flag(true) } else { trial }
    };
    operands::all().into_iter().map(trial).collect()
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
