//! The probes on the simulator, with earliest and with latest delivery of copies: each instruction's twin does what the
//! ISA says. The same operands and rules judge a GPU in `tests/gpu.rs` of the root package.
use cuda_std::sim::{Delivery, Grid, Memory, Options, launch};
use kernels_gpu::memory::Global;
use kernels_gpu::probe::{ProbeInfo, ProbeParams, run};

#[path = "probes/operands.rs"]
mod operands;
#[path = "probes/rules.rs"]
mod rules;

const UNWRITTEN: u32 = 0xA5A5_A5A5;

fn simulated(probe: &ProbeInfo, input: &[u32], delivery: Delivery) -> Vec<u32> {
    let memory = Memory::new();
    let blocks = input.len() as u32 / probe.input_words;
    let upload = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let address = memory.alloc(bytes.len());
        memory.write(address, &bytes).unwrap_or_else(|error| panic!("{error}"));
        address
    };
    let results = vec![UNWRITTEN; (blocks * probe.output_words) as usize];
    let output = upload(&results);
    let params = ProbeParams { input: Global::new(upload(input)), output: Global::new(output) };
    let grid = Grid {
        name: probe.name,
        blocks,
        threads: probe.threads,
        shared_bytes: probe.shared_bytes,
        early: false,
        cluster: 1,
    };
    let body = || {
        // SAFETY: the simulator checks every address.
        unsafe { run(probe.name, &params) }
    };
    let done = launch(&memory, &grid, &Options { delivery, seed: 7, ..Options::default() }, &body);
    done.unwrap_or_else(|error| panic!("{}: {error}", probe.name));
    let mut bytes = vec![0; 4 * results.len()];
    memory.read(output, &mut bytes).unwrap_or_else(|error| panic!("{error}"));
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn every_twin_does_what_the_isa_says() {
    for delivery in [Delivery::Earliest, Delivery::Latest] {
        for trials in operands::all() {
            let results = simulated(trials.probe, &trials.input, delivery);
            rules::check(trials.probe, &trials.input, &results, UNWRITTEN)
                .unwrap_or_else(|what| panic!("{} ({delivery:?}): {what}", trials.probe.name));
        }
    }
}

/// The rules themselves: one wrong bit, in the last place of what is exact and higher up in what is not, is refused.
#[test]
fn a_wrong_bit_is_refused_anywhere() {
    for trials in operands::all() {
        let probe = trials.probe;
        let input = &trials.input[..probe.input_words as usize]; // of products: small integers
        let results = simulated(probe, input, Delivery::Latest);
        let flip = if matches!(probe.name, "probe_ex2" | "probe_lg2") { 1 << 30 } else { 1 };
        // A few of the thousands of a warpgroup's product, each of which is judged alike.
        let step = if probe.hopper || probe.blackwell { results.len() / 7 } else { 1 };
        for index in (0..results.len()).step_by(step) {
            let mut wrong = results.clone();
            wrong[index] ^= flip;
            let refused = rules::check(probe, input, &wrong, UNWRITTEN);
            assert!(refused.is_err(), "{}: result {index} {:#010x} was taken", probe.name, wrong[index]);
        }
    }
}

#[test]
fn results_that_need_not_be_exact_are_those_of_products_and_of_two_functions() {
    let inexact: Vec<&str> = operands::all()
        .iter()
        .filter(|trials| !rules::is_exact(trials.probe) && !trials.probe.hopper && !trials.probe.blackwell)
        .map(|trials| trials.probe.name)
        .collect();
    assert_eq!(inexact, ["probe_mma_bf16", "probe_mma_f16", "probe_ex2", "probe_lg2"]);
}
