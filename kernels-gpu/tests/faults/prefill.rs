//! The faults of prefill, but for D = 512 and elements of 8 bits.
use super::{CHOICE, EARLY, source_line};
use crate::common::prompts::Prompts;
use cuda_std::sim::{Delivery, Error, Kind};
use kernels_gpu::fault::{Fault, plant};
use kernels_gpu::prefill::shape::ITEM_SLOTS;

const ENTRIES: [&str; 3] = ["prefill_d64_bf16_bf16", "prefill_d128_f16_f16", "prefill_d256_bf16_bf16"];

/// When copies arrive, and in which order where they are late.
pub type Order = (Delivery, u64);

/// The first first, or the last.
pub const ORDERS: [Order; 3] = [(Delivery::Earliest, 1), (Delivery::Latest, 2), (Delivery::Latest, 3)];

/// A group whose query rows a tensor copy brings, and one whose rows fill no box.
pub const BOXES: u32 = 4;
pub const NO_BOXES: u32 = 5;
pub const BOTH: &[u32] = &[BOXES, NO_BOXES];

/// The smallest problem that shows all the loops' machinery: tiles that wrap every ring, items that wrap theirs, edge tiles,
/// items without keys, past which nobody waits for the warps that copy keys.
pub fn prompts(name: &str, group: u32, (delivery, order): Order) -> Prompts {
    let mut prompts = Prompts::new(name, group, &[]);
    let (tile, stages) = (prompts.shape.tile_keys, prompts.shape.stages);
    prompts.sequences = vec![(stages * tile + 5, 2), (9, 1), (tile + 1, 1), (7, 2), (2 * tile, 1), (1, 1)];
    prompts.sequences.extend([(0, 1); 2 * ITEM_SLOTS as usize]);
    prompts.sequences.push((tile, 1));
    prompts.blocks = 1;
    (prompts.delivery, prompts.order) = (delivery, order);
    prompts
}

