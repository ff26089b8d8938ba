//! The twins of what Hopper adds: proxies, mbarriers, bulk copies, clusters.
use super::mbarrier;
use super::op::{meet, meet_all, perform};
use super::proxy::Space;
use super::schedule::suspend;
use super::site::Operation;

/// `fence.proxy.async`: of shared and global memory.
#[track_caller]
pub fn fence_proxy_async() {
    let spaces = [Space::Shared, Space::Global, Space::Mbarrier];
    perform(Operation::FenceProxyAsync, |block, _| block.fence_proxy(&spaces));
}

/// `fence.proxy.async.shared::cta`.
#[track_caller]
pub fn fence_proxy_async_shared() {
    perform(Operation::FenceProxyAsyncShared, |block, _| block.fence_proxy(&[Space::Shared, Space::Mbarrier]));
}

/// `fence.mbarrier_init.release.cluster`.
#[track_caller]
pub fn fence_mbarrier_init() {
    perform(Operation::FenceMbarrierInit, |block, _| {
        block.fence_proxy(&[Space::Mbarrier])?;
        block.fence_inits()
    });
}

/// `fence.release.sync_restrict::shared::cta.cluster`.
#[track_caller]
pub fn fence_release_shared() {
    perform(Operation::FenceReleaseShared, |block, _| block.fence_release_shared());
}

/// `mbarrier.init`.
#[track_caller]
pub fn mbarrier_init(address: u32, count: u32) {
    perform(Operation::MbarrierInit, |block, site| block.mbarrier_init(site, address, count));
}

/// `mbarrier.inval`.
#[track_caller]
pub fn mbarrier_inval(address: u32) {
    perform(Operation::MbarrierInval, |block, site| block.mbarrier_inval(site, address));
}

/// `mbarrier.arrive`, of an mbarrier of the own block.
#[track_caller]
pub fn mbarrier_arrive(address: u32) {
    perform(Operation::MbarrierArrive, |block, site| {
        let offset = block.shared_range(block.current, address, mbarrier::BYTES)?;
        block.mbarrier_arrive(site, offset, None)
    });
}

/// `mbarrier.arrive.expect_tx`, of an mbarrier of the own block.
#[track_caller]
pub fn mbarrier_arrive_expect_tx(address: u32, bytes: u32) {
    perform(Operation::MbarrierArriveExpectTx, |block, site| {
        let offset = block.shared_range(block.current, address, mbarrier::BYTES)?;
        block.mbarrier_arrive(site, offset, Some(bytes))
    });
}

/// `mbarrier.arrive.release.cluster.shared::cluster`, of an mbarrier of any block of the cluster.
#[track_caller]
pub fn mbarrier_arrive_cluster(address: u32) {
    perform(Operation::MbarrierArriveCluster, |block, site| {
        let offset = block.cluster_range(address, mbarrier::BYTES, mbarrier::BYTES)?;
        block.note_remote(site, offset, false);
        block.mbarrier_arrive(site, offset, None)
    });
}

/// `mbarrier.expect_tx`, of an mbarrier of the own block.
#[track_caller]
pub fn mbarrier_expect_tx(address: u32, bytes: u32) {
    perform(Operation::MbarrierExpectTx, |block, site| {
        let offset = block.shared_range(block.current, address, mbarrier::BYTES)?;
        block.mbarrier_expect(site, offset, bytes)
    });
}

macro_rules! waits {
    ($($(#[$doc:meta])* $name:ident = $operation:ident;)*) => {$(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(address: u32, parity: u32) -> bool {
            let done = perform(Operation::$operation, |block, site| block.mbarrier_try_wait(site, address, parity));
            done.unwrap_or_else(|| {
                suspend();
                true
            })
        }
    )*};
}

waits! {
    /// `mbarrier.try_wait.parity.acquire.cta`.
    mbarrier_try_wait_parity = MbarrierTryWait;
    /// `mbarrier.try_wait.parity.acquire.cluster`.
    mbarrier_try_wait_parity_cluster = MbarrierTryWaitCluster;
}

/// `cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes`.
#[track_caller]
pub fn cp_async_bulk(to: u32, from: u64, bytes: u32, mbarrier: u32) {
    perform(Operation::CpAsyncBulk, |block, site| block.bulk_copy(site, to, from, bytes, mbarrier));
}

