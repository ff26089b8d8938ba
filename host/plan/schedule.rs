//! Who does what: one item a block, the longest first, so that the hardware, which starts the next block wherever one
//! ends, levels the multiprocessors. (Blocks with lists of items, dealt out beforehand, took 9 to 26 % longer on an
//! H100: docs/decode.md.) What is left to decide is how often each unit is cut.
use crate::plan::problem::{Problem, Unit};
use core::cmp::Reverse;
use kernels_gpu::abi::{MergeItem, WorkItem};
use kernels_gpu::config::MAX_SPLITS;

/// Items, a block each, and the merges that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) items: Vec<WorkItem>,
    pub(crate) merges: Vec<MergeItem>,
    /// Partial results.
    pub(crate) partials: u32,
}

/// How units are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Not at all.
    Whole,
    /// Into equal shares of about this many tiles, none shorter than a block's step (a tile a team).
    About(u32),
    /// Every this many tiles, whatever else is in the batch.
    Every(u32),
    /// As often as a merge allows, down to single tiles.
    Most,
}

impl Cut {
    /// Shares of a unit of `tiles` tiles; at least one.
    fn shares(self, tiles: u32, teams: u32) -> u32 {
        match self {
            Self::Whole => 1,
            Self::About(size) => {
                // Twice the quotient, to round it: a unit a little above the size stays in one piece.
                let rounded = (tiles.saturating_mul(2) / size.max(1)).div_ceil(2).max(1);
                rounded.min((tiles / teams).max(1)).min(MAX_SPLITS)
            }
            Self::Every(size) => tiles.div_ceil(size.max(1)).max(1),
            Self::Most => tiles.clamp(1, MAX_SPLITS),
        }
    }

    /// Where share `index` of `shares` begins.
    fn begin(self, index: u32, shares: u32, tiles: u32) -> u32 {
        match self {
            Self::Every(size) => index.saturating_mul(size).min(tiles),
            _ => (u64::from(tiles) * u64::from(index) / u64::from(shares)) as u32,
        }
    }
}

/// Shares a multiprocessor that are weighed against each other and against not cutting at all.
pub(crate) const SHARES_PER_MULTIPROCESSOR: [u64; 5] = [1, 2, 3, 4, 6];

/// The cut that ends first by the cost model; of equals the one with fewer shares.
pub(crate) fn cheapest(problem: &Problem) -> Cut {
    let total: u64 = (0..problem.lengths.len() as u32).map(|s| u64::from(problem.tiles(s))).sum::<u64>()
        * problem.units_per_sequence() as u64;
    let share = |shares: u64| total.div_ceil(shares * u64::from(problem.multiprocessors)).clamp(1, u32::MAX.into());
    let mut best = (Cut::Whole, estimate(problem, Cut::Whole));
    for cut in SHARES_PER_MULTIPROCESSOR.map(|shares| Cut::About(share(shares) as u32)) {
        let time = estimate(problem, cut);
        if time < best.1 {
            best = (cut, time);
        }
    }
    best.0
}

/// How long a cut takes, by [`crate::plan::cost`].
fn estimate(problem: &Problem, cut: Cut) -> f64 {
    let units = problem.units_per_sequence() as u64;
    let (mut items, mut partials, mut total, mut longest) = (0, 0, 0, 0);
    for sequence in 0..problem.lengths.len() as u32 {
        let tiles = problem.tiles(sequence);
        let shares = cut.shares(tiles, problem.shape.teams);
        items += units * u64::from(shares);
        partials += if shares > 1 { units * u64::from(shares) } else { 0 };
        total += units * u64::from(tiles);
        longest = longest.max(tiles.div_ceil(shares));
    }
    problem.cost.estimate(items, total, longest, partials)
}

/// How many items a cut makes.
pub(crate) fn items(problem: &Problem, cut: Cut) -> u64 {
    let shares = |sequence| u64::from(cut.shares(problem.tiles(sequence), problem.shape.teams));
    (0..problem.lengths.len() as u32).map(shares).sum::<u64>() * problem.units_per_sequence() as u64
}

/// The items and merges of a cut.
pub(crate) fn schedule(problem: &Problem, cut: Cut) -> Schedule {
    let teams = problem.shape.teams;
    let mut longest_first: Vec<(u32, u32)> = (0..problem.lengths.len() as u32)
        .map(|sequence| (sequence, cut.shares(problem.tiles(sequence), teams)))
        .collect();
    longest_first.sort_by_key(|&(sequence, shares)| Reverse(problem.tiles(sequence).div_ceil(shares)));
    let items = longest_first.iter().map(|&(_, shares)| shares as usize).sum::<usize>() * problem.units_per_sequence();
    let mut schedule = Schedule { items: Vec::with_capacity(items), merges: Vec::new(), partials: 0 };
    for (sequence, shares) in longest_first {
        for unit in problem.units_of(sequence) {
            schedule.push(problem, &unit, cut, shares);
        }
    }
    schedule
}

impl Schedule {
    /// Adds a unit's shares, and their merge if there are several.
    fn push(&mut self, problem: &Problem, unit: &Unit, cut: Cut, shares: u32) {
        let first_partial = self.partials;
        for share in 0..shares {
            let partial = if shares == 1 { WorkItem::WHOLE } else { first_partial + share };
            // A sequence without keys has one item, all of nothing, which writes its zeros.
            let (first, last, of) = match unit.tiles {
                0 => (0, 1, 1),
                tiles => (cut.begin(share, shares, tiles), cut.begin(share + 1, shares, tiles), tiles),
            };
            self.items.push(WorkItem {
                sequence: unit.sequence,
                kv_head: unit.kv_head,
                first_row: unit.first_row,
                first,
                last,
                of,
                length_bound: problem.lengths[unit.sequence as usize],
                partial,
            });
        }
        if shares > 1 {
            self.partials += shares;
            self.merges.push(MergeItem {
                sequence: unit.sequence,
                first_q_head: unit.kv_head * problem.group + unit.first_row,
                rows: problem.shape.rows().min(problem.group - unit.first_row),
                first_partial,
                partials: shares,
            });
        }
    }
}
