//! The twins of `tcgen05`: tensor memory, its products, what moves between it and registers. The kernels' `ptx::tcgen05` has the
//! types that keep registers in flight out of reach; here their state is a value, [`Load`], that goes with them.
//!
//! `group` is `cta_group`; addresses in tensor memory are `lane << 16 | column`.
use super::op::{meet, perform};
use super::schedule::with_block;
use super::site::Operation;
use super::tcgen05::Request;
use super::warpgroup::POISON;

/// A load under way to registers, by its number in its warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load(pub(super) u32);

/// `tcgen05.alloc` of a whole warp.
#[track_caller]
pub fn tcgen05_alloc(group: u32, to: u32, columns: u32) {
    meet(Operation::Tcgen05Alloc, &[group, to, columns]);
}

/// `tcgen05.dealloc` of a whole warp.
#[track_caller]
pub fn tcgen05_dealloc(group: u32, at: u32, columns: u32) {
    meet(Operation::Tcgen05Dealloc, &[group, at, columns]);
}

/// `tcgen05.relinquish_alloc_permit` of a whole warp.
#[track_caller]
pub fn tcgen05_relinquish_alloc_permit(group: u32) {
    meet(Operation::Tcgen05RelinquishAllocPermit, &[group, 0, 0]);
}

macro_rules! products {
    ($($kind:literal, $wide:literal: $ss:ident = $ss_operation:ident, $ts:ident = $ts_operation:ident;)*) => {$(
        #[doc = concat!("`tcgen05.mma.kind::", $kind, "`: D becomes `a b`, or with `add` `d + a b`. A and B are shared memory descriptors.")]
        #[track_caller]
        pub fn $ss(group: u32, d: u32, a: u64, b: u64, instruction: u32, add: bool) {
            let request = Request { wide: $wide, group, d, a: Ok(a), b, instruction, add };
            perform(Operation::$ss_operation, |block, site| block.tensor_multiply(site, &request));
        }

        #[doc = concat!("`tcgen05.mma.kind::", $kind, "` with A from tensor memory.")]
        #[track_caller]
        pub fn $ts(group: u32, d: u32, a: u32, b: u64, instruction: u32, add: bool) {
            let request = Request { wide: $wide, group, d, a: Err(a), b, instruction, add };
            perform(Operation::$ts_operation, |block, site| block.tensor_multiply(site, &request));
        }
    )*};
}

products! {
    "f16", true: tcgen05_mma_f16_ss = Tcgen05MmaF16Ss, tcgen05_mma_f16_ts = Tcgen05MmaF16Ts;
    "f8f6f4", false: tcgen05_mma_f8f6f4_ss = Tcgen05MmaF8f6f4Ss, tcgen05_mma_f8f6f4_ts = Tcgen05MmaF8f6f4Ts;
}

/// `tcgen05.cp.128x256b`, from a K-major shared memory descriptor of 128 rows.
#[track_caller]
pub fn tcgen05_cp_128x256b(group: u32, to: u32, from: u64) {
    perform(Operation::Tcgen05Cp, |block, site| block.copy_cells(site, group, to, from));
}

/// `tcgen05.commit`, to an mbarrier of the own block.
#[track_caller]
pub fn tcgen05_commit(group: u32, mbarrier: u32) {
    perform(Operation::Tcgen05Commit, |block, site| block.tensor_commit(site, group, mbarrier, None));
}

/// `tcgen05.commit.multicast::cluster`.
#[track_caller]
pub fn tcgen05_commit_multicast(group: u32, mbarrier: u32, ranks: u16) {
    perform(Operation::Tcgen05CommitMulticast, |block, site| block.tensor_commit(site, group, mbarrier, Some(ranks)));
}

/// `tcgen05.fence::before_thread_sync`.
#[track_caller]
pub fn tcgen05_fence_before_thread_sync() {
    perform(Operation::Tcgen05FenceBefore, |block, _| {
        block.tensor_fence_before();
        Ok(())
    });
}

/// `tcgen05.fence::after_thread_sync`.
#[track_caller]
pub fn tcgen05_fence_after_thread_sync() {
    perform(Operation::Tcgen05FenceAfter, |block, _| {
        block.tensor_fence_after();
        Ok(())
    });
}

/// `tcgen05.ld.32x32b` of `registers.len()` columns by a whole warp. The registers hold a NaN until [`tcgen05_take`].
#[track_caller]
pub fn tcgen05_ld_32x32b(at: u32, registers: &mut [u32]) -> Load {
    registers.fill(POISON);
    Load(meet(Operation::Tcgen05Ld, &[at, registers.len() as u32])[0])
}

/// `tcgen05.wait::ld` of a whole warp. What comes back is for [`tcgen05_take`].
#[track_caller]
pub fn tcgen05_wait_ld() {
    meet(Operation::Tcgen05WaitLd, &[]);
}

/// No instruction: `registers` of a load, as the last wait left them.
pub fn tcgen05_take(load: Load, registers: &mut [u32]) {
    with_block(|block| block.tensor_take(load, registers));
}

/// `tcgen05.st.32x32b` of `values.len()` columns by a whole warp.
#[track_caller]
pub fn tcgen05_st_32x32b(at: u32, values: &[u32]) {
    with_block(|block| block.tensor_bring(values));
    meet(Operation::Tcgen05St, &[at, values.len() as u32]);
}

/// `tcgen05.wait::st` of a whole warp.
#[track_caller]
pub fn tcgen05_wait_st() {
    meet(Operation::Tcgen05WaitSt, &[]);
}
