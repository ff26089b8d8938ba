//! The faults of prefill on Blackwell: two softmaxes (D = 128), one (D = 256), and a pair of blocks (D = 512).
use super::EARLY;
use super::prefill::{
    BOTH, BOXES, ITEM_STORE, NO_BOXES, Named, ORDERS, Order, Place, QUERY_ARRIVAL, QUERY_BOX, QUERY_COPY, STUCK,
    TILE_ARRIVAL, TOO_SOON, check_each, check_none, named,
};
use crate::common::prompts::Prompts;
use cuda_std::sim::Kind;
use kernels_gpu::fault::Fault;
use kernels_gpu::prefill::shape::ITEM_SLOTS;

const ENTRIES: [&str; 3] =
    ["prefill_tcgen05_d128_f16_f16", "prefill_tcgen05_d256_bf16_bf16", "prefill_tcgen05_d512_bf16_bf16"];

/// Tiles that wrap every ring, items that wrap theirs, edge tiles, logits so far apart that O is corrected, and items without keys, past
/// which nobody waits for the warps that copy keys.
fn prompts(name: &str, group: u32, (delivery, order): Order) -> Prompts {
    let mut prompts = Prompts::new(name, group, &[]);
    let (tile, cut) = (prompts.shape.tile_keys, prompts.shape.cut(false));
    prompts.sequences = vec![(prompts.shape.stages.div_ceil(cut.slots).max(2) * tile + 5, 2), (9, 1), (tile + 1, 1)];
    prompts.sequences.extend([(7, 2), (2 * tile, 1), (1, 1)]);
    prompts.sequences.extend([(0, 1); 2 * ITEM_SLOTS as usize]);
    prompts.sequences.push((tile, 1));
    (prompts.blocks, prompts.sharpness) = (1, 16.0);
    (prompts.delivery, prompts.order) = (delivery, order);
    prompts
}

const ITEM: Place = ("ld_shared_v4_b32", "item.rs", "ld_shared_v4_b32(from");
const ITEM_WAIT: Place = ("try_wait_parity", "block.rs", "mbarrier_wait_parity(self.item_full(");
const SCORES_WAIT: Place = ("try_wait_parity", "tcgen05/softmax.rs", "mbarrier_wait_parity(block.scores_full(");
const SCORES_LOAD: Place = ("tcgen05_ld_32x32b", "tcgen05/softmax.rs", "tcgen05_ld_32x32b::<COLUMNS>(");
const WEIGHTS_STORE: Place = ("tcgen05_st_32x32b", "tcgen05/softmax.rs", "tcgen05_st_32x32b::<");
const WEIGHTS_WAIT: Place = ("try_wait_parity", "tcgen05/softmax.rs", "mbarrier_wait_parity(block.output_full(0)");
const WEIGHTS_SHARED: Place = ("st_shared_v4_b32", "tcgen05/softmax.rs", "st_shared_v4_b32(to");
const FACTORS: Place = ("ld_shared_b32", "tcgen05/correct.rs", "ld_shared_b32(block.factors(");
const OUTPUT_LOAD: Place = ("tcgen05_ld_32x32b", "tcgen05/correct.rs", "tcgen05_ld_32x32b::<COLUMNS>(");
const SUMS: Place = ("ld_shared_b32", "tcgen05/correct.rs", "ld_shared_b32(sums.at(");
const SUMS_STORE: Place = ("st_shared_b32", "tcgen05/softmax.rs", "st_shared_b32(sums");
const SUMS_WAIT: Place = ("try_wait_parity", "tcgen05/softmax.rs", "mbarrier_wait_parity(block.sums_empty(");
/// S reads Q and K, O reads V, and P where it is in tensor memory or, of a pair, shared.
const SCORES: Place = ("_ss", "tcgen05/product.rs", "products! {");
const OUTPUT: Place = ("_ts", "tcgen05/product.rs", "products! {");
const COMMIT: Place = ("tcgen05_commit", "tcgen05/block.rs", "tcgen05_commit::<GROUP>(barrier)");
const COMMIT_BOTH: Place = ("commit_multicast", "tcgen05/block.rs", "tcgen05_commit_multicast::<GROUP>(barrier");
const DEALLOC: Place = ("tcgen05_dealloc", "tcgen05.rs", "tcgen05_dealloc::<GROUP>(");
const TILE_COPY: Place = ("tensor", "chunks.rs", "cp_async_bulk_tensor_5d(");
const RELEASE: Place = ("arrive", "block.rs", "mbarrier_arrive(barrier)");

/// What is not there yet, or what products still have.
const NOT_THERE: &[Kind] = &[Kind::Uninitialised, Kind::InFlight, Kind::Race];
const FENCE: &[Kind] = &[Kind::MissingTcgen05Fence];

