//! Attention kernels in Rust for NVIDIA GPUs, and the library that plans and launches them: paged decode for head
//! dimensions 64, 128, 256 and 512.
//!
//! An [`Append`] puts new tokens into a cache of any format ([`NewTokens`], [`SlotMapping`] -> [`Append::launch`]).
//!
//! The flow of a decode, one arrow a file: views ([`Query`], [`KvCache`], ...) -> [`Decode`] (the request) -> [`Plan`] (pure) ->
//! [`support`] (which kernel) -> [`Plan::upload`] -> [`Planned::prepare`] -> [`Prepared::launch`].
//!
//! A request of several query tokens a sequence is made by [`Decode::with_query_lens`], and answered in any format of
//! [`Output`]. Its methods add what a model has: a [`Mask`], a soft cap, [`Sinks`], [`AlibiSlopes`], [`Positions`], [`Spans`], a
//! [`TreeMask`]; the plan is made for a [`Batch`] of the same query tokens and mask. [`PrefixPlan`] reads a prefix that a batch
//! shares once, [`MergeStates`] puts results over disjoint keys together.
//!
//! ```
//! # #[cfg(feature = "sim")]
//! # fn main() -> Result<(), qkv::Error> {
//! use qkv::{Bf16, BlockTable, CacheLayout, CacheShape, Decode, Device, HeadDim, KvCache};
//! use qkv::{Output, Plan, PlanOptions, Query, SeqLens, Workspace};
//!
//! // A GPU is `Device::cuda(0)`, or `unsafe { Device::from_context(raw) }` beside cudarc, candle or cust.
//! let device = Device::simulator();
//! let stream = device.default_stream();
//! let upload = |words: &[u16]| -> Result<_, qkv::Error> {
//!     let buffer = device.alloc(2 * words.len())?;
//!     buffer.write(&words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>())?;
//!     Ok(buffer)
//! };
//! let (half, one) = (0x3F00, 0x3F80); // in bf16
//!
//! // One sequence of 20 tokens in pages 2 and 0 of three pages of 16; two query heads share one KV head.
//! let shape = CacheShape { pages: 3, page_size: 16, kv_heads: 1, head_dim: HeadDim::D64 };
//! let (k, v) = (upload(&[half; 3 * 16 * 64])?, upload(&[one; 3 * 16 * 64])?);
//! let (q, out) = (upload(&[half; 2 * 64])?, upload(&[0; 2 * 64])?);
//! let (table, lengths) = (upload(&[2, 0, 0, 0])?, upload(&[20, 0])?); // i32, low halves first
//!
//! let decode = Decode::<Bf16, Bf16>::new(
//!     Query::new(&q, [1, 2, 64])?,
//!     KvCache::new(&k, &v, shape, CacheLayout::Nhd)?,
//!     BlockTable::new(&table, 1, 2)?,
//!     SeqLens::new(&lengths, 1)?,
//!     Output::new(&out, [1, 2, 64])?,
//! )?;
//! let plan = Plan::new(decode.geometry(), &[20], device.properties(), &PlanOptions::default())?;
//! let memory = device.alloc(plan.workspace_bytes())?;
//! let mut workspace = Workspace::new(&memory);
//! plan.upload(&stream, &mut workspace)?.prepare(&decode)?.launch(&stream)?;
//! stream.synchronize()?;
//! // All values are 1, so is their weighted mean.
//! assert!(out.read()?.chunks(2).all(|w| w == [0x80, 0x3F]));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "sim"))]
//! # fn main() {}
//! ```
#![deny(missing_docs)]
// With neither kind of device, plans and `support` are what is left.
#![cfg_attr(not(any(feature = "cuda", feature = "sim")), allow(dead_code, unreachable_code, unused))]

mod append;
mod cache;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "cust")]
mod cust;
mod device;
#[cfg(feature = "cuda")]
mod driver;
mod dtype;
mod error;
mod geometry;
#[cfg(any(feature = "cuda", feature = "sim"))]
mod graph;
mod launch;
mod mask;
mod merge;
#[cfg(feature = "cuda")]
mod module;
mod output;
mod overlap;
mod params;
mod pass;
mod plan;
mod prefix;
#[cfg(feature = "probe")]
#[doc(hidden)]
pub mod probe;
mod query_lens;
mod request;
mod select;
#[cfg(feature = "sim")]
mod simulator;
mod tensor;
mod tensor_map;
#[cfg(any(feature = "cli", feature = "testing"))]
pub mod testing;
mod upload;

pub use append::{Append, NewTokens, SlotMapping, check_slot_mapping};
pub use cache::{
    AnyKvCache, BlockScales, CacheFor, CacheFormat, CacheLayout, CacheScales, CacheShape, Fp8Scales, GlobalScale,
    Interleaved, KvCache, Linear, NvFp4, NvFp4Scales, PackedLayout, RawCache, ScaleOrder, TensorScale, TokenScales,
};
pub use device::{Buffer, Device, Properties, Stream};
#[cfg(feature = "cuda")]
pub use driver::Driver;
pub use dtype::{CacheDType, DType, Format, HeadDim, QueryDType, QueryFormat};
pub use error::Error;
pub use geometry::{Geometry, MAX_GROUP, MAX_PAGE_SIZE};
#[cfg(any(feature = "cuda", feature = "sim"))]
pub use graph::{Event, Graph};
pub use kernels_gpu::abi::{MergeItem, OutputKind, WorkItem};
pub use kernels_gpu::element::{Bf16, F16, Fp8E4M3, Fp8E5M2};
pub use launch::{Planned, Prepared};
pub use mask::{AlibiSlopes, Mask, Positions, Sinks, Spans, TreeMask};
pub use merge::{MergeStates, States};
#[cfg(feature = "cuda")]
pub use module::{BuiltIn, built_in};
pub use output::{AnyOutput, F32, Output, OutputFormat, UnscaledOutput};
pub use plan::batch::Batch;
pub use plan::{Capture, Plan, PlanOptions, Splits};
pub use prefix::{PlannedPrefix, PrefixPlan, PreparedPrefix};
pub use query_lens::{MAX_QUERY_TOKENS, QueryLens};
pub use request::{Decode, check_page_table};
pub use select::{
    ARCHES, Arch, Code, Family, KernelChoice, KernelId, Need, PrefillRow, Reach, Status, SupportRow, Target,
    Unsupported, Variant, kernels, support, support_table,
};
#[cfg(feature = "sim")]
pub use simulator::{Delivery, SimulatorOptions};
pub use tensor::{BlockTable, DeviceSpan, Lse, Query, SeqLens};
pub use upload::Workspace;
