//! The probes of what Hopper adds through the library on the simulator, as `gpu.rs` runs them on a chip: maps, clusters,
//! operands and results get there and back.
use qkv::probe::{HOPPER_PROBES, UNWRITTEN, run_hopper};
use qkv::{Arch, Device, SimulatorOptions};

#[path = "../kernels-gpu/tests/probes/hopper.rs"]
mod rules;

#[test]
fn every_probe_of_hopper_is_as_the_isa_says() {
    let arch = Arch { major: 9, minor: 0 };
    let device = Device::simulator_with(SimulatorOptions { arch, ..SimulatorOptions::default() });
    for probe in HOPPER_PROBES {
        let input = rules::input(probe);
        let results = run_hopper(&device, probe, &input).unwrap_or_else(|error| panic!("{}: {error}", probe.name));
        assert!(results == rules::expected(probe, &input, UNWRITTEN), "{}", probe.name);
    }
}

#[test]
fn operands_of_another_number_of_blocks_are_refused() {
    let refused = run_hopper(&Device::simulator(), &HOPPER_PROBES[0], &[0; 32]).map_err(|error| error.to_string());
    assert_eq!(refused, Err("input is 32 words; allowed: the operands of 32 blocks".into()));
}