/// Those of every kernel.
const NAMED: &[Named] = &[
    named(Fault::BarriersFence, BOTH, &[Kind::MissingProxyFence], &[QUERY_BOX, TILE_COPY]),
    named(Fault::ItemFull, BOTH, EARLY, &[ITEM]),
    named(Fault::ItemArrival, BOTH, STUCK, &[ITEM_WAIT]),
    named(Fault::ItemEmpty, BOTH, &[Kind::Race], &[ITEM_STORE]),
    named(Fault::ItemRelease, BOTH, STUCK, &[ITEM_WAIT]),
    named(Fault::ItemWarp, BOTH, &[Kind::Race], &[ITEM_STORE]),
    named(Fault::QueryFull, BOTH, NOT_THERE, &[SCORES]),
    named(Fault::QueryArrival, BOTH, STUCK, &[SCORES_WAIT]),
    named(Fault::QueryBytes, &[BOXES], TOO_SOON, &[QUERY_ARRIVAL, SCORES]),
    named(Fault::QueryCopies, &[NO_BOXES], &[Kind::InFlight], &[SCORES]),
    named(Fault::QueryFence, &[NO_BOXES], &[Kind::MissingProxyFence], &[SCORES]),
    named(Fault::QueryEmpty, BOTH, TOO_SOON, &[QUERY_ARRIVAL, QUERY_BOX, QUERY_COPY]),
    named(Fault::QueryRelease, BOTH, STUCK, &[SCORES_WAIT]),
    named(Fault::QueryEarly, BOTH, &[Kind::InFlight, Kind::Race], &[SCORES, QUERY_BOX, QUERY_COPY]),
    named(Fault::KeyTileFull, BOTH, NOT_THERE, &[SCORES]),
    named(Fault::ValueTileFull, BOTH, NOT_THERE, &[OUTPUT, SCORES]),
    named(Fault::KeyTileEmpty, BOTH, TOO_SOON, &[TILE_ARRIVAL, TILE_COPY]),
    named(Fault::ValueTileEmpty, BOTH, TOO_SOON, &[TILE_ARRIVAL, TILE_COPY]),
    // Other lanes' waits are ordered with nothing: a phase later they would mean another.
    named(Fault::TileWarp, BOTH, &[Kind::Mbarrier], &[COMMIT, COMMIT_BOTH]),
    named(Fault::TileArrival, BOTH, STUCK, &[SCORES_WAIT]),
    named(Fault::TileBytes, BOTH, &[Kind::InFlight], &[SCORES]),
    named(Fault::KeyTileRelease, BOTH, STUCK, &[SCORES_WAIT]),
    named(Fault::ValueTileRelease, BOTH, STUCK, &[SCORES_WAIT, WEIGHTS_WAIT]),
    named(Fault::KeyTileEarly, BOTH, &[Kind::InFlight], &[TILE_COPY]),
    named(Fault::ValueTileEarly, BOTH, &[Kind::InFlight], &[TILE_COPY]),
    named(Fault::ReleaseWarp, BOTH, &[Kind::Race], &[FACTORS]),
    named(Fault::ScoresWait, BOTH, NOT_THERE, &[SCORES_LOAD]),
    named(Fault::ScoresAfter, BOTH, FENCE, &[SCORES_LOAD]),
    named(Fault::ScoresCommit, BOTH, STUCK, &[SCORES_WAIT]),
    named(Fault::MaskStore, BOTH, &[Kind::InFlight], &[SCORES_LOAD]),
    named(Fault::WeightsArrival, BOTH, STUCK, &[SCORES_WAIT, WEIGHTS_WAIT]),
    named(Fault::WeightsFull, BOTH, NOT_THERE, &[SCORES_LOAD, WEIGHTS_STORE, SCORES, OUTPUT]),
    named(Fault::CommitWarp, BOTH, &[Kind::Mbarrier], &[TILE_COPY, RELEASE]),
    named(Fault::WeightsAfter, BOTH, FENCE, &[SCORES, OUTPUT]),
    named(Fault::WeightsBefore, BOTH, &[Kind::MissingTcgen05Fence, Kind::Race], &[SCORES, OUTPUT]),
    named(Fault::FactorsArrival, BOTH, STUCK, &[SCORES_WAIT, WEIGHTS_WAIT]),
    named(Fault::FactorsFull, BOTH, EARLY, &[FACTORS]),
    named(Fault::Corrected, BOTH, STUCK, &[SCORES_WAIT, WEIGHTS_WAIT]),
    named(Fault::CorrectedStore, BOTH, &[Kind::InFlight], &[SCORES, OUTPUT, OUTPUT_LOAD]),
    named(Fault::CorrectedBefore, BOTH, FENCE, &[SCORES, OUTPUT]),
    named(Fault::OutputCommit, BOTH, STUCK, &[SUMS_WAIT, SCORES_WAIT, WEIGHTS_WAIT]),
    named(Fault::OutputFull, BOTH, NOT_THERE, &[OUTPUT_LOAD, SCORES, OUTPUT]),
    named(Fault::OutputAfter, BOTH, FENCE, &[OUTPUT_LOAD]),
    named(Fault::OutputBefore, BOTH, FENCE, &[SCORES, OUTPUT]),
    named(Fault::SumsArrival, BOTH, STUCK, &[SUMS_WAIT]),
    named(Fault::SumsFull, BOTH, EARLY, &[SUMS]),
    named(Fault::SumsEmpty, BOTH, &[Kind::Race, Kind::Deadlock], &[SUMS_STORE, SCORES_WAIT]),
    named(Fault::SumsRelease, BOTH, STUCK, &[SUMS_WAIT]),
    named(Fault::ItemDone, BOTH, STUCK, &[ITEM_WAIT]),
    named(Fault::ReleasedFull, BOTH, &[Kind::Race, Kind::InFlight], &[DEALLOC]),
];

