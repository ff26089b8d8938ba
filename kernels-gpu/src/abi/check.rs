//! What the page check takes, and its answer.
#[cfg(doc)]
use super::{DecodeParams, NO_WINDOW};
use crate::memory::Global;
use static_assertions::const_assert_eq;

/// What `check_pages` is launched with: grid = 1 block.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CheckPagesParams {
    /// As in [`DecodeParams`].
    pub block_table: Global<i32>,
    /// As in [`DecodeParams`].
    pub block_table_stride: i64,
    /// As in [`DecodeParams`]; not NULL.
    pub seq_lens: Global<i32>,
    /// Planned lengths `[batch]`: what `seq_lens` is clamped to.
    pub length_bounds: Global<u32>,
    /// Where the answer goes.
    pub report: Global<PageReport>,
    /// Sequences.
    pub batch: u32,
    /// Pages of the cache: valid ids are `0 .. pages`.
    pub pages: u32,
    /// log2 of the page size in tokens.
    pub page_shift: u32,
    /// As in [`DecodeParams`].
    pub table_tokens: u32,
    /// Keys before a sequence's last so many are seen by no query token, and their pages are not looked at:
    /// [`NO_WINDOW`] for none.
    pub seen: u32,
    /// Zero.
    pub reserved: u32,
}

/// The first page id out of range, in the order (sequence, page).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageReport {
    /// The sequence, or [`PageReport::NONE`] where all ids are in range.
    pub sequence: u32,
    /// Index of the page in the sequence.
    pub page: u32,
    /// The id found there.
    pub id: i32,
}

impl PageReport {
    /// [`PageReport::sequence`] where nothing is wrong.
    pub const NONE: u32 = u32::MAX;
}

const_assert_eq!(size_of::<CheckPagesParams>(), 64);
const_assert_eq!(size_of::<PageReport>(), 12);
