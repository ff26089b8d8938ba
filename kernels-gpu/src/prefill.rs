//! Prefill on Hopper (sm_90a): many query tokens of each sequence, of prompts and of chunks, against its paged cache. Bound by
//! arithmetic: all that matters is that the tensor cores always have a product to do. So one warpgroup copies ahead, keys
//! and values by tensor copies (`keys`; at D = 512 `slots`), the next item's query rows meanwhile (`queries`), of 8 bits V transposed
//! (`transpose`), and the others multiply (`multiply`; at D = 512 `pair`), in between `mask` and `softmax`, and `store` in the end.
//! They meet at mbarriers alone (`block`); who does what is `roles`. Blackwell's loops are [`tcgen05`]'s.
//!
//! Blocks are persistent: with `n` of them block `b` does items `b`, `b + n`, `b + 2 n`, and copies run on across items.
pub mod shape;

#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90", qkv_sm = "100"))]
mod block;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90", qkv_sm = "100"))]
mod chunks;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90", qkv_sm = "100"))]
mod element;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
mod fragments;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90", qkv_sm = "100"))]
mod item;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
mod keys;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
mod mask;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
mod multiply;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
mod pair;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
mod product;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90", qkv_sm = "100"))]
mod queries;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
mod roles;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
mod sharp;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
mod slots;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
mod softmax;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
mod store;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "100"))]
pub mod tcgen05;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
mod transpose;

#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
pub use roles::prefill;