/// A place that suffers: the end of the operation's name, the file, and what the line has.
pub type Place = (&'static str, &'static str, &'static str);

pub const ITEM: Place = ("ld_shared_v4_b32", "item.rs", "ld_shared_v4_b32(from");
pub const ITEM_COUNT: Place = ("ld_shared_b32", "block.rs", "ld_shared_b32(self.count(");
pub const ITEM_STORE: Place = ("st_shared_v4_b32", "item.rs", "st_shared_v4_b32(to");
pub const QUERY_WAIT: Place = ("try_wait_parity", "multiply.rs", "mbarrier_wait_parity(block.query_full(");
pub const QUERY_ARRIVAL: Place = ("arrive", "queries.rs", "mbarrier_arrive(full)");
pub const QUERY_BOX: Place = ("cp_async_bulk_tensor", "queries.rs", "cp_async_bulk_tensor_5d(block.queries(");
pub const QUERY_COPY: Place = ("cp_async_16", "queries.rs", "cp_async_16(to");
pub const TILE_WAIT: Place = ("try_wait_parity", "multiply.rs", "mbarrier_wait_parity(self.block.full(");
pub const TILE_RELEASE: Place = ("arrive", "block.rs", "mbarrier_arrive(barrier)");
pub const TILE_ARRIVAL: Place = ("arrive_expect_tx", "block.rs", "mbarrier_arrive_expect_tx(full");
pub const TILE_COPY: Place = ("cp_async_bulk_tensor", "keys.rs", "cp_async_bulk_tensor_5d(");
/// S reads Q and K, O reads V; of Q in registers S is as O.
pub const SCORES: Place = ("_ss", "product.rs", "products! {");
pub const OUTPUT: Place = ("_rs", "product.rs", "products! {");
const FRAGMENTS: Place = ("ldmatrix_x4", "fragments.rs", "ldmatrix_x4(");

pub struct Named {
    pub fault: Fault,
    groups: &'static [u32],
    kinds: &'static [Kind],
    places: &'static [Place],
}

pub const fn named(fault: Fault, groups: &'static [u32], kinds: &'static [Kind], places: &'static [Place]) -> Named {
    Named { fault, groups, kinds, places }
}

/// Bytes that are not there yet: nothing wrote them, or a copy is under way.
pub const NOT_THERE: &[Kind] = &[Kind::Uninitialised, Kind::InFlight];
/// A phase too many, or bytes that a copy or product still has.
pub const TOO_SOON: &[Kind] = &[Kind::Mbarrier, Kind::InFlight];
pub const STUCK: &[Kind] = &[Kind::Deadlock];

/// The faults that every prefill loop has and that show alike in all, at waits for query rows and tiles, copies of tiles, where
/// query rows are read and products of S of its own; and those of `own`. Products read query rows, by the asynchronous proxy, where no place
/// is given for that.
macro_rules! faults_of_a_loop {
    ($query_wait:expr, $tile_wait:expr, $tile_copy:expr, $scores:expr; $($own:expr,)*) => {
        faults_of_a_loop![$query_wait, $tile_wait, $tile_copy, $scores, $scores;
            named(Fault::QueryFence, &[NO_BOXES], &[Kind::MissingProxyFence], &[$scores]),
            named(Fault::QueryEmpty, BOTH, TOO_SOON, &[QUERY_ARRIVAL, QUERY_BOX, QUERY_COPY]),
            $($own,)*
        ]
    };
    ($query_wait:expr, $tile_wait:expr, $tile_copy:expr, $queries:expr, $scores:expr; $($own:expr,)*) => {
        &[
            named(Fault::BarriersFull, BOTH, EARLY, &[ITEM_COUNT]),
            named(Fault::BarriersFence, BOTH, &[Kind::MissingProxyFence], &[QUERY_BOX, $tile_copy]),
            // The item comes with the rows, and is looked at first.
            named(Fault::ItemFull, BOTH, EARLY, &[ITEM]),
            named(Fault::ItemArrival, BOTH, STUCK, &[$query_wait]),
            named(Fault::ItemEmpty, BOTH, &[Kind::Race], &[ITEM_STORE]),
            named(Fault::ItemRelease, BOTH, STUCK, &[$query_wait]),
            named(Fault::ItemWarp, BOTH, &[Kind::Race], &[ITEM_STORE]),
            named(Fault::QueryFull, BOTH, EARLY, &[ITEM]),
            named(Fault::QueryArrival, BOTH, STUCK, &[$query_wait]),
            named(Fault::QueryBytes, &[BOXES], TOO_SOON, &[QUERY_ARRIVAL, $queries]),
            named(Fault::QueryCopies, &[NO_BOXES], &[Kind::InFlight], &[$queries]),
            named(Fault::QueryRelease, BOTH, STUCK, &[$query_wait]),
            named(Fault::QueryEarly, BOTH, &[Kind::InFlight, Kind::Race], &[$queries, QUERY_BOX, QUERY_COPY]),
            named(Fault::KeyTileFull, BOTH, NOT_THERE, &[$scores]),
            named(Fault::KeyTileEmpty, BOTH, TOO_SOON, &[TILE_ARRIVAL, $tile_copy]),
            named(Fault::ValueTileEmpty, BOTH, TOO_SOON, &[TILE_ARRIVAL, $tile_copy]),
            named(Fault::TileArrival, BOTH, STUCK, &[$tile_wait]),
            named(Fault::KeyTileEarly, BOTH, &[Kind::InFlight], &[$tile_copy]),
            $($own,)*
        ]
    };
}
pub(crate) use faults_of_a_loop;

/// And those of loops whose warpgroups have all columns, with where S is made.
macro_rules! faults_of_whole_rows {
    ([$($places:expr),*], $scores:expr; $($own:expr,)*) => {
        faults_of_a_loop![$($places),*;
            named(Fault::ValueTileFull, BOTH, NOT_THERE, &[OUTPUT]),
            // Other lanes' waits are ordered with nothing: a phase later they would mean another.
            named(Fault::TileWarp, BOTH, &[Kind::Mbarrier], &[TILE_RELEASE]),
            named(Fault::TileBytes, BOTH, &[Kind::InFlight], &[$scores]),
            named(Fault::KeyTileRelease, BOTH, STUCK, &[TILE_WAIT]),
            named(Fault::ValueTileRelease, BOTH, STUCK, &[TILE_WAIT]),
            named(Fault::ValueTileEarly, BOTH, &[Kind::InFlight], &[TILE_COPY]),
            $($own,)*
        ]
    };
}

pub const NAMED: &[Named] = faults_of_whole_rows!([QUERY_WAIT, TILE_WAIT, TILE_COPY, SCORES], SCORES;
    named(Fault::ReleaseWarp, BOTH, &[Kind::Mbarrier], &[TILE_COPY]),
);

/// Of loops whose query rows are in registers: read by a warp itself.
const NAMED_HELD: &[Named] = faults_of_whole_rows!([QUERY_WAIT, TILE_WAIT, TILE_COPY, FRAGMENTS, OUTPUT], OUTPUT;
    named(Fault::QueryEmpty, BOTH, &[Kind::Mbarrier, Kind::InFlight, Kind::Race], &[QUERY_ARRIVAL, QUERY_BOX, QUERY_COPY]),
    // Lane 0 gives the rows back while others read them.
    named(Fault::ReleaseWarp, BOTH, &[Kind::Mbarrier, Kind::Race], &[TILE_COPY, QUERY_BOX, QUERY_COPY]),
);

fn run_with(fault: Fault, prompts: &Prompts) -> Result<(), Error> {
    plant(Some(fault));
    let result = prompts.run().map(|_| ());
    plant(None);
    result
}

/// Plants each of `named` in the problems that `prompts` makes of its groups and `orders`, one at a time.
pub fn check_each(named: &[Named], orders: &[Order], prompts: impl Fn(u32, Order) -> Prompts) {
    let _choice = CHOICE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for Named { fault, groups, kinds, places } in named {
        for (group, order) in groups.iter().flat_map(|group| orders.iter().map(move |order| (*group, *order))) {
            let prompts = prompts(group, order);
            let name = prompts.entry.name;
            let found = run_with(*fault, &prompts);
            let error = found.expect_err(&format!("{fault:?} of {name}, group {group}, {order:?}, is found"));
            let location = error.location.expect("errors of kernels have a line");
            let line = source_line(location);
            let suffers = |&(operation, file, text): &Place| {
                error.operation.ends_with(operation)
                    && location.file().ends_with(&format!("prefill/{file}"))
                    && line.contains(text)
            };
            let right = kinds.contains(&error.kind) && places.iter().any(suffers);
            assert!(right, "{fault:?} in {name}, group {group}, {order:?}: {error}; the line is {line}");
        }
    }
}

/// Runs the same problems with none.
pub fn check_none(orders: &[Order], prompts: impl Fn(u32, Order) -> Prompts) {
    let _choice = CHOICE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for group in BOTH {
        orders.iter().for_each(|order| prompts(*group, *order).check());
    }
}

#[test]
fn each_fault_is_named() {
    for name in ENTRIES {
        let held = prompts(name, BOXES, ORDERS[0]).shape.queries_held;
        check_each(if held { NAMED_HELD } else { NAMED }, &ORDERS, |group, order| prompts(name, group, order));
    }
}

#[test]
fn the_shipped_loops_have_none() {
    for name in ENTRIES {
        check_none(&ORDERS, |group, order| prompts(name, group, order));
    }
}
