//! Every barrier, wait and fence of the shipped loops, left out one at a time: the simulator says what is then wrong, by
//! kind and at the line that suffers, and finds nothing wrong where none is left out.
mod common;
#[path = "faults/pair.rs"]
mod pair;
#[path = "faults/prefill.rs"]
mod prefill;
#[path = "faults/tensor.rs"]
mod tensor;
#[path = "faults/transpose.rs"]
mod transpose;
use common::{Problem, group_of};
use cuda_std::sim::{Delivery, Error, Kind};
use kernels_gpu::abi::MaskFlags;
use kernels_gpu::fault::{Fault, plant};
use std::sync::Mutex;

const DELIVERIES: [Delivery; 2] = [Delivery::Earliest, Delivery::Latest];

/// The choice of fault is the process's.
static CHOICE: Mutex<()> = Mutex::new(());

/// The smallest problem that shows all the loops' machinery: two sequences, two heads, tiles that wrap every ring twice,
/// an edge tile, three shares, each of a cluster of so many blocks, blocks without work.
fn problem(name: &str, delivery: Delivery, cluster: u32) -> Problem {
    let group = group_of(name);
    let mut problem = Problem::new(name, group, &[1, 1]);
    problem.cluster = cluster;
    let step = problem.cluster * problem.shape.teams * problem.shape.tile_keys;
    let tiles = (2 * problem.shape.slots).div_ceil(problem.shape.pieces()) + 1;
    let length = 3 * tiles * step + 5;
    // The last tile is the first team's, or the last one's.
    problem.planned = vec![length, length - 3 - problem.shape.tile_keys];
    problem.lengths = problem.planned.clone();
    problem.splits = 3;
    problem.idle_blocks = Some(cluster.max(2));
    problem.delivery = delivery;
    // Rows have their records, as with a window or drafts, though all see all keys.
    problem.mask_flags = MaskFlags::ROWS;
    problem
}

fn run_with(fault: Option<Fault>, name: &str, delivery: Delivery) -> Result<(), Error> {
    plant(fault);
    let result = match name {
        "check_pages" => common::launches::check_pages(&[40, 7], &[3, 2, 1, 0], 16, 4).map(|_| ()),
        _ => {
            let cluster = match fault {
                Some(Fault::BlocksFull | Fault::BlocksDone) => 2,
                Some(
                    Fault::GatherFence
                    | Fault::GatherRelease
                    | Fault::GatherArrival
                    | Fault::GatherReady
                    | Fault::GatherFull,
                ) => 4,
                _ => 1,
            };
            problem(name, delivery, cluster).run().map(|_| ())
        }
    };
    plant(None);
    result
}

/// What a fault is called: as what, in which file, at a line that has this text.
struct Named {
    fault: Fault,
    /// Where it bites.
    entries: &'static [&'static str],
    kinds: &'static [Kind],
    file: &'static str,
    text: &'static str,
}

const D64: &str = "decode_d64_bf16_bf16_few";
const D128: &str = "decode_d128_bf16_bf16_eight";
const D128_MANY: &str = "decode_d128_bf16_bf16_many";
const D256: &str = "decode_d256_bf16_bf16_few";
const D512: &str = "decode_d512_bf16_bf16_few";
const D512_MANY: &str = "decode_d512_bf16_bf16_many";
const D256_E4M3: &str = "decode_d256_bf16_e4m3_eight";
/// Its ring has no whole tiles, so that O takes the place of the piece that was read last.
const D512_NVFP4_FEW: &str = "decode_d512_bf16_nvfp4_few";
const D512_NVFP4: &str = "decode_d512_bf16_nvfp4_many";
const FEW: &[&str] = &[D64, D128, D256, D512, D256_E4M3];
/// Warps share a head.
const WIDE: &[&str] = &[D256, D512, D512_MANY, D256_E4M3, D512_NVFP4];
const DECODE: &[&str] = &[D64, D128, D128_MANY, D256, D512, D512_MANY, D256_E4M3, D512_NVFP4];

