//! The faults of prefill at D = 512: two warpgroups that share rows, in two blocks that share keys.
use super::EARLY;
use super::prefill::{
    BOTH, BOXES, ITEM, ITEM_COUNT, ITEM_STORE, NO_BOXES, NOT_THERE, Named, ORDERS, Order, Place, QUERY_ARRIVAL,
    QUERY_BOX, QUERY_COPY, SCORES, STUCK, TILE_ARRIVAL, TOO_SOON, check_each, check_none, named,
};
use crate::common::prompts::Prompts;
use cuda_std::sim::Kind;
use kernels_gpu::fault::Fault;
use kernels_gpu::prefill::shape::ITEM_SLOTS;

/// A cluster's problem: a tile has as many slots as wrap a ring twice, so one and an edge do; items
/// that wrap theirs.
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

const QUERY_WAIT: Place = ("try_wait_parity", "seesaw.rs", "mbarrier_wait_parity(block.query_full(");
const TILE_WAIT: Place = ("try_wait_parity", "seesaw.rs", "mbarrier_wait_parity(self.block.full(");
const TILE_RELEASE: Place = ("arrive_cluster", "seesaw.rs", "mbarrier_arrive_remote(");
const TILE_COPY: Place = ("multicast", "chunks.rs", "cp_async_bulk_tensor_5d_multicast(");
const MAXIMA: Place = ("ld_shared_b32", "seesaw.rs", "ld_shared_b32(at(1 - self.warpgroup");
/// Where the other warpgroup is then.
const WEIGHTS_WAIT: Place = ("bar_sync", "seesaw.rs", "bar_sync(WEIGHTS");
/// Products that read the other's P have the form of those of Q and K.
const WEIGHTS: Place = SCORES;

/// Nothing orders it with the other block's begin or end.
const PEER: &[Kind] = &[Kind::Peer];

const NAMED: &[Named] = &[
    named(Fault::BarriersFull, BOTH, EARLY, &[ITEM_COUNT]),
    named(Fault::BarriersFence, BOTH, &[Kind::MissingProxyFence], &[QUERY_BOX, TILE_COPY]),
    named(Fault::ItemFull, BOTH, EARLY, &[ITEM]),
    named(Fault::ItemArrival, BOTH, STUCK, &[QUERY_WAIT]),
    named(Fault::ItemEmpty, BOTH, &[Kind::Race], &[ITEM_STORE]),
    named(Fault::ItemRelease, BOTH, STUCK, &[QUERY_WAIT]),
    named(Fault::ItemWarp, BOTH, &[Kind::Race], &[ITEM_STORE]),
    named(Fault::QueryFull, BOTH, EARLY, &[ITEM]),
    named(Fault::QueryArrival, BOTH, STUCK, &[QUERY_WAIT]),
    named(Fault::QueryBytes, &[BOXES], TOO_SOON, &[QUERY_ARRIVAL, SCORES]),
    named(Fault::QueryCopies, &[NO_BOXES], &[Kind::InFlight], &[SCORES]),
    named(Fault::QueryFence, &[NO_BOXES], &[Kind::MissingProxyFence], &[SCORES]),
    named(Fault::QueryEmpty, BOTH, TOO_SOON, &[QUERY_ARRIVAL, QUERY_BOX, QUERY_COPY]),
    named(Fault::QueryRelease, BOTH, STUCK, &[QUERY_WAIT]),
    named(Fault::QueryEarly, BOTH, &[Kind::InFlight, Kind::Race], &[SCORES, QUERY_BOX, QUERY_COPY]),
    // Either ring begins with K.
    named(Fault::KeyTileFull, BOTH, NOT_THERE, &[SCORES]),
    named(Fault::ValueTileFull, BOTH, NOT_THERE, &[SCORES]),
    named(Fault::KeyTileEmpty, BOTH, TOO_SOON, &[TILE_ARRIVAL, TILE_COPY]),
    named(Fault::ValueTileEmpty, BOTH, TOO_SOON, &[TILE_ARRIVAL, TILE_COPY]),
    named(Fault::TileWarp, BOTH, &[Kind::Mbarrier], &[TILE_RELEASE]),
    named(Fault::TileArrival, BOTH, STUCK, &[TILE_WAIT]),
    named(Fault::TileBytes, BOTH, &[Kind::InFlight], &[SCORES]),
    // One warpgroup stands at a tile, the other where they meet.
    named(Fault::KeyTileRelease, BOTH, STUCK, &[TILE_WAIT, WEIGHTS_WAIT]),
    named(Fault::ValueTileRelease, BOTH, STUCK, &[TILE_WAIT, WEIGHTS_WAIT]),
    named(Fault::KeyTileEarly, BOTH, &[Kind::InFlight], &[TILE_COPY]),
    named(Fault::ValueTileEarly, BOTH, &[Kind::InFlight], &[TILE_COPY]),
    named(Fault::ReleaseWarp, BOTH, &[Kind::Mbarrier], &[TILE_COPY]),
    named(Fault::Maxima, BOTH, EARLY, &[MAXIMA]),
    named(Fault::Weights, BOTH, EARLY, &[WEIGHTS]),
    named(Fault::WeightsFence, BOTH, &[Kind::MissingProxyFence], &[WEIGHTS]),
    named(Fault::ClusterBegin, BOTH, PEER, &[TILE_COPY]),
    named(Fault::ClusterEnd, BOTH, PEER, &[TILE_COPY]),
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
