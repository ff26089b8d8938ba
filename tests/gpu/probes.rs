//! Each instruction on the chip and on the simulator, on the same operands: both as the ISA says, and where it leaves no
//! choice the same bits.
use super::test;
use libtest_mimic::{Failed, Trial};
use qkv::probe::{HOPPER_PROBES, HopperProbe, UNWRITTEN, run, run_hopper};
use qkv::{Arch, Device};

#[path = "../../kernels-gpu/tests/probes/hopper.rs"]
mod hopper_rules;
#[path = "../../kernels-gpu/tests/probes/operands.rs"]
mod operands;
#[path = "../../kernels-gpu/tests/probes/rules.rs"]
mod rules;

pub fn tests() -> Vec<Trial> {
    let arch = super::GPU.as_ref().ok().map(|device| device.properties().arch);
    // What another chip has no instruction for is ignored there.
    let other_chip = arch.is_some_and(|arch| arch != Arch { major: 9, minor: 0 });
    let of_hopper = |trial: Trial| if other_chip { trial.with_ignored_flag(true) } else { trial };
    let probes = operands::all().into_iter().map(|trials| {
        let probe = trials.probe;
        let trial = test(probe.name, move |device| compare(device, &trials));
        match (probe.hopper, probe.blackwell) {
            (true, _) => of_hopper(trial),
            (_, true) if arch.is_some_and(|arch| arch.major != 10) => trial.with_ignored_flag(true),
            _ => trial,
        }
    });
    let hopper =
        HOPPER_PROBES.iter().map(|probe| of_hopper(test(probe.name, move |device| compare_hopper(device, probe))));
    probes.chain(hopper).collect()
}

/// Every word of both is what the ISA says.
fn compare_hopper(device: &Device, probe: &'static HopperProbe) -> Result<(), Failed> {
    let input = hopper_rules::input(probe);
    let expected = hopper_rules::expected(probe, &input, UNWRITTEN);
    for (which, device) in [("chip", device), ("simulator", &Device::simulator())] {
        let results = run_hopper(device, probe, &input)?;
        let different: Vec<usize> = (0..expected.len()).filter(|&i| results.get(i) != expected.get(i)).collect();
        if let Some(&index) = different.first() {
            let (count, result, wanted) = (different.len(), results.get(index), expected[index]);
            return Err(
                format!("the {which}: {count} words differ; word {index}: {result:#x?}, not {wanted:#x}").into()
            );
        }
    }
    println!("{}: all of {} words are as the ISA says", probe.name, expected.len());
    Ok(())
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
