//! A prefix that all sequences of a batch share, read once for all of them (cascade attention): one pass of every query token
//! over the prefix, one of each sequence over what is behind it, and the merge of the two.
use crate::cache::CacheFor;
use crate::device::{Properties, Stream};
use crate::dtype::QueryFormat;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::launch::Planned;
use crate::merge::{States, check_rows};
use crate::overlap::{self, Region};
use crate::pass::{Pass, merge_blocks};
use crate::plan::batch::Batch;
use crate::plan::{Plan, PlanOptions};
use crate::request::Decode;
use crate::select::Variant;
use crate::tensor::{COPY_BYTES, DeviceSpan};
use crate::upload::Workspace;
use kernels_gpu::abi::{CheckPagesParams, CombineParams, DecodeParams, NO_WINDOW, Output, OutputKind, Rows};
use kernels_gpu::kernels::Params;
use kernels_gpu::memory::Global;

/// Query rows (query tokens times query heads a KV head) that the prefix's pass counts.
const MAX_ROWS: u64 = 1 << 25;

/// The plan of a batch whose sequences share their first tokens, page for page.
///
/// The request is the ordinary one, of whole sequences: a [`Decode`] whose block table has the prefix's pages in every row,
/// of which the first row's are read. The prefix is read whole: at launch no sequence may be shorter than the prefix and its
/// query tokens.
///
/// A left window or ALiBi needs the request's positions: how far a token is from a key of the prefix is nothing that the
/// sequence's end tells in that pass. Spans there are none with a shared prefix; a tree mask there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixPlan {
    prefix: Plan,
    suffix: Plan,
    prefix_tokens: u32,
    states: StatesLayout,
}

/// Where the two results lie in the workspace, behind the two plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StatesLayout {
    /// Of the second plan.
    suffix_at: usize,
    o_at: usize,
    lse_at: usize,
    /// `[2, tokens, q_heads, head_dim]`.
    shape: [usize; 4],
    /// All of the workspace.
    bytes: usize,
}

impl StatesLayout {
    fn new(geometry: &Geometry, prefix: &Plan, suffix: &Plan) -> Result<Self, Error> {
        let shape = [2, suffix.query_tokens(), geometry.q_heads() as usize, geometry.head_dim().get()];
        let [states, tokens, heads, head_dim] = shape;
        let rows = (states * heads * size_of::<f32>()).checked_mul(tokens);
        let suffix_at = prefix.workspace_bytes();
        let sizes = || {
            let lse = rows?.checked_next_multiple_of(COPY_BYTES as usize)?;
            let o_at = suffix_at.checked_add(suffix.workspace_bytes())?;
            let lse_at = o_at.checked_add(rows?.checked_mul(head_dim)?)?;
            Some((o_at, lse_at, lse_at.checked_add(lse)?))
        };
        let (o_at, lse_at, bytes) = sizes().ok_or(Error::TooLarge { field: "workspace" })?;
        Ok(Self { suffix_at, o_at, lse_at, shape, bytes })
    }
}

