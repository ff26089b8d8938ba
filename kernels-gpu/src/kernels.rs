//! The one list of entries. It defines the PTX entries, their names, shapes and what runs them on the host; the host
//! library's `KernelId`, the build's `.maxntid` and the tests' "every entry was run" all read it.
mod entry;
mod family;

use crate::abi::{AppendParams, CheckPagesParams, CombineParams, DecodeParams, PrefillParams};
use crate::append;
use crate::attention;
use crate::config::{self, RowClass, shape};
use crate::element::{Bf16, CacheKind, ElementKind, F16, Fp8E4M3, Fp8E5M2, NvFp4, QueryKind};
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
use crate::prefill;
use crate::prefill::shape::{
    long_prefill_shape, narrow_prefill_shape, narrow_tcgen05_shape, prefill_shape, tcgen05_shape,
};
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "100"))]
use crate::prefill::tcgen05;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90", qkv_sm = "100"))]
use crate::ptx::bulk::tensor_maps;
#[allow(unused_imports)] // `kernel` is used by the entries' expansion for the device alone
use cuda_std::prelude::*;
pub use entry::{BLACKWELL, EntryInfo, HOPPER, Params, Role};
pub use family::{Chips, Family};

/// The formats of a cache as decode reads them on the chip that this is compiled for.
mod cache {
    #[cfg(all(target_arch = "nvptx64", not(any(qkv_sm = "80", qkv_sm = "90"))))]
    pub use crate::element::ConvertedNvFp4 as NvFp4;
    #[cfg(not(all(target_arch = "nvptx64", not(any(qkv_sm = "80", qkv_sm = "90")))))]
    pub use crate::element::NvFp4;
    pub use crate::element::{Bf16, F16, Fp8E4M3, Fp8E5M2};
}

