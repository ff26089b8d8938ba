//! The simulator: runs a kernel on the host and checks what the PTX ISA leaves to the programmer.
//!
//! [`launch()`] calls the kernel's body once a thread. A block's threads are coroutines on one OS thread; blocks run in a
//! seeded order, on several OS threads if asked. Every instruction function of a kernel ends in its twin in [`op`], which
//! does what the ISA says and reports what the ISA forbids: out of bounds, misaligned or uninitialised bytes, races
//! (found by happens-before clocks, whatever the schedule was), bytes touched while an asynchronous copy owns them,
//! barriers and warp-wide operations that not all reach. An [`Error`] names thread, operation and source line.
//!
//! What it cannot see: a loop that calls no instruction (it never ends), and state that bodies share other than through
//! instructions.
//!
//! `launch -> schedule (coroutines) -> op (twins) -> block -> segment (bytes, clocks) | warp (rendezvous, barriers)`
use std::collections::BTreeMap;

mod arithmetic;
mod asynchronous;
mod block;
mod bulk;
mod clock;
mod cluster;
mod cluster_barrier;
mod descriptor;
mod eight_bit;
mod error;
mod launch;
mod mbarrier;
mod memory;
pub mod op;
mod op_async;
mod op_tcgen05;
mod op_wgmma;
mod panics;
mod products;
mod proxy;
mod registers;
mod schedule;
mod segment;
mod site;
mod stacks;
mod store;
mod tcgen05;
mod tensor_map;
mod violation;
mod warp;
mod warpgroup;

pub use error::{Error, Kind};
pub use launch::launch;
pub use memory::Memory;
pub use tensor_map::TiledMap;

/// What to launch, besides the body: as a CUDA launch has it, in one dimension.
#[derive(Clone, Copy, Debug)]
pub struct Grid<'a> {
    /// The kernel's name, for errors.
    pub name: &'a str,
    /// Blocks, 1 to 2^21 - 1.
    pub blocks: u32,
    /// Threads a block: whole warps, 32 to 1024.
    pub threads: u32,
    /// Bytes of dynamic shared memory a block, at most 227 KiB.
    pub shared_bytes: u32,
    /// Launched programmatically dependent on the previous launch on the same [`Memory`]: that launch may still be
    /// running until a thread executes `griddepcontrol.wait`. Launches before that one count as ended.
    pub early: bool,
    /// Blocks of a cluster, which run together and reach each other's shared memory: 1, 2 or 4; `blocks` is a multiple.
    pub cluster: u32,
}

/// When an asynchronous copy's bytes arrive, and when a `wgmma` or a `tcgen05` instruction reads its operands. The ISA allows any time from issue to
/// wait; a kernel must bear both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// When it is issued.
    Earliest,
    /// When it is waited for.
    Latest,
}

/// How to run a launch.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When asynchronous copies deliver.
    pub delivery: Delivery,
    /// Chooses the order of blocks and the first thread of each.
    pub seed: u64,
    /// Twins that one block's threads may call, together; more is [`Kind::BoundExceeded`], so that an endless loop ends.
    pub max_operations: u64,
    /// OS threads that run blocks; 1 runs them on the caller's. Which of several errors is returned is deterministic
    /// only with 1.
    pub workers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { delivery: Delivery::Latest, seed: 0, max_operations: 1 << 30, workers: 1 }
    }
}

/// What a launch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Calls of twins, over all threads.
    pub operations: u64,
    /// The same by operation; a warp-wide operation counts once a lane.
    pub counts: BTreeMap<&'static str, u64>,
}
