//! What the host hands to a kernel: one struct by value an entry, and the records of a plan that it points to.
//!
//! Host and device share these definitions; sizes and offsets are asserted, because the host writes them as bytes.
//! Strides are in bytes and may be any that the views' construction allowed (NHD, HND, K and V packed in one page).
mod check;
mod prefill;

use crate::memory::Global;
pub use check::{CheckPagesParams, PageReport};
pub use prefill::PrefillParams;
use static_assertions::const_assert_eq;

/// One side (K or V) of a paged cache: element `(page, token, head, 0)` is at
/// `base + page * page_stride + token * token_stride + head * head_stride`, all in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CacheSide {
    /// Element (0, 0, 0, 0).
    pub base: Global<u8>,
    /// Bytes from a page to the next.
    pub page_stride: i64,
    /// Bytes from a token to the next in its page.
    pub token_stride: i64,
    /// Bytes from a KV head to the next.
    pub head_stride: i64,
}

impl CacheSide {
    /// Scales of a format that has none, or of a cache that does without.
    pub const NONE: Self = Self { base: Global::NULL, page_stride: 0, token_stride: 0, head_stride: 0 };
}

/// Rows of q or of the output: element `(token, head, 0)` is at `base + token * token_stride + head * head_stride`, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Element (0, 0, 0).
    pub base: Global<u8>,
    /// Bytes from a token to the next.
    pub token_stride: i64,
    /// Bytes from a head to the next.
    pub head_stride: i64,
}

/// One piece of work: some query rows of one KV head of one sequence against a share of the keys that they see.
///
/// A *query row* is one head of one query token: row `r` of a sequence and KV head is head `r % group` of the group, of
/// the sequence's query token `r / group`.
///
/// The share is a fraction, so that it holds for any length up to the planned one: with `tiles` the tiles that any of the
/// item's rows sees at launch, the item takes `first * tiles / of .. last * tiles / of` of them (floor), and the items of
/// the same rows partition them whatever `tiles` is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkItem {
    /// Index into `seq_lens` and the rows of `block_table`.
    pub sequence: u32,
    /// KV head.
    pub kv_head: u32,
    /// First query row of the sequence and KV head (a multiple of the kernel's rows).
    pub first_row: u32,
    /// Numerator of the share's begin.
    pub first: u32,
    /// Numerator of the share's end.
    pub last: u32,
    /// Denominator of the share; at least 1.
    pub of: u32,
    /// The sequence's planned length: a longer one at launch is clamped to it.
    pub length_bound: u32,
    /// Slot of the workspace for this share's partial result, or [`WorkItem::WHOLE`]: the result goes to the output.
    pub partial: u32,
    /// The sequence's first query token: its place in q and in the output.
    pub q_start: u32,
    /// Query tokens of the sequence, at least 1: the last ones of its keys.
    pub q_len: u32,
    /// Zeros.
    pub reserved: [u32; 2],
}

impl WorkItem {
    /// [`WorkItem::partial`] of an item that has all the keys.
    pub const WHOLE: u32 = u32::MAX;

    /// No rows against no keys.
    pub const NOTHING: Self = Self {
        sequence: 0,
        kv_head: 0,
        first_row: 0,
        first: 0,
        last: 0,
        of: 1,
        length_bound: 0,
        partial: Self::WHOLE,
        q_start: 0,
        q_len: 0,
        reserved: [0; 2],
    };
}

/// How much of a plan's arrays is in use, where a captured launch has blocks for more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanCounts {
    /// Items.
    pub items: u32,
    /// Merges.
    pub merges: u32,
}

