//! Attention kernels in Rust for NVIDIA GPUs, and the library that plans and launches them: paged decode for head
//! dimensions 64, 128, 256 and 512.
//!
//! The flow, one arrow a file: views ([`Query`], [`KvCache`], ...) -> [`Decode`] (the request) -> [`Plan`] (pure) ->
//! [`support`] (which kernel) -> [`Plan::upload`] -> [`Planned::prepare`] -> [`Prepared::launch`].
#![deny(missing_docs)]

mod cache;
mod device;
mod dtype;
#[cfg(feature = "cuda")]
mod driver;
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
pub use dtype::{DType, Format, HeadDim};
pub use error::Error;
pub use geometry::{Geometry, MAX_GROUP, MAX_PAGE_SIZE};
#[cfg(feature = "cuda")]
pub use graph::{Event, Graph};
pub use kernels_gpu::abi::{MergeItem, WorkItem};
pub use kernels_gpu::element::{Bf16, F16};
pub use launch::{Planned, Prepared};
pub use plan::{Capture, Plan, PlanOptions, Splits};
pub use request::{Decode, check_page_table};
pub use select::{
    ARCHES, Arch, KernelId, Need, Status, SupportRow, Unsupported, Variant, support, support_table,
};
#[cfg(feature = "sim")]
pub use simulator::{Delivery, SimulatorOptions};
pub use tensor::{BlockTable, DeviceSpan, Lse, Output, Query, SeqLens};
pub use upload::Workspace;
