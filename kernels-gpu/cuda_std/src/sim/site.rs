//! Sites: an operation at a source line, numbered so that an access's history fits a word.
use super::clock::MAX_SITES;
use std::collections::HashMap;
use std::panic::Location;
use std::sync::{Mutex, PoisonError};

macro_rules! operations {
    ($($variant:ident = $name:literal,)*) => {
        /// An instruction, by its twin.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub(super) enum Operation { $($variant,)* }

        impl Operation {
            /// Every operation, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The twin's name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

operations! {
    ThreadIdx = "thread_idx_x",
    BlockIdx = "block_idx_x",
    BlockDim = "block_dim_x",
    GridDim = "grid_dim_x",
    SyncThreads = "sync_threads",
    DynamicShared = "dynamic_shared",
    LdGlobalB32 = "ld_global_b32",
    LdGlobalV2B32 = "ld_global_v2_b32",
    LdGlobalV4B32 = "ld_global_v4_b32",
    StGlobalB32 = "st_global_b32",
    StGlobalV2B32 = "st_global_v2_b32",
    StGlobalV4B32 = "st_global_v4_b32",
    StGlobalB8 = "st_global_b8",
    LdSharedB32 = "ld_shared_b32",
    LdSharedV2B32 = "ld_shared_v2_b32",
    LdSharedV4B32 = "ld_shared_v4_b32",
    StSharedB32 = "st_shared_b32",
    StSharedV2B32 = "st_shared_v2_b32",
    StSharedV4B32 = "st_shared_v4_b32",
    CpAsync16 = "cp_async_16",
    CpAsync4 = "cp_async_4",
    CpAsyncCommitGroup = "cp_async_commit_group",
    CpAsyncWaitGroup = "cp_async_wait_group",
    BarSync = "bar_sync",
    BarWarpSync = "bar_warp_sync",
    ShflBfly = "shfl_bfly",
    ShflIdx = "shfl_idx",
    VoteAny = "vote_any",
    LdmatrixX4 = "ldmatrix_x4",
    LdmatrixX4Trans = "ldmatrix_x4_trans",
    Movmatrix = "movmatrix_trans",
    StmatrixX4 = "stmatrix_x4",
    MmaBf16 = "mma_m16n8k16_bf16",
    MmaF16 = "mma_m16n8k16_f16",
    WgmmaFence = "wgmma_fence",
    WgmmaBf16Ss = "wgmma_bf16_ss",
    WgmmaBf16Rs = "wgmma_bf16_rs",
    WgmmaF16Ss = "wgmma_f16_ss",
    WgmmaF16Rs = "wgmma_f16_rs",
    WgmmaE4m3Ss = "wgmma_e4m3_ss",
    WgmmaE4m3Rs = "wgmma_e4m3_rs",
    WgmmaCommitGroup = "wgmma_commit_group",
    WgmmaWaitGroup = "wgmma_wait_group",
    CvtBf16x2 = "cvt_rn_bf16x2",
    CvtF16x2 = "cvt_rn_f16x2",
    CvtRzF16x2 = "cvt_rz_f16x2",
    CvtF32F16 = "cvt_f32_f16",
    CvtF16x2E4m3x2 = "cvt_rn_f16x2_e4m3x2",
    CvtF16x2E2m1x2 = "cvt_rn_f16x2_e2m1x2",
    MovLowTwice = "mov_b32_low_twice",
    MovHighTwice = "mov_b32_high_twice",
    MovB64 = "mov_b64",
    CvtE4m3x2 = "cvt_rn_satfinite_e4m3x2",
    CvtE5m2x2 = "cvt_rn_satfinite_e5m2x2",
    MulF16x2 = "mul_rn_f16x2",
    Lop3 = "lop3_b32",
    FmaRn = "fma_rn",
    FmaRz = "fma_rz",
    MaxU16x2 = "max_u16x2",
    Prmt = "prmt_b32",
    Ex2 = "ex2_approx_ftz",
    Lg2 = "lg2_approx_ftz",
    GridWait = "griddepcontrol_wait",
    BarArrive = "bar_arrive",
    ElectSync = "elect_sync",
    SetmaxnregInc = "setmaxnreg_inc",
    SetmaxnregDec = "setmaxnreg_dec",
    GridLaunchDependents = "griddepcontrol_launch_dependents",
    ClusterCtarank = "cluster_ctarank",
    ClusterNctarank = "cluster_nctarank",
    ClusterArrive = "cluster_arrive",
    ClusterArriveRelaxed = "cluster_arrive_relaxed",
    ClusterWait = "cluster_wait",
    Mapa = "mapa",
    LdSharedClusterB32 = "ld_shared_cluster_b32",
    LdSharedClusterV4B32 = "ld_shared_cluster_v4_b32",
    StSharedClusterB32 = "st_shared_cluster_b32",
    StSharedClusterV4B32 = "st_shared_cluster_v4_b32",
    StAsyncV2B32 = "st_async_v2_b32",
    StAsyncV4B32 = "st_async_v4_b32",
    FenceMbarrierInit = "fence_mbarrier_init",
    FenceReleaseShared = "fence_release_shared",
    MbarrierInit = "mbarrier_init",
    MbarrierInval = "mbarrier_inval",
    MbarrierArrive = "mbarrier_arrive",
    MbarrierArriveExpectTx = "mbarrier_arrive_expect_tx",
    MbarrierArriveCluster = "mbarrier_arrive_cluster",
    MbarrierExpectTx = "mbarrier_expect_tx",
    MbarrierTryWait = "mbarrier_try_wait_parity",
    MbarrierTryWaitCluster = "mbarrier_try_wait_parity_cluster",
    CpAsyncBulk = "cp_async_bulk",
    CpAsyncBulkTensorStore = "cp_async_bulk_tensor_store",
    CpAsyncBulkCommitGroup = "cp_async_bulk_commit_group",
    CpAsyncBulkWaitGroup = "cp_async_bulk_wait_group",
    CpAsyncBulkWaitGroupRead = "cp_async_bulk_wait_group_read",
    CpAsyncBulkTensor = "cp_async_bulk_tensor",
    CpAsyncBulkTensorMulticast = "cp_async_bulk_tensor_multicast",
    PrefetchTensormap = "prefetch_tensormap",
    FenceProxyAsync = "fence_proxy_async",
    FenceProxyAsyncShared = "fence_proxy_async_shared",
    Tcgen05Alloc = "tcgen05_alloc",
    Tcgen05Dealloc = "tcgen05_dealloc",
    Tcgen05RelinquishAllocPermit = "tcgen05_relinquish_alloc_permit",
    Tcgen05MmaF16Ss = "tcgen05_mma_f16_ss",
    Tcgen05MmaF16Ts = "tcgen05_mma_f16_ts",
    Tcgen05MmaF8f6f4Ss = "tcgen05_mma_f8f6f4_ss",
    Tcgen05MmaF8f6f4Ts = "tcgen05_mma_f8f6f4_ts",
    Tcgen05Cp = "tcgen05_cp_128x256b",
    Tcgen05Commit = "tcgen05_commit",
    Tcgen05CommitMulticast = "tcgen05_commit_multicast",
    Tcgen05FenceBefore = "tcgen05_fence_before_thread_sync",
    Tcgen05FenceAfter = "tcgen05_fence_after_thread_sync",
    Tcgen05Ld = "tcgen05_ld_32x32b",
    Tcgen05WaitLd = "tcgen05_wait_ld",
    Tcgen05St = "tcgen05_st_32x32b",
    Tcgen05WaitSt = "tcgen05_wait_st",
}

/// An operation at a source line.
pub(super) type Site = (Operation, &'static Location<'static>);

/// The sites of a launch: those of all its blocks, numbered as they are first met.
#[derive(Default)]
pub(super) struct Sites(Mutex<Numbered>);

#[derive(Default)]
struct Numbered {
    sites: Vec<Site>,
    // By content: one line may have several `Location`s, one a codegen unit.
    numbers: HashMap<(Operation, &'static str, u32, u32), u16>,
}

impl Sites {
    fn number(&self, (operation, location): Site) -> u16 {
        let numbered = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (operation, location.file(), location.line(), location.column());
        *numbered.numbers.entry(key).or_insert_with(|| {
            let number = numbered.sites.len().min(usize::from(MAX_SITES) - 1);
            numbered.sites.push((operation, location));
            number as u16
        })
    }

    /// The site of a number, unless it is the last one, which many share.
    pub fn get(&self, number: u16) -> Option<Site> {
        let numbered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (number < MAX_SITES - 1).then(|| numbered.sites.get(usize::from(number)).copied()).flatten()
    }
}

const CACHE: usize = 256;

/// One block's shortcut to [`Sites`]: by the `Location`'s address.
pub(super) struct SiteCache([(Option<Site>, u16); CACHE]);

impl SiteCache {
    pub fn new() -> Self {
        Self([(None, 0); CACHE])
    }

    /// The number of `operation` at `location`.
    #[inline(always)]
    pub fn number(&mut self, sites: &Sites, operation: Operation, location: &'static Location<'static>) -> u16 {
        let address = std::ptr::from_ref(location).addr();
        // Multiplicative hashing spreads neighbours over the table; one line often has several operations, as helpers
        // report their caller's line.
        let slot = ((address + operation as usize).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) % CACHE;
        let entry = &mut self.0[slot];
        match entry.0 {
            Some((known, at)) if known == operation && std::ptr::eq(at, location) => entry.1,
            _ => {
                *entry = (Some((operation, location)), sites.number((operation, location)));
                entry.1
            }
        }
    }
}
