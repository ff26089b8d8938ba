//! The probes of what Hopper adds, on the simulator: with earliest and with latest delivery, both orders of arrival, each
//! does what the ISA says. `expected` is what a GPU's results are to be compared with, too.
use cuda_std::sim::{Delivery, Grid, Memory, Options, launch};
use kernels_gpu::layout::tensor_map::{TensorMap, TiledLayout};
use kernels_gpu::memory::Global;
use kernels_gpu::probe::hopper::{BLOCKS, HOPPER_PROBES, HopperParams, HopperProbe, run};

#[path = "probes/hopper.rs"]
mod rules;

const UNWRITTEN: u32 = 0xA5A5_A5A5;

fn simulated(probe: &HopperProbe, input: &[u32], options: &Options) -> Vec<u32> {
    let memory = Memory::new();
    let upload = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let address = memory.alloc(bytes.len());
        memory.write(address, &bytes).unwrap_or_else(|error| panic!("{error}"));
        address
    };
    let results = vec![UNWRITTEN; (BLOCKS * probe.output_words) as usize];
    let (output, input) = (upload(&results), upload(input));
    let map = |layout: Option<TiledLayout>, address: u64| {
        layout.map_or(TensorMap::NONE, |layout| layout.simulated(address).unwrap_or_else(|error| panic!("{error}")))
    };
    let maps = [map(probe.input_map, input), map(probe.output_map, output)];
    let params = HopperParams { maps, input: Global::new(input), output: Global::new(output) };
    let HopperProbe { name, threads, shared_bytes, cluster, .. } = *probe;
    let grid = Grid { name, blocks: BLOCKS, threads, shared_bytes, early: false, cluster };
    let body = || {
        // SAFETY: the simulator checks every address.
        unsafe { run(name, &params) }
    };
    launch(&memory, &grid, options, &body).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut bytes = vec![0; 4 * results.len()];
    memory.read(output, &mut bytes).unwrap_or_else(|error| panic!("{error}"));
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn every_twin_does_what_the_isa_says() {
    for probe in HOPPER_PROBES {
        let input = rules::input(probe);
        let expected = rules::expected(probe, &input, UNWRITTEN);
        for (delivery, seed) in [(Delivery::Earliest, 7), (Delivery::Latest, 7), (Delivery::Latest, 8)] {
            let results = simulated(probe, &input, &Options { delivery, seed, ..Options::default() });
            for (index, (result, expected)) in results.iter().zip(&expected).enumerate() {
                let name = probe.name;
                assert_eq!(result, expected, "{name} ({delivery:?}, seed {seed}): result {index} {result:#010x}");
            }
        }
    }
}

/// A box is somewhere inside, somewhere across an edge and somewhere outside, or the probes of tensors say little.
#[test]
fn operands_of_tensors_are_of_every_kind() {
    for probe in HOPPER_PROBES {
        let Some(map) = probe.input_map else { continue };
        let input = rules::input(probe);
        let inside: Vec<usize> =
            (0..BLOCKS).map(|block| rules::elements_inside(&map, rules::coordinates(probe, &input, block))).collect();
        let all = (map.tile_bytes() / u64::from(map.element_bytes)) as usize;
        assert!(inside.contains(&all) && inside.iter().any(|&n| 0 < n && n < all), "{}: {inside:?}", probe.name);
    }
}
