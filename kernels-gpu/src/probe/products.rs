//! Probes of `wgmma`: one product of 64 × N, its operands' places in shared memory given at run time, so that one probe is
//! every swizzle and every stride.
//!
//! Operand words: of A and of B start (from where shared memory begins), leading and stride byte offset, and swizzle, the
//! [`SWIZZLES`]'s number; whether to add; 3 unused; 4 words a thread of A's registers; N / 2 a thread of D's; and
//! [`IMAGE_WORDS`] of shared memory. Results: N / 2 words a thread.
use super::Trial;
use crate::layout::descriptor::{Descriptor, KMajor, MnMajor, Swizzle};
use crate::ptx::memory::{dynamic_shared, ld_global_v4_b32, st_shared_v4_b32};
use crate::ptx::sync::fence_proxy_async_shared;
use crate::ptx::wgmma::{
    Accumulator, Columns, Feed, Fenced, InFlight, Tile, wgmma_bf16_rs, wgmma_bf16_ss, wgmma_commit_group,
    wgmma_e4m3_rs, wgmma_e4m3_ss, wgmma_f16_rs, wgmma_f16_ss, wgmma_fence, wgmma_wait_group,
};
use cuda_std::thread;

/// Words of shared memory: 8 KiB for A, 32 for B.
pub const IMAGE_WORDS: u32 = 10240;
/// Words of a block's operands before A's registers.
pub const HEAD: u32 = 12;
/// Where D's registers begin.
pub const D: u32 = HEAD + 4 * THREADS;
/// The swizzles by their numbers in an operand word: as a descriptor has them.
pub const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::Bytes128, Swizzle::Bytes64, Swizzle::Bytes32];

const THREADS: u32 = 128;

/// The operand whose four words begin at `word`.
#[inline(always)]
unsafe fn descriptor<M>(trial: &Trial, word: u32) -> Descriptor<M> {
    // SAFETY: operands of the block.
    let [start, leading, stride, swizzle] = unsafe { [0, 1, 2, 3].map(|i| trial.load(word + i)) };
    // By arithmetic, not by a table: an index known at run time alone would put the table into local memory.
    let at = |swizzle| Descriptor::<M>::new(dynamic_shared().byte_offset(start), leading, stride, swizzle);
    match swizzle {
        0 => at(Swizzle::None),
        1 => at(Swizzle::Bytes128),
        2 => at(Swizzle::Bytes64),
        _ => at(Swizzle::Bytes32),
    }
}

/// One product, issued by `issue` from D, A's registers and whether to add.
#[inline(always)]
unsafe fn product<A: Accumulator, P: Feed>(
    trial: &Trial,
    issue: impl Fn(InFlight<A>, Fenced<1>, bool) -> InFlight<A, P>,
) {
    let registers = A::COLUMNS / 2;
    let mut d = A::ZERO;
    let mut a = [[0; 4]];
    // SAFETY: operands and results are this thread's; shared memory is written before it is fenced.
    unsafe {
        for (index, word) in (0..).zip(&mut a[0]) {
            *word = trial.load(HEAD + 4 * trial.thread + index);
        }
        for (index, value) in (0..).zip(d.as_mut()) {
            *value = f32::from_bits(trial.load(D + registers * trial.thread + index));
        }
        let image = trial.input(D + registers * THREADS);
        let mut word = 4 * trial.thread;
        while word < IMAGE_WORDS {
            st_shared_v4_b32(dynamic_shared().cast::<u32>().at(word), ld_global_v4_b32(image.at(word)));
            word += 4 * THREADS;
        }
        fence_proxy_async_shared();
        thread::sync_threads();
        let add = trial.load(8) != 0;
        let (d, a) = wgmma_fence((d, a));
        let d = issue(d, a, add);
        wgmma_commit_group();
        let d = wgmma_wait_group::<0, _>(d);
        for (index, value) in (0..).zip(d.as_ref()) {
            trial.store(registers * trial.thread + index, value.to_bits());
        }
    }
}

macro_rules! products {
    ($($name:ident: $columns:literal $instruction:ident ss $a:ident $b:ident;)*) => {$(
        #[doc = concat!("[`", stringify!($instruction), "`] of ", $columns, " columns: ", stringify!($a), ", ", stringify!($b), ".")]
        ///
        /// # Safety
        /// As for the probe.
        #[inline(always)]
        pub unsafe fn $name(trial: &Trial) {
            // SAFETY: the caller's.
            unsafe {
                let (a, b) = (descriptor::<$a>(trial, 0), descriptor::<$b>(trial, 4));
                product::<<Columns<$columns> as Tile>::Accumulator, _>(trial, |d, _, add| $instruction(d, a, b, add))
            }
        }
    )*};
    ($($name:ident: $columns:literal $instruction:ident rs $b:ident;)*) => {$(
        #[doc = concat!("[`", stringify!($instruction), "`] of ", $columns, " columns: registers, ", stringify!($b), ".")]
        ///
        /// # Safety
        /// As for the probe.
        #[inline(always)]
        pub unsafe fn $name(trial: &Trial) {
            // SAFETY: the caller's.
            unsafe {
                let b = descriptor::<$b>(trial, 4);
                product::<<Columns<$columns> as Tile>::Accumulator, _>(trial, |d, a, add| $instruction(d.fed_by(a), 0, b, add))
            }
        }
    )*};
}

products! {
    bf16_ss_32_kk: 32 wgmma_bf16_ss ss KMajor KMajor;
    bf16_ss_64_kk: 64 wgmma_bf16_ss ss KMajor KMajor;
    bf16_ss_64_kn: 64 wgmma_bf16_ss ss KMajor MnMajor;
    bf16_ss_64_mk: 64 wgmma_bf16_ss ss MnMajor KMajor;
    bf16_ss_64_mn: 64 wgmma_bf16_ss ss MnMajor MnMajor;
    bf16_ss_128_kk: 128 wgmma_bf16_ss ss KMajor KMajor;
    bf16_ss_256_kn: 256 wgmma_bf16_ss ss KMajor MnMajor;
    f16_ss_32_mn: 32 wgmma_f16_ss ss MnMajor MnMajor;
    f16_ss_64_kk: 64 wgmma_f16_ss ss KMajor KMajor;
    f16_ss_128_kn: 128 wgmma_f16_ss ss KMajor MnMajor;
    f16_ss_256_kk: 256 wgmma_f16_ss ss KMajor KMajor;
    e4m3_ss_32_kk: 32 wgmma_e4m3_ss ss KMajor KMajor;
    e4m3_ss_64_kk: 64 wgmma_e4m3_ss ss KMajor KMajor;
    e4m3_ss_128_kk: 128 wgmma_e4m3_ss ss KMajor KMajor;
    e4m3_ss_256_kk: 256 wgmma_e4m3_ss ss KMajor KMajor;
}

products! {
    bf16_rs_32_k: 32 wgmma_bf16_rs rs KMajor;
    bf16_rs_64_n: 64 wgmma_bf16_rs rs MnMajor;
    bf16_rs_128_n: 128 wgmma_bf16_rs rs MnMajor;
    bf16_rs_256_n: 256 wgmma_bf16_rs rs MnMajor;
    f16_rs_64_k: 64 wgmma_f16_rs rs KMajor;
    f16_rs_128_n: 128 wgmma_f16_rs rs MnMajor;
    e4m3_rs_64_k: 64 wgmma_e4m3_rs rs KMajor;
    e4m3_rs_128_k: 128 wgmma_e4m3_rs rs KMajor;
}
