//! What a plan is made for besides a geometry: the sequences' lengths, their query tokens, and the keys that those see.
use crate::error::Error;
use crate::mask::Mask;
use crate::plan::PlanOptions;
use crate::query_lens::QueryLens;

/// A batch of sequences.
///
/// ```
/// use qkv::{Batch, Mask, QueryLens};
/// // Two sequences with four drafts each behind their last token, the model's window 1024.
/// let batch = Batch::from(&[20_000, 1700]).query_lens(QueryLens::Uniform(5)).mask(Mask::sliding_window(1023));
/// assert_eq!(batch.lengths, [20_000, 1700]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Tokens of each sequence, the query tokens among them.
    pub lengths: &'a [u32],
    /// Query tokens of each.
    pub query_lens: QueryLens<'a>,
    /// The keys that they see: the request's.
    pub mask: Mask,
    /// Whether a query token may see keys anywhere, wherever the mask's window at the sequence's end would be: for requests
    /// with positions or spans. Without it their results are right too, but not balanced.
    pub everywhere: bool,
}

impl<'a> Batch<'a> {
    /// The same, with these query tokens.
    #[must_use]
    pub const fn query_lens(self, query_lens: QueryLens<'a>) -> Self {
        Self { query_lens, ..self }
    }

    /// The same, with this mask.
    #[must_use]
    pub const fn mask(self, mask: Mask) -> Self {
        Self { mask, ..self }
    }

    /// The same, for requests with positions or spans: [`Batch::everywhere`](field@Self::everywhere).
    #[must_use]
    pub const fn everywhere(self) -> Self {
        Self { everywhere: true, ..self }
    }
}

impl<'a> From<&'a [u32]> for Batch<'a> {
    /// One query token a sequence, causal.
    fn from(lengths: &'a [u32]) -> Self {
        Self { lengths, query_lens: QueryLens::One, mask: Mask::CAUSAL, everywhere: false }
    }
}

impl<'a> From<&'a Vec<u32>> for Batch<'a> {
    fn from(lengths: &'a Vec<u32>) -> Self {
        lengths.as_slice().into()
    }
}

impl<'a, const N: usize> From<&'a [u32; N]> for Batch<'a> {
    fn from(lengths: &'a [u32; N]) -> Self {
        lengths.as_slice().into()
    }
}

/// Query tokens, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Where each sequence's begin, and behind the last: `[batch + 1]`.
    pub(crate) starts: Vec<u32>,
    /// The most of a sequence, in this plan or by the options in later ones; at least 1.
    pub(crate) most: u32,
}

impl Tokens {
    pub(crate) fn new(batch: &Batch<'_>, options: &PlanOptions) -> Result<Self, Error> {
        let Batch { lengths, query_lens, .. } = batch;
        query_lens.check(lengths.len())?;
        let most = query_lens.most();
        if let Some(room) = options.max_q_len.filter(|&room| room < most) {
            let (field, allowed) = ("max_q_len", "at least the most query tokens of a planned sequence");
            return Err(Error::Value { field, value: room.to_string(), allowed });
        }
        let starts = (0..=lengths.len()).map(|sequence| query_lens.start(sequence)).collect();
        Ok(Self { starts, most: options.max_q_len.unwrap_or(most).max(1) })
    }

    /// First query token and number of query tokens of a sequence.
    pub(crate) fn of(&self, sequence: u32) -> [u32; 2] {
        let start = |index: usize| self.starts.get(index).copied().unwrap_or_default();
        let (begin, end) = (start(sequence as usize), start(sequence as usize + 1));
        [begin, end.saturating_sub(begin)]
    }
}
