//! The plan of a batch: which share of which sequence each block does. A pure function of lengths, query tokens, mask,
//! geometry and the device's numbers, and plain data.
//!
//! Invariant: for every (sequence, KV head, query row) the shares partition the keys that the row's item sees, at the planned
//! length and at any shorter one, because a share is a fraction whose ends telescope. So lengths may shrink, or stay behind
//! the plan, and results stay right; only the balance is that of the planned lengths.
//! Flow: [`problem`] (what is to be done) -> [`schedule`] (who does it, judged by [`cost`]; [`deal`] where blocks are persistent)
//! -> [`layout`] (where it lies
//! in the workspace) -> [`crate::Workspace`].
pub(crate) mod batch;
pub(crate) mod cost;
pub(crate) mod deal;
pub(crate) mod layout;
pub(crate) mod problem;
pub(crate) mod schedule;

use crate::device::Properties;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::mask::Mask;
use crate::query_lens::{MAX_QUERY_TOKENS, QueryLens};
use crate::select::{Asked, Chip, KernelChoice, KernelId, Unsupported, Variant, select};
use batch::{Batch, Tokens};
use kernels_gpu::abi::{MergeItem, WorkItem};
use layout::{Capacity, Layout};
use problem::{MAX_ITEMS, Problem};
use schedule::{Cut, Schedule};

/// How sequences are cut into shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Splits {
    /// Where that ends sooner by the cost model: multiprocessors finish together.
    #[default]
    Auto,
    /// Not at all: every row's keys are summed in one order, whatever else is in the batch.
    Never,
    /// As often as the kernel can: for tests.
    Most,
    /// Every this many tokens, rounded up to whole tiles: a sequence's result is bitwise the same alone and in any batch of
    /// the same kernel, which the most query tokens of a sequence choose ([`PlanOptions::max_q_len`]).
    FixedSize(u32),
}

/// What a plan may be asked for besides its geometry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// How sequences are cut.
    pub splits: Splits,
    /// The longest length that later plans into the same workspace will have, where captured launches are to serve
    /// those too. Only [`Splits::Most`] and [`Splits::FixedSize`] need it: the others' workspaces do not depend on
    /// lengths. `None`: the longest of this plan.
    pub max_length: Option<u32>,
    /// The most query tokens of one sequence that later plans into the same workspace will have, where captured launches
    /// are to serve those too: the kernel is chosen and room is made for as many in every sequence. `None`: the query
    /// tokens of this plan.
    pub max_q_len: Option<u32>,
    /// What a launch that is captured from this plan is good for.
    pub capture: Capture,
    /// Which kernels may answer; a choice that cannot is refused with every reason.
    pub kernel: KernelChoice,
    /// Blocks of a decode kernel's clusters, 1, 2, 4, 8 or 16 ([`Properties::clusters`] says of which there are any): so many have a share of a sequence's keys together and join their results
    /// through each other's shared memory. More than 1 only of kernels for few query rows on chips with clusters (9.0, 10.0, 10.3).
    /// `None`: with [`Splits::Auto`] what ends soonest by the cost model, or in a launch that is to serve any plan
    /// ([`Capture::AnyPlan`]) as many as give every unit one whose blocks are alone on their multiprocessors, up to 8, or 16 at D = 512; otherwise 1.
    pub cluster: Option<u32>,
}

/// How large a captured launch's grid is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capture {
    /// Large enough for every plan of the same batch size, geometry and options: [`Plan::replays`].
    #[default]
    AnyPlan,
    /// This plan's own: a little faster, and to be captured again after every upload. With [`Splits::Auto`] the prefill kernel is the one for
    /// as many keys as the batch's rows see, where there are several, and few short sequences of 9 to 16 query rows a KV head may be two items of 8 each.
    ThisPlan,
}

/// Work items for every block of a launch, and the merges after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    kernel: KernelId,
    geometry: Geometry,
    options: PlanOptions,
    lengths: Vec<u32>,
    tokens: Tokens,
    mask: Mask,
    /// Keys of each sequence before the planned ones, which another plan has.
    keys_before: u32,
    schedule: Schedule,
    /// Blocks that begin together, each with an item of its own.
    neighbours: u32,
    layout: Layout,
}

