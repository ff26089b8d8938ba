//! The kernels as compiled: every entry for every architecture through ptxas, and what is in it counted.
//!
//! What is wrong here is wrong on every GPU, so nothing is skipped: without a compiler or ptxas these tests fail.
//! `BLESS=1` writes the snapshot of instruction counts anew; a count that changed is to be understood first, as every
//! barrier, vote and shuffle of a kernel is one that somebody wanted.
use cuda_builder::{Arch, Built, CudaBuilder, Entry, LaunchBounds};
use kernels_gpu::element::{CacheKind, QueryKind};
use kernels_gpu::kernels::{ENTRIES, EntryInfo, Family, Role};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

#[path = "ptx/chips.rs"]
mod chips;
#[path = "ptx/guards.rs"]
mod guards;
#[path = "ptx/portable.rs"]
mod portable;
#[path = "ptx/sass.rs"]
mod sass;
#[path = "ptx/slots.rs"]
mod slots;
#[path = "ptx/units.rs"]
mod units;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What `build.rs` embeds, for all architectures; the gate is this file's.
static BUILT: LazyLock<Built> = LazyLock::new(|| {
    let entries = ENTRIES
        .iter()
        .map(|entry| LaunchBounds::new(entry.name, entry.threads, entry.min_blocks, |arch| entry.is_for(arch)));
    let builder = CudaBuilder::of_project(root(), entries).archs(Arch::ALL.iter().copied()).gate(false);
    builder.build().unwrap_or_else(|error| panic!("the kernels do not compile: {error}"))
});

/// Calls `check` with every entry of every architecture.
fn every(check: impl Fn(Arch, &EntryInfo, &Entry)) {
    for module in &BUILT.modules {
        for entry in &module.entries {
            let info = ENTRIES.iter().find(|info| info.name == entry.name);
            check(module.arch, info.unwrap_or_else(|| panic!("{} is not in ENTRIES", entry.name)), entry);
        }
    }
}

#[test]
fn the_ptx_has_exactly_the_listed_entries_for_every_architecture() {
    let archs: Vec<Arch> = BUILT.modules.iter().map(|module| module.arch).collect();
    assert_eq!(archs, Arch::ALL);
    let names: BTreeSet<&str> = ENTRIES.iter().map(|info| info.name).collect();
    assert_eq!(names.len(), ENTRIES.len(), "no name twice");
    for module in &BUILT.modules {
        let here = ENTRIES.iter().filter(|info| info.is_for(module.arch.name()));
        let listed: BTreeSet<&str> = here.map(|info| info.name).collect();
        let compiled: BTreeSet<&str> = module.entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(compiled, listed, "{}", module.arch);
    }
    every(|arch, info, entry| {
        assert_eq!(entry.ptx.matches(".entry ").count(), 1, "{arch} {}: a module an entry", info.name);
        assert!(entry.ptx.contains(&format!(".target {}\n", entry.target)), "{arch} {}", info.name);
        // Of the portable ones none has an instruction of one chip or family, but the conversion from e2m1; of the others each has.
        let converts = arch == Arch::Sm100f && matches!(info.role, Role::Decode { kv: CacheKind::NvFp4, .. });
        let plain = info.family() == Family::Portable && !converts;
        assert_eq!(entry.target, if plain { arch.plain() } else { arch.name() }, "{}", info.name);
    });
}

#[test]
fn ptxas_finds_no_stack_no_spill_and_no_note() {
    let assembler = BUILT.assembler.as_ref().expect("no ptxas of release 12.9 or newer: the kernels cannot be checked");
    every(|arch, info, entry| {
        let assembled = entry.assembled.as_ref().unwrap_or_else(|| panic!("{arch} {}: no report", info.name));
        let report = &assembled.report;
        assert_eq!(report.findings(), Vec::<String>::new(), "{arch} {} by ptxas {}", info.name, assembler.version);
        assert_eq!(report.shared_bytes, 0, "{arch} {}: all shared memory is the launch's", info.name);
        let most = most_registers(info);
        assert!(report.registers <= most, "{arch} {}: {} registers of {most}", info.name, report.registers);
    });
}

/// What the launch bounds leave a thread of the 65536 registers, in units of 8.
fn most_registers(info: &EntryInfo) -> u32 {
    (65_536 / (info.threads * info.min_blocks)).min(255) / 8 * 8 + 7
}

