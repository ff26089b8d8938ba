//! Instruction slots of decode's main loop on sm_100a, counted in the machine code, and the rate at which they let a GPU read
//! its cache: what `docs/blackwell.md` publishes is what is counted here. `BLESS=1` writes its tables anew.
//!
//! A *round* is the way through the loop that a warp takes in the middle of a long sequence: the shortest that makes all
//! copies of a whole tile of K and one of V. It branches past edges of sequences, masks and the rescaling of O. An instruction
//! that a predicate turns off takes its slot all the same.
use super::{BUILT, disassembled, nvdisasm, root};
use cuda_builder::Arch;
use kernels_gpu::attention::load::copies_a_warp;
use kernels_gpu::config::{RowClass, Shape};
use kernels_gpu::element::ElementKind;
use kernels_gpu::kernels::{ENTRIES, Role};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

/// A B200: multiprocessors, their clock in GHz, its memory's GB/s; schedulers a multiprocessor, each of which issues one
/// instruction of a warp a clock.
const MULTIPROCESSORS: f64 = 148.0;
const CLOCK_GHZ: f64 = 1.85;
const MEMORY_GB_S: f64 = 8000.0;
const SCHEDULERS: f64 = 4.0;

/// Kinds of instructions, by what an opcode begins with; the first that fits.
const KINDS: [(&str, &[&str]); 9] = [
    ("products", &["HMMA"]),
    ("shared memory", &["LDSM", "LDS", "STS", "MOVM"]),
    ("copies", &["LDGSTS", "LDGDEPBAR", "DEPBAR"]),
    ("shuffles", &["SHFL", "VOTE"]),
    ("conversions", &["F2FP"]),
    ("bytes and bits", &["PRMT", "LOP3", "SHF", "IMAD.SHL"]),
    ("block scales", &["HMUL2", "HFMA2"]),
    ("floats", &["MUFU", "FADD", "FMUL", "FFMA", "FMNMX", "FSETP", "FSEL"]),
    ("addresses, control", &[""]),
];

/// An instruction of a disassembly.
#[derive(Debug)]
struct Instruction<'a> {
    opcode: &'a str,
    /// Whether what follows it in the text may be what follows it in time.
    falls_through: bool,
    /// The label that it may go to.
    label: Option<&'a str>,
}

/// The instructions of a function, and the index of the one behind each label.
fn parsed(text: &str) -> (Vec<Instruction<'_>>, BTreeMap<&str, usize>) {
    let (mut instructions, mut labels) = (Vec::new(), BTreeMap::new());
    for line in text.lines().map(str::trim) {
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label, instructions.len());
        } else if let Some((_, rest)) = line.strip_prefix("/*").and_then(|line| line.split_once("*/"))
            && let Some((words, _)) = rest.split_once(';')
        {
            instructions.push(instruction(words.trim()));
        }
    }
    (instructions, labels)
}

fn instruction(text: &str) -> Instruction<'_> {
    let mut words = text.split_whitespace();
    let first = words.next().unwrap_or_default();
    let (predicated, opcode) = match first.strip_prefix('@') {
        Some(_) => (true, words.next().unwrap_or_default()),
        None => (false, first),
    };
    let label = text.split_once("`(").and_then(|(_, rest)| rest.split_once(')')).map(|(label, _)| label);
    let jumps = opcode.starts_with("BRA");
    // Besides the predicate in front, a branch may have one among its operands.
    let conditional = predicated || jumps && words.next().is_some_and(|operand| !operand.starts_with('`'));
    let leaves = jumps || ["EXIT", "RET"].iter().any(|end| opcode.starts_with(end));
    Instruction { opcode, falls_through: conditional || !leaves, label: label.filter(|_| jumps) }
}

