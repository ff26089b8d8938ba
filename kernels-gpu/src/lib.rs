//! The attention kernels of qkv: one crate, two views. Compiled for `nvptx64-nvidia-cuda` it is the PTX; compiled for
//! the host it lends its parameter structs, shapes and layouts to the library, and with the feature `sim` runs there.
//!
//! The flow, one arrow a file:
//! [`kernels`] (the entries) -> [`attention::decode`] (the loop) -> [`attention::work`] (which rows, which keys) ->
//! [`attention::load`] (pages to a ring in shared memory) and [`attention::query`] (q to registers) -> [`tile`] (S = QK^T) ->
//! [`attention::mask`] -> [`attention::softmax`] -> [`tile`] (O += PV) -> [`attention::epilogue`] ->
//! [`attention::combine`] (shares of one sequence). Beside it, [`prefill`]: many query tokens on Hopper, with the same rows,
//! masks and results; and [`append`]: new tokens into the cache's pages. What a
//! format is are its operands, [`tile::operand`]. Instructions are in [`ptx`], one a function; the numbers that shape it
//! all in [`config`].
#![cfg_attr(
    target_arch = "nvptx64",
    no_std,
    feature(abi_ptx, asm_experimental_arch, link_llvm_intrinsics),
    allow(internal_features)
)]
// Loops are unrolled and their indices are constants: one index into several register arrays says what a tile is.
#![allow(clippy::needless_range_loop)]

pub mod abi;
pub mod append;
pub mod attention;
pub mod config;
pub mod element;
pub mod fault;
pub mod kernels;
pub mod layout;
pub mod memory;
pub mod narrow;
pub mod prefill;
#[cfg(feature = "probe")]
pub mod probe;
pub mod ptx;
pub mod tile;
