//! What the simulator reports: the kind of error, who did it, where, and against whom.
use std::fmt;
use std::panic::Location;

/// What was violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An address outside every live allocation, or outside the block's shared memory.
    OutOfBounds,
    /// An address that is not a multiple of the access's width.
    Misaligned,
    /// Bytes read before anything was written to them.
    Uninitialised,
    /// Two accesses to one byte, at least one a write, that no barrier or launch orders.
    Race,
    /// Bytes touched while an asynchronous operation owns them.
    InFlight,
    /// An mbarrier object used other than the ISA allows.
    Mbarrier,
    /// Bytes of a generic write reach the asynchronous proxy without `fence.proxy.async` by the writer.
    MissingProxyFence,
    /// A barrier or warp-wide operation that not all of its threads reach.
    BarrierMismatch,
    /// Every live thread waits.
    Deadlock,
    /// Shared memory of another block that may not have begun, or may have ended.
    Peer,
    /// An asynchronous operation outstanding when its thread exits.
    Leak,
    /// More operations than [`Options::max_operations`](super::Options::max_operations) allows.
    BoundExceeded,
    /// An access to what the previous launch touched, before `griddepcontrol.wait`, in a grid launched early.
    MissingGridWait,
    /// Registers given to `wgmma` that no `wgmma.fence` has ordered after what was done to them before.
    MissingWgmmaFence,
    /// An access to tensor memory that a barrier orders after another, without the `tcgen05.fence` that makes it count there.
    MissingTcgen05Fence,
    /// The kernel's own code panicked.
    Panic,
    /// An operand or a launch parameter outside what is allowed.
    BadOperand,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfBounds => "out of bounds",
            Self::Misaligned => "misaligned",
            Self::Uninitialised => "uninitialised bytes read",
            Self::Race => "race",
            Self::InFlight => "bytes in flight touched",
            Self::Mbarrier => "mbarrier misused",
            Self::MissingProxyFence => "fence.proxy.async missing",
            Self::BarrierMismatch => "not all threads reach it",
            Self::Deadlock => "deadlock",
            Self::Peer => "another block's shared memory outside of its life",
            Self::Leak => "asynchronous operation outstanding at exit",
            Self::BoundExceeded => "bound exceeded",
            Self::MissingGridWait => "griddepcontrol.wait missing",
            Self::MissingWgmmaFence => "wgmma.fence missing",
            Self::MissingTcgen05Fence => "tcgen05.fence missing",
            Self::Panic => "panic",
            Self::BadOperand => "operand not allowed",
        })
    }
}

/// One violation.
#[derive(Clone, Debug)]
pub struct Error {
    /// What was violated.
    pub kind: Kind,
    /// [`Grid::name`](super::Grid::name), or `host` for the host's own accesses.
    pub kernel: String,
    /// The block.
    pub block: u32,
    /// The thread in its block.
    pub thread: u32,
    /// The twin's name.
    pub operation: &'static str,
    /// The kernel's source line.
    pub location: Option<&'static Location<'static>>,
    /// The other side of a race or mismatch: thread, operation and source line.
    pub other: Option<(u32, &'static str, &'static Location<'static>)>,
    /// Addresses and values.
    pub detail: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} block {} thread {}, {}", self.kind, self.kernel, self.block, self.thread, self.operation)?;
        if let Some(location) = self.location {
            write!(f, " at {location}")?;
        }
        if let Some((thread, operation, location)) = self.other {
            write!(f, "; other: thread {thread}, {operation} at {location}")?;
        }
        if !self.detail.is_empty() {
            write!(f, "; {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
