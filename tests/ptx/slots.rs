//! Instruction slots of decode's main loop on sm_100, counted in the machine code, and the rate at which they let a GPU read
//! its cache: what `docs/blackwell.md` publishes is what is counted here. `BLESS=1` writes its tables anew.
//!
//! A *round* is the way through the loop that a warp takes in the middle of a long sequence: the shortest that makes all
//! copies of a whole tile of K and one of V. It branches past edges of sequences, masks and the rescaling of O. An instruction
//! that a predicate turns off takes its slot all the same.
use super::sass::{Code, published};
use super::{BUILT, disassembled, nvdisasm};
use cuda_builder::Arch;
use kernels_gpu::attention::copies::copies_a_warp;
use kernels_gpu::config::{RowClass, Shape};
use kernels_gpu::element::ElementKind;
use kernels_gpu::kernels::{ENTRIES, Role};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

/// A B200: multiprocessors, their clock in GHz, its memory's GB/s; schedulers a multiprocessor, each of which issues one
/// instruction of a warp a clock.
pub const MULTIPROCESSORS: f64 = 148.0;
pub const CLOCK_GHZ: f64 = 1.85;
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

/// The opcodes of the shortest way round the main loop, the largest with products in it, that has so many copies.
fn round(text: &str, copies: usize) -> Option<Vec<&str>> {
    let code = Code::parsed(text);
    let main =
        code.loops().into_iter().filter(|around| code.count(around, "HMMA") > 0).max_by_key(|around| around.len())?;
    code.round(&main, "LDGSTS", copies)
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
    /// Slots that a round without copies would not have.
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
    // Where lanes repeat keys, they copy other words.
    let words = scale_bytes / 4 * shape.panel_keys / 32;
    let copies = 2 * shape.column_warps * (copies_a_warp(shape) + words);
    let opcodes = round(text, copies as usize).unwrap_or_else(|| panic!("{name}: no round with {copies} copies"));
    // Of a tile that is there its last pieces always are copied, where a ring does not hold all of it: they count like the others.
    let least = (0..copies).find_map(|left| Some((copies - left, round(text, left as usize)?)));
    let (left_out, idle) = least.unwrap_or_else(|| panic!("{name}: no round with fewer copies"));
    // 16 keys, then 16 columns, by 16 and by 8 rows a product.
    let products = 2 * shape.column_warps * (shape.panel_keys / 16) * (shape.slice / 16) * shape.row_tiles;
    let kinds = by_kind(&opcodes);
    assert_eq!(kinds[0], products as usize, "{name}: products of a round");
    Counted {
        bytes: 2 * shape.tile_bytes() / shape.column_warps / shape.row_warps,
        slots: opcodes.len(),
        copying: (opcodes.len() - idle.len()) * copies as usize / left_out as usize,
        kinds,
    }
}

/// By head dimension and cache, the widest first; then by row class.
type Rounds = BTreeMap<(u32, Reverse<u32>, &'static str), BTreeMap<RowClass, Counted>>;

/// Every decode entry of bf16 queries.
fn all_counted() -> Rounds {
    let program = nvdisasm();
    let module = BUILT.modules.iter().find(|module| module.arch == Arch::Sm100f).expect("sm_100f is built");
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
    published("tests/ptx/slots.rs", &tables(&all_counted()));
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