macro_rules! entries {
    (
        decode { $($decode:ident: $d:literal $q:ident $kv:ident $rows:ident;)* }
        prefill { $($prefill:ident: $shape:ident $pd:literal $pq:ident $scores:literal $steps:literal $output:literal;)* }
        tcgen05 { $($tensor:ident: $tensor_shape:ident $td:literal $tq:ident $group:literal $keys:literal;)* }
        append { $($append:ident: $src:ident $cache:ident;)* }
    ) => {
        /// Every entry, in the order of this list.
        pub const ENTRIES: &[EntryInfo] = &[
            $(EntryInfo {
                name: stringify!($decode),
                role: Role::Decode {
                    shape: shape($d, RowClass::$rows, CacheKind::$kv),
                    rows: RowClass::$rows,
                    q: ElementKind::$q,
                    kv: CacheKind::$kv,
                },
                threads: shape($d, RowClass::$rows, CacheKind::$kv).threads(),
                min_blocks: shape($d, RowClass::$rows, CacheKind::$kv).min_blocks,
                param_bytes: size_of::<DecodeParams>(),
            },)*
            $(EntryInfo {
                name: stringify!($prefill),
                role: Role::Prefill {
                    shape: $shape($pd),
                    q: QueryKind::$pq,
                    kv: CacheKind::$pq,
                },
                threads: $shape($pd).threads(),
                min_blocks: 1,
                param_bytes: size_of::<PrefillParams>(),
            },)*
            $(EntryInfo {
                name: stringify!($tensor),
                role: Role::Prefill {
                    shape: $tensor_shape($td),
                    q: QueryKind::$tq,
                    kv: CacheKind::$tq,
                },
                threads: $tensor_shape($td).threads(),
                min_blocks: 1,
                param_bytes: size_of::<PrefillParams>(),
            },)*
            EntryInfo {
                name: "combine",
                role: Role::Combine,
                threads: config::COMBINE_THREADS,
                min_blocks: config::COMBINE_MIN_BLOCKS,
                param_bytes: size_of::<CombineParams>(),
            },
            $(EntryInfo {
                name: stringify!($append),
                role: Role::Append { src: ElementKind::$src, kv: CacheKind::$cache },
                threads: config::APPEND_THREADS,
                min_blocks: config::APPEND_MIN_BLOCKS,
                param_bytes: size_of::<AppendParams>(),
            },)*
            EntryInfo {
                name: "check_pages",
                role: Role::CheckPages,
                threads: config::CHECK_THREADS,
                min_blocks: 1,
                param_bytes: size_of::<CheckPagesParams>(),
            },
        ];

        /// The entries' bodies as one simulated thread runs them.
        ///
        /// # Panics
        /// Where `params` is not of the entry's kind, or no entry has that name.
        ///
        /// # Safety
        /// As for the entries: the addresses in `params` are of live buffers of the sizes that [`crate::abi`] says. (The
        /// simulator reports it where they are not.)
        #[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
        pub unsafe fn run(name: &str, params: &Params) {
            // SAFETY: handed on to the caller.
            unsafe {
                match (name, *params) {
                    $((stringify!($decode), Params::Decode(p)) => $decode(p),)*
                    $((stringify!($prefill), Params::Prefill(ref p)) => $prefill(*p),)*
                    $((stringify!($tensor), Params::Prefill(ref p)) => $tensor(*p),)*
                    ("combine", Params::Combine(p)) => combine(p),
                    $((stringify!($append), Params::Append(p)) => $append(p),)*
                    ("check_pages", Params::CheckPages(p)) => check_pages(p),
                    _ => panic!("{name} is no entry with these parameters"),
                }
            }
        }

        $(
            /// Entry: see [`attention::decode`].
            ///
            /// # Safety
            /// The addresses in `params` are of live buffers of the sizes that [`crate::abi`] says.
            #[cfg_attr(target_arch = "nvptx64", kernel)]
            pub unsafe fn $decode(params: DecodeParams) {
                // SAFETY: handed on to the caller.
                unsafe { attention::decode::decode::<{ RowClass::$rows as u32 }, $d, $q, cache::$kv>(&params) }
            }
        )*
        $(
            /// Entry: see [`prefill`].
            ///
            /// # Safety
            /// As for the decode entries; the maps are of the caches.
            #[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
            #[cfg_attr(target_arch = "nvptx64", kernel)]
            pub unsafe fn $prefill(params: PrefillParams) {
                let maps = tensor_maps!($prefill, params);
                // SAFETY: handed on to the caller.
                unsafe { prefill::prefill::<
                        $pd,
                        { $shape($pd).held_steps() as usize },
                        $steps,
                        { $shape($pd).registers[0] },
                        { $shape($pd).registers[1] },
                        $pq,
                        [f32; $scores],
                        [f32; $output],
                    >(&params, maps, &const { $shape($pd) })
                }
            }
        )*
        $(
            /// Entry: see [`tcgen05`].
            ///
            /// # Safety
            /// As for the prefill entries of Hopper.
            #[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "100"))]
            #[cfg_attr(target_arch = "nvptx64", kernel)]
            pub unsafe fn $tensor(params: PrefillParams) {
                let maps = tensor_maps!($tensor, params);
                // SAFETY: handed on to the caller.
                unsafe { tcgen05::prefill::<
                        $group,
                        $keys,
                        { $tensor_shape($td).registers[0] },
                        { $tensor_shape($td).registers[1] },
                        { $tensor_shape($td).registers[2] },
                        $tq,
                    >(&params, maps, &const { $tensor_shape($td) })
                }
            }
        )*
        $(
            /// Entry: see [`append`](mod@append).
            ///
            /// # Safety
            /// As for the decode entries.
            #[cfg_attr(target_arch = "nvptx64", kernel)]
            pub unsafe fn $append(params: AppendParams) {
                // SAFETY: handed on to the caller.
                unsafe { append::append::<$src, $cache>(&params) }
            }
        )*
    };
}