/// The opcodes of the shortest way round the main loop, the largest with products in it, that has so many copies.
fn round(text: &str, copies: usize) -> Option<Vec<&str>> {
    let (instructions, labels) = parsed(text);
    let target = |index: usize| instructions[index].label.and_then(|label| labels.get(label)).copied();
    let has = |range: std::ops::RangeInclusive<usize>, start: &str| {
        range.into_iter().any(|index| instructions[index].opcode.starts_with(start))
    };
    let loops = (0..instructions.len()).filter_map(|end| Some((target(end).filter(|begin| *begin <= end)?, end)));
    let (begin, end) =
        loops.filter(|(begin, end)| has(*begin..=*end, "HMMA")).max_by_key(|(begin, end)| end - begin)?;
    // For each instruction and number of copies before it: the shortest way there from the loop's begin, as its length and
    // the instruction before. Branches backward inside are loops of their own, which the shortest way does not enter.
    let mut ways = vec![vec![None::<(usize, usize)>; copies + 1]; end + 1 - begin];
    ways[0][0] = Some((0, begin));
    let mut shortest: Option<(usize, usize)> = None;
    for index in begin..=end {
        let copied = usize::from(instructions[index].opcode.starts_with("LDGSTS"));
        for after in copied..=copies {
            let Some((length, _)) = ways[index - begin][after - copied] else { continue };
            if target(index) == Some(begin) && after == copies {
                let way = (length + 1, index);
                shortest = Some(shortest.map_or(way, |known| known.min(way)));
            }
            let next = Some(index + 1).filter(|_| instructions[index].falls_through);
            for next in target(index).into_iter().chain(next).filter(|next| (index + 1..=end).contains(next)) {
                let way = &mut ways[next - begin][after];
                if way.is_none_or(|(known, _)| known > length + 1) {
                    *way = Some((length + 1, index));
                }
            }
        }
    }
    let (length, mut index) = shortest?;
    let mut left = copies - usize::from(instructions[index].opcode.starts_with("LDGSTS"));
    let mut opcodes = vec![instructions[index].opcode];
    while index != begin {
        (_, index) = ways[index - begin][left]?;
        opcodes.push(instructions[index].opcode);
        left -= usize::from(instructions[index].opcode.starts_with("LDGSTS"));
    }
    assert_eq!(opcodes.len(), length);
    opcodes.reverse();
    Some(opcodes)
}

/// Instructions of each of [`KINDS`].
fn by_kind(opcodes: &[&str]) -> [usize; KINDS.len()] {
    let mut counts = [0; KINDS.len()];
    for opcode in opcodes {
        let kind = KINDS.iter().position(|(_, starts)| starts.iter().any(|start| opcode.starts_with(start)));
        counts[kind.unwrap_or(KINDS.len() - 1)] += 1;
    }
    counts
}

/// A warp's part of a round of one entry.
struct Counted {
    bytes: u32,
    slots: usize,
    /// Slots that a round without copies does not have.
    copying: usize,
    kinds: [usize; KINDS.len()],
}

impl Counted {
    /// The rate in GB/s at which the cache is read if every slot of every multiprocessor is used.
    fn rate(&self) -> f64 {
        MULTIPROCESSORS * SCHEDULERS * CLOCK_GHZ * f64::from(self.bytes) / self.slots as f64
    }
}

fn counted(name: &str, text: &str, shape: &Shape) -> Counted {
    let scale_bytes = if shape.block_scales() { shape.scale_bytes } else { 0 };
    let copies = 2 * (copies_a_warp(shape) + scale_bytes / 4);
    let opcodes = round(text, copies as usize).unwrap_or_else(|| panic!("{name}: no round with {copies} copies"));
    let idle = round(text, 0).unwrap_or_else(|| panic!("{name}: no round without copies"));
    // 16 keys, then 16 columns, by 16 and by 8 rows a product.
    let products = 2 * (shape.tile_keys / 16) * (shape.slice / 16) * shape.row_tiles;
    let kinds = by_kind(&opcodes);
    assert_eq!(kinds[0], products as usize, "{name}: products of a round");
    Counted {
        bytes: 2 * (shape.tile_bytes() + shape.tile_keys * scale_bytes) / shape.row_warps,
        slots: opcodes.len(),
        copying: opcodes.len() - idle.len(),
        kinds,
    }
}

/// By head dimension and cache, the widest first; then by row class.
type Rounds = BTreeMap<(u32, Reverse<u32>, &'static str), BTreeMap<RowClass, Counted>>;

/// Every decode entry of bf16 queries.
fn all_counted() -> Rounds {
    let program = nvdisasm();
    let module = BUILT.modules.iter().find(|module| module.arch == Arch::Sm100a).expect("sm_100a is built");
    let entries: Vec<_> = ENTRIES
        .iter()
        .filter_map(|info| match info.role {
            Role::Decode { shape, rows, q: ElementKind::Bf16, kv } => Some((info.name, shape, rows, kv)),
            _ => None,
        })
        .collect();
    let next = Mutex::new(entries.iter());
    let all = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(&(name, shape, rows, kv)) = { next.lock().expect("no panic").next() } {
                    let entry = module.entries.iter().find(|entry| entry.name == name);
                    let assembled = entry.and_then(|entry| entry.assembled.as_ref());
                    let cubin = &assembled.unwrap_or_else(|| panic!("{name}: no cubin")).cubin;
                    let one = counted(name, &disassembled(&program, cubin, &format!("slots-{name}")), &shape);
                    let key = (shape.head_dim, Reverse(kv.bits()), kv.name());
                    all.lock().expect("no panic").entry(key).or_insert_with(BTreeMap::new).insert(rows, one);
                }
            });
        }
    });
    all.into_inner().expect("no panic")
}

