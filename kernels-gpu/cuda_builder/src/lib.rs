//! Builds a crate of GPU kernels with rustc's own PTX backend: what Rust-CUDA's `cuda_builder` does, by the same call.
//!
//! ```no_run
//! use cuda_builder::{Arch, CudaBuilder, LaunchBounds};
//! let built = CudaBuilder::new("kernels-gpu")
//!     .arch(Arch::Sm90a)
//!     .entries([LaunchBounds::new("check_pages", 256, 1, |_| true)])
//!     .build()?;
//! println!("{}", built.modules[0].entries[0].ptx);
//! # Ok::<(), cuda_builder::Error>(())
//! ```
//!
//! The flow, one arrow a file: `builder` -> `prepared` -> `compiler` (a rustc with the source of `core`) -> `source` (what the output
//! depends on) -> `cache` -> `split` (one PTX module an entry, launch bounds added) -> `target` (for which chips) -> `assembler` (ptxas) ->
//! `report` (registers, stack, spills, notes: the gate). `project` is what all builds of this project's kernels share.
#![deny(missing_docs)]

mod arch;
mod assembler;
mod builder;
mod built;
mod cache;
mod compiler;
mod error;
mod parallel;
mod prepared;
mod project;
mod report;
mod source;
mod split;
mod target;

pub use arch::Arch;
pub use assembler::Assembler;
pub use builder::{CudaBuilder, LaunchBounds};
pub use built::{Assembled, Built, Entry, Module};
pub use cache::{Cache, cuda_installation, rust_installation};
pub use compiler::{Compiler, Origin, Rejected, Release};
pub use error::Error;
pub use parallel::in_parallel;
pub use prepared::Prepared;
pub use report::Report;
