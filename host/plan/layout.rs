//! Where a plan's parts lie in its workspace: offsets that depend on batch size, geometry and query tokens (or the most that
//! the options say) alone, so that a captured launch finds the next plan's parts where it found this one's.
use crate::error::Error;
use crate::plan::problem::{MAX_ITEMS, Problem};
use crate::plan::schedule::{Schedule, shares_weighed};
use crate::plan::{PlanOptions, Splits};
use kernels_gpu::abi::{MergeItem, PageReport, PlanCounts, WorkItem};
use kernels_gpu::config::MAX_SPLITS;

/// Where each part begins: whole cache lines, and what the widest loads need.
const ALIGN: usize = 256;

/// The most that a plan of the same batch size, geometry and options can need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    items: usize,
    merges: usize,
    partials: usize,
}

impl Capacity {
    pub(crate) fn new(problem: &Problem<'_>, schedule: &Schedule, options: &PlanOptions) -> Result<Self, Error> {
        let tile_keys = problem.tiling.tile_keys;
        let units = problem.most_units(options);
        if units > MAX_ITEMS {
            return Err(Error::PlanTooLarge { items: units, most: MAX_ITEMS });
        }
        if units == 0 {
            // Nor will a later plan of this have any: nothing is launched, whose blocks ask for the first sequence's length at once.
            return Ok(Self { items: 0, merges: 0, partials: 0 });
        }
        let units = units as usize;
        let most = shares_weighed(problem).last().map_or(1, |&shares| shares as usize) * problem.workers as usize;
        let cluster = schedule.cluster as usize;
        let (shares, merges, partials) = match (options.splits, options.max_length) {
            // With shares of `total / most` tiles, a unit of n shares has at least n - 1/2 of them, and n at least 2
            // where it is cut: so the units that are cut are at most 2/3 of `most`, and their shares 4/3.
            (Splits::Auto, _) => (units + most.div_ceil(cluster), units.min(most), most + most.div_ceil(3)),
            (Splits::Never, _) => (units, 0, 0),
            (_, None) => (schedule.items.len() / cluster, schedule.merges.len(), schedule.partials as usize),
            (splits, Some(length)) => {
                let longest = problem.lengths.iter().copied().max().unwrap_or(0);
                if longest > length {
                    let (field, allowed) = ("max_length", "at least the longest of the planned lengths");
                    return Err(Error::Value { field, value: length.to_string(), allowed });
                }
                let tiles = problem.most_tiles(length);
                let shares = match splits {
                    Splits::FixedSize(tokens) => tiles.div_ceil(tokens.div_ceil(tile_keys).max(1)),
                    _ => tiles,
                };
                let items = units.saturating_mul(shares.clamp(1, MAX_SPLITS) as usize);
                if shares > 1 { (items, units, items) } else { (items, 0, 0) }
            }
        };
        let items = match problem.given_cluster(options)? {
            Some(_) => shares * cluster,
            // Another plan may have other clusters, of which there are at most two blocks a worker besides what shares are.
            None => shares + most + 2 * problem.workers as usize + cluster,
        };
        if items as u64 > MAX_ITEMS + 2 * most as u64 {
            return Err(Error::PlanTooLarge { items: items as u64, most: MAX_ITEMS });
        }
        // The bounds above hold for every plan (tests/plan.rs); were one wrong, the plan would still get its room.
        Ok(Self {
            // Pairs of blocks, of which the last may have one item or none.
            items: items.max(schedule.items.len()).next_multiple_of(2),
            merges: merges.max(schedule.merges.len()),
            partials: partials.max(schedule.partials as usize),
        })
    }
}

/// Offsets in bytes, all multiples of 256. What `upload` copies comes first, and of that the items last, as only as many
/// are copied as there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Items that there is room for: in a captured launch the blocks, if no more than [`Layout::most_blocks`].
    pub(crate) items: u32,
    /// Most blocks (or clusters) of a launch: a persistent kernel's, which take turns at the items.
    pub(crate) most_blocks: u32,
    /// Merges that there is room for.
    pub(crate) merges: u32,
    pub(crate) counts_at: usize,
    pub(crate) merges_at: usize,
    pub(crate) length_bounds_at: usize,
    pub(crate) items_at: usize,
    pub(crate) partial_o_at: usize,
    pub(crate) partial_lse_at: usize,
    pub(crate) report_at: usize,
    /// All of it.
    pub(crate) bytes: usize,
}

impl Layout {
    pub(crate) fn new(capacity: &Capacity, problem: &Problem<'_>) -> Result<Self, Error> {
        let rows = problem.tiling.rows as usize;
        let mut end = Some(0_usize);
        let mut part = |count: usize, each: usize| {
            let begin = end;
            end = count
                .checked_mul(each)
                .and_then(|bytes| bytes.checked_next_multiple_of(ALIGN))
                .and_then(|bytes| bytes.checked_add(begin?));
            begin.unwrap_or(0)
        };
        let counts_at = part(1, size_of::<PlanCounts>());
        let merges_at = part(capacity.merges, size_of::<MergeItem>());
        let length_bounds_at = part(problem.lengths.len(), 4);
        let items_at = part(capacity.items, size_of::<WorkItem>());
        let partial_o_at = part(capacity.partials, rows * problem.tiling.head_dim as usize * 4);
        let partial_lse_at = part(capacity.partials, rows * 4);
        let report_at = part(1, size_of::<PageReport>());
        Ok(Self {
            items: capacity.items as u32,
            most_blocks: problem.most_blocks(),
            merges: capacity.merges as u32,
            counts_at,
            merges_at,
            length_bounds_at,
            items_at,
            partial_o_at,
            partial_lse_at,
            report_at,
            bytes: end.ok_or(Error::TooLarge { field: "workspace" })?,
        })
    }
}
