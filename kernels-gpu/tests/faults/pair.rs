//! The faults of prefill at D = 512: two blocks that have the same rows, and half of the keys and of the columns each.
use super::EARLY;
use super::prefill::{
    BOTH, BOXES, ITEM, ITEM_COUNT, ITEM_STORE, NO_BOXES, NOT_THERE, Named, ORDERS, OUTPUT, Order, Place, QUERY_ARRIVAL,
    QUERY_BOX, QUERY_COPY, SCORES, STUCK, TILE_ARRIVAL, TILE_RELEASE, TOO_SOON, check_each, check_none,
    faults_of_a_loop, named,
};
use crate::common::prompts::Prompts;
use cuda_std::sim::Kind;
use kernels_gpu::fault::Fault;
use kernels_gpu::prefill::shape::ITEM_SLOTS;

/// A cluster's problem: a tile has more slots than the ring, so one and an edge do; items that wrap theirs.
fn prompts(group: u32, (delivery, order): Order) -> Prompts {
    let mut prompts = Prompts::new("prefill_d512_bf16_bf16", group, &[]);
    let tile = prompts.shape.tile_keys;
    prompts.sequences = vec![(tile + 5, 2), (9, 1), (7, 2)];
    prompts.sequences.extend([(0, 1); 2 * ITEM_SLOTS as usize]);
    prompts.sequences.push((tile, 1));
    prompts.blocks = 1;
    (prompts.delivery, prompts.order) = (delivery, order);
    prompts
}

const QUERY_WAIT: Place = ("try_wait_parity", "pair.rs", "mbarrier_wait_parity_unbounded(block.query_full(");
const TILE_WAIT: Place = ("try_wait_parity", "pair.rs", "mbarrier_wait_parity_unbounded(self.block.full(");
const ARRIVAL: Place = ("arrive", "pair.rs", "mbarrier_arrive(barrier)");
const TILE_COPY: Place = ("tensor", "chunks.rs", "cp_async_bulk_tensor_5d(");
const TOLD_WAIT: Place = ("try_wait_parity", "pair.rs", "mbarrier_wait_parity_unbounded(told");
const TOLD_READ: Place = ("ld_shared_b32", "pair.rs", "ld_shared_b32(at)");
const TOLD: Place = ("st_async_v2_b32", "pair.rs", "st_async_v2_b32(");
const GIVEN_WAIT: Place = ("try_wait_parity", "pair.rs", "mbarrier_wait_parity_unbounded(given");
const GIVEN_READ: Place = ("ld_shared_v4_b32", "pair.rs", "ld_shared_v4_b32(self.block.weights");
const GIVEN: Place = ("st_async_v4_b32", "pair.rs", "st_async_v4_b32(");

/// A phase that ends before its bytes have come.
const EARLIER: &[Kind] = &[Kind::Uninitialised, Kind::InFlight, Kind::Mbarrier];
/// Nothing orders it with the other block's begin or end.
const PEER: &[Kind] = &[Kind::Peer];

const NAMED: &[Named] = faults_of_a_loop![QUERY_WAIT, TILE_WAIT, TILE_COPY, SCORES;
    named(Fault::ValueTileFull, BOTH, NOT_THERE, &[OUTPUT]),
    named(Fault::TileWarp, BOTH, &[Kind::Mbarrier], &[TILE_RELEASE]),
    named(Fault::TileBytes, BOTH, &[Kind::InFlight], &[SCORES]),
    // A block stands at a tile, or where it waits for the other, which does.
    named(Fault::KeyTileRelease, BOTH, STUCK, &[TILE_WAIT, TOLD_WAIT, GIVEN_WAIT]),
    named(Fault::ValueTileRelease, BOTH, STUCK, &[TILE_WAIT, TOLD_WAIT, GIVEN_WAIT]),
    named(Fault::ValueTileEarly, BOTH, &[Kind::InFlight], &[TILE_COPY]),
    named(Fault::ReleaseWarp, BOTH, &[Kind::Mbarrier], &[TILE_COPY]),
    named(Fault::Told, BOTH, NOT_THERE, &[TOLD_READ]),
    named(Fault::ToldBytes, BOTH, EARLIER, &[TOLD, TOLD_READ, ARRIVAL]),
    named(Fault::ToldArrival, BOTH, STUCK, &[TOLD_WAIT, GIVEN_WAIT, TILE_WAIT]),
    named(Fault::GivenArrival, BOTH, STUCK, &[TOLD_WAIT, GIVEN_WAIT, TILE_WAIT]),
    named(Fault::Given, BOTH, NOT_THERE, &[GIVEN_READ]),
    named(Fault::GivenBytes, BOTH, EARLIER, &[GIVEN, GIVEN_READ, ARRIVAL]),
    named(Fault::ClusterBegin, BOTH, PEER, &[TOLD]),
];

/// Whether the tests below plant `fault`.
pub fn has(fault: Fault) -> bool {
    NAMED.iter().any(|named| named.fault == fault)
}

#[test]
fn each_fault_is_named() {
    check_each(NAMED, &ORDERS[..2], prompts);
}

#[test]
fn the_shipped_loop_has_none() {
    check_none(&ORDERS[..2], prompts);
}