impl Plan {
    /// Plans a batch of sequences, on a device with these `properties`. A slice of lengths is a batch of one query token a
    /// sequence; [`Batch`] says what else there may be.
    ///
    /// # Errors
    /// No kernel for the geometry or the query tokens on that architecture; a length of 2^31 or more; `cu_seqlens_q` of
    /// another batch, or that decrease; a split size of 0 or one that cuts a sequence into more shares than a merge takes;
    /// more than 2^24 items; an option that is less than the batch has; clusters where there are none.
    pub fn new<'b>(
        geometry: &Geometry,
        batch: impl Into<Batch<'b>>,
        properties: &Properties,
        options: &PlanOptions,
    ) -> Result<Self, Error> {
        let batch = batch.into();
        let tokens = Tokens::new(&batch, options)?;
        let variant = Variant { q_len: tokens.most as usize, kernel: options.kernel, ..Variant::PLAIN };
        let kernels = able(geometry, properties, variant)?;
        Self::of(&kernels, geometry, &batch, tokens, properties, options)
    }

    /// The plan of one sequence of `keys` keys for all of `rows` query tokens, each of which may see all of them: a prefix
    /// that a batch shares.
    pub(crate) fn of_prefix(
        geometry: &Geometry,
        keys: u32,
        rows: u32,
        properties: &Properties,
        options: &PlanOptions,
    ) -> Result<Self, Error> {
        let options = PlanOptions { max_length: None, max_q_len: None, ..*options };
        let lengths = [keys];
        let batch = Batch::from(&lengths).query_lens(QueryLens::Uniform(rows.max(1))).mask(Mask::FULL).everywhere();
        let tokens = Tokens::new(&batch, &options)?;
        // As many rows are more items of the kernel for the most: no number of query tokens is too large here.
        let q_len = (rows as usize).clamp(1, MAX_QUERY_TOKENS);
        let variant = Variant { q_len, kernel: options.kernel, ..Variant::PLAIN };
        let kernels = able(geometry, properties, variant)?;
        Self::of(&kernels, geometry, &batch, tokens, properties, &options)
    }

    /// The plan of what is behind the first `keys_before` keys of each sequence; `batch` has the lengths behind them.
    pub(crate) fn of_suffixes(
        geometry: &Geometry,
        batch: &Batch<'_>,
        keys_before: u32,
        properties: &Properties,
        options: &PlanOptions,
    ) -> Result<Self, Error> {
        Ok(Self { keys_before, ..Self::new(geometry, *batch, properties, options)? })
    }

    fn of(
        kernels: &[KernelId],
        geometry: &Geometry,
        batch: &Batch<'_>,
        tokens: Tokens,
        properties: &Properties,
        options: &PlanOptions,
    ) -> Result<Self, Error> {
        let problem = |kernel| Problem::new(kernel, geometry, batch, &tokens, properties);
        let (kernel, problem) = soonest(kernels, options, problem)?;
        let given = problem.given_cluster(options)?;
        let (cut, cluster) = match options.splits {
            Splits::Auto => {
                let (cut, cluster, _) = schedule::cheapest(&problem, given);
                (cut, cluster)
            }
            Splits::Never => (Cut::Whole, given.unwrap_or(1)),
            Splits::Most => (Cut::Most, given.unwrap_or(1)),
            Splits::FixedSize(tokens) => (Cut::Every(problem.fixed_tiles(tokens)?), given.unwrap_or(1)),
        };
        let items = schedule::items(&problem, cut) * u64::from(cluster);
        if items > MAX_ITEMS {
            return Err(Error::PlanTooLarge { items, most: MAX_ITEMS });
        }
        let schedule = schedule::schedule(&problem, cut, cluster);
        let neighbours = problem.neighbours(cluster, options);
        let layout = Layout::new(&Capacity::new(&problem, &schedule, options)?, &problem)?;
        let (lengths, mask) = (batch.lengths.to_vec(), batch.mask);
        let (geometry, options) = (*geometry, *options);
        Ok(Self { kernel, geometry, options, lengths, tokens, mask, keys_before: 0, schedule, neighbours, layout })
    }

    /// The decode or prefill kernel.
    pub fn kernel(&self) -> KernelId {
        self.kernel
    }

    /// What it was made for.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The options it was made with.
    pub fn options(&self) -> &PlanOptions {
        &self.options
    }

    /// The planned lengths. A longer one at launch is clamped to its planned length.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// Query tokens of all sequences together.
    pub fn query_tokens(&self) -> usize {
        self.tokens.starts.last().map_or(0, |&end| end as usize)
    }

    /// Where each sequence's query tokens begin, and behind the last: `[batch + 1]`.
    pub fn query_starts(&self) -> &[u32] {
        &self.tokens.starts
    }

    /// The planned mask.
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// The items: block `b` of a decode kernel's launch does item `b`; of a prefill kernel's `n` blocks (or clusters), one for
    /// each multiprocessor at most, block `b` does items `b`, `b + n`, `b + 2 n` and so on.
    pub fn items(&self) -> &[WorkItem] {
        &self.schedule.items
    }

    /// Blocks of the decode kernel's clusters, 1 without. Items of a cluster, as many in a row, are parts of one share, whose results its
    /// blocks join.
    pub fn cluster(&self) -> u32 {
        self.schedule.cluster
    }

    /// The merges of sequences that are cut.
    pub fn merges(&self) -> &[MergeItem] {
        &self.schedule.merges
    }

    /// Bytes of device memory that [`Plan::upload`] needs.
    pub fn workspace_bytes(&self) -> usize {
        self.layout.bytes
    }

    /// Parts that the keys of a sequence and KV head are cut into, those of a cluster counted each; 0 where the plan has no such pair.
    pub fn splits_of(&self, sequence: usize, kv_head: usize) -> usize {
        let of_pair = |item: &&WorkItem| {
            item.sequence as usize == sequence && item.kv_head as usize == kv_head && item.first_row == 0
        };
        self.schedule.items.iter().filter(of_pair).count()
    }

    /// Whether launches captured from this plan also serve `later`, uploaded to the same workspace: its places there
    /// are the same, it fits the captured grid, and has the mask and no more query tokens than the captured request.
    pub fn replays(&self, later: &Self) -> bool {
        self.options.capture == Capture::AnyPlan
            && self.kernel == later.kernel
            && self.geometry == later.geometry
            && self.lengths.len() == later.lengths.len()
            && self.mask == later.mask
            && later.query_tokens() <= self.query_tokens()
            && later.tokens.most <= self.tokens.most
            && self.keys_before == later.keys_before
            && self.layout == later.layout
            && self.schedule.cluster == later.schedule.cluster
            && self.neighbours == later.neighbours
    }

    /// Blocks that are launched as a cluster though each has an item of its own, 2 or 1: of neighbouring KV heads, whose rows of a token lie side by side
    /// in a cache and are read together where blocks begin together.
    pub fn neighbours(&self) -> u32 {
        self.neighbours
    }

    /// The most query tokens of a sequence that there is room for.
    pub(crate) fn most_tokens(&self) -> u32 {
        self.tokens.most
    }

    pub(crate) fn keys_before(&self) -> u32 {
        self.keys_before
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }
}