/// What a decode entry is launched with: grid = items of the plan, or more where [`DecodeParams::counts`] are given.
///
/// In the order of use. A launch finds its parameters in no cache, and waits for each line of 64 bytes when it first needs one of it: the first
/// ends behind 48 bytes (parameters begin at 0x210), and has what is needed up to the first pages' ids.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DecodeParams {
    /// The plan's items: block `b` does item `b`.
    pub items: Global<WorkItem>,
    /// How many items there are; NULL: as many as blocks.
    pub counts: Global<PlanCounts>,
    /// Tokens of each sequence `[batch]`, the [`DecodeParams::keys_before`] and the query tokens among them. NULL: the
    /// planned lengths.
    pub seq_lens: Global<i32>,
    /// Page ids `[batch, max_pages]`.
    pub block_table: Global<i32>,
    /// Elements from a sequence's page ids to the next's.
    pub block_table_stride: i64,
    /// Keys of each sequence that come before those of the block table, subtracted from its length.
    pub keys_before: u32,
    /// Tokens that a row of the block table has pages for: no length is taken for longer.
    pub table_tokens: u32,
    /// Queries `[tokens, q_heads, D]`.
    pub q: Rows,
    /// A query token sees so many keys before its position and, of those before the sequence's end, so many behind it:
    /// [`NO_WINDOW`] for all, 0 behind it where attention is causal. At most [`NO_WINDOW`].
    pub window: [u32; 2],
    /// Query heads a KV head, 1 to 64.
    pub group: u32,
    /// Query heads.
    pub q_heads: u32,
    /// log2 of the page size in tokens, 0 to 10.
    pub page_shift: u32,
    /// [`CacheFlags`], [`MaskFlags`] and [`LaunchFlags`].
    pub flags: u32,
    /// [`group_reciprocal`] of the group.
    pub group_reciprocal: u32,
    /// Scaled logits become `c * tanh(logit / c)`, c times log2(e); 0: they stay.
    pub softcap_log2: f32,
    /// 1 over [`DecodeParams::softcap_log2`], where that is not 0. Here, as a division by 0 would be worked out by a kernel that needs
    /// none, ahead of its loop, and by the assembler's slow form: 10 % of a short call's time.
    pub softcap_inverse: f32,
    /// Softmax scale times log2(e), and what of K's scale the host knows.
    pub scale_log2: f32,
    /// Keys.
    pub k: CacheSide,
    /// Values.
    pub v: CacheSide,
    /// Scales of K, where the format has them a token and head: NVFP4's blocks (e4m3, [`crate::layout::nvfp4`]), or one f32
    /// of FP8 (base NULL: there are none). In the interleaved order four tokens are `4 * token_stride` apart.
    pub k_scales: CacheSide,
    /// Scales of V likewise.
    pub v_scales: CacheSide,
    /// One factor of all of K, f32, read at launch; NULL: 1. It multiplies, or divides where [`CacheFlags`] say so.
    pub k_scale: Global<f32>,
    /// One factor of all of V likewise.
    pub v_scale: Global<f32>,
    /// One logit a query head in the softmax's denominator, f32 `[q_heads]`, natural; NULL: none.
    pub sinks: Global<f32>,
    /// ALiBi: `slope * (key - position)` is added to a scaled logit, f32 `[q_heads]`; NULL: nothing is.
    pub slopes: Global<f32>,
    /// Position of each query token among its sequence's keys, `[tokens]`; may lie before or behind them. NULL: token `i` of
    /// `n` is key `length - n + i`.
    pub positions: Global<i32>,
    /// Prefix-LM: keys `[begin, end)` that a query token sees besides, `[tokens, 2]`; empty where it has none. NULL: nowhere.
    pub spans: Global<i32>,
    /// Tree mask `[tokens, tree_words]`: bit `j` of a token says that it sees the sequence's query token `j`; keys before
    /// the query tokens are masked as always. NULL: no tree.
    pub tree: Global<u32>,
    /// What of V's scale the host knows.
    pub value_scale: f32,
    /// 32-bit words of a row of [`DecodeParams::tree`].
    pub tree_words: u32,
    /// Output `[tokens, q_heads, D]`.
    pub out: Output,
    /// Log-sum-exp out, natural logarithm, without the sink, `[tokens, q_heads]` f32 contiguous; NULL: not asked for.
    pub lse: Global<f32>,
    /// Partial outputs, f32 `[slots, rows of the kernel, D]`, normalised.
    pub partial_o: Global<f32>,
    /// Partial log-sum-exps in base 2, f32 `[slots, rows of the kernel]`; -inf for a share without keys.
    pub partial_lse: Global<f32>,
}

