//! Faults that tests plant in the shipped loops: each is one barrier, wait, fence or release left out, or a release that
//! comes too early.
//!
//! [`planted`] is a constant `false` in PTX unless the build names a fault in `QKV_FAULT`, so the shipped code does not
//! change; on the simulator a test chooses one at run time and expects to be told its kind and source line.

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One synchronisation left out, or made too early.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            /// Every fault.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in `QKV_FAULT`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

faults! {
    /// The wait for K's copies (`cp.async.wait_group`).
    KeyWait = "key_wait",
    /// The barrier after it: shows the copies of all lanes to all lanes, and the slot before to be read.
    KeyFull = "key_full",
    /// The wait for V's copies.
    ValueWait = "value_wait",
    /// The barrier after it: shows V, and the slot before to be read.
    ValueFull = "value_full",
    /// The block barrier between the rows' records and their reading (windows, drafts, ALiBi; at D > 128 that of q's slices
    /// would do).
    RowRecords = "row_records",
    /// The barrier between the column warps' largest |q| and their reading them (narrow caches, D > 128).
    RowMaximum = "row_maximum",
    /// The barrier between the slices of q and their reading by all warps that share the head.
    SlicesFull = "slices_full",
    /// The barrier between the largest logits of such warps and their reading.
    LogitsFull = "logits_full",
    /// The barrier between their P and its reading.
    SharedWeights = "shared_weights",
    /// The barrier between their sums and their reading.
    SharedSums = "shared_sums",
    /// The warp's barrier between its reads of the last piece and O in its place (where that may be the slot of the piece).
    RingRead = "ring_read",
    /// The block barrier between the teams' results and their merge.
    MergeFull = "merge_full",
    /// The fence between the mbarriers for other blocks' results and their use by these.
    GatherFence = "gather_fence",
    /// The fence between a block's reads of its rings and what other blocks send there.
    GatherRelease = "gather_release",
    /// The arrival that says how much will be sent.
    GatherArrival = "gather_arrival",
    /// The cluster's barrier between its blocks' beginning, or their rings' last reads, and what is sent to them.
    GatherReady = "gather_ready",
    /// The wait for the results that were sent.
    GatherFull = "gather_full",
    /// The cluster's barrier between its blocks' results and their reading each other's.
    BlocksFull = "blocks_full",
    /// The one before a block ends whose results others read.
    BlocksDone = "blocks_done",
    /// `griddepcontrol.wait`: the merge's wait for the decode kernel.
    CombineWait = "combine_wait",
    /// The block barrier before the shares' sums are added.
    CombineSums = "combine_sums",
    /// The block barrier after that, before the next merge reuses their place.
    CombineDone = "combine_done",
    /// The block barrier of the page check.
    CheckDone = "check_done",
    /// Prefill: the block barrier between the mbarriers' initialisation and their use.
    BarriersFull = "barriers_full",
    /// Their fence, for copies.
    BarriersFence = "barriers_fence",
    /// The wait for an item by the warps that copy.
    ItemFull = "item_full",
    /// The arrival that tells of an item.
    ItemArrival = "item_arrival",
    /// The wait until the warps that copy keys have read an item.
    ItemEmpty = "item_empty",
    /// Their release of it.
    ItemRelease = "item_release",
    /// The warp barrier before that.
    ItemWarp = "item_warp",
    /// The wait for the query rows, and for the item that they are of.
    QueryFull = "query_full",
    /// The arrivals for the query rows.
    QueryArrival = "query_arrival",
    /// That the tensor copy's bytes are expected.
    QueryBytes = "query_bytes",
    /// Where no tensor copy can copy query rows: the wait for the copies.
    QueryCopies = "query_copies",
    /// There: the proxy fence after it.
    QueryFence = "query_fence",
    /// The wait until the query rows have been read.
    QueryEmpty = "query_empty",
    /// The release of the query rows.
    QueryRelease = "query_release",
    /// That it comes behind the products that read them.
    QueryEarly = "query_early",
    /// The wait for a tile of K.
    KeyTileFull = "key_tile_full",
    /// The wait for a tile of V.
    ValueTileFull = "value_tile_full",
    /// The wait until a tile of K has been read.
    KeyTileEmpty = "key_tile_empty",
    /// The wait until a tile of V has been read.
    ValueTileEmpty = "value_tile_empty",
    /// The warp barrier after either: shows who copies that all lanes have waited.
    TileWarp = "tile_warp",
    /// The arrival for a tile.
    TileArrival = "tile_arrival",
    /// That a tile's bytes are expected.
    TileBytes = "tile_bytes",
    /// The release of a tile of K.
    KeyTileRelease = "key_tile_release",
    /// The release of a tile of V.
    ValueTileRelease = "value_tile_release",
    /// That a tile of K is released behind the product that reads it.
    KeyTileEarly = "key_tile_early",
    /// That a tile of V is.
    ValueTileEarly = "value_tile_early",
    /// The warp barrier before a release: it is of all lanes.
    ReleaseWarp = "release_warp",
    /// Prefill of 8 bits: the wait for a transposed tile of V.
    TransposedFull = "transposed_full",
    /// The wait until a transposed tile has been read.
    TransposedEmpty = "transposed_empty",
    /// The proxy fence between a transposed tile's stores and its arrival.
    TransposedFence = "transposed_fence",
    /// The warp barrier there.
    TransposedWarp = "transposed_warp",
    /// The arrival.
    TransposedArrival = "transposed_arrival",
    /// The release of a transposed tile.
    TransposedRelease = "transposed_release",
    /// That it comes behind the product that reads it.
    TransposedEarly = "transposed_early",
    /// Prefill at D = 512: the wait for the other block's maxima, or sums.
    Told = "pair_told",
    /// That their bytes are expected.
    ToldBytes = "pair_told_bytes",
    /// The arrival for them.
    ToldArrival = "pair_told_arrival",
    /// The wait for the other block's P.
    Given = "pair_given",
    /// That its bytes are expected.
    GivenBytes = "pair_given_bytes",
    /// The arrival for it.
    GivenArrival = "pair_given_arrival",
    /// Prefill on Blackwell: softmax's wait for S.
    ScoresWait = "tensor_scores_wait",
    /// The fence of tensor memory after it.
    ScoresAfter = "tensor_scores_after",
    /// The commit that tells of S.
    ScoresCommit = "tensor_scores_commit",
    /// The wait for masked logits' stores to tensor memory.
    MaskStore = "tensor_mask_store",
    /// The arrival that tells of P.
    WeightsArrival = "tensor_weights_arrival",
    /// The products' wait for P and for O corrected.
    WeightsFull = "tensor_weights_full",
    /// The warp barrier before what tells of products.
    CommitWarp = "tensor_commit_warp",
    /// The fence of tensor memory after it.
    WeightsAfter = "tensor_weights_after",
    /// The wait for P's stores to tensor memory.
    WeightsStore = "tensor_weights_store",
    /// The fence of tensor memory before P's arrival.
    WeightsBefore = "tensor_weights_before",
    /// Of a pair, whose P is in shared memory: the proxy fence there.
    WeightsFence = "tensor_weights_fence",
    /// And the wait until it has been read.
    WeightsRead = "tensor_weights_read",
    /// The barrier between the maxima of two threads of a row and their reading.
    MaximaFull = "tensor_maxima_full",
    /// The arrival for the factors of O.
    FactorsArrival = "tensor_factors_arrival",
    /// The wait for them.
    FactorsFull = "tensor_factors_full",
    /// The arrival that tells of O corrected.
    Corrected = "tensor_corrected",
    /// The wait for the stores of O corrected.
    CorrectedStore = "tensor_corrected_store",
    /// The fence of tensor memory before that arrival.
    CorrectedBefore = "tensor_corrected_before",
    /// The correction's wait for O.
    OutputWait = "tensor_output_wait",
    /// The commit that tells of O.
    OutputCommit = "tensor_output_commit",
    /// The wait for an item's last product.
    OutputFull = "tensor_output_full",
    /// The fence of tensor memory after either.
    OutputAfter = "tensor_output_after",
    /// That between O's loads and the next item's products.
    OutputBefore = "tensor_output_before",
    /// The arrival for an item's maxima and sums.
    SumsArrival = "tensor_sums_arrival",
    /// The wait for them.
    SumsFull = "tensor_sums_full",
    /// The wait until those before have been read.
    SumsEmpty = "tensor_sums_empty",
    /// Their release.
    SumsRelease = "tensor_sums_release",
    /// The release of an item by those that make P and correct O.
    ItemDone = "tensor_item_done",
    /// The block's or the pair's barrier before tensor memory is released.
    ReleasedFull = "tensor_released_full",
    /// Of a pair: the block barrier between the allocation of tensor memory and its address's reading.
    AllocatedFull = "tensor_allocated_full",
    /// The wait for the last tiles to have been read.
    LastTiles = "tensor_last_tiles",
    /// And for the last query rows.
    LastQueries = "tensor_last_queries",
    /// The wait for what the other block has.
    PeerFull = "tensor_peer_full",
    /// The warp barrier before what tells of it.
    PeerWarp = "tensor_peer_warp",
    /// The arrival that tells of it.
    PeerArrival = "tensor_peer_arrival",
    /// That the block barrier behind the mbarriers' initialisation is the cluster's.
    ClusterBegin = "cluster_begin",
}

#[cfg(target_arch = "nvptx64")]
const BUILT_IN: &str = match option_env!("QKV_FAULT") {
    Some(name) => name,
    None => "",
};

/// Whether to leave `fault`'s synchronisation out.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
pub const fn planted(fault: Fault) -> bool {
    let (a, b) = (BUILT_IN.as_bytes(), fault.name().as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(not(target_arch = "nvptx64"))]
static CHOSEN: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(u32::MAX);

/// Chooses the fault that the simulator's runs of this process have from now on; `None`: none, as shipped.
#[cfg(not(target_arch = "nvptx64"))]
pub fn plant(fault: Option<Fault>) {
    CHOSEN.store(fault.map_or(u32::MAX, |f| f as u32), core::sync::atomic::Ordering::SeqCst);
}

/// Whether to leave `fault`'s synchronisation out.
#[cfg(not(target_arch = "nvptx64"))]
#[inline(always)]
pub fn planted(fault: Fault) -> bool {
    CHOSEN.load(core::sync::atomic::Ordering::Relaxed) == fault as u32
}
