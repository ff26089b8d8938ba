//! The target of each entry. An `a` target's code runs on one chip and an `f` target's on one family, while a plain target's
//! runs on later chips too, as machine code within a generation and as PTX beyond it: so an entry has the plain target of its
//! pass, unless an instruction of it is in the other alone. ptxas refuses what is forgotten here.
use crate::Arch;
use std::borrow::Cow;

/// What instructions that only `a` and `f` targets have begin with or contain (PTX ISA, "Target ISA Notes" of each; ptxas 13.5
/// refuses each for `sm_90` and `sm_100` and takes it for `sm_90a` or `sm_100f`).
const SPECIFIC: [&str; 14] = [
    "wgmma.",
    "setmaxnreg.",
    "tcgen05.",
    ".e2m1x2",
    ".e2m3x2",
    ".e3m2x2",
    ".ue8m0x2",
    ".tile::gather4",
    ".tile::scatter4",
    ".cta_group::",
    ".multicast::cluster::all",
    "ldmatrix.sync.aligned.m16n16",
    "stmatrix.sync.aligned.m16n8",
    ".kind::",
];

/// The PTX ISA that introduced `f` targets.
const FAMILIES: &str = "8.8";

/// The target of an entry of `arch`'s pass, and its module `ptx` with that in the header.
///
/// # Errors
/// A header without `.version` or `.target`, in words.
pub(crate) fn of_entry(arch: Arch, ptx: &str) -> Result<(&'static str, String), String> {
    let target = if needs_specific(ptx) { arch.name() } else { arch.plain() };
    let (mut version, mut named) = (false, false);
    let lines: Vec<Cow<'_, str>> = ptx
        .lines()
        .map(|line| match line.split_once(' ') {
            Some((".version", isa)) if !version => {
                version = true;
                if target.ends_with('f') && older(isa, FAMILIES) {
                    format!(".version {FAMILIES}").into()
                } else {
                    line.into()
                }
            }
            Some((".target", _)) if !named => {
                named = true;
                format!(".target {target}").into()
            }
            _ => line.into(),
        })
        .collect();
    if version && named {
        Ok((target, lines.join("\n") + "\n"))
    } else {
        Err("a header without version or target".to_owned())
    }
}

/// Whether an instruction is in [`SPECIFIC`]; comments, names of variables and the header are none.
fn needs_specific(ptx: &str) -> bool {
    let code = ptx.lines().map(|line| line.split("//").next().unwrap_or_default().trim_start());
    let mut opcodes = code.filter(|line| !line.starts_with('.')).flat_map(|line| {
        // A statement is its predicate, its opcode and its operands; blocks of `asm!` have several on a line.
        line.split([';', '{']).filter_map(|statement| statement.split_whitespace().find(|word| !word.starts_with('@')))
    });
    opcodes.any(|opcode| {
        SPECIFIC
            .iter()
            .any(|&word| if word.starts_with('.') { opcode.contains(word) } else { opcode.starts_with(word) })
    })
}

/// Whether PTX ISA `a` is before `b`.
fn older(a: &str, b: &str) -> bool {
    let parts = |isa: &str| isa.split('.').map(|part| part.trim().parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
    parts(a) < parts(b)
}

#[cfg(test)]
mod tests {
    use super::{SPECIFIC, of_entry};
    use crate::Arch;

    fn module(code: &str) -> String {
        format!(".version 8.6\n.target sm_100a\n.address_size 64\n.visible .entry e()\n{{\n\t{code}\n\tret;\n}}\n")
    }

    #[test]
    fn an_entry_is_plain_unless_an_instruction_forbids_it() {
        for code in [
            "mma.sync.aligned.m16n8k16 {%f1}, {%r1};",
            "// tcgen05.alloc",
            "mov.u32 %r1, wgmma_table;",
            ".reg .b32 %kind<4>;",
        ] {
            for arch in Arch::ALL {
                let (target, ptx) = of_entry(*arch, &module(code)).unwrap();
                assert_eq!(target, arch.plain(), "{code}");
                assert_eq!(ptx, module(code).replace("sm_100a", arch.plain()));
            }
        }
        for word in SPECIFIC {
            let opcode = if word.starts_with('.') { format!("op{word}.x") } else { format!("{word}x") };
            for code in
                [format!("{opcode} %r1;"), format!("@%p1 {opcode} %r1;"), format!("{{ .reg .b8 q; {opcode} q, %r1; }}")]
            {
                let (target, ptx) = of_entry(Arch::Sm100f, &module(&code)).unwrap();
                assert_eq!(target, "sm_100f", "{code}");
                assert!(ptx.starts_with(".version 8.8\n.target sm_100f\n"), "{ptx}");
                assert_eq!(of_entry(Arch::Sm90a, &module(&code)).unwrap().0, "sm_90a");
            }
        }
    }

    #[test]
    fn a_newer_isa_stays() {
        let ptx = module("tcgen05.ld x;").replace("8.6", "9.10");
        assert!(of_entry(Arch::Sm100f, &ptx).unwrap().1.starts_with(".version 9.10\n"));
        assert!(of_entry(Arch::Sm80, "ret;").unwrap_err().contains("without version"));
    }
}