/// A value read too early was never written, or was written by somebody whose write nothing orders: by schedule.
const EARLY: &[Kind] = &[Kind::Uninitialised, Kind::Race];

const NAMED: &[Named] = &[
    Named {
        fault: Fault::KeyWait,
        entries: DECODE,
        kinds: &[Kind::InFlight],
        file: "tile/product.rs",
        text: "ldmatrix_x4(",
    },
    Named {
        fault: Fault::KeyFull,
        entries: DECODE,
        kinds: &[Kind::Race],
        file: "tile/product.rs",
        text: "ldmatrix_x4(",
    },
    Named {
        fault: Fault::ValueWait,
        entries: DECODE,
        kinds: &[Kind::InFlight],
        file: "tile/product.rs",
        text: "ldmatrix_x4_trans(",
    },
    Named {
        fault: Fault::ValueFull,
        entries: &[D64, D128, D128_MANY, D512_MANY, D512_NVFP4],
        kinds: &[Kind::Race],
        file: "attention/copies.rs",
        text: "cp_async_16(",
    },
    Named {
        fault: Fault::ValueFull,
        entries: &[D256, D512, D256_E4M3],
        kinds: &[Kind::Race],
        file: "tile/product.rs",
        text: "ldmatrix_x4_trans(",
    },
    Named {
        fault: Fault::RowMaximum,
        entries: &[D256_E4M3, D512_NVFP4],
        kinds: EARLY,
        file: "attention/exchange.rs",
        text: "ld_shared_v4_b32(part(",
    },
    Named {
        fault: Fault::RowRecords,
        entries: &[D64, D128],
        kinds: EARLY,
        file: "attention/mask.rs",
        text: "ld_shared_v4_b32(records.row(",
    },
    Named {
        fault: Fault::SlicesFull,
        entries: WIDE,
        kinds: EARLY,
        file: "attention/query.rs",
        text: "ld_shared_v4_b32(self.fragment(",
    },
    Named {
        fault: Fault::LogitsFull,
        entries: WIDE,
        kinds: EARLY,
        file: "attention/weights.rs",
        text: "ld_shared_v4_b32(at(",
    },
    Named { fault: Fault::SharedWeights, entries: WIDE, kinds: EARLY, file: "attention/weights.rs", text: "(first)" },
    Named {
        fault: Fault::RingRead,
        entries: &[D512_NVFP4_FEW],
        kinds: &[Kind::Race],
        file: "attention/exchange.rs",
        text: "put(fragment(ring",
    },
    Named {
        fault: Fault::SharedSums,
        entries: &[D512, D512_MANY, D512_NVFP4],
        kinds: EARLY,
        file: "attention/exchange.rs",
        text: "put(stats_of(",
    },
    Named {
        fault: Fault::MergeFull,
        entries: &[D64, D128, D256, D256_E4M3],
        kinds: EARLY,
        file: "attention/exchange.rs",
        text: "get(stats_of(",
    },
    Named {
        fault: Fault::GatherFence,
        entries: FEW,
        kinds: &[Kind::MissingProxyFence],
        file: "attention/gather.rs",
        text: "st_async_v4_b32(",
    },
    Named {
        fault: Fault::GatherRelease,
        entries: &[D512],
        kinds: &[Kind::Race],
        file: "attention/gather.rs",
        text: "st_async_v4_b32(",
    },
    Named {
        fault: Fault::GatherArrival,
        entries: FEW,
        kinds: &[Kind::Deadlock],
        file: "attention/gather.rs",
        text: "mbarrier_wait_parity_cluster(",
    },
    Named {
        fault: Fault::GatherReady,
        entries: FEW,
        kinds: &[Kind::Mbarrier, Kind::Peer, Kind::Race],
        file: "attention/gather.rs",
        text: "st_async_v4_b32(",
    },
    Named {
        fault: Fault::GatherFull,
        entries: FEW,
        kinds: &[Kind::InFlight, Kind::Uninitialised, Kind::Race],
        file: "attention/gather.rs",
        text: "ld_shared_v4_b32(",
    },
    Named {
        fault: Fault::BlocksFull,
        entries: FEW,
        kinds: &[Kind::Uninitialised, Kind::Race, Kind::Peer],
        file: "attention/pair.rs",
        text: "ld_shared_cluster_v4_b32(mapa(",
    },
    Named {
        fault: Fault::BlocksDone,
        entries: FEW,
        kinds: &[Kind::Peer],
        file: "attention/pair.rs",
        text: "ld_shared_cluster_v4_b32(mapa(",
    },
    Named {
        fault: Fault::CombineWait,
        entries: DECODE,
        kinds: &[Kind::MissingGridWait],
        file: "attention/combine.rs",
        text: "ld_global_v4_b32(at.cast())",
    },
    Named {
        fault: Fault::CombineSums,
        entries: DECODE,
        kinds: EARLY,
        file: "attention/combine.rs",
        text: "ld_shared_v4_b32(sums.at(",
    },
    Named {
        fault: Fault::CombineDone,
        entries: DECODE,
        kinds: &[Kind::Race],
        file: "attention/combine.rs",
        text: "st_shared_v4_b32(sums.at(",
    },
    Named {
        fault: Fault::CheckDone,
        entries: &["check_pages"],
        kinds: EARLY,
        file: "attention/check.rs",
        text: "ld_shared_v4_b32(slot(other))",
    },
];

