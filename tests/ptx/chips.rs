//! The kernels on chips that no pass of the compiler is for: what each takes of the others' code, through ptxas for that chip.
//!
//! Of every head dimension two kernels, the ones with the most registers and conversions; with `QKV_FULL=1` (`cargo xtask test
//! --full`) all of them.
use super::{BUILT, most_registers};
use cuda_builder::Entry;
use kernels_gpu::kernels::{ENTRIES, EntryInfo, Family};
use qkv::{ARCHES, Arch, Code};
use std::sync::Mutex;

/// A compute capability and its name to ptxas.
const CHIPS: [([u32; 2], &str); 8] = [
    ([8, 6], "sm_86"),
    ([8, 7], "sm_87"),
    ([8, 9], "sm_89"),
    // Thor, by its name before CUDA 13 and since.
    ([10, 1], "sm_110a"),
    ([10, 3], "sm_103a"),
    ([11, 0], "sm_110a"),
    ([12, 0], "sm_120a"),
    ([12, 1], "sm_121a"),
];

fn sampled(info: &EntryInfo) -> bool {
    std::env::var_os("QKV_FULL").is_some_and(|value| value == "1")
        || info.name.ends_with("_bf16_e4m3_few")
        || info.name.ends_with("_bf16_nvfp4_many")
}

/// The PTX of the code that the chip takes, whether as such or as its machine code.
fn taken(chip: Arch, info: &EntryInfo) -> &'static Entry {
    let entries = || BUILT.modules.iter().flat_map(|module| &module.entries).filter(|entry| entry.name == info.name);
    let of = |code: Code| entries().find(|entry| entry.target == code.target.to_string());
    let entry = Code::taken_by(chip).into_iter().find_map(of);
    entry.unwrap_or_else(|| panic!("{chip} has no code of {}", info.name))
}

#[test]
fn chips_without_a_pass_of_their_own_take_the_others_code() {
    let assembler = BUILT.assembler.as_ref().expect("no ptxas of release 12.9 or newer: the kernels cannot be checked");
    let portable = || ENTRIES.iter().filter(|info| info.family() == Family::Portable);
    let work: Vec<_> = CHIPS
        .iter()
        .flat_map(|&([major, minor], name)| portable().map(move |info| (Arch { major, minor }, name, info)))
        .filter(|(chip, name, info)| {
            let clusters = Family::ALL.iter().any(|&family| family != Family::Portable && chip.runs(family));
            let (bytes, most) = (info.most_shared_bytes(clusters), chip.shared_per_block());
            assert!(bytes <= most, "{name} {}: {bytes} bytes of shared memory of {most}", info.name);
            sampled(info)
        })
        .collect();
    assert!(work.len() >= 8 * CHIPS.len(), "{} entries", work.len());
    let rest = Mutex::new(work.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let next = rest.lock().expect("no thread has panicked with it").next();
                    let Some((chip, name, info)) = next else { break };
                    let report = assembler.report(name, info.name, &taken(chip, info).ptx);
                    let report = report.unwrap_or_else(|error| panic!("{error}"));
                    assert_eq!(report.findings(), Vec::<String>::new(), "{name} {}", info.name);
                    assert_eq!(report.shared_bytes, 0, "{name} {}: all shared memory is the launch's", info.name);
                    let most = most_registers(info);
                    assert!(report.registers <= most, "{name} {}: {} of {most}", info.name, report.registers);
                }
            });
        }
    });
}

/// The chips of the support table are those of the passes and those above.
#[test]
fn every_chip_of_the_table_is_assembled_for() {
    let passes =
        BUILT.modules.iter().flat_map(|module| qkv::Target::parse(module.arch.name())).map(|target| target.arch);
    let others = CHIPS.iter().map(|&([major, minor], _)| Arch { major, minor });
    let mut chips: Vec<Arch> = passes.chain(others).collect();
    chips.sort();
    assert_eq!(chips, ARCHES);
}