impl PrefixPlan {
    /// Plans a batch of whole sequences that share their first `prefix_tokens` tokens.
    ///
    /// Of the options, `max_length` is of whole sequences too, and `max_q_len` is the rest's alone.
    ///
    /// # Errors
    /// A prefix of 0 tokens, of other than whole pages, or longer than a sequence without its query tokens; 2^25 or more query
    /// tokens times query heads a KV head; more than [`States`] may have; and as [`Plan::new`].
    pub fn new<'b>(
        geometry: &Geometry,
        prefix_tokens: u32,
        batch: impl Into<Batch<'b>>,
        properties: &Properties,
        options: &PlanOptions,
    ) -> Result<Self, Error> {
        let batch = batch.into();
        if prefix_tokens == 0 || !prefix_tokens.is_multiple_of(geometry.page_size()) {
            let (field, allowed) = ("prefix_tokens", "whole pages, at least one");
            return Err(Error::Value { field, value: prefix_tokens.to_string(), allowed });
        }
        batch.query_lens.check(batch.lengths.len())?;
        let behind = |(sequence, &length): (usize, &u32)| {
            let tokens = batch.query_lens.start(sequence + 1) - batch.query_lens.start(sequence);
            let needed = u64::from(prefix_tokens) + u64::from(tokens);
            if u64::from(length) < needed {
                return Err(Error::PrefixTooLong { prefix_tokens, sequence, length, tokens });
            }
            Ok(length - prefix_tokens)
        };
        let lengths = batch.lengths.iter().enumerate().map(behind).collect::<Result<Vec<_>, _>>()?;
        let tokens = batch.query_lens.tokens(lengths.len());
        let rows = tokens as u64 * u64::from(geometry.group());
        if rows >= MAX_ROWS {
            let (field, allowed) = ("query tokens * query heads a KV head", "below 2^25 with a shared prefix");
            return Err(Error::Value { field, value: rows.to_string(), allowed });
        }
        check_rows(tokens as u32, geometry.q_heads(), geometry.head_dim())?;
        let prefix = Plan::of_prefix(geometry, prefix_tokens, tokens as u32, properties, options)?;
        let max_length = options.max_length.map(|length| length.saturating_sub(prefix_tokens));
        let options = PlanOptions { max_length, ..*options };
        let rest = Batch { lengths: &lengths, ..batch };
        let suffix = Plan::of_suffixes(geometry, &rest, prefix_tokens, properties, &options)?;
        let states = StatesLayout::new(geometry, &prefix, &suffix)?;
        Ok(Self { prefix, suffix, prefix_tokens, states })
    }

    /// The plan of the prefix: one sequence of all query tokens.
    pub fn prefix(&self) -> &Plan {
        &self.prefix
    }

    /// The plan of what is behind the prefix: lengths are without it.
    pub fn suffix(&self) -> &Plan {
        &self.suffix
    }

    /// Tokens of the prefix.
    pub fn prefix_tokens(&self) -> u32 {
        self.prefix_tokens
    }

    /// Bytes of device memory that [`PrefixPlan::upload`] needs.
    pub fn workspace_bytes(&self) -> usize {
        self.states.bytes
    }

    /// Whether launches captured from this plan also serve `later`, uploaded to the same workspace: as
    /// [`Plan::replays`], with as many query tokens and as long a prefix.
    pub fn replays(&self, later: &Self) -> bool {
        self.prefix_tokens == later.prefix_tokens
            && self.states == later.states
            && self.prefix.replays(&later.prefix)
            && self.suffix.replays(&later.suffix)
    }

    /// Copies the plan into a workspace, in the stream's order, and loads the kernels that it needs.
    ///
    /// # Errors
    /// As [`Plan::upload`].
    pub fn upload<'w>(&self, stream: &Stream, workspace: &'w mut Workspace<'_>) -> Result<PlannedPrefix<'w>, Error> {
        workspace.check(stream, self.states.bytes)?;
        let address = workspace.address();
        Ok(PlannedPrefix {
            prefix: self.prefix.upload_at(stream, workspace, 0)?,
            suffix: self.suffix.upload_at(stream, workspace, self.states.suffix_at)?,
            prefix_tokens: self.prefix_tokens,
            states: self.states,
            address,
        })
    }
}

/// A [`PrefixPlan`] in a workspace on a device.
#[derive(Debug)]
pub struct PlannedPrefix<'w> {
    prefix: Planned<'w>,
    suffix: Planned<'w>,
    prefix_tokens: u32,
    states: StatesLayout,
    /// The workspace.
    address: u64,
}