/// The kernels for a geometry and a variant, the preferred first.
fn able(geometry: &Geometry, properties: &Properties, variant: Variant) -> Result<Vec<KernelId>, Unsupported> {
    let asked = Asked {
        head_dim: geometry.head_dim().get(),
        q: geometry.q(),
        kv: geometry.kv(),
        page_size: geometry.page_size() as usize,
        group: geometry.group() as usize,
        variant,
    };
    select(&Chip::from(properties), &asked)
}

/// The preferred kernel; of several of its family the one that is done with the batch soonest, where neither later plans nor other batches must
/// have the same: a row's sums depend on how many keys a step has.
fn soonest<'p>(
    kernels: &[KernelId],
    options: &PlanOptions,
    problem: impl Fn(KernelId) -> Result<Problem<'p>, Error>,
) -> Result<(KernelId, Problem<'p>), Error> {
    let first = kernels[0];
    let mut best = (first, problem(first)?);
    if options.splits == Splits::Auto && options.capture == Capture::ThisPlan {
        for &kernel in kernels[1..].iter().filter(|kernel| kernel.family() == first.family()) {
            let other = problem(kernel)?;
            if let (Some(weight), Some(least)) = (other.weight(options)?, best.1.weight(options)?)
                && weight < least
            {
                best = (kernel, other);
            }
        }
    }
    Ok(best)
}
