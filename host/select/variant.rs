//! What a request asks for beyond plain attention, and which kernels may answer it.
use super::{Family, KernelId, Need, Unsupported};
use crate::query_lens::MAX_QUERY_TOKENS;
use kernels_gpu::abi::OutputKind;

/// Which kernels may answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KernelChoice {
    /// The one that is preferred.
    #[default]
    Auto,
    /// One of this family, or none.
    Family(Family),
    /// This one, or none.
    Kernel(KernelId),
}

/// What a request asks for beyond plain attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The most query tokens of a sequence.
    pub q_len: usize,
    /// A window to the left or the right of a query token's position.
    pub window: bool,
    /// A soft cap on the logits.
    pub softcap: bool,
    /// One logit a head in the softmax's denominator.
    pub sinks: bool,
    /// ALiBi slopes.
    pub alibi: bool,
    /// Positions of the query tokens.
    pub positions: bool,
    /// Spans of keys that a query token sees besides its window.
    pub spans: bool,
    /// A tree mask among the query tokens.
    pub tree: bool,
    /// A prefix that the batch shares ([`crate::PrefixPlan`]).
    pub shared_prefix: bool,
    /// Scales of the cache a token and head.
    pub token_scales: bool,
    /// Format of the output; `None`: the queries'.
    pub output: Option<OutputKind>,
    /// Which kernels may answer.
    pub kernel: KernelChoice,
}

impl Variant {
    /// Plain attention of one query token over all keys.
    pub const PLAIN: Self = Self {
        q_len: 1,
        window: false,
        softcap: false,
        sinks: false,
        alibi: false,
        positions: false,
        spans: false,
        tree: false,
        shared_prefix: false,
        token_scales: false,
        output: None,
        kernel: KernelChoice::Auto,
    };

    /// The unmet needs of these together.
    pub(super) fn needs(&self) -> impl Iterator<Item = Need> {
        let (value, anywhere) = (self.q_len, self.window || self.alibi);
        let unmet = [
            (value == 0 || value > MAX_QUERY_TOKENS, Need::QueryLength { value }),
            (self.tree && self.spans, Need::TreeWithSpans),
            (self.shared_prefix && self.spans, Need::SpansWithSharedPrefix),
            (self.shared_prefix && anywhere && !self.positions, Need::PositionsWithSharedPrefix),
        ];
        unmet.into_iter().filter_map(|(unmet, need)| unmet.then_some(need))
    }

    /// Refuses what there is not together.
    pub(crate) fn check(&self) -> Result<(), Unsupported> {
        match self.needs().collect::<Vec<_>>() {
            needs if needs.is_empty() => Ok(()),
            needs => Err(Unsupported { needs }),
        }
    }
}

impl Default for Variant {
    fn default() -> Self {
        Self::PLAIN
    }
}