#[test]
fn an_entry_is_straight_code_without_local_memory() {
    every(|arch, info, entry| {
        for line in entry.ptx.lines().map(|line| line.split("//").next().unwrap_or_default()) {
            let call = line.split_whitespace().any(|word| word.starts_with("call"));
            assert!(!call && !line.contains(".local") && !line.contains(".func"), "{arch} {}: {line}", info.name);
        }
    });
}

#[test]
fn launch_bounds_and_parameters_are_those_of_the_list() {
    every(|arch, info, entry| {
        let bounds = format!(".maxntid {}, 1, 1\n.minnctapersm {}\n", info.threads, info.min_blocks);
        assert!(entry.ptx.contains(&bounds), "{arch} {}", info.name);
        let params: Vec<&str> = entry.ptx.lines().filter(|line| line.trim_start().starts_with(".param")).collect();
        // Tensor maps are read at addresses that are multiples of 64.
        let align = if info.prefills() { 64 } else { 8 };
        let expected = format!("\t.param .align {align} .b8 {}_param_0[{}]", info.name, info.param_bytes);
        assert_eq!(params, [expected], "{arch} {}", info.name);
    });
}

/// Counted per entry: a column's name, and what the opcode begins with.
const COUNTED: [(&str, &[&str]); 11] = [
    ("barrier", &["bar.sync", "barrier"]),
    ("warp", &["bar.warp.sync"]),
    ("vote", &["vote", "activemask", "match", "redux", "elect"]),
    ("shfl", &["shfl"]),
    ("mma", &["mma", "wgmma"]),
    ("ldmatrix", &["ldmatrix"]),
    ("stmatrix", &["stmatrix"]),
    ("cp.async", &["cp.async.c", "cp.async.bulk"]),
    ("commit", &["cp.async.commit"]),
    ("wait", &["cp.async.wait"]),
    ("griddep", &["griddepcontrol"]),
];

/// The instructions of a module: the opcode of every line that is one, its predicate left out.
fn opcodes(ptx: &str) -> impl Iterator<Item = &str> {
    let instruction = |line: &'_ &str| line.ends_with(';') && !line.starts_with('.');
    ptx.lines()
        .map(str::trim)
        .filter(instruction)
        .filter_map(|line| line.split_whitespace().find(|w| !w.starts_with('@')))
}

fn counts(ptx: &str) -> [usize; COUNTED.len()] {
    let is = |opcode: &str, starts: &[&str]| starts.iter().any(|start| opcode.starts_with(start));
    COUNTED.map(|(name, starts)| {
        // A commit begins as a copy does.
        let other = |opcode: &str| name == "cp.async" && opcode.starts_with("cp.async.commit");
        opcodes(ptx).filter(|opcode| is(opcode, starts) && !other(opcode)).count()
    })
}

fn snapshot() -> String {
    let mut text =
        String::from("# Instructions of each entry, in the PTX. Written by BLESS=1 cargo test --test ptx.\n");
    for module in &BUILT.modules {
        let _ = write!(text, "\n{:<28}", module.arch.name());
        COUNTED.iter().for_each(|(name, _)| text.push_str(&format!(" {name:>8}")));
        text.push('\n');
        for entry in &module.entries {
            let _ = write!(text, "{:<28}", entry.name);
            counts(&entry.ptx).iter().for_each(|count| text.push_str(&format!(" {count:>8}")));
            text.push('\n');
        }
    }
    text
}

#[test]
fn barriers_votes_shuffles_products_and_copies_are_as_many_as_recorded() {
    let path = root().join("tests/snapshots/instructions.txt");
    let now = snapshot();
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &now).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let changed: Vec<String> = recorded
        .lines()
        .map(Some)
        .chain(std::iter::repeat(None))
        .zip(now.lines().map(Some).chain(std::iter::repeat(None)))
        .take_while(|(recorded, now)| recorded.is_some() || now.is_some())
        .filter(|(recorded, now)| recorded != now)
        .map(|(recorded, now)| format!("- {}\n+ {}", recorded.unwrap_or_default(), now.unwrap_or_default()))
        .collect();
    let compiler = &BUILT.compiler.release;
    assert!(changed.is_empty(), "counts changed (compiled by rustc {compiler}):\n{}", changed.join("\n"));
}

#[test]
fn counts_are_of_instructions_alone() {
    let ptx = "\t.loc 1 2 3\n\t// shfl.sync.idx.b32 %r1;\n\t@%p1 bra $L;\n\t@!%p2 shfl.sync.idx.b32 \t%r1, %r2, 0, 31, -1;\n\
               \tcp.async.commit_group;\n\tcp.async.cg.shared.global.L2::128B [%r1], [%rd1], 16, %r2;\n\tcp.async.wait_group 2;\n\
               \tbar.sync \t0;\n\tbar.warp.sync -1;\n\tbarrier.sync.aligned 1, 64;\n\t.reg .b32 %r<2>;\n";
    assert_eq!(counts(ptx), [2, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0]);
}

