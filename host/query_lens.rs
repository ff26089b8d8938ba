//! How many query tokens each sequence of a batch has: the last ones of its keys, one after another in the queries.
use crate::error::Error;
use crate::geometry::u32_field;

/// Most query tokens of one sequence: with the largest group 2^25 query rows, as many as the kernels tell apart.
pub const MAX_QUERY_TOKENS: usize = 1 << 19;

/// What errors say that a number of query tokens may be.
pub(crate) const ALLOWED: &str = "1 to 524288";

/// Query tokens of each sequence. With `len` keys and `n` query tokens, token `i` is key `len - n + i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryLens<'a> {
    /// One of each sequence: token `b` is sequence `b`'s.
    #[default]
    One,
    /// As many of each, 1 to [`MAX_QUERY_TOKENS`].
    Uniform(u32),
    /// `cu_seqlens_q` on the host, `[batch + 1]`: sequence `b` has tokens `starts[b] .. starts[b + 1]` of the queries. Begins
    /// with 0 and never decreases; a sequence of no query token has no work.
    Ragged(&'a [u32]),
}

impl QueryLens<'_> {
    /// Checks that it is of `batch` sequences.
    ///
    /// How many tokens a sequence may have is not looked at: that is [`crate::support`]'s.
    pub(crate) fn check(&self, batch: usize) -> Result<(), Error> {
        match *self {
            Self::One => Ok(()),
            Self::Uniform(0) => {
                Err(Error::Value { field: "query tokens a sequence", value: "0".into(), allowed: ALLOWED })
            }
            Self::Uniform(_) => u32_field("query tokens", self.tokens(batch)).map(|_| ()),
            Self::Ragged(starts) => {
                if starts.len() != batch + 1 {
                    let (field, other) = ("cu_seqlens_q entries", "sequences + 1");
                    return Err(Error::Mismatch { field, value: starts.len(), other, expected: batch + 1 });
                }
                let (mut least, mut most) = (0, 0);
                for (index, &value) in starts.iter().enumerate() {
                    if value < least || value > most {
                        return Err(Error::QueryStart { index, value, least, most });
                    }
                    (least, most) = (value, i32::MAX as u32);
                }
                Ok(())
            }
        }
    }

    /// Where a sequence's tokens begin; `sequence` may be the batch.
    pub(crate) fn start(&self, sequence: usize) -> u32 {
        match *self {
            Self::One => sequence as u32,
            Self::Uniform(tokens) => tokens.saturating_mul(sequence as u32),
            Self::Ragged(starts) => starts.get(sequence).copied().unwrap_or_default(),
        }
    }

    /// Query tokens of `batch` sequences together.
    pub(crate) fn tokens(&self, batch: usize) -> usize {
        match *self {
            Self::One => batch,
            Self::Uniform(tokens) => batch.saturating_mul(tokens as usize),
            Self::Ragged(starts) => starts.last().map_or(0, |&end| end as usize),
        }
    }

    /// The most of one sequence; 0 where none has any.
    pub(crate) fn most(&self) -> u32 {
        match *self {
            Self::One => 1,
            Self::Uniform(tokens) => tokens,
            Self::Ragged(starts) => {
                let lens = starts.iter().zip(starts.iter().skip(1)).map(|(begin, end)| end.saturating_sub(*begin));
                lens.max().unwrap_or(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::MAX_GROUP;
    use kernels_gpu::abi::{group_reciprocal, quotient};

    #[test]
    fn every_query_row_is_told_apart() {
        assert_eq!(ALLOWED, format!("1 to {MAX_QUERY_TOKENS}"));
        for group in 1..=MAX_GROUP as u32 {
            let last = MAX_QUERY_TOKENS as u32 * group - 1;
            for row in (0..=last).step_by(104_729).chain([last]) {
                assert_eq!(quotient(row, group_reciprocal(group)), row / group, "row {row} of a group of {group}");
            }
        }
    }
}
