//! The one error of the library. Every message names the field, the value found and what is allowed; nothing is
//! launched once one of these has been returned.
use crate::dtype::{CacheDType, HeadDim};
use crate::mask::Mask;
use crate::select::Unsupported;
use kernels_gpu::layout::tensor_map::TensorMapError;
use thiserror::Error;

/// Which formats bytes would fit, as the end of a message.
fn fitting(fits: &[CacheDType]) -> String {
    match fits {
        [] => String::new(),
        fits => format!(" (these are the bytes of {})", fits.iter().map(|f| f.name()).collect::<Vec<_>>().join(" or ")),
    }
}

/// What can go wrong, from a malformed request to the driver's own words.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A head dimension for which there is no kernel.
    #[error("head_dim is {value}; allowed: {}", HeadDim::ALLOWED)]
    HeadDim {
        /// The dimension asked for.
        value: usize,
    },
    /// A field whose value is out of its range.
    #[error("{field} is {value}; allowed: {allowed}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// Query heads that KV heads do not divide evenly into groups of 1 to 64.
    #[error("q_heads is {q_heads} with {kv_heads} kv_heads; allowed: a multiple of kv_heads, at most 64 times as many")]
    Heads {
        /// Query heads.
        q_heads: usize,
        /// KV heads.
        kv_heads: usize,
    },
    /// An address or stride that is not a multiple of what the copies need.
    #[error("{field} is {bytes} bytes; allowed: multiples of {multiple}")]
    Misaligned {
        /// Which address or stride.
        field: &'static str,
        /// Its value in bytes.
        bytes: u64,
        /// What it must be a multiple of.
        multiple: u64,
    },
    /// Strides that put two rows on the same bytes.
    #[error("{field}: a stride of {stride} elements over {extent} elements overlaps; allowed: at least {least}")]
    Overlap {
        /// Which stride.
        field: &'static str,
        /// Its value in elements.
        stride: usize,
        /// Entries along it.
        extent: usize,
        /// The smallest stride that keeps entries apart, in elements.
        least: usize,
    },
    /// A buffer with fewer bytes than its view reaches.
    #[error("{field} has {bytes} bytes; its shape and strides need {needed}")]
    BufferTooSmall {
        /// Which buffer.
        field: &'static str,
        /// What it has.
        bytes: usize,
        /// What its view reaches.
        needed: usize,
    },
    /// A cache's buffer with other than the bytes that its format needs.
    #[error("{field} has {bytes} bytes; its shape in {format} needs {needed}{}", fitting(fits))]
    CacheBytes {
        /// Which buffer.
        field: &'static str,
        /// What it has.
        bytes: usize,
        /// The format that it was called.
        format: CacheDType,
        /// What that needs, exactly.
        needed: usize,
        /// Formats whose bytes these would be.
        fits: Vec<CacheDType>,
    },
    /// A buffer of scales with other than the bytes that its shape needs.
    #[error("{field} has {bytes} bytes; its shape needs exactly {needed}")]
    Bytes {
        /// Which buffer.
        field: &'static str,
        /// What it has.
        bytes: usize,
        /// What its shape needs.
        needed: usize,
    },
    /// Scales of another format than the cache's, or none.
    #[error("a cache of {format} was given {given}; it needs {needed}")]
    Scales {
        /// The cache's format.
        format: CacheDType,
        /// What it was given.
        given: &'static str,
        /// What it needs.
        needed: &'static str,
    },
    /// A layout that a cache's format does not have.
    #[error("a cache of {format} has no layout of {layout}; allowed: {allowed}")]
    Layout {
        /// The format.
        format: CacheDType,
        /// The layout.
        layout: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// A page size at which a format's regions are not aligned.
    #[error(
        "page_size is {page_size}, too few for whole regions of {format} with {kv_heads} kv_heads of {head_dim}; allowed: \
         powers of two from {least} to 1024"
    )]
    PageSize {
        /// The format.
        format: CacheDType,
        /// The page size.
        page_size: usize,
        /// KV heads.
        kv_heads: usize,
        /// The head dimension.
        head_dim: HeadDim,
        /// The smallest that fits.
        least: usize,
    },
    /// A shape whose size in bytes does not fit 63 bits.
    #[error("{field}: its shape and strides reach past 2^63 bytes")]
    TooLarge {
        /// Which view.
        field: &'static str,
    },
    /// Two parts of a request that disagree.
    #[error("{field} is {value}, but {other} is {expected}; they must be equal")]
    Mismatch {
        /// The field that differs.
        field: &'static str,
        /// Its value.
        value: usize,
        /// What it was compared with.
        other: &'static str,
        /// The value that it must have.
        expected: usize,
    },
    /// `cu_seqlens_q` that does not begin with 0, decreases or is too large.
    #[error("cu_seqlens_q[{index}] is {value}; allowed: {least} to {most}")]
    QueryStart {
        /// The entry.
        index: usize,
        /// Its value.
        value: u32,
        /// The smallest that it may be: the entry before it.
        least: u32,
        /// The largest.
        most: u32,
    },
    /// A sequence with another number of query tokens than planned, or that begin elsewhere.
    #[error(
        "sequence {sequence} has query tokens {} to {}, but the plan is for {} to {}; they must be equal", value[0], value[1],
        expected[0], expected[1]
    )]
    QueryTokens {
        /// The first such sequence.
        sequence: usize,
        /// Its first query token, and the one behind its last.
        value: [u32; 2],
        /// The planned ones.
        expected: [u32; 2],
    },
    /// A shared prefix that leaves a sequence no room for its query tokens.
    #[error(
        "prefix_tokens is {prefix_tokens}; sequence {sequence} has {length} tokens, the last {tokens} of them queries; allowed: \
         at most {}", length.saturating_sub(*tokens)
    )]
    PrefixTooLong {
        /// Tokens of the prefix.
        prefix_tokens: u32,
        /// The first sequence that is too short.
        sequence: usize,
        /// Its tokens.
        length: u32,
        /// Its query tokens.
        tokens: u32,
    },
    /// A mask other than planned.
    #[error("the mask is {value}, but the plan is for {expected}; they must be equal")]
    Mask {
        /// The request's.
        value: Mask,
        /// The planned one.
        expected: Mask,
    },
    /// A tensor of another element format than planned.
    #[error("{field} holds {value}, but the plan is for {expected}; they must be equal")]
    DType {
        /// Which tensor.
        field: &'static str,
        /// Its format.
        value: CacheDType,
        /// The planned format.
        expected: CacheDType,
    },
    /// A block table with fewer columns than the planned lengths need.
    #[error(
        "block_table has {max_pages} pages a sequence; sequence {sequence} is planned for {length} tokens, which need \
         {needed} pages of {page_size}"
    )]
    BlockTableTooNarrow {
        /// Its columns.
        max_pages: usize,
        /// The first sequence that does not fit.
        sequence: usize,
        /// Its planned length in tokens.
        length: u32,
        /// Pages that it needs.
        needed: usize,
        /// Tokens a page.
        page_size: u32,
    },
    /// A page id outside the cache.
    #[error("block_table[{sequence}][{page}] is {id}; allowed: 0 to {} (the cache has {pages} pages)", i64::from(*pages) - 1)]
    PageId {
        /// The sequence.
        sequence: usize,
        /// Which of its pages.
        page: usize,
        /// The id found.
        id: i32,
        /// Pages of the cache.
        pages: u32,
    },
    /// A slot outside the cache.
    #[error(
        "slot_mapping[{token}] is {slot}; allowed: below {slots} (pages * page_size), or below 0 to skip the token"
    )]
    Slot {
        /// The token.
        token: usize,
        /// Its slot.
        slot: i64,
        /// Slots of the cache.
        slots: i64,
    },
    /// Two new tokens for one place.
    #[error("slot_mapping[{}] and slot_mapping[{}] are both {slot}; a slot takes one token a launch", tokens[0], tokens[1])]
    SlotTwice {
        /// The slot.
        slot: i64,
        /// The two tokens, in order.
        tokens: [usize; 2],
    },
    /// No kernel for this combination: every unmet need is listed.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A sequence that would be cut into more shares than one merge takes.
    #[error(
        "splits of {split_tokens} tokens cut sequence {sequence} ({length} tokens) into {shares} shares; allowed: at most \
         {most}"
    )]
    TooManySplits {
        /// The sequence.
        sequence: usize,
        /// Its length in tokens.
        length: u32,
        /// Tokens a share, as rounded.
        split_tokens: u32,
        /// Shares that this makes.
        shares: u32,
        /// What the merge takes.
        most: u32,
    },
    /// Work too large for 32-bit indices.
    #[error("the plan has {items} work items; allowed: at most {most}")]
    PlanTooLarge {
        /// Items that it would have.
        items: u64,
        /// What its indices hold.
        most: u64,
    },
    /// A tensor that the copies of tensor maps do not take.
    #[error(transparent)]
    TensorMap(#[from] TensorMapError),
    /// A workspace with fewer bytes than the plan needs.
    #[error("workspace has {bytes} bytes; the plan needs {needed}")]
    WorkspaceTooSmall {
        /// What it has.
        bytes: usize,
        /// [`crate::Plan::workspace_bytes`].
        needed: usize,
    },
    /// Something that a stream in capture cannot do.
    #[error("the stream is being captured, and {what}; do it before the capture begins")]
    Capturing {
        /// What was asked, and why it cannot be captured.
        what: &'static str,
    },
    /// Something that a launch writes lies where something else of the request does.
    #[error("{field} and {other} overlap in device memory; what is written shares no byte with anything else")]
    SharedMemory {
        /// What is written.
        field: &'static str,
        /// What lies there too.
        other: &'static str,
    },
    /// A launch on another stream than the plan was uploaded on: nothing orders the two, and the partial results of one
    /// launch are overwritten by the next.
    #[error("the stream is not the one that the plan was uploaded on; upload it on this stream")]
    OtherStream,
    /// A kernel that this build's list does not have.
    #[error("this build has no {role} kernel for the request")]
    NoKernel {
        /// What it would do.
        role: &'static str,
    },
    /// A stream, buffer or plan of another device than the one at work.
    #[error("{field} belongs to another device ({value}) than {expected}")]
    OtherDevice {
        /// What was given.
        field: &'static str,
        /// Its device.
        value: String,
        /// The device at work.
        expected: String,
    },
    /// No CUDA driver on this machine.
    #[error("no CUDA driver: {reason}")]
    NoDriver {
        /// The loader's words.
        reason: String,
    },
    /// A driver, but no such device.
    #[error("no CUDA device {ordinal}: the driver sees {count}")]
    NoDevice {
        /// The device asked for.
        ordinal: u32,
        /// Devices that there are.
        count: u32,
    },
    /// No device of any kind is compiled in.
    #[error("no device: the features `cuda` and `sim` are both off")]
    NoBackend,
    /// A driver too old for a function that is needed.
    #[error("the CUDA driver has no {function}: it needs to be of CUDA {since} or newer")]
    DriverTooOld {
        /// The missing function.
        function: &'static str,
        /// The CUDA version that brought it.
        since: &'static str,
    },
    /// The library was built without this kernel's code for this chip.
    #[error("this build has no code of {entry} that runs on {arch}; it has: {built}")]
    NoImage {
        /// The kernel.
        entry: &'static str,
        /// The device's architecture.
        arch: String,
        /// Architectures that it is built for.
        built: String,
    },
    /// Embedded code that does not inflate.
    #[error("the embedded code is damaged: {reason}; build the library again")]
    DamagedImage {
        /// What the decompressor said.
        reason: String,
    },
    /// The driver refused a call.
    #[error("{call} failed: {name} ({code}): {text}")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// Its code, an integer as drivers newer than this library have more of them.
        code: i32,
        /// The code's name, as the driver has it.
        name: String,
        /// The driver's description.
        text: String,
    },
    /// The simulator found a fault in a kernel, or ran out of a bound.
    #[cfg(feature = "sim")]
    #[error("simulator: {0}")]
    Simulator(#[source] Box<cuda_std::sim::Error>),
}
