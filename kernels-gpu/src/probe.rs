//! Probes: entries that run one instruction of [`crate::ptx`] on operands from a buffer, so that what the simulator says
//! of it can be compared with a chip, bit for bit where the ISA leaves no choice. Built with the feature `probe` alone,
//! for the tests; the shipped PTX has none of them.
//!
//! A block takes its operands from `input_words` words of its own and leaves its results in `output_words` of its own;
//! what the words mean is said at each body. So a launch of many blocks is as many trials.
pub mod arithmetic;
#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
pub mod clusters;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
pub mod flight;
#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
pub mod hopper;
pub mod movement;
pub mod order;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
pub mod products;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "100"))]
pub mod tensor;

use crate::kernels::{BLACKWELL, HOPPER};
use crate::memory::Global;
use crate::ptx::memory::{ld_global_b32, st_global_b32};
#[allow(unused_imports)] // `kernel` is used by the entries' expansion for the device alone
use cuda_std::prelude::*;

/// What every probe is launched with.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ProbeParams {
    /// Operands, `[blocks, input_words]`, aligned to 16 bytes.
    pub input: Global<u32>,
    /// Results, `[blocks, output_words]`, aligned to 16 bytes.
    pub output: Global<u32>,
}

/// One probe.
#[derive(Clone, Copy, Debug)]
pub struct ProbeInfo {
    /// Its name in the PTX.
    pub name: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Words of operands a block, a multiple of 4.
    pub input_words: u32,
    /// Words of results a block, a multiple of 4.
    pub output_words: u32,
    /// Of an instruction that sm_90a alone has.
    pub hopper: bool,
    /// Of an instruction of tensor memory, which Blackwell's data centre chips alone have.
    pub blackwell: bool,
}

impl ProbeInfo {
    /// Whether the PTX for `arch` has it.
    pub fn is_for(&self, arch: &str) -> bool {
        (!self.hopper || arch == HOPPER) && (!self.blackwell || arch == BLACKWELL)
    }

    /// The probe of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        PROBES.iter().find(|probe| probe.name == name)
    }
}

/// A thread's view of its block's operands and results.
pub struct Trial {
    /// Thread of the block.
    pub thread: u32,
    input: Global<u32>,
    output: Global<u32>,
}

impl Trial {
    #[inline(always)]
    fn here(params: &ProbeParams, input_words: u32, output_words: u32) -> Self {
        let block = thread::block_idx_x();
        let (input, output) = (params.input.at(block * input_words), params.output.at(block * output_words));
        Self { thread: thread::thread_idx_x(), input, output }
    }

    /// Where operand word `index` is.
    #[inline(always)]
    pub const fn input(&self, index: u32) -> Global<u32> {
        self.input.at(index)
    }

    /// Where result word `index` is.
    #[inline(always)]
    pub const fn output(&self, index: u32) -> Global<u32> {
        self.output.at(index)
    }

    /// Operand word `index`.
    ///
    /// # Safety
    /// It is one of the block's.
    #[inline(always)]
    pub unsafe fn load(&self, index: u32) -> u32 {
        // SAFETY: the caller's.
        let [word] = unsafe { ld_global_b32(self.input(index)) };
        word
    }

    /// Leaves result word `index`.
    ///
    /// # Safety
    /// It is one of the block's, and no other thread's.
    #[inline(always)]
    pub unsafe fn store(&self, index: u32, value: u32) {
        // SAFETY: the caller's.
        unsafe { st_global_b32(self.output(index), [value]) }
    }
}

