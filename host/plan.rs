//! The plan of a batch: which share of which sequence each block does. A pure function of lengths, geometry and the
//! device's numbers, and plain data.
//!
//! Invariant: for every (sequence, KV head, query row) the shares partition the keys, at the planned length and at any
//! shorter one, because a share is a fraction whose ends telescope. So lengths may shrink, or stay behind the plan, and
//! results stay right; only the balance is that of the planned lengths.
//! Flow: [`problem`] (what is to be done) -> [`schedule`] (who does it, judged by [`cost`]) -> [`layout`] (where it lies
//! in the workspace) -> [`crate::Workspace`].
pub(crate) mod cost;
pub(crate) mod layout;
pub(crate) mod problem;
pub(crate) mod schedule;

use crate::device::Properties;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::select::{KernelId, Variant, support};
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
    /// Every this many tokens, rounded up to whole tiles: a sequence's result is bitwise the same alone and in any batch.
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
    /// What a launch that is captured from this plan is good for.
    pub capture: Capture,
}

/// How large a captured launch's grid is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capture {
    /// Large enough for every plan of the same batch size, geometry and options: [`Plan::replays`].
    #[default]
    AnyPlan,
    /// This plan's own: a little faster, and to be captured again after every upload.
    ThisPlan,
}

/// Work items for every block of a launch, and the merges after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    kernel: KernelId,
    geometry: Geometry,
    options: PlanOptions,
    lengths: Vec<u32>,
    schedule: Schedule,
    layout: Layout,
}

impl Plan {
    /// Plans a batch of sequences with `lengths` tokens in the cache each, on a device with these `properties`.
    ///
    /// # Errors
    /// No kernel for the geometry on that architecture; a length of 2^31 or more; a split size of 0 or one that cuts a
    /// sequence into more shares than a merge takes; more than 2^24 items.
    pub fn new(
        geometry: &Geometry,
        lengths: &[u32],
        properties: &Properties,
        options: &PlanOptions,
    ) -> Result<Self, Error> {
        let (head_dim, page_size) = (geometry.head_dim().get(), geometry.page_size() as usize);
        let (q, kv, group) = (geometry.q(), geometry.kv(), geometry.group() as usize);
        let kernel = support(properties.arch, head_dim, q, kv, page_size, group, Variant::PLAIN)?;
        let problem = Problem::new(kernel, geometry, lengths, properties)?;
        let cut = match options.splits {
            Splits::Auto => schedule::cheapest(&problem),
            Splits::Never => Cut::Whole,
            Splits::Most => Cut::Most,
            Splits::FixedSize(tokens) => Cut::Every(problem.fixed_tiles(tokens, lengths)?),
        };
        let items = schedule::items(&problem, cut);
        if items > MAX_ITEMS {
            return Err(Error::PlanTooLarge { items, most: MAX_ITEMS });
        }
        let schedule = schedule::schedule(&problem, cut);
        let layout = Layout::new(&Capacity::new(&problem, &schedule, options)?, &problem)?;
        Ok(Self { kernel, geometry: *geometry, options: *options, lengths: lengths.to_vec(), schedule, layout })
    }

    /// The decode kernel.
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

    /// The items: block `b` of the launch does item `b`.
    pub fn items(&self) -> &[WorkItem] {
        &self.schedule.items
    }

    /// The merges of sequences that are cut.
    pub fn merges(&self) -> &[MergeItem] {
        &self.schedule.merges
    }

    /// Bytes of device memory that [`Plan::upload`] needs.
    pub fn workspace_bytes(&self) -> usize {
        self.layout.bytes
    }

    /// Shares that the keys of a sequence and KV head are cut into; 0 where the plan has no such pair.
    pub fn splits_of(&self, sequence: usize, kv_head: usize) -> usize {
        let of_pair = |item: &&WorkItem| {
            item.sequence as usize == sequence && item.kv_head as usize == kv_head && item.first_row == 0
        };
        self.schedule.items.iter().filter(of_pair).count()
    }

    /// Whether launches captured from this plan also serve `later`, uploaded to the same workspace: its places there
    /// are the same, and it fits the captured grid.
    pub fn replays(&self, later: &Self) -> bool {
        self.options.capture == Capture::AnyPlan
            && self.kernel == later.kernel
            && self.geometry == later.geometry
            && self.lengths.len() == later.lengths.len()
            && self.layout == later.layout
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }
}