macro_rules! stores {
    ($($(#[$doc:meta])* $name:ident = $operation:ident, $n:literal;)*) => {$(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(to: u32, value: [u32; $n], mbarrier: u32) {
            let bytes: Vec<u8> = value.iter().flat_map(|word| word.to_le_bytes()).collect();
            perform(Operation::$operation, |block, site| block.store_async(site, to, bytes, mbarrier));
        }
    )*};
}

stores! {
    /// `st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32`.
    st_async_v2_b32 = StAsyncV2B32, 2;
    /// `st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32`.
    st_async_v4_b32 = StAsyncV4B32, 4;
}

/// `cp.async.bulk.tensor.{N}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes`: `map` is the tensor map's words.
#[track_caller]
pub fn cp_async_bulk_tensor<const N: usize>(tile: u32, map: &[u64; 16], coordinates: [i32; N], mbarrier: u32) {
    perform(Operation::CpAsyncBulkTensor, |block, site| {
        block.tensor_copy(site, [tile, mbarrier], map, &coordinates, None)
    });
}

/// The same with `.multicast::cluster`, to the blocks of the cluster whose bit of `ranks` is set.
#[track_caller]
pub fn cp_async_bulk_tensor_multicast<const N: usize>(
    tile: u32,
    map: &[u64; 16],
    coordinates: [i32; N],
    mbarrier: u32,
    ranks: u32,
) {
    perform(Operation::CpAsyncBulkTensorMulticast, |block, site| {
        block.tensor_copy(site, [tile, mbarrier], map, &coordinates, Some(ranks))
    });
}

/// `prefetch.tensormap`.
#[track_caller]
pub fn prefetch_tensormap(map: &[u64; 16]) {
    perform(Operation::PrefetchTensormap, |block, _| block.prefetch_map(map));
}

/// `elect.sync`: whether this lane is the one that is chosen, the lowest of all 32.
#[track_caller]
pub fn elect_sync(mask: u32) -> bool {
    meet_all(Operation::ElectSync, mask, &[])[0] != 0
}

/// `setmaxnreg.inc.sync.aligned.u32`.
#[track_caller]
pub fn setmaxnreg_inc(registers: u32) {
    meet(Operation::SetmaxnregInc, &[registers]);
}

/// `setmaxnreg.dec.sync.aligned.u32`.
#[track_caller]
pub fn setmaxnreg_dec(registers: u32) {
    meet(Operation::SetmaxnregDec, &[registers]);
}

/// `barrier.cluster.arrive.release.aligned`.
#[track_caller]
pub fn cluster_arrive() {
    meet(Operation::ClusterArrive, &[]);
}

/// `barrier.cluster.arrive.relaxed.aligned`.
#[track_caller]
pub fn cluster_arrive_relaxed() {
    meet(Operation::ClusterArriveRelaxed, &[]);
}

/// `barrier.cluster.wait.acquire.aligned`.
#[track_caller]
pub fn cluster_wait() {
    meet(Operation::ClusterWait, &[]);
}

/// `mapa.shared::cluster`.
#[track_caller]
pub fn mapa(address: u32, rank: u32) -> u32 {
    perform(Operation::Mapa, |block, _| block.map_address(address, rank))
}

/// `cp.async.bulk.tensor.{N}d.global.shared::cta.tile.bulk_group`: `map` is the tensor map's words.
#[track_caller]
pub fn cp_async_bulk_tensor_store<const N: usize>(map: &[u64; 16], coordinates: [i32; N], tile: u32) {
    perform(Operation::CpAsyncBulkTensorStore, |block, site| block.tensor_store(site, map, &coordinates, tile));
}

/// `cp.async.bulk.commit_group`.
#[track_caller]
pub fn cp_async_bulk_commit_group() {
    perform(Operation::CpAsyncBulkCommitGroup, |block, _| {
        block.commit_stores();
        Ok(())
    });
}

/// `cp.async.bulk.wait_group newest`.
#[track_caller]
pub fn cp_async_bulk_wait_group(newest: u32) {
    perform(Operation::CpAsyncBulkWaitGroup, |block, _| block.wait_stores(newest, true));
}

/// `cp.async.bulk.wait_group.read newest`.
#[track_caller]
pub fn cp_async_bulk_wait_group_read(newest: u32) {
    perform(Operation::CpAsyncBulkWaitGroupRead, |block, _| block.wait_stores(newest, false));
}