macro_rules! probes {
    (
        all { $($name:ident = $body:path, $threads:literal threads, $shared:literal shared, $input:literal => $output:literal;)* }
        hopper { $($of_hopper:ident = $hopper_body:path, $hopper_shared:literal shared, $hopper_input:literal => $hopper_output:literal;)* }
        blackwell { $($of_blackwell:ident = $blackwell_body:path, $blackwell_shared:literal shared, $blackwell_input:literal => $blackwell_output:literal;)* }
    ) => {
        /// Every probe, in the order of this list.
        pub const PROBES: &[ProbeInfo] = &[$(ProbeInfo {
            name: stringify!($name),
            threads: $threads,
            shared_bytes: $shared,
            input_words: $input,
            output_words: $output,
            hopper: false,
            blackwell: false,
        },)* $(ProbeInfo {
            name: stringify!($of_hopper),
            threads: 128,
            shared_bytes: $hopper_shared,
            input_words: $hopper_input,
            output_words: $hopper_output,
            hopper: true,
            blackwell: false,
        },)* $(ProbeInfo {
            name: stringify!($of_blackwell),
            threads: 128,
            shared_bytes: $blackwell_shared,
            input_words: $blackwell_input,
            output_words: $blackwell_output,
            hopper: false,
            blackwell: true,
        },)*];

        /// The probes as one simulated thread runs them.
        ///
        /// # Panics
        /// Where no probe has that name.
        ///
        /// # Safety
        /// As for the probes. (The simulator reports it where it is not so.)
        #[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
        pub unsafe fn run(name: &str, params: &ProbeParams) {
            match name {
                // SAFETY: handed on to the caller.
                $(stringify!($name) => unsafe { $name(*params) },)*
                // SAFETY: handed on to the caller.
                $(stringify!($of_hopper) => unsafe { $of_hopper(*params) },)*
                // SAFETY: handed on to the caller.
                $(stringify!($of_blackwell) => unsafe { $of_blackwell(*params) },)*
                _ => panic!("{name} is no probe"),
            }
        }

        $(
            #[doc = concat!("Probe: see [`", stringify!($body), "`].")]
            ///
            /// # Safety
            /// The buffers are live and as long as [`ProbeInfo`] says, for all blocks.
            #[cfg_attr(target_arch = "nvptx64", kernel)]
            pub unsafe fn $name(params: ProbeParams) {
                // SAFETY: handed on to the caller.
                unsafe { $body(&Trial::here(&params, $input, $output)) }
            }
        )*

        $(
            #[doc = concat!("Probe: see [`", stringify!($hopper_body), "`].")]
            ///
            /// # Safety
            /// The buffers are live and as long as [`ProbeInfo`] says, for all blocks.
            #[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
            #[cfg_attr(target_arch = "nvptx64", kernel)]
            pub unsafe fn $of_hopper(params: ProbeParams) {
                // SAFETY: handed on to the caller.
                unsafe { $hopper_body(&Trial::here(&params, $hopper_input, $hopper_output)) }
            }
        )*

        $(
            #[doc = concat!("Probe: see [`", stringify!($blackwell_body), "`].")]
            ///
            /// # Safety
            /// The buffers are live and as long as [`ProbeInfo`] says, for all blocks.
            #[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "100"))]
            #[cfg_attr(target_arch = "nvptx64", kernel)]
            pub unsafe fn $of_blackwell(params: ProbeParams) {
                // SAFETY: handed on to the caller.
                unsafe { $blackwell_body(&Trial::here(&params, $blackwell_input, $blackwell_output)) }
            }
        )*
    };
}

