//! The faults of prefill with elements of 8 bits, of which a warp transposes V between its copy and its products.
use super::EARLY;
use super::prefill::{
    BOTH, BOXES, ITEM, ITEM_COUNT, ITEM_STORE, NO_BOXES, NOT_THERE, Named, ORDERS, Place, QUERY_ARRIVAL, QUERY_BOX,
    QUERY_COPY, QUERY_WAIT, STUCK, TILE_ARRIVAL, TILE_COPY, TILE_RELEASE, TILE_WAIT, TOO_SOON, check_each, check_none,
    faults_of_a_loop, named, prompts,
};
use cuda_std::sim::Kind;
use kernels_gpu::fault::Fault;

const ENTRIES: [&str; 3] = ["prefill_d64_e4m3_e4m3", "prefill_d128_e4m3_e4m3", "prefill_d256_e4m3_e4m3"];

const SCORES: Place = ("e4m3_ss", "product.rs", "wgmma_e4m3_ss(d");
const OUTPUT: Place = ("e4m3_rs", "product.rs", "wgmma_e4m3_rs(d");
const VALUE: Place = ("ldmatrix_x4_trans", "transpose.rs", "ldmatrix_x4_trans(");
const TRANSPOSED: Place = ("stmatrix_x4", "transpose.rs", "stmatrix_x4(");
/// The release of V's slot, which is read as it is transposed.
const VALUE_RELEASE: Place = ("arrive", "transpose.rs", "mbarrier_arrive(empty)");
const TRANSPOSED_ARRIVAL: Place = ("arrive", "transpose.rs", "mbarrier_arrive(block.full(Side::Transposed");

const OVERRUN: &[Kind] = &[Kind::Mbarrier, Kind::InFlight, Kind::Deadlock];

const NAMED: &[Named] = faults_of_a_loop![QUERY_WAIT, TILE_WAIT, TILE_COPY, SCORES;
    named(Fault::TileWarp, BOTH, &[Kind::Mbarrier], &[TILE_RELEASE, VALUE_RELEASE]),
    named(Fault::TileBytes, BOTH, NOT_THERE, &[SCORES, VALUE]),
    named(Fault::KeyTileRelease, BOTH, STUCK, &[TILE_WAIT]),
    named(Fault::ValueTileRelease, BOTH, STUCK, &[TILE_WAIT]),
    named(Fault::ReleaseWarp, BOTH, &[Kind::Mbarrier], &[TILE_COPY, TRANSPOSED_ARRIVAL]),
    // Of V as it is copied: who reads it transposes it.
    named(Fault::ValueTileFull, BOTH, NOT_THERE, &[VALUE]),
    named(Fault::ValueTileEarly, BOTH, &[Kind::Race, Kind::InFlight], &[TILE_COPY, VALUE]),
    // Of V as it is multiplied.
    named(Fault::TransposedFull, BOTH, EARLY, &[OUTPUT]),
    // Or the arrival after next comes in the phase of the next, and is missing later.
    named(Fault::TransposedEmpty, BOTH, OVERRUN, &[TRANSPOSED, TRANSPOSED_ARRIVAL, TILE_WAIT]),
    named(Fault::TransposedFence, BOTH, &[Kind::MissingProxyFence], &[OUTPUT]),
    // Of its arrival and of the release of V's slot alike.
    named(Fault::TransposedWarp, BOTH, &[Kind::Race], &[OUTPUT, TILE_COPY]),
    named(Fault::TransposedArrival, BOTH, STUCK, &[TILE_WAIT]),
    named(Fault::TransposedRelease, BOTH, STUCK, &[TILE_WAIT]),
    named(Fault::TransposedEarly, BOTH, &[Kind::InFlight], &[TRANSPOSED]),
];

/// Whether the tests below plant `fault`.
pub fn has(fault: Fault) -> bool {
    NAMED.iter().any(|named| named.fault == fault)
}

#[test]
fn each_fault_is_named() {
    for name in ENTRIES {
        check_each(NAMED, &ORDERS, |group, order| prompts(name, group, order));
    }
}

#[test]
fn the_shipped_loop_has_none() {
    for name in ENTRIES {
        check_none(&ORDERS, |group, order| prompts(name, group, order));
    }
}
