//! Which keys a query token sees: a window about its position, and what a request may add to it.
use crate::error::Error;
use crate::geometry::u32_field;
use crate::overlap::Region;
use crate::query_lens::{ALLOWED, MAX_QUERY_TOKENS};
use crate::tensor::DeviceSpan;
use core::fmt;
use core::marker::PhantomData;
use kernels_gpu::abi::NO_WINDOW;
use kernels_gpu::memory::Global;

/// The window of a query token at position `p`: keys `k` of its sequence with `p - left <= k <= p + right`.
///
/// ```
/// use qkv::Mask;
/// // A model's "sliding window of 128" is a token and the 127 before it.
/// assert_eq!(Mask::sliding_window(127), Mask { left: Some(127), right: Some(0) });
/// assert_eq!(Mask::default(), Mask::CAUSAL);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mask {
    /// Keys before the token that it sees besides itself; `None`: all.
    pub left: Option<u32>,
    /// Keys behind the token that it sees; 0 where attention is causal, `None`: all there are.
    pub right: Option<u32>,
}

impl Mask {
    /// All keys up to the token's own.
    pub const CAUSAL: Self = Self { left: None, right: Some(0) };

    /// All keys.
    pub const FULL: Self = Self { left: None, right: None };

    /// The token and the `left` keys before it.
    pub const fn sliding_window(left: u32) -> Self {
        Self { left: Some(left), right: Some(0) }
    }

    /// As kernels take it.
    pub(crate) fn window(self) -> [u32; 2] {
        [self.left, self.right].map(|keys| keys.unwrap_or(NO_WINDOW).min(NO_WINDOW))
    }

    /// Whether a single query token, the last of its sequence, sees all keys.
    pub(crate) fn is_causal(self) -> bool {
        self.window() == Self::CAUSAL.window()
    }
}

impl Default for Mask {
    fn default() -> Self {
        Self::CAUSAL
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |keys: Option<u32>| keys.map_or("all".to_owned(), |keys| keys.to_string());
        write!(f, "{} keys to the left and {} to the right", side(self.left), side(self.right))
    }
}

/// Numbers of 32 bits that a request's kernels read, contiguous.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words<'a> {
    pub(crate) field: &'static str,
    address: u64,
    bytes: usize,
    owner: PhantomData<&'a ()>,
}

impl<'a> Words<'a> {
    /// `shape` of them at the begin of `span`.
    fn new(field: &'static str, span: DeviceSpan<'a>, shape: [usize; 2]) -> Result<Self, Error> {
        let count = shape[0].checked_mul(shape[1]).and_then(|count| count.checked_mul(4));
        let bytes = count.filter(|&bytes| bytes <= i64::MAX as usize).ok_or(Error::TooLarge { field })?;
        span.check(field, 4, bytes)?;
        Ok(Self { field, address: span.address(), bytes, owner: PhantomData })
    }

    pub(crate) fn at<T>(&self) -> Global<T> {
        Global::new(self.address)
    }

    pub(crate) fn region(&self) -> Region {
        Region { field: self.field, address: self.address, bytes: self.bytes }
    }
}

/// One logit a query head, f32 `[q_heads]`, natural: `exp(sink)` joins the denominator of the output, not of the log-sum-exp.
#[derive(Clone, Copy, Debug)]
pub struct Sinks<'a> {
    pub(crate) words: Words<'a>,
    pub(crate) heads: u32,
}

impl<'a> Sinks<'a> {
    /// Sinks of `q_heads` heads, contiguous.
    ///
    /// # Errors
    /// A span too short or not aligned to 4 bytes.
    pub fn new(span: impl Into<DeviceSpan<'a>>, q_heads: usize) -> Result<Self, Error> {
        let words = Words::new("sinks", span.into(), [q_heads, 1])?;
        Ok(Self { words, heads: u32_field("sinks q_heads", q_heads)? })
    }
}

/// One slope a query head, f32 `[q_heads]`: `slope * (key - position)` is added to a logit (ALiBi).
#[derive(Clone, Copy, Debug)]
pub struct AlibiSlopes<'a> {
    pub(crate) words: Words<'a>,
    pub(crate) heads: u32,
}