impl PlannedPrefix<'_> {
    /// Checks a request of whole sequences against the plan, and writes the kernels' parameters.
    ///
    /// # Errors
    /// As [`Planned::prepare`]; spans; a left window or ALiBi without positions.
    pub fn prepare<'r, Q: QueryFormat, K: CacheFor<Q>>(
        &'r self,
        decode: &Decode<'r, Q, K>,
    ) -> Result<PreparedPrefix<'r>, Error> {
        self.suffix.check(decode)?;
        let variant = Variant {
            window: decode.mask.left.is_some(),
            alibi: decode.alibi.is_some(),
            positions: decode.positions.is_some(),
            spans: decode.spans.is_some(),
            shared_prefix: true,
            ..Variant::PLAIN
        };
        variant.check()?;
        let [output, lse] = decode.written();
        let workspace = Region { field: "workspace", address: self.address, bytes: self.states.bytes };
        overlap::check([output, lse, workspace], decode.read())?;
        let whole = DecodeParams { sinks: Global::NULL, ..decode.params() };
        let pages = self.prefix_tokens >> whole.page_shift;
        let of_prefix = self.to_state(0, whole);
        let of_suffix = self.to_state(1, whole);
        // Without positions all of the prefix is seen: where the tokens are in it is not for a pass of all of them to say.
        // Behind a tree's context there is no end to the right either.
        let right = if decode.positions.is_some() && decode.tree.is_none() { whole.window[1] } else { NO_WINDOW };
        let prefix = DecodeParams {
            seq_lens: Global::NULL,
            tree: Global::NULL,
            tree_words: 0,
            window: [whole.window[0], right],
            ..of_prefix
        };
        let suffix = DecodeParams {
            block_table: whole.block_table.at(pages),
            table_tokens: whole.table_tokens.saturating_sub(self.prefix_tokens),
            keys_before: self.prefix_tokens,
            ..of_suffix
        };
        Ok(PreparedPrefix {
            prefix: Pass::new(&self.prefix, prefix, [decode.query.rows.tokens, decode.cache.pages])?,
            suffix: Pass::new(&self.suffix, suffix, [decode.query.rows.tokens, decode.cache.pages])?,
            merge: self.states()?.params(&decode.output, decode.lse.as_ref(), decode.sinks),
            check: self.suffix.page_check(decode),
        })
    }

    /// `params` with a state as the output.
    fn to_state(&self, state: usize, params: DecodeParams) -> DecodeParams {
        let [_, tokens, heads, head_dim] = self.states.shape;
        let (rows, head_stride) = (state * tokens * heads, (size_of::<f32>() * head_dim) as i64);
        let at = |at: usize, row: usize| self.address + (at + rows * row) as u64;
        let base = Global::new(at(self.states.o_at, size_of::<f32>() * head_dim));
        let rows = Rows { base, token_stride: heads as i64 * head_stride, head_stride };
        DecodeParams {
            out: Output { rows, kind: OutputKind::F32 as u32, scale: 1.0, scale_at: Global::NULL },
            lse: Global::new(at(self.states.lse_at, size_of::<f32>())),
            ..params
        }
    }

    /// Both states, in the workspace.
    fn states(&self) -> Result<States<'_>, Error> {
        // SAFETY: the workspace was checked to have them, and is borrowed as long as this is.
        let part = |at: usize, end: usize| unsafe { DeviceSpan::new(self.address + at as u64, end - at) };
        let StatesLayout { o_at, lse_at, shape, bytes, .. } = self.states;
        States::new(part(o_at, lse_at), part(lse_at, bytes), shape)
    }
}

/// A request over a shared prefix that is ready to be launched, any number of times.
#[derive(Debug)]
pub struct PreparedPrefix<'r> {
    prefix: Pass<'r>,
    suffix: Pass<'r>,
    merge: CombineParams,
    check: CheckPagesParams,
}

impl PreparedPrefix<'_> {
    /// Launches it: both passes and the merge. Otherwise as [`crate::Prepared::launch`].
    ///
    /// # Errors
    /// As there.
    pub fn launch(&mut self, stream: &Stream) -> Result<(), Error> {
        let planned = self.suffix.planned;
        planned.expect_stream(stream)?;
        if self.merge.tasks == 0 {
            return Ok(());
        }
        self.prefix.launch(stream)?;
        self.suffix.launch(stream)?;
        planned.run(stream, planned.combine, [merge_blocks(&self.merge), 1], &Params::Combine(self.merge), true)
    }

    /// Checks the page ids of whole sequences on the device first, waits for the answer, and launches only if all are in
    /// range.
    ///
    /// # Errors
    /// As [`crate::Prepared::launch_checked`].
    pub fn launch_checked(&mut self, stream: &Stream) -> Result<(), Error> {
        self.suffix.planned.check_pages(stream, &self.check)?;
        self.launch(stream)
    }
}