/// A window that ends nothing.
pub const NO_WINDOW: u32 = i32::MAX as u32;

/// Where results go, and in which format.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// `[tokens, q_heads, D]`.
    pub rows: Rows,
    /// [`OutputKind`] as a number.
    pub kind: u32,
    /// Results are multiplied by the reciprocal of this before they are rounded: of [`OutputKind::Fp8E4M3`] alone.
    pub scale: f32,
    /// The same, read at launch; NULL: 1.
    pub scale_at: Global<f32>,
}

/// Elements of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum OutputKind {
    /// bfloat16.
    Bf16 = 0,
    /// IEEE half.
    F16 = 1,
    /// IEEE single.
    F32 = 2,
    /// e4m3, rounded to nearest even, saturating.
    Fp8E4M3 = 3,
}

/// What a product's upper half is to be taken of for a quotient by `group`, [`quotient`].
pub const fn group_reciprocal(group: u32) -> u32 {
    (1u32 << 31).div_ceil(group)
}

/// `row / group`: exact for rows below 2^25 and groups up to 64, as 2^31 / group is rounded up by less than 64 / 2^31.
#[inline(always)]
pub const fn quotient(row: u32, reciprocal: u32) -> u32 {
    ((2 * row as u64 * reciprocal as u64) >> 32) as u32
}

/// Bits of a decode's flags beside [`CacheFlags`].
pub struct MaskFlags;

impl MaskFlags {
    /// Query rows see different keys, or are told their distance: whatever is not one query token a sequence that sees all.
    pub const ROWS: u32 = 1 << 8;
    /// Keys of a span are seen within the window alone, which then counts both ways.
    pub const SPANS_IN_WINDOW: u32 = 1 << 9;
}

/// Bits of a decode's flags that say what a launch is.
pub struct LaunchFlags;

impl LaunchFlags {
    /// Blocks of a cluster have an item each: they begin together, and that is all.
    pub const NEIGHBOURS: u32 = 1 << 10;
}

/// Bits that say how a cache's scales are to be read or written.
pub struct CacheFlags;

impl CacheFlags {
    /// NVFP4's block scales of V are in the interleaved order.
    pub const V_INTERLEAVED: u32 = 1;
    /// What [`DecodeParams::k_scale`] points to divides K.
    pub const K_DIVIDES: u32 = 2;
    /// What [`DecodeParams::v_scale`] points to divides V.
    pub const V_DIVIDES: u32 = 4;
}

/// What an append entry is launched with: grid = enough blocks of [`crate::config::APPEND_THREADS`] for a thread to every
/// 16 elements of K; more do nothing. Their threads are below 2^32.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AppendParams {
    /// New keys `[tokens, kv_heads, D]`.
    pub k: Rows,
    /// New values likewise.
    pub v: Rows,
    /// As in [`DecodeParams`]; written.
    pub k_cache: CacheSide,
    /// As in [`DecodeParams`]; written.
    pub v_cache: CacheSide,
    /// As in [`DecodeParams`]; written.
    pub k_scales: CacheSide,
    /// As in [`DecodeParams`]; written.
    pub v_scales: CacheSide,
    /// As in [`DecodeParams`]: what is stored times it is the number. Not looked at where FP8 has scales a token and head.
    pub k_scale_at: Global<f32>,
    /// As in [`DecodeParams`].
    pub v_scale_at: Global<f32>,
    /// Where each token goes, `[tokens]`: `page * page_size + token of the page`; below 0: nowhere.
    pub slots: Global<i64>,
    /// What of K's scale the host knows.
    pub k_scale: f32,
    /// What of V's scale the host knows.
    pub v_scale: f32,
    /// New tokens.
    pub tokens: u32,
    /// KV heads.
    pub kv_heads: u32,
    /// D.
    pub head_dim: u32,
    /// log2 of the page size in tokens, 0 to 10.
    pub page_shift: u32,
    /// Slots of the cache, `pages * page_size`: a larger one is skipped.
    pub cache_slots: i64,
    /// [`CacheFlags`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

