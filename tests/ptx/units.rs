//! What bounds prefill on Blackwell: clocks of a unit, 128 query rows by 128 keys, of each thing that it needs, by the ISA's shapes and
//! by the instructions counted in the machine code. `docs/blackwell.md` publishes it; `BLESS=1` writes its table anew.
use super::sass::{Code, published};
use super::slots::{CLOCK_GHZ, MULTIPROCESSORS};
use super::{BUILT, disassembled, nvdisasm};
use cuda_builder::Arch;
use kernels_gpu::element::QueryKind;
use kernels_gpu::kernels::{ENTRIES, Role};
use kernels_gpu::prefill::shape::{PrefillShape, TENSOR_ROWS, Unit, WARPGROUP};
use std::fmt::Write as _;

/// Of a multiprocessor a clock: operations in 16 bits, of 8 twice as many (2.25 and 4.5 PFLOP/s of 148 at 1.85 GHz); exponentials, and on
/// sm_103a twice as many; bytes of shared memory.
const OPERATIONS: u32 = 8192;
const EXPONENTIALS: u32 = 16;
const SHARED_BYTES: u32 = 128;

/// Columns of an instruction, which reads its rows of A from shared memory once.
const MOST_COLUMNS: u32 = 256;

/// Clocks of a unit.
struct Clocks {
    tensor: u32,
    exponentials: u32,
    shared: u32,
    /// Slots of softmax, of which a scheduler has one warp.
    slots: usize,
}

impl Clocks {
    fn of(shape: &PrefillShape, slots: usize) -> Self {
        let PrefillShape { head_dim, tile_keys, cluster, consumers, element_bytes, .. } = *shape;
        // Columns of O and rows in shared memory are of whole parts, of which D is half at 64 in 8 bits.
        let operations = 2 * TENSOR_ROWS * tile_keys * (head_dim + shape.part_columns());
        let (row, whole_row) = (head_dim * element_bytes, shape.part_columns() * element_bytes);
        // Q and the block's K of S, the block's V of O, and of a pair its P for each instruction's columns.
        let weights =
            if shape.pair() { TENSOR_ROWS / 2 * tile_keys * element_bytes * (head_dim / MOST_COLUMNS) } else { 0 };
        let read = ((TENSOR_ROWS + tile_keys) * row + tile_keys * whole_row) / cluster + weights;
        // K and V, once for all softmaxes; P.
        let written = 2 * tile_keys * whole_row / cluster / consumers + weights / (head_dim / MOST_COLUMNS).max(1);
        Self {
            tensor: operations / (OPERATIONS * cluster) * element_bytes / 2,
            exponentials: TENSOR_ROWS * tile_keys / cluster / EXPONENTIALS,
            shared: (read + written) / SHARED_BYTES,
            slots,
        }
    }

    /// TFLOP/s of all multiprocessors where one thing is always busy, with exponentials so many times as fast.
    fn bound(&self, shape: &PrefillShape, faster: u32) -> f64 {
        let clocks = self.tensor.max(self.exponentials / faster).max(self.shared).max(self.slots as u32);
        let operations = f64::from(4 * TENSOR_ROWS * shape.tile_keys * shape.head_dim);
        operations / f64::from(clocks) * CLOCK_GHZ * MULTIPROCESSORS / f64::from(shape.cluster) / 1000.0
    }
}

/// Slots of softmax for a unit: the shortest way round the innermost loop that has all of a thread's exponentials.
fn softmax_slots(name: &str, text: &str, shape: &PrefillShape) -> usize {
    let keys = (shape.tile_keys * TENSOR_ROWS / shape.cluster / WARPGROUP) as usize;
    let code = Code::parsed(text);
    let has_all = |around: &std::ops::Range<usize>| {
        code.count(around, "MUFU.EX2") >= keys && code.count(around, "LDTM") >= keys / 32
    };
    let inner = code.loops().into_iter().filter(has_all).min_by_key(|around| around.len());
    // One more is of what exponentials are relative to, which is worked out whether it rises or not.
    let round = inner.and_then(|inner| code.round(&inner, "MUFU.EX2", keys + 1));
    let round = round.unwrap_or_else(|| panic!("{name}: no round with {keys} exponentials"));
    let stored = round.iter().filter(|opcode| opcode.starts_with("STTM") || opcode.starts_with("STS.128")).count();
    assert!(stored >= keys / 32, "{name}: {stored} stores of P");
    round.len()
}

#[test]
fn published_bounds_are_those_of_the_machine_code() {
    let program = nvdisasm();
    let module = BUILT.modules.iter().find(|module| module.arch == Arch::Sm100f).expect("sm_100f is built");
    let mut text = String::from(
        "| D | elements | tensor cores | exponentials | shared memory | slots of softmax | TFLOP/s | on sm_103 |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for info in ENTRIES {
        let Role::Prefill { shape, q, .. } = info.role else { continue };
        if shape.unit != Unit::Tcgen05 || q == QueryKind::F16 {
            continue;
        }
        let entry = module.entries.iter().find(|entry| entry.name == info.name);
        let assembled = entry.and_then(|entry| entry.assembled.as_ref());
        let cubin = &assembled.unwrap_or_else(|| panic!("{}: no cubin", info.name)).cubin;
        let code = disassembled(&program, cubin, &format!("units-{}", info.name));
        let clocks = Clocks::of(&shape, softmax_slots(info.name, &code, &shape));
        let Clocks { tensor, exponentials, shared, slots } = clocks;
        let [bound, faster] = [1, 2].map(|faster| clocks.bound(&shape, faster));
        let _ = writeln!(
            text,
            "| {} | {} | {tensor} | {exponentials} | {shared} | {slots} | {bound:.0} | {faster:.0} |",
            shape.head_dim,
            q.name()
        );
    }
    published("tests/ptx/units.rs", &text);
}
