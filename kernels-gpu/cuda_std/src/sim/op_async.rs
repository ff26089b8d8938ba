//! The twins of what Hopper adds: proxies, mbarriers, bulk copies, clusters.
use super::mbarrier;
use super::op::perform;
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
    perform(Operation::FenceMbarrierInit, |block, _| block.fence_proxy(&[Space::Mbarrier]));
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
        block.note_remote(site, offset);
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

/// `mbarrier.try_wait.parity`.
#[track_caller]
pub fn mbarrier_try_wait_parity(address: u32, parity: u32) -> bool {
    let done = perform(Operation::MbarrierTryWait, |block, site| block.mbarrier_try_wait(site, address, parity));
    done.unwrap_or_else(|| {
        suspend();
        true
    })
}

/// `cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes`.
#[track_caller]
pub fn cp_async_bulk(to: u32, from: u64, bytes: u32, mbarrier: u32) {
    perform(Operation::CpAsyncBulk, |block, site| block.bulk_copy(site, to, from, bytes, mbarrier));
}