/// Those of kernels whose P is in tensor memory.
const OF_ONE_BLOCK: &[Named] = &[
    named(
        Fault::BarriersFull,
        BOTH,
        EARLY,
        &[
            ("ld_shared_b32", "block.rs", "ld_shared_b32(self.count("),
            ("ld_shared_b32", "tcgen05/block.rs", "ld_shared_b32(self.allocated("),
        ],
    ),
    named(Fault::WeightsStore, BOTH, &[Kind::InFlight], &[OUTPUT]),
];

/// Those of one softmax, where S of a unit does not wait for the product before.
const OF_ONE_SOFTMAX: &[Named] = &[named(
    Fault::OutputWait,
    BOTH,
    &[Kind::Mbarrier, Kind::InFlight, Kind::Race],
    &[COMMIT, COMMIT_BOTH, OUTPUT_LOAD],
)];

/// Those of a pair.
const OF_A_PAIR: &[Named] = &[
    named(Fault::BarriersFull, BOTH, &[Kind::Peer], &[("tcgen05_alloc", "tcgen05.rs", "tcgen05_alloc::<GROUP>(")]),
    named(Fault::ClusterBegin, BOTH, &[Kind::Peer], &[("tcgen05_alloc", "tcgen05.rs", "tcgen05_alloc::<GROUP>(")]),
    named(Fault::AllocatedFull, BOTH, EARLY, &[("ld_shared_b32", "tcgen05/block.rs", "ld_shared_b32(self.allocated(")]),
    named(Fault::LastTiles, BOTH, &[Kind::Leak], &[COMMIT_BOTH]),
    named(Fault::LastQueries, BOTH, &[Kind::Leak], &[COMMIT_BOTH]),
    named(Fault::WeightsFence, BOTH, &[Kind::MissingProxyFence], &[SCORES]),
    named(Fault::WeightsRead, BOTH, &[Kind::InFlight], &[WEIGHTS_SHARED]),
    named(Fault::MaximaFull, BOTH, EARLY, &[("ld_shared_b32", "tcgen05/softmax.rs", "ld_shared_b32(maxima.at(")]),
    named(Fault::PeerFull, BOTH, NOT_THERE, &[SCORES]),
    named(Fault::PeerWarp, BOTH, &[Kind::Mbarrier], &[COMMIT_BOTH, TILE_COPY]),
    named(Fault::PeerArrival, BOTH, STUCK, &[SCORES_WAIT]),
];

/// Whether a kernel of Blackwell is expected to show `fault`.
pub fn has(fault: Fault) -> bool {
    [NAMED, OF_ONE_BLOCK, OF_ONE_SOFTMAX, OF_A_PAIR].into_iter().flatten().any(|named| named.fault == fault)
}

#[test]
fn each_fault_is_named() {
    for (index, name) in ENTRIES.into_iter().enumerate() {
        let own = if index < 2 { OF_ONE_BLOCK } else { OF_A_PAIR };
        let softmax = if index == 0 { &[] } else { OF_ONE_SOFTMAX };
        for named in [NAMED, own, softmax] {
            check_each(named, &ORDERS, |group, order| prompts(name, group, order));
        }
    }
}

#[test]
fn the_shipped_loops_have_none() {
    for name in ENTRIES {
        check_none(&ORDERS, |group, order| prompts(name, group, order));
    }
}