probes! {
    all {
        probe_mma_bf16 = arithmetic::mma_bf16, 32 threads, 0 shared, 320 => 128;
        probe_mma_f16 = arithmetic::mma_f16, 32 threads, 0 shared, 320 => 128;
        probe_cvt_bf16x2 = arithmetic::cvt_bf16x2, 32 threads, 0 shared, 64 => 32;
        probe_cvt_f16x2 = arithmetic::cvt_f16x2, 32 threads, 0 shared, 64 => 32;
        probe_cvt_f32_f16 = arithmetic::cvt_f32, 32 threads, 0 shared, 32 => 32;
        probe_lop3 = arithmetic::lop3, 32 threads, 0 shared, 96 => 128;
        probe_fma = arithmetic::fma, 32 threads, 0 shared, 96 => 32;
        probe_fma_rz = arithmetic::fma_cut, 32 threads, 0 shared, 96 => 32;
        probe_cvt_rz_f16x2 = arithmetic::cut_f16x2, 32 threads, 0 shared, 64 => 32;
        probe_max_u16x2 = arithmetic::larger, 32 threads, 0 shared, 64 => 32;
        probe_prmt = arithmetic::prmt, 32 threads, 0 shared, 96 => 32;
        probe_moves = arithmetic::moves, 32 threads, 0 shared, 64 => 128;
        probe_mul_f16x2 = arithmetic::mul_f16x2, 32 threads, 0 shared, 64 => 32;
        probe_e4m3_to_f16 = arithmetic::e4m3_to_f16, 32 threads, 0 shared, 32 => 32;
        probe_e4m3_to_f16_software = arithmetic::e4m3_to_f16_software, 32 threads, 0 shared, 32 => 32;
        probe_e5m2_to_f16 = arithmetic::e5m2_to_f16, 32 threads, 0 shared, 32 => 32;
        probe_f32_to_e4m3 = arithmetic::f32_to_e4m3, 32 threads, 0 shared, 64 => 32;
        probe_f32_to_e4m3_software = arithmetic::f32_to_e4m3_software, 32 threads, 0 shared, 64 => 32;
        probe_f32_to_e5m2 = arithmetic::f32_to_e5m2, 32 threads, 0 shared, 64 => 32;
        probe_f32_to_e5m2_software = arithmetic::f32_to_e5m2_software, 32 threads, 0 shared, 64 => 32;
        probe_ex2 = arithmetic::ex2, 32 threads, 0 shared, 32 => 32;
        probe_lg2 = arithmetic::lg2, 32 threads, 0 shared, 32 => 32;
        probe_shfl_bfly = movement::bfly, 32 threads, 0 shared, 64 => 32;
        probe_vote_any = movement::any, 32 threads, 0 shared, 32 => 32;
        probe_shfl_idx = movement::idx, 32 threads, 0 shared, 64 => 32;
        probe_global = movement::global, 32 threads, 0 shared, 256 => 256;
        probe_global_bytes = movement::global_bytes, 32 threads, 0 shared, 32 => 64;
        probe_shared = movement::shared, 32 threads, 1024 shared, 256 => 260;
        probe_movmatrix = arithmetic::movmatrix, 32 threads, 0 shared, 32 => 32;
        probe_ldmatrix = movement::ldmatrix, 32 threads, 4096 shared, 1056 => 128;
        probe_ldmatrix_trans = movement::ldmatrix_trans, 32 threads, 4096 shared, 1056 => 128;
        probe_copy = movement::copy, 32 threads, 512 shared, 192 => 128;
        probe_copy_4 = movement::copy_4, 32 threads, 512 shared, 192 => 128;
        probe_copy_groups = movement::copy_groups, 32 threads, 6144 shared, 1536 => 1536;
        probe_indices = movement::indices, 64 threads, 0 shared, 4 => 256;
        probe_bar_sync = order::pairs_of_warps, 128 threads, 1024 shared, 224 => 128;
        probe_sync_threads = order::block, 128 threads, 1024 shared, 224 => 128;
        probe_bar_warp_sync = order::warp, 32 threads, 256 shared, 352 => 32;
    }
    hopper {
        probe_stmatrix = movement::stmatrix, 2048 shared, 640 => 512;
        probe_wgmma_flight = flight::two_in_flight, 57344 shared, 14336 => 4096;
        probe_wgmma_bf16_ss_32_kk = products::bf16_ss_32_kk, 40960 shared, 12812 => 2048;
        probe_wgmma_bf16_ss_64_kk = products::bf16_ss_64_kk, 40960 shared, 14860 => 4096;
        probe_wgmma_bf16_ss_64_kn = products::bf16_ss_64_kn, 40960 shared, 14860 => 4096;
        probe_wgmma_bf16_ss_64_mk = products::bf16_ss_64_mk, 40960 shared, 14860 => 4096;
        probe_wgmma_bf16_ss_64_mn = products::bf16_ss_64_mn, 40960 shared, 14860 => 4096;
        probe_wgmma_bf16_ss_128_kk = products::bf16_ss_128_kk, 40960 shared, 18956 => 8192;
        probe_wgmma_bf16_ss_256_kn = products::bf16_ss_256_kn, 40960 shared, 27148 => 16384;
        probe_wgmma_f16_ss_32_mn = products::f16_ss_32_mn, 40960 shared, 12812 => 2048;
        probe_wgmma_f16_ss_64_kk = products::f16_ss_64_kk, 40960 shared, 14860 => 4096;
        probe_wgmma_f16_ss_128_kn = products::f16_ss_128_kn, 40960 shared, 18956 => 8192;
        probe_wgmma_f16_ss_256_kk = products::f16_ss_256_kk, 40960 shared, 27148 => 16384;
        probe_wgmma_e4m3_ss_32_kk = products::e4m3_ss_32_kk, 40960 shared, 12812 => 2048;
        probe_wgmma_e4m3_ss_64_kk = products::e4m3_ss_64_kk, 40960 shared, 14860 => 4096;
        probe_wgmma_e4m3_ss_128_kk = products::e4m3_ss_128_kk, 40960 shared, 18956 => 8192;
        probe_wgmma_e4m3_ss_256_kk = products::e4m3_ss_256_kk, 40960 shared, 27148 => 16384;
        probe_wgmma_bf16_rs_32_k = products::bf16_rs_32_k, 40960 shared, 12812 => 2048;
        probe_wgmma_bf16_rs_64_n = products::bf16_rs_64_n, 40960 shared, 14860 => 4096;
        probe_wgmma_bf16_rs_128_n = products::bf16_rs_128_n, 40960 shared, 18956 => 8192;
        probe_wgmma_bf16_rs_256_n = products::bf16_rs_256_n, 40960 shared, 27148 => 16384;
        probe_wgmma_f16_rs_64_k = products::f16_rs_64_k, 40960 shared, 14860 => 4096;
        probe_wgmma_f16_rs_128_n = products::f16_rs_128_n, 40960 shared, 18956 => 8192;
        probe_wgmma_e4m3_rs_64_k = products::e4m3_rs_64_k, 40960 shared, 14860 => 4096;
        probe_wgmma_e4m3_rs_128_k = products::e4m3_rs_128_k, 40960 shared, 18956 => 8192;
    }    blackwell {
        probe_tcgen05_f16_ss = tensor::f16_ss, 49168 shared, 46092 => 32768;
        probe_tcgen05_f16_ts = tensor::f16_ts, 49168 shared, 46092 => 32768;
        probe_tcgen05_f8_ss = tensor::f8_ss, 49168 shared, 46092 => 32768;
        probe_tcgen05_f8_ts = tensor::f8_ts, 49168 shared, 46092 => 32768;
    }
}