entries! {
    decode {
        decode_d64_bf16_bf16_eight: 64 Bf16 Bf16 Eight;
        decode_d64_bf16_bf16_few: 64 Bf16 Bf16 Few;
        decode_d64_bf16_bf16_many: 64 Bf16 Bf16 Many;
        decode_d64_bf16_e4m3_eight: 64 Bf16 Fp8E4M3 Eight;
        decode_d64_bf16_e4m3_few: 64 Bf16 Fp8E4M3 Few;
        decode_d64_bf16_e4m3_many: 64 Bf16 Fp8E4M3 Many;
        decode_d64_bf16_e5m2_eight: 64 Bf16 Fp8E5M2 Eight;
        decode_d64_bf16_e5m2_few: 64 Bf16 Fp8E5M2 Few;
        decode_d64_bf16_e5m2_many: 64 Bf16 Fp8E5M2 Many;
        decode_d64_bf16_nvfp4_eight: 64 Bf16 NvFp4 Eight;
        decode_d64_bf16_nvfp4_few: 64 Bf16 NvFp4 Few;
        decode_d64_bf16_nvfp4_many: 64 Bf16 NvFp4 Many;
        decode_d64_f16_f16_eight: 64 F16 F16 Eight;
        decode_d64_f16_f16_few: 64 F16 F16 Few;
        decode_d64_f16_f16_many: 64 F16 F16 Many;
        decode_d64_f16_e4m3_eight: 64 F16 Fp8E4M3 Eight;
        decode_d64_f16_e4m3_few: 64 F16 Fp8E4M3 Few;
        decode_d64_f16_e4m3_many: 64 F16 Fp8E4M3 Many;
        decode_d64_f16_e5m2_eight: 64 F16 Fp8E5M2 Eight;
        decode_d64_f16_e5m2_few: 64 F16 Fp8E5M2 Few;
        decode_d64_f16_e5m2_many: 64 F16 Fp8E5M2 Many;
        decode_d64_f16_nvfp4_eight: 64 F16 NvFp4 Eight;
        decode_d64_f16_nvfp4_few: 64 F16 NvFp4 Few;
        decode_d64_f16_nvfp4_many: 64 F16 NvFp4 Many;
        decode_d128_bf16_bf16_eight: 128 Bf16 Bf16 Eight;
        decode_d128_bf16_bf16_few: 128 Bf16 Bf16 Few;
        decode_d128_bf16_bf16_many: 128 Bf16 Bf16 Many;
        decode_d128_bf16_e4m3_eight: 128 Bf16 Fp8E4M3 Eight;
        decode_d128_bf16_e4m3_few: 128 Bf16 Fp8E4M3 Few;
        decode_d128_bf16_e4m3_many: 128 Bf16 Fp8E4M3 Many;
        decode_d128_bf16_e5m2_eight: 128 Bf16 Fp8E5M2 Eight;
        decode_d128_bf16_e5m2_few: 128 Bf16 Fp8E5M2 Few;
        decode_d128_bf16_e5m2_many: 128 Bf16 Fp8E5M2 Many;
        decode_d128_bf16_nvfp4_eight: 128 Bf16 NvFp4 Eight;
        decode_d128_bf16_nvfp4_few: 128 Bf16 NvFp4 Few;
        decode_d128_bf16_nvfp4_many: 128 Bf16 NvFp4 Many;
        decode_d128_f16_f16_eight: 128 F16 F16 Eight;
        decode_d128_f16_f16_few: 128 F16 F16 Few;
        decode_d128_f16_f16_many: 128 F16 F16 Many;
        decode_d128_f16_e4m3_eight: 128 F16 Fp8E4M3 Eight;
        decode_d128_f16_e4m3_few: 128 F16 Fp8E4M3 Few;
        decode_d128_f16_e4m3_many: 128 F16 Fp8E4M3 Many;
        decode_d128_f16_e5m2_eight: 128 F16 Fp8E5M2 Eight;
        decode_d128_f16_e5m2_few: 128 F16 Fp8E5M2 Few;
        decode_d128_f16_e5m2_many: 128 F16 Fp8E5M2 Many;
        decode_d128_f16_nvfp4_eight: 128 F16 NvFp4 Eight;
        decode_d128_f16_nvfp4_few: 128 F16 NvFp4 Few;
        decode_d128_f16_nvfp4_many: 128 F16 NvFp4 Many;
        decode_d256_bf16_bf16_eight: 256 Bf16 Bf16 Eight;
        decode_d256_bf16_bf16_few: 256 Bf16 Bf16 Few;
        decode_d256_bf16_bf16_many: 256 Bf16 Bf16 Many;
        decode_d256_bf16_e4m3_eight: 256 Bf16 Fp8E4M3 Eight;
        decode_d256_bf16_e4m3_few: 256 Bf16 Fp8E4M3 Few;
        decode_d256_bf16_e4m3_many: 256 Bf16 Fp8E4M3 Many;
        decode_d256_bf16_e5m2_eight: 256 Bf16 Fp8E5M2 Eight;
        decode_d256_bf16_e5m2_few: 256 Bf16 Fp8E5M2 Few;
        decode_d256_bf16_e5m2_many: 256 Bf16 Fp8E5M2 Many;
        decode_d256_bf16_nvfp4_eight: 256 Bf16 NvFp4 Eight;
        decode_d256_bf16_nvfp4_few: 256 Bf16 NvFp4 Few;
        decode_d256_bf16_nvfp4_many: 256 Bf16 NvFp4 Many;
        decode_d256_f16_f16_eight: 256 F16 F16 Eight;
        decode_d256_f16_f16_few: 256 F16 F16 Few;
        decode_d256_f16_f16_many: 256 F16 F16 Many;
        decode_d256_f16_e4m3_eight: 256 F16 Fp8E4M3 Eight;
        decode_d256_f16_e4m3_few: 256 F16 Fp8E4M3 Few;
        decode_d256_f16_e4m3_many: 256 F16 Fp8E4M3 Many;
        decode_d256_f16_e5m2_eight: 256 F16 Fp8E5M2 Eight;
        decode_d256_f16_e5m2_few: 256 F16 Fp8E5M2 Few;
        decode_d256_f16_e5m2_many: 256 F16 Fp8E5M2 Many;
        decode_d256_f16_nvfp4_eight: 256 F16 NvFp4 Eight;
        decode_d256_f16_nvfp4_few: 256 F16 NvFp4 Few;
        decode_d256_f16_nvfp4_many: 256 F16 NvFp4 Many;
        decode_d512_bf16_bf16_eight: 512 Bf16 Bf16 Eight;
        decode_d512_bf16_bf16_few: 512 Bf16 Bf16 Few;
        decode_d512_bf16_bf16_many: 512 Bf16 Bf16 Many;
        decode_d512_bf16_e4m3_eight: 512 Bf16 Fp8E4M3 Eight;
        decode_d512_bf16_e4m3_few: 512 Bf16 Fp8E4M3 Few;
        decode_d512_bf16_e4m3_many: 512 Bf16 Fp8E4M3 Many;
        decode_d512_bf16_e5m2_eight: 512 Bf16 Fp8E5M2 Eight;
        decode_d512_bf16_e5m2_few: 512 Bf16 Fp8E5M2 Few;
        decode_d512_bf16_e5m2_many: 512 Bf16 Fp8E5M2 Many;
        decode_d512_bf16_nvfp4_eight: 512 Bf16 NvFp4 Eight;
        decode_d512_bf16_nvfp4_few: 512 Bf16 NvFp4 Few;
        decode_d512_bf16_nvfp4_many: 512 Bf16 NvFp4 Many;
        decode_d512_f16_f16_eight: 512 F16 F16 Eight;
        decode_d512_f16_f16_few: 512 F16 F16 Few;
        decode_d512_f16_f16_many: 512 F16 F16 Many;
        decode_d512_f16_e4m3_eight: 512 F16 Fp8E4M3 Eight;
        decode_d512_f16_e4m3_few: 512 F16 Fp8E4M3 Few;
        decode_d512_f16_e4m3_many: 512 F16 Fp8E4M3 Many;
        decode_d512_f16_e5m2_eight: 512 F16 Fp8E5M2 Eight;
        decode_d512_f16_e5m2_few: 512 F16 Fp8E5M2 Few;
        decode_d512_f16_e5m2_many: 512 F16 Fp8E5M2 Many;
        decode_d512_f16_nvfp4_eight: 512 F16 NvFp4 Eight;
        decode_d512_f16_nvfp4_few: 512 F16 NvFp4 Few;
        decode_d512_f16_nvfp4_many: 512 F16 NvFp4 Many;
    }
    prefill {
        prefill_d64_bf16_bf16: prefill_shape 64 Bf16 48 6 32;
        prefill_d64_f16_f16: prefill_shape 64 F16 48 6 32;
        prefill_d128_bf16_bf16: prefill_shape 128 Bf16 64 8 64;
        prefill_d128_f16_f16: prefill_shape 128 F16 64 8 64;
        prefill_d128_bf16_bf16_long: long_prefill_shape 128 Bf16 88 11 64;
        prefill_d128_f16_f16_long: long_prefill_shape 128 F16 88 11 64;
        prefill_d256_bf16_bf16: prefill_shape 256 Bf16 40 5 128;
        prefill_d256_f16_f16: prefill_shape 256 F16 40 5 128;
        prefill_d512_bf16_bf16: prefill_shape 512 Bf16 32 4 128;
        prefill_d512_f16_f16: prefill_shape 512 F16 32 4 128;
        prefill_d64_e4m3_e4m3: narrow_prefill_shape 64 Fp8E4M3 64 4 32;
        prefill_d128_e4m3_e4m3: narrow_prefill_shape 128 Fp8E4M3 48 3 64;
        prefill_d256_e4m3_e4m3: narrow_prefill_shape 256 Fp8E4M3 48 3 128;
    }
    tcgen05 {
        prefill_tcgen05_d64_bf16_bf16: tcgen05_shape 64 Bf16 1 128;
        prefill_tcgen05_d64_f16_f16: tcgen05_shape 64 F16 1 128;
        prefill_tcgen05_d128_bf16_bf16: tcgen05_shape 128 Bf16 1 128;
        prefill_tcgen05_d128_f16_f16: tcgen05_shape 128 F16 1 128;
        prefill_tcgen05_d256_bf16_bf16: tcgen05_shape 256 Bf16 1 128;
        prefill_tcgen05_d256_f16_f16: tcgen05_shape 256 F16 1 128;
        prefill_tcgen05_d512_bf16_bf16: tcgen05_shape 512 Bf16 2 64;
        prefill_tcgen05_d512_f16_f16: tcgen05_shape 512 F16 2 64;
        prefill_tcgen05_d64_e4m3_e4m3: narrow_tcgen05_shape 64 Fp8E4M3 1 128;
        prefill_tcgen05_d128_e4m3_e4m3: narrow_tcgen05_shape 128 Fp8E4M3 1 128;
        prefill_tcgen05_d256_e4m3_e4m3: narrow_tcgen05_shape 256 Fp8E4M3 1 128;
        prefill_tcgen05_d512_e4m3_e4m3: narrow_tcgen05_shape 512 Fp8E4M3 2 64;
    }
    append {
        append_bf16_bf16: Bf16 Bf16;
        append_bf16_e4m3: Bf16 Fp8E4M3;
        append_bf16_e5m2: Bf16 Fp8E5M2;
        append_bf16_nvfp4: Bf16 NvFp4;
        append_f16_f16: F16 F16;
        append_f16_e4m3: F16 Fp8E4M3;
        append_f16_e5m2: F16 Fp8E5M2;
        append_f16_nvfp4: F16 NvFp4;
    }
}

/// Entry: see [`attention::combine`].
///
/// # Safety
/// As for the decode entries.
#[cfg_attr(target_arch = "nvptx64", kernel)]
pub unsafe fn combine(params: CombineParams) {
    // SAFETY: handed on to the caller.
    unsafe { attention::combine::combine(&params) }
}

/// Entry: see [`attention::check`].
///
/// # Safety
/// As for the decode entries.
#[cfg_attr(target_arch = "nvptx64", kernel)]
pub unsafe fn check_pages(params: CheckPagesParams) {
    // SAFETY: handed on to the caller.
    unsafe { attention::check::check_pages(&params) }
}