impl<'a> AlibiSlopes<'a> {
    /// Slopes of `q_heads` heads, contiguous. The usual ones are above 0: keys further back count less.
    ///
    /// # Errors
    /// A span too short or not aligned to 4 bytes.
    pub fn new(span: impl Into<DeviceSpan<'a>>, q_heads: usize) -> Result<Self, Error> {
        let words = Words::new("alibi slopes", span.into(), [q_heads, 1])?;
        Ok(Self { words, heads: u32_field("alibi slopes q_heads", q_heads)? })
    }
}

/// Where each query token is among its sequence's keys, i32 `[tokens]`; before or behind them too.
///
/// Windows and ALiBi are about this position. Of tokens of a tree it is their depth behind the context, not their place.
#[derive(Clone, Copy, Debug)]
pub struct Positions<'a> {
    pub(crate) words: Words<'a>,
    pub(crate) tokens: u32,
}

impl<'a> Positions<'a> {
    /// Positions of `tokens` query tokens, contiguous.
    ///
    /// # Errors
    /// A span too short or not aligned to 4 bytes.
    pub fn new(span: impl Into<DeviceSpan<'a>>, tokens: usize) -> Result<Self, Error> {
        let words = Words::new("positions", span.into(), [tokens, 1])?;
        Ok(Self { words, tokens: u32_field("positions tokens", tokens)? })
    }
}

/// One range of keys a query token that it sees besides its window, i32 `[tokens, 2]`: `[begin, end)` among its sequence's
/// keys (prefix-LM). A range without keys (`begin >= end`) adds nothing; any other has the token's own position in it.
///
/// What is computed is the hull of range and window, which for a range around the token is their union.
#[derive(Clone, Copy, Debug)]
pub struct Spans<'a> {
    pub(crate) words: Words<'a>,
    pub(crate) tokens: u32,
}

impl<'a> Spans<'a> {
    /// Ranges of `tokens` query tokens, contiguous.
    ///
    /// # Errors
    /// A span too short or not aligned to 4 bytes.
    pub fn new(span: impl Into<DeviceSpan<'a>>, tokens: usize) -> Result<Self, Error> {
        let words = Words::new("spans", span.into(), [tokens, 2])?;
        Ok(Self { words, tokens: u32_field("spans tokens", tokens)? })
    }
}

/// Which query tokens of its sequence a query token sees, u32 `[tokens, ceil(max_q_len / 32)]`: bit `j % 32` of word `j / 32`
/// for the sequence's query token `j`, its own bit among them. Keys before the query tokens are seen as the window says.
#[derive(Clone, Copy, Debug)]
pub struct TreeMask<'a> {
    pub(crate) words: Words<'a>,
    pub(crate) tokens: u32,
    /// Words of a token.
    pub(crate) row_words: u32,
}

impl<'a> TreeMask<'a> {
    /// Bits of `tokens` query tokens, contiguous, of sequences of up to `max_q_len` query tokens.
    ///
    /// # Errors
    /// A span too short or not aligned to 4 bytes; a `max_q_len` of 0 or above [`crate::MAX_QUERY_TOKENS`].
    pub fn new(span: impl Into<DeviceSpan<'a>>, tokens: usize, max_q_len: usize) -> Result<Self, Error> {
        if max_q_len == 0 || max_q_len > MAX_QUERY_TOKENS {
            return Err(Error::Value { field: "tree max_q_len", value: max_q_len.to_string(), allowed: ALLOWED });
        }
        let row_words = max_q_len.div_ceil(32);
        let words = Words::new("tree", span.into(), [tokens, row_words])?;
        Ok(Self { words, tokens: u32_field("tree tokens", tokens)?, row_words: row_words as u32 })
    }

    /// The most query tokens of a sequence that its rows have bits for.
    pub(crate) fn room(&self) -> u32 {
        32 * self.row_words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_past_31_bits_is_none() {
        assert_eq!(Mask::sliding_window(u32::MAX).window(), [NO_WINDOW, 0]);
        assert_eq!(Mask::FULL.window(), [NO_WINDOW; 2]);
        assert!(Mask::sliding_window(u32::MAX).is_causal() && !Mask::FULL.is_causal());
        assert!(!Mask::sliding_window(0).is_causal());
    }
}