/// One query tile whose partial results are to be merged: row `r` of it is [`WorkItem`]'s row `first_row + r`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeItem {
    /// The sequence's first query token.
    pub q_start: u32,
    /// First query head of the KV head's group.
    pub first_head: u32,
    /// First query row of the sequence and KV head.
    pub first_row: u32,
    /// Query rows in use, at most the decode kernel's rows.
    pub rows: u32,
    /// First slot of the workspace; its shares' slots are consecutive, in key order.
    pub first_partial: u32,
    /// Shares, at least 2 and at most [`crate::config::MAX_SPLITS`].
    pub partials: u32,
}

/// What the combine entry is launched with. Its tasks are 64 columns of one row: `merges * rows * D / 64`, of which a block
/// does `8 / share_lanes` together; any grid does them all where [`CombineParams::counts`] are given.
///
/// States that did not come from a plan are merged with [`CombineParams::merges`] NULL: `[partials, tokens, q_heads, D]`
/// with `slot_rows = rows = tokens * q_heads` and `group = q_heads`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CombineParams {
    /// As in [`DecodeParams`].
    pub out: Output,
    /// As in [`DecodeParams`].
    pub lse: Global<f32>,
    /// As in [`DecodeParams`].
    pub sinks: Global<f32>,
    /// The plan's merges; NULL: one, of all rows from the first on.
    pub merges: Global<MergeItem>,
    /// How many merges there are; NULL: as many as [`CombineParams::tasks`] are for.
    pub counts: Global<PlanCounts>,
    /// As in [`DecodeParams`].
    pub partial_o: Global<f32>,
    /// As in [`DecodeParams`], times [`CombineParams::lse_factor`].
    pub partial_lse: Global<f32>,
    /// Query heads.
    pub q_heads: u32,
    /// Query heads a KV head; of a merge without a plan, all of them.
    pub group: u32,
    /// [`group_reciprocal`] of the group.
    pub group_reciprocal: u32,
    /// Rows a slot has: those of the decode kernel.
    pub slot_rows: u32,
    /// D.
    pub head_dim: u32,
    /// Query rows that a merge has at most.
    pub rows: u32,
    /// Shares of the one merge where [`CombineParams::merges`] is NULL.
    pub partials: u32,
    /// Shares that a task reads at a time: 2, 4 or 8.
    pub share_lanes: u32,
    /// Tasks there are at most.
    pub tasks: u32,
    /// What partial log-sum-exps are multiplied by: 1, or log2(e) where they are natural.
    pub lse_factor: f32,
}

const_assert_eq!(size_of::<CacheSide>(), 32);
const_assert_eq!(size_of::<Rows>(), 24);
const_assert_eq!(size_of::<Output>(), 40);
const_assert_eq!(size_of::<WorkItem>(), 48);
const_assert_eq!(size_of::<DecodeParams>(), 368);
// The lines of 64 bytes, the first of which has 16 before the parameters.
const_assert_eq!(core::mem::offset_of!(DecodeParams, q), 48);
const_assert_eq!(core::mem::offset_of!(DecodeParams, k), 112);
const_assert_eq!(core::mem::offset_of!(DecodeParams, k_scales), 176);
const_assert_eq!(core::mem::offset_of!(DecodeParams, k_scale), 240);
const_assert_eq!(core::mem::offset_of!(DecodeParams, out), 304);
const_assert_eq!(size_of::<AppendParams>(), 240);
const_assert_eq!(size_of::<MergeItem>(), 24);
const_assert_eq!(size_of::<PlanCounts>(), 8);
const_assert_eq!(size_of::<CombineParams>(), 128);
