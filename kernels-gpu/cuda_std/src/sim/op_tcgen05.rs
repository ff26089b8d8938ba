//! The twins of `tcgen05`: tensor memory, its products, what moves between it and registers. The kernels' `ptx::tcgen05` has the
//! types that keep registers in flight out of reach; here their state is a value, [`Load`], that goes with them.

/// A load under way to registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load(u32);

macro_rules! to_come {
    ($($name:ident($($operand:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        #[allow(missing_docs)]
        #[track_caller]
        pub fn $name($($operand: $type),*) $(-> $result)? {
            $(let _ = $operand;)*
            unimplemented!(stringify!($name))
        }
    )*};
}

to_come! {
    tcgen05_alloc(group: u32, to: u32, columns: u32);
    tcgen05_dealloc(group: u32, at: u32, columns: u32);
    tcgen05_relinquish_alloc_permit(group: u32);
    tcgen05_mma_f16_ss(group: u32, d: u32, a: u64, b: u64, instruction: u32, add: bool);
    tcgen05_mma_f16_ts(group: u32, d: u32, a: u32, b: u64, instruction: u32, add: bool);
    tcgen05_mma_f8f6f4_ss(group: u32, d: u32, a: u64, b: u64, instruction: u32, add: bool);
    tcgen05_mma_f8f6f4_ts(group: u32, d: u32, a: u32, b: u64, instruction: u32, add: bool);
    tcgen05_commit(group: u32, mbarrier: u32);
    tcgen05_commit_multicast(group: u32, mbarrier: u32, ranks: u16);
    tcgen05_fence_before_thread_sync();
    tcgen05_fence_after_thread_sync();
    tcgen05_ld_32x32b(at: u32, registers: &mut [u32]) -> Load;
    tcgen05_wait_ld();
    tcgen05_take(load: Load, registers: &mut [u32]);
    tcgen05_st_32x32b(at: u32, values: &[u32]);
    tcgen05_wait_st();
}
