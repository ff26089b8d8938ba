//! What lies behind all other code: PTX for sm_80, which drivers compile for chips that nobody has seen yet, so it has nothing
//! that one chip or generation alone has, nor what came after it.
use super::{BUILT, opcodes};
use cuda_builder::Arch;

/// What opcodes of later or special instructions contain, with the first target that has them. A `sm_90` without `a` is newer
/// than this code's target, and an older chip would refuse it.
const FORBIDDEN: [(&str, &str); 24] = [
    ("wgmma", "sm_90a"),
    ("setmaxnreg", "sm_90a"),
    ("tcgen05", "sm_100f"),
    ("cp.async.bulk", "sm_90"),
    ("cp.reduce.async", "sm_90"),
    ("red.async", "sm_90"),
    ("st.async", "sm_90"),
    ("st.bulk", "sm_100"),
    ("mbarrier.try_wait", "sm_90"),
    ("expect_tx", "sm_90"),
    ("tensormap", "sm_90"),
    ("cluster", "sm_90"),
    ("mapa", "sm_90"),
    ("fence.proxy.async", "sm_90"),
    ("fence.mbarrier_init", "sm_90"),
    ("griddepcontrol", "sm_90"),
    ("stmatrix", "sm_90"),
    ("elect.sync", "sm_90"),
    ("multimem", "sm_90"),
    ("e4m3", "sm_89"),
    ("e5m2", "sm_89"),
    ("e2m1", "sm_100f"),
    ("f32x2", "sm_100"),
    (".kind::", "sm_120a"),
];

/// The newest PTX ISA of the oldest driver that is to take it, CUDA 12.0.
const ISA: &str = ".version 8.0";

/// What is in `ptx` that not every chip from sm_80 on has; empty is good.
fn findings(ptx: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (directive, expected) in [(".version", ISA), (".target", ".target sm_80")] {
        let line = ptx.lines().find(|line| line.starts_with(directive)).unwrap_or("no header");
        if line.trim_end() != expected {
            found.push(format!("{line:?} where {expected:?} is expected"));
        }
    }
    for opcode in opcodes(ptx) {
        let special = FORBIDDEN.iter().filter(|(word, _)| opcode.contains(word));
        found.extend(special.map(|(word, target)| format!("{opcode}: {word} is of {target}")));
    }
    found
}

#[test]
fn code_for_chips_to_come_has_nothing_of_one_chip() {
    let module = BUILT.modules.iter().find(|module| module.arch == Arch::Sm80).expect("the portable pass");
    for entry in &module.entries {
        assert_eq!(findings(&entry.ptx), Vec::<String>::new(), "{}", entry.name);
    }
    // The scan sees what it is for: the same kernels for Hopper have conversions, and wait for the grid before theirs.
    let hopper = BUILT.modules.iter().find(|module| module.arch == Arch::Sm90a).expect("Hopper's pass");
    let of = |name: &str| hopper.entries.iter().find(|entry| entry.name == name).expect("an entry");
    let found = findings(&of("decode_d64_bf16_e4m3_eight").ptx).join("; ");
    assert!(found.contains(".target sm_90") && found.contains("e4m3 is of sm_89"), "{found}");
    assert!(findings(&of("combine").ptx).join("; ").contains("griddepcontrol is of sm_90"));
    assert!(findings(&of("prefill_d64_bf16_bf16").ptx).join("; ").contains("wgmma is of sm_90a"));
}

#[test]
fn each_forbidden_word_is_noticed() {
    let module = |code: &str| format!("{ISA}\n.target sm_80\n.address_size 64\n{{\n\t{code}\n\tret;\n}}\n");
    let clean = "cp.async.cg.shared.global [%r1], [%rd1], 16;\n\tmma.sync.aligned.m16n8k16 x;\n\t// wgmma here;";
    assert_eq!(findings(&module(clean)), Vec::<String>::new());
    for (word, target) in FORBIDDEN {
        let opcode = if word.starts_with('.') { format!("x{word}y") } else { format!("{word}.x") };
        for code in [format!("{opcode} %r1;"), format!("@%p1 {opcode} %r1;"), format!("@!%p1 x.{opcode} %r1;")] {
            let found = findings(&module(&code));
            assert!(found.iter().any(|line| line.ends_with(&format!("{word} is of {target}"))), "{code}: {found:?}");
        }
    }
    for target in ["sm_80a", "sm_90", "sm_90a", "sm_100f"] {
        assert_eq!(findings(&module(clean).replace("sm_80", target)).len(), 1, "{target}");
    }
    assert_eq!(findings(&module(clean).replace("8.0", "8.1")).len(), 1);
    assert_eq!(findings("").len(), 2);
}