fn source_line(location: &std::panic::Location<'_>) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(location.file());
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().nth(location.line() as usize - 1).unwrap_or_default().to_owned()
}

#[test]
fn each_fault_is_named() {
    let _choice = CHOICE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for fault in Fault::ALL {
        let named: Vec<_> = NAMED.iter().filter(|n| n.fault == *fault).collect();
        let of_prefill = prefill::NAMED.iter().filter(|n| n.fault == *fault).count();
        // At D = 512, and of 8 bits, prefill has all of the others' and its own.
        let own = [pair::has(*fault), transpose::has(*fault), tensor::has(*fault)];
        assert!(of_prefill == 0 || own[..2] == [true; 2], "{fault:?} is expected at D = 512 and of 8 bits");
        let of_prefill = own.into_iter().map(usize::from).fold(of_prefill, usize::max);
        assert_eq!(named.len().min(1) + of_prefill, 1, "{fault:?} is expected to be named, by one kind of kernel");
        for one in named {
            for (name, delivery) in one.entries.iter().flat_map(|n| DELIVERIES.map(|d| (*n, d))) {
                let found = run_with(Some(*fault), name, delivery);
                let error = found.expect_err(&format!("{fault:?} left out of {name}, {delivery:?}, is found"));
                let location = error.location.expect("errors of kernels have a line");
                let line = source_line(location);
                let right =
                    one.kinds.contains(&error.kind) && location.file().ends_with(one.file) && line.contains(one.text);
                assert!(right, "{fault:?} in {name}, {delivery:?}: {error}; the line is {line}");
            }
        }
    }
}

#[test]
fn the_shipped_loops_have_none() {
    let _choice = CHOICE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (name, delivery) in DECODE.iter().chain(&["check_pages"]).flat_map(|n| DELIVERIES.map(|d| (*n, d))) {
        match name {
            "check_pages" => run_with(None, name, delivery).unwrap_or_else(|e| panic!("{name} {delivery:?}: {e}")),
            // Two blocks read each other's results, four send them.
            _ if FEW.contains(&name) => [2, 4].into_iter().for_each(|cluster| problem(name, delivery, cluster).check()),
            // Of many rows there are no clusters.
            _ => problem(name, delivery, 1).check(),
        }
    }
}
