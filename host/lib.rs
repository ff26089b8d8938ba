//! Attention kernels in Rust for NVIDIA GPUs, and the library that plans and launches them: paged decode for head
//! dimensions 64, 128, 256 and 512.
//!
//! The flow, one arrow a file: views ([`Query`], [`KvCache`], ...) -> [`Decode`] (the request) -> [`Plan`] (pure) ->
//! [`support`] (which kernel) -> [`Plan::upload`] -> [`Planned::prepare`] -> [`Prepared::launch`].
#![deny(missing_docs)]
// With neither kind of device, plans and `support` are what is left.
#![cfg_attr(not(any(feature = "cuda", feature = "sim")), allow(dead_code, unreachable_code, unused))]

mod cache;
mod device;
#[cfg(feature = "cuda")]
mod driver;
mod dtype;
mod error;
mod geometry;
#[cfg(feature = "cuda")]
mod graph;
mod launch;
#[cfg(feature = "cuda")]
mod module;
mod plan;
mod request;
mod select;
#[cfg(feature = "sim")]
mod simulator;
mod tensor;
mod upload;

pub use cache::{CacheLayout, CacheShape, KvCache, PackedLayout};
pub use device::{Buffer, Device, Properties, Stream};
#[cfg(feature = "cuda")]
pub use driver::Driver;
pub use dtype::{DType, Format, HeadDim};
pub use error::Error;
pub use geometry::{Geometry, MAX_GROUP, MAX_PAGE_SIZE};
#[cfg(feature = "cuda")]
pub use graph::{Event, Graph};
pub use kernels_gpu::abi::{MergeItem, WorkItem};
pub use kernels_gpu::element::{Bf16, F16};
pub use launch::{Planned, Prepared};
#[cfg(feature = "cuda")]
pub use module::{BuiltIn, built_in};
pub use plan::{Capture, Plan, PlanOptions, Splits};
pub use request::{Decode, check_page_table};
pub use select::{ARCHES, Arch, KernelId, Need, Status, SupportRow, Unsupported, Variant, support, support_table};
#[cfg(feature = "sim")]
pub use simulator::{Delivery, SimulatorOptions};
pub use tensor::{BlockTable, DeviceSpan, Lse, Output, Query, SeqLens};
pub use upload::Workspace;
