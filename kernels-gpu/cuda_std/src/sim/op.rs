//! The twins: what each instruction does on the host, by the name of its function in the kernels' `ptx`.
//!
//! All of them must be called from a kernel's body inside of [`launch`](super::launch()). A violation unwinds the calling
//! thread and becomes the launch's [`Error`](super::Error); the source line in it is that of the twin's caller.
use super::arithmetic;
use super::block::{Block, Checked, SHARED_ORIGIN};
use super::eight_bit;
use super::error::Kind;
use super::schedule::{suspend, with_block};
use super::site::Operation;
use std::panic::Location;

pub use super::op_async::*;
pub use super::op_tcgen05::*;
pub use super::op_wgmma::*;

/// Enters `operation` for the calling thread and acts on its block.
#[inline(always)]
#[track_caller]
pub(super) fn perform<R>(operation: Operation, act: impl FnOnce(&mut Block<'_>, u16) -> Checked<R>) -> R {
    let location = Location::caller();
    with_block(|block| {
        let site = block.enter(operation, location)?;
        act(block, site)
    })
}

/// Meets the other lanes of the warp at `operation`, and returns this lane's results.
#[track_caller]
pub(super) fn meet(operation: Operation, operands: &[u32]) -> [u32; 4] {
    if perform(operation, |block, _| block.arrive(operation, operands)) {
        suspend();
    }
    with_block(|block| Ok(block.warps[(block.current / 32) as usize].results[(block.current % 32) as usize]))
}

/// Like [`meet`], for an operation whose mask must name all lanes.
#[track_caller]
pub(super) fn meet_all(operation: Operation, mask: u32, operands: &[u32]) -> [u32; 4] {
    if mask != u32::MAX {
        perform(operation, |block, _| {
            let detail = format!("mask {mask:#x}; only all 32 lanes, 0xffffffff, are simulated");
            Err(block.error(Kind::BadOperand, detail))
        })
    }
    meet(operation, operands)
}

macro_rules! values {
    ($($(#[$doc:meta])* $name:ident = $operation:ident, $value:expr;)*) => {$(
        $(#[$doc])*
        #[track_caller]
        pub fn $name() -> u32 {
            let value: fn(&Block<'_>) -> u32 = $value;
            perform(Operation::$operation, |block, _| Ok(value(block)))
        }
    )*};
}

values! {
    /// `%tid.x`.
    thread_idx_x = ThreadIdx, |block| block.index_of(block.current);
    /// `%ctaid.x`.
    block_idx_x = BlockIdx, |block| block.block_of(block.current);
    /// `%ntid.x`.
    block_dim_x = BlockDim, |block| block.width;
    /// `%nctaid.x`.
    grid_dim_x = GridDim, |block| block.launch.grid.blocks;
    /// `%cluster_ctarank`.
    cluster_ctarank = ClusterCtarank, |block| block.rank_of(block.current);
    /// `%cluster_nctarank`.
    cluster_nctarank = ClusterNctarank, |block| block.cluster;
    /// Where dynamic shared memory begins.
    dynamic_shared = DynamicShared, |_| SHARED_ORIGIN;
}

macro_rules! accesses {
    ($($load:ident = $load_operation:ident, $store:ident = $store_operation:ident,
        $read:ident, $write:ident, $address:ty, $n:literal;)*) => {$(
        #[doc = concat!("Loads ", stringify!($n), " words.")]
        #[track_caller]
        pub fn $load(address: $address) -> [u32; $n] {
            let bytes = perform(Operation::$load_operation, |block, site| block.$read::<{ $n * 4 }>(site, address));
            words(bytes)
        }

        #[doc = concat!("Stores ", stringify!($n), " words.")]
        #[track_caller]
        pub fn $store(address: $address, value: [u32; $n]) {
            let value = value.map(u32::to_le_bytes);
            perform(Operation::$store_operation, |block, site| block.$write(site, address, value.as_flattened()));
        }
    )*};
}

accesses! {
    ld_global_b32 = LdGlobalB32, st_global_b32 = StGlobalB32, load_global, store_global, u64, 1;
    ld_global_v2_b32 = LdGlobalV2B32, st_global_v2_b32 = StGlobalV2B32, load_global, store_global, u64, 2;
    ld_global_v4_b32 = LdGlobalV4B32, st_global_v4_b32 = StGlobalV4B32, load_global, store_global, u64, 4;
    ld_shared_cluster_b32 = LdSharedClusterB32, st_shared_cluster_b32 = StSharedClusterB32, load_cluster, store_cluster, u32, 1;
    ld_shared_cluster_v4_b32 = LdSharedClusterV4B32, st_shared_cluster_v4_b32 = StSharedClusterV4B32, load_cluster, store_cluster, u32, 4;
    ld_shared_b32 = LdSharedB32, st_shared_b32 = StSharedB32, load_shared, store_shared, u32, 1;
    ld_shared_v2_b32 = LdSharedV2B32, st_shared_v2_b32 = StSharedV2B32, load_shared, store_shared, u32, 2;
    ld_shared_v4_b32 = LdSharedV4B32, st_shared_v4_b32 = StSharedV4B32, load_shared, store_shared, u32, 4;
}

/// Stores the low byte of `value`.
#[track_caller]
pub fn st_global_b8(address: u64, value: u32) {
    perform(Operation::StGlobalB8, |block, site| block.store_global(site, address, &[value as u8]));
}

#[inline(always)]
fn words<const BYTES: usize, const WORDS: usize>(bytes: [u8; BYTES]) -> [u32; WORDS] {
    std::array::from_fn(|i| u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]))
}

/// `bar.sync 0`: all threads of the block.
#[track_caller]
pub fn sync_threads() {
    let threads = with_block(|block| Ok(block.width));
    meet(Operation::SyncThreads, &[0, threads]);
}

/// `barrier.sync.aligned barrier, threads`.
#[track_caller]
pub fn bar_sync(barrier: u32, threads: u32) {
    meet(Operation::BarSync, &[barrier, threads]);
}

/// `barrier.arrive.aligned barrier, threads`.
#[track_caller]
pub fn bar_arrive(barrier: u32, threads: u32) {
    meet(Operation::BarArrive, &[barrier, threads]);
}

/// `bar.warp.sync mask`, of all lanes.
#[track_caller]
pub fn bar_warp_sync(mask: u32) {
    meet_all(Operation::BarWarpSync, mask, &[]);
}

/// `shfl.sync.bfly.b32`: `value` of lane `own ^ lane_mask`.
#[track_caller]
pub fn shfl_bfly(mask: u32, value: u32, lane_mask: u32) -> u32 {
    meet_all(Operation::ShflBfly, mask, &[value, lane_mask])[0]
}

/// `vote.sync.any.pred`: whether any lane says so.
#[track_caller]
pub fn vote_any(mask: u32, says: bool) -> bool {
    meet_all(Operation::VoteAny, mask, &[u32::from(says)])[0] != 0
}

/// `shfl.sync.idx.b32`: `value` of lane `lane`.
#[track_caller]
pub fn shfl_idx(mask: u32, value: u32, lane: u32) -> u32 {
    meet_all(Operation::ShflIdx, mask, &[value, lane])[0]
}

/// `ldmatrix.x4`: `row` is the address of this lane's row.
#[track_caller]
pub fn ldmatrix_x4(row: u32) -> [u32; 4] {
    meet(Operation::LdmatrixX4, &[row])
}

/// `ldmatrix.x4.trans`.
#[track_caller]
pub fn ldmatrix_x4_trans(row: u32) -> [u32; 4] {
    meet(Operation::LdmatrixX4Trans, &[row])
}

/// `stmatrix.x4`: `row` is the address of this lane's row, `values` its elements of the four matrices.
#[track_caller]
pub fn stmatrix_x4(row: u32, values: [u32; 4]) {
    let [a, b, c, d] = values;
    meet(Operation::StmatrixX4, &[row, a, b, c, d]);
}

/// `movmatrix.trans`: `pair` is this lane's two elements of an 8 × 8 matrix.
#[track_caller]
pub fn movmatrix_trans(pair: u32) -> u32 {
    meet(Operation::Movmatrix, &[pair])[0]
}

#[track_caller]
fn mma(operation: Operation, d: [f32; 4], a: [u32; 4], b: [u32; 2]) -> [f32; 4] {
    let d = d.map(f32::to_bits);
    let operands = [d[0], d[1], d[2], d[3], a[0], a[1], a[2], a[3], b[0], b[1]];
    meet(operation, &operands).map(f32::from_bits)
}

/// `mma.m16n8k16`, bf16 to f32: d + a b.
#[track_caller]
pub fn mma_m16n8k16_bf16(d: [f32; 4], a: [u32; 4], b: [u32; 2]) -> [f32; 4] {
    mma(Operation::MmaBf16, d, a, b)
}

/// `mma.m16n8k16`, f16 to f32: d + a b.
#[track_caller]
pub fn mma_m16n8k16_f16(d: [f32; 4], a: [u32; 4], b: [u32; 2]) -> [f32; 4] {
    mma(Operation::MmaF16, d, a, b)
}

macro_rules! copies {
    ($($name:ident = $operation:ident, $width:literal;)*) => {$(
        #[doc = concat!("`cp.async ", $width, "`: `bytes` from global `from` and zeros up to ", $width, ", to shared `to`.")]
        #[track_caller]
        pub fn $name(to: u32, from: u64, bytes: u32) {
            perform(Operation::$operation, |block, site| block.copy_async(site, $width, to, from, bytes));
        }
    )*};
}

copies! {
    cp_async_16 = CpAsync16, 16;
    cp_async_4 = CpAsync4, 4;
}

/// `cp.async.commit_group`.
#[track_caller]
pub fn cp_async_commit_group() {
    perform(Operation::CpAsyncCommitGroup, |block, _| {
        block.commit_copies();
        Ok(())
    });
}

/// `cp.async.wait_group newest`.
#[track_caller]
pub fn cp_async_wait_group(newest: u32) {
    perform(Operation::CpAsyncWaitGroup, |block, _| block.wait_copies(newest));
}

/// `griddepcontrol.wait`.
#[track_caller]
pub fn griddepcontrol_wait() {
    perform(Operation::GridWait, |block, _| {
        block.threads[block.current as usize].grid_waited = true;
        Ok(())
    });
}

/// `griddepcontrol.launch_dependents`: nothing here, where the next launch begins when this one has ended.
#[track_caller]
pub fn griddepcontrol_launch_dependents() {
    perform(Operation::GridLaunchDependents, |_, _| Ok(()));
}

/// `cvt.rn.bf16x2.f32`.
#[track_caller]
pub fn cvt_rn_bf16x2(high: f32, low: f32) -> u32 {
    perform(Operation::CvtBf16x2, |_, _| Ok(arithmetic::cvt_rn_bf16x2(high, low)))
}

/// `cvt.rn.f16x2.f32`.
#[track_caller]
pub fn cvt_rn_f16x2(high: f32, low: f32) -> u32 {
    perform(Operation::CvtF16x2, |_, _| Ok(arithmetic::cvt_rn_f16x2(high, low)))
}

/// `cvt.rz.f16x2.f32`.
#[track_caller]
pub fn cvt_rz_f16x2(high: f32, low: f32) -> u32 {
    perform(Operation::CvtRzF16x2, |_, _| Ok(arithmetic::cvt_rz_f16x2(high, low)))
}

/// `cvt.f32.f16`, of the low half of `half`.
#[track_caller]
pub fn cvt_f32_f16(half: u32) -> f32 {
    perform(Operation::CvtF32F16, |_, _| Ok(arithmetic::cvt_f32_f16(half)))
}

/// `cvt.rn.f16x2.e4m3x2`, of the low half of `pair`.
#[track_caller]
pub fn cvt_rn_f16x2_e4m3x2(pair: u32) -> u32 {
    perform(Operation::CvtF16x2E4m3x2, |_, _| Ok(eight_bit::cvt_rn_f16x2_e4m3x2(pair)))
}

/// `cvt.rn.f16x2.e2m1x2`, of the lowest byte of `pair`.
#[track_caller]
pub fn cvt_rn_f16x2_e2m1x2(pair: u32) -> u32 {
    perform(Operation::CvtF16x2E2m1x2, |_, _| Ok(eight_bit::cvt_rn_f16x2_e2m1x2(pair)))
}

/// `mov.b32` of a word's lower half, twice.
#[track_caller]
pub fn mov_b32_low_twice(word: u32) -> u32 {
    perform(Operation::MovLowTwice, |_, _| Ok(word << 16 | word & 0xFFFF))
}

/// `mov.b32` of a word's upper half, twice.
#[track_caller]
pub fn mov_b32_high_twice(word: u32) -> u32 {
    perform(Operation::MovHighTwice, |_, _| Ok(word & 0xFFFF_0000 | word >> 16))
}

/// `mov.b64` of two words.
#[track_caller]
pub fn mov_b64(low: u32, high: u32) -> u64 {
    perform(Operation::MovB64, |_, _| Ok(u64::from(high) << 32 | u64::from(low)))
}

/// `cvt.rn.satfinite.e4m3x2.f32`.
#[track_caller]
pub fn cvt_rn_satfinite_e4m3x2(high: f32, low: f32) -> u32 {
    perform(Operation::CvtE4m3x2, |_, _| Ok(eight_bit::cvt_rn_satfinite_e4m3x2(high, low)))
}

/// `cvt.rn.satfinite.e5m2x2.f32`.
#[track_caller]
pub fn cvt_rn_satfinite_e5m2x2(high: f32, low: f32) -> u32 {
    perform(Operation::CvtE5m2x2, |_, _| Ok(eight_bit::cvt_rn_satfinite_e5m2x2(high, low)))
}

/// `mul.rn.f16x2`.
#[track_caller]
pub fn mul_rn_f16x2(a: u32, b: u32) -> u32 {
    perform(Operation::MulF16x2, |_, _| Ok(arithmetic::mul_rn_f16x2(a, b)))
}

/// `lop3.b32`.
#[track_caller]
pub fn lop3_b32(a: u32, b: u32, c: u32, table: u32) -> u32 {
    perform(Operation::Lop3, |_, _| Ok(arithmetic::lop3_b32(a, b, c, table)))
}

/// `fma.rn.f32`.
#[track_caller]
pub fn fma_rn(a: f32, b: f32, c: f32) -> f32 {
    perform(Operation::FmaRn, |_, _| Ok(arithmetic::fma_rn(a, b, c)))
}

/// `fma.rz.f32`.
#[track_caller]
pub fn fma_rz(a: f32, b: f32, c: f32) -> f32 {
    perform(Operation::FmaRz, |_, _| Ok(arithmetic::fma_rz(a, b, c)))
}

/// `max.u16x2`.
#[track_caller]
pub fn max_u16x2(a: u32, b: u32) -> u32 {
    perform(Operation::MaxU16x2, |_, _| Ok(arithmetic::max_u16x2(a, b)))
}

/// `prmt.b32`.
#[track_caller]
pub fn prmt_b32(a: u32, b: u32, selector: u32) -> u32 {
    perform(Operation::Prmt, |_, _| Ok(arithmetic::prmt_b32(a, b, selector)))
}

/// `ex2.approx.ftz.f32`.
#[track_caller]
pub fn ex2_approx_ftz(x: f32) -> f32 {
    perform(Operation::Ex2, |_, _| Ok(arithmetic::ex2_approx_ftz(x)))
}

/// `lg2.approx.ftz.f32`.
#[track_caller]
pub fn lg2_approx_ftz(x: f32) -> f32 {
    perform(Operation::Lg2, |_, _| Ok(arithmetic::lg2_approx_ftz(x)))
}