/// nvdisasm, which lies beside ptxas in NVIDIA's packages.
fn nvdisasm() -> PathBuf {
    let assembler = BUILT.assembler.as_ref().expect("no ptxas");
    let program = assembler.ptxas.with_file_name("nvdisasm");
    assert!(program.is_file(), "no nvdisasm beside {}", assembler.ptxas.display());
    program
}

/// The machine code of `cubin` as text.
fn disassembled(program: &Path, cubin: &[u8], name: &str) -> String {
    let path = std::env::temp_dir().join(format!("qkv-ptx-test-{}-{name}.cubin", std::process::id()));
    std::fs::write(&path, cubin).expect("a folder for temporary files");
    let output = Command::new(program).arg("-c").arg(&path).output().expect("nvdisasm runs");
    let _ = std::fs::remove_file(&path);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn machine_code_has_the_tensor_cores_the_copies_and_no_local_memory() {
    let program = nvdisasm();
    std::thread::scope(|scope| {
        for module in &BUILT.modules {
            let program = &program;
            scope.spawn(move || {
                // Half a second each: all of the architecture that is measured, of the others the widest and what only they have.
                let of_all = |name: &str| {
                    module.arch == Arch::Sm90a || ["d512_bf16", "tcgen05"].iter().any(|part| name.contains(part))
                };
                for entry in module.entries.iter().filter(|entry| of_all(&entry.name)) {
                    let name = format!("{}-{}", module.arch, entry.name);
                    let assembled = entry.assembled.as_ref().unwrap_or_else(|| panic!("{name}: no cubin"));
                    let text = disassembled(program, &assembled.cubin, &name);
                    let has = |opcode: &str| text.split_whitespace().any(|word| word.starts_with(opcode));
                    assert!(has("EXIT"), "{name}: not a disassembly");
                    for local in ["LDL", "STL"] {
                        assert!(!has(local), "{name} has {local}");
                    }
                    let info = ENTRIES.iter().find(|info| info.name == entry.name);
                    let wanted: &[&str] = match info.map(|info| info.role) {
                        Some(Role::Decode { kv: CacheKind::NvFp4, .. }) if module.arch > Arch::Sm90a => {
                            &["HMMA.16816.F32", "LDSM.16.M88.4", "LDSM.16.MT88.4", "F2FP.F16.E2M1.UNPACK_B"]
                        }
                        Some(Role::Decode { .. }) => {
                            &["HMMA.16816.F32", "LDSM.16.M88.4", "LDSM.16.MT88.4", "LDGSTS.E.BYPASS"]
                        }
                        Some(Role::Prefill { shape, q, .. }) if shape.tensor_memory() => match q {
                            QueryKind::Fp8E4M3 => &["UTCQMMA", "LDTM", "UTMALDG.5D", "USETMAXREG"],
                            QueryKind::Bf16 | QueryKind::F16 => &["UTCHMMA", "LDTM", "UTMALDG.5D", "USETMAXREG"],
                        },
                        Some(Role::Prefill { q: QueryKind::Fp8E4M3, .. }) => {
                            &["QGMMA.64x", "LDSM.16.MT88.4", "STSM.16.M88.4", "UTMALDG.5D", "USETMAXREG"]
                        }
                        Some(Role::Prefill { .. }) => &["HGMMA.64x", "UTMALDG.5D", "USETMAXREG"],
                        // 16 elements of each side a thread: two loads, and one store (of scales besides).
                        Some(Role::Append { kv, .. }) => match kv {
                            CacheKind::Bf16 | CacheKind::F16 => &["LDG.E.128", "STG.E.128"],
                            CacheKind::Fp8E4M3 => &["LDG.E.128", "STG.E.128", "F2FP.SATFINITE.E4M3"],
                            CacheKind::Fp8E5M2 => &["LDG.E.128", "STG.E.128", "F2FP.SATFINITE.E5M2"],
                            CacheKind::NvFp4 => &["LDG.E.128", "STG.E.64", "STG.E.U8"],
                        },
                        _ => &[],
                    };
                    for wanted in wanted {
                        assert!(has(wanted), "{name} has no {wanted}");
                    }
                }
            });
        }
    });
}