/// The two tables of `docs/blackwell.md`: rates by row class, and the slots of 8 rows by kind.
fn tables(rounds: &Rounds) -> String {
    let mut text =
        String::from("| D | cache | 8 rows | 16 rows | 64 rows (32 at D = 512) |\n| --- | --- | --- | --- | --- |\n");
    for ((head_dim, _, cache), classes) in rounds {
        let _ = write!(text, "| {head_dim} | {cache} |");
        for one in classes.values() {
            let busy = 100.0 * MEMORY_GB_S / one.rate();
            let _ = write!(text, " {} / {} = {:.1}, {busy:.0} % |", one.bytes, one.slots, one.rate() / 1000.0);
        }
        text.push('\n');
    }
    let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(text, "\n| D | cache | {} | all | of them to copy |", names.join(" | "));
    let _ = writeln!(text, "|{}", " --- |".repeat(KINDS.len() + 4));
    for ((head_dim, _, cache), classes) in rounds {
        let one = &classes[&RowClass::Eight];
        let kinds: Vec<String> = one.kinds.iter().map(usize::to_string).collect();
        let _ = writeln!(text, "| {head_dim} | {cache} | {} | {} | {} |", kinds.join(" | "), one.slots, one.copying);
    }
    text
}

#[test]
fn published_slots_are_those_of_the_machine_code() {
    const BEGIN: &str = "<!-- counted by tests/ptx/slots.rs -->\n";
    const END: &str = "<!-- end of what is counted -->\n";
    let path = root().join("docs/blackwell.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (before, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("{} lacks {BEGIN}", path.display()));
    let (published, after) = rest.split_once(END).unwrap_or_else(|| panic!("{} lacks {END}", path.display()));
    let counted = tables(&all_counted());
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        let text = format!("{before}{BEGIN}{counted}{END}{after}");
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    } else {
        assert_eq!(published, counted, "by rustc {}; BLESS=1 writes what is counted", BUILT.compiler.release);
    }
}

/// A loop of 16 instructions by hand: the round with two copies goes past the mask and past the edge's copies.
#[test]
fn a_round_is_the_shortest_with_all_copies() {
    let text = "\t.L_x_0:\n/*0000*/ HMMA.16816.F32 R4, R4, R8, R4 ;\n/*0010*/ BRA.U UP1, `(.L_x_2) ;\n\
                /*0020*/ @P0 BRA `(.L_x_1) ;\n/*0030*/ LDGSTS.E [R1], desc[UR4][R2.64] ;\n/*0040*/ LDGSTS.E [R1], desc[UR4][R2.64] ;\n\
                /*0050*/ BRA `(.L_x_2) ;\n.L_x_1:\n/*0060*/ ISETP.GE.AND P1, PT, R1, R2, PT ;\n\
                /*0070*/ LDGSTS.E [R1], desc[UR4][R2.64], P1 ;\n/*0080*/ ISETP.GE.AND P1, PT, R1, R2, PT ;\n\
                /*0090*/ LDGSTS.E [R1], desc[UR4][R2.64], P1 ;\n.L_x_2:\n/*00a0*/ @!P0 BRA P1, `(.L_x_3) ;\n\
                /*00b0*/ SEL R1, R2, R3, P0 ;\n.L_x_3:\n/*00c0*/ LDGDEPBAR ;\n/*00d0*/ BRA.U !UP2, `(.L_x_0) ;\n/*00e0*/ EXIT ;\n";
    let with = ["HMMA.16816.F32", "BRA.U", "BRA", "LDGSTS.E", "LDGSTS.E", "BRA", "BRA", "LDGDEPBAR", "BRA.U"];
    assert_eq!(round(text, 2).as_deref(), Some(&with[..]));
    assert_eq!(round(text, 0).as_deref(), Some(&["HMMA.16816.F32", "BRA.U", "BRA", "LDGDEPBAR", "BRA.U"][..]));
    assert_eq!(round(text, 1), None);
}
