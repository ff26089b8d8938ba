//! Who does what: items in blocks, by one of three rules. The first two are weighed by the cost model.
//!
//! 1. [`whole`]: nothing is cut; the longest units first, each to the block with the least to do.
//! 2. [`stream`]: the units in a row, dealt out to blocks in equal lengths, cut where a block is full.
//! 3. [`shares`]: every unit cut by a rule of its own, so that the result does not depend on the rest of the batch.
use crate::plan::problem::{Problem, Unit};
use core::cmp::Reverse;
use kernels_gpu::abi::{MergeItem, WorkItem};
use kernels_gpu::config::MAX_SPLITS;
use std::collections::BinaryHeap;

/// Items, the blocks that do them, and the merges that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) items: Vec<WorkItem>,
    /// One more than there are blocks.
    pub(crate) block_items: Vec<u32>,
    pub(crate) merges: Vec<MergeItem>,
    /// Partial results.
    pub(crate) partials: u32,
}

/// Up to this many units a slot, [`whole`] is weighed; with more, what cutting costs is small beside what it levels.
const WHOLE_UNITS_PER_SLOT: usize = 8;

/// The schedule that ends first by the cost model.
pub(crate) fn cheapest(problem: &Problem) -> Schedule {
    let (cut, mut loads) = stream(problem);
    if cut.merges.is_empty() {
        return cut;
    }
    if problem.unit_count() <= WHOLE_UNITS_PER_SLOT * problem.slots as usize {
        let uncut = Deal::new(problem);
        let time = problem.cost.makespan(&mut loads) + problem.cost.combine(cut.partials);
        if problem.cost.makespan(&mut uncut.loads.clone()) <= time {
            return uncut.schedule(problem);
        }
    }
    cut
}

/// Nothing cut, longest first.
pub(crate) fn whole(problem: &Problem) -> Schedule {
    Deal::new(problem).schedule(problem)
}

/// Units dealt to blocks, longest first, each to the block with the least to do.
struct Deal {
    /// (block, unit), in the order of dealing.
    dealt: Vec<(u32, Unit)>,
    loads: Vec<u64>,
}

impl Deal {
    fn new(problem: &Problem) -> Self {
        let blocks = problem.unit_count().min(problem.slots as usize);
        let mut longest_first: Vec<u32> = (0..problem.lengths.len() as u32).collect();
        longest_first.sort_by_key(|&sequence| Reverse(problem.tiles(sequence)));
        let mut least: BinaryHeap<Reverse<(u64, u32)>> = (0..blocks as u32).map(|block| Reverse((0, block))).collect();
        let mut dealt = Vec::with_capacity(problem.unit_count());
        let mut loads = vec![0; blocks];
        for unit in longest_first.into_iter().flat_map(|sequence| problem.units_of(sequence)) {
            if let Some(mut top) = least.peek_mut() {
                let Reverse((load, block)) = *top;
                let load = load + problem.unit_cost(unit.tiles);
                *top = Reverse((load, block));
                loads[block as usize] = load;
                dealt.push((block, unit));
            }
        }
        Self { dealt, loads }
    }

    fn schedule(mut self, problem: &Problem) -> Schedule {
        // Stable: the longest of a block stay first.
        self.dealt.sort_by_key(|&(block, _)| block);
        let mut builder = Builder::new(problem, self.dealt.len());
        let mut current = 0;
        for (block, unit) in self.dealt {
            if block != current {
                builder.close();
                current = block;
            }
            builder.push(&unit, 0..unit.tiles, WorkItem::WHOLE);
        }
        builder.finish().0
    }
}

/// Units in a row, dealt out to blocks in equal lengths. No share is shorter than one step of a block (a tile a team).
fn stream(problem: &Problem) -> (Schedule, Vec<u64>) {
    let (item, tile) = (problem.cost.item, problem.cost.tile);
    let teams = problem.shape.teams;
    let units = problem.units_per_sequence() as u64;
    let (mut steps, mut total) = (0, 0);
    for sequence in 0..problem.lengths.len() as u32 {
        let tiles = problem.tiles(sequence);
        steps += units * u64::from(tiles.div_ceil(teams).max(1));
        total += units * problem.unit_cost(tiles);
    }
    let blocks = u64::from(problem.slots).min(steps);
    // Where a block ends a unit is cut, as a rule, and the rest is one more item.
    let mut remaining = total + blocks.saturating_sub(1) * item;
    let mut left = blocks;
    let mut target = remaining.checked_div(left).unwrap_or(0);
    let mut builder = Builder::new(problem, problem.unit_count() + blocks as usize);
    for unit in problem.units() {
        let least = teams.max(unit.tiles.div_ceil(MAX_SPLITS));
        let first_partial = builder.partials;
        let mut done = 0;
        loop {
            let rest = unit.tiles - done;
            let room = target.saturating_sub(builder.load);
            let worth = item + u64::from(least.min(rest)) * tile;
            if builder.load > 0 && left > 1 && 2 * room < worth {
                if done == 0 {
                    remaining = remaining.saturating_sub(item);
                }
                builder.close();
                left -= 1;
                target = remaining / left;
                continue;
            }
            let take = if left == 1 || room >= item + u64::from(rest) * tile {
                rest
            } else {
                let step = u64::from(teams) * tile;
                let fits = (room.saturating_sub(item) + step / 2) / step * u64::from(teams);
                // A remainder shorter than a step is not worth an item of its own.
                if u64::from(rest) < fits + u64::from(least) { rest } else { least.max(fits as u32) }
            };
            let partial = if take == unit.tiles { WorkItem::WHOLE } else { builder.next_partial() };
            builder.push(&unit, done..done + take, partial);
            remaining = remaining.saturating_sub(item + u64::from(take) * tile);
            done += take;
            if done == unit.tiles {
                break;
            }
        }
        builder.merge(&unit, first_partial);
    }
    builder.finish()
}

/// Every unit in shares of `size(tiles)` tiles, in a row, dealt out to blocks in about equal lengths.
pub(crate) fn shares(problem: &Problem, size: impl Fn(u32) -> u32) -> Schedule {
    let mut remaining = 0;
    let mut items = 0;
    for unit in problem.units() {
        let count = unit.tiles.div_ceil(size(unit.tiles)).max(1);
        items += count as usize;
        remaining += u64::from(count) * problem.cost.item + u64::from(unit.tiles) * problem.cost.tile;
    }
    let mut left = u64::from(problem.slots).min(items as u64);
    let mut target = remaining.checked_div(left).unwrap_or(0);
    let mut builder = Builder::new(problem, items);
    for unit in problem.units() {
        let size = size(unit.tiles);
        let first_partial = builder.partials;
        let mut done = 0;
        loop {
            let take = size.min(unit.tiles - done);
            let cost = problem.unit_cost(take);
            if builder.load > 0 && left > 1 && 2 * target.saturating_sub(builder.load) < cost {
                builder.close();
                left -= 1;
                target = remaining / left;
            }
            let partial = if take == unit.tiles { WorkItem::WHOLE } else { builder.next_partial() };
            builder.push(&unit, done..done + take, partial);
            remaining = remaining.saturating_sub(cost);
            done += take;
            if done == unit.tiles {
                break;
            }
        }
        builder.merge(&unit, first_partial);
    }
    builder.finish().0
}

/// A schedule in the making: items go to the open block.
struct Builder<'p> {
    problem: &'p Problem,
    schedule: Schedule,
    partials: u32,
    /// Cost of the open block.
    load: u64,
    /// Costs of the closed ones.
    loads: Vec<u64>,
}

impl<'p> Builder<'p> {
    fn new(problem: &'p Problem, items: usize) -> Self {
        let blocks = items.min(problem.slots as usize);
        let mut block_items = Vec::with_capacity(blocks + 1);
        block_items.push(0);
        let schedule = Schedule { items: Vec::with_capacity(items), block_items, merges: Vec::new(), partials: 0 };
        Self { problem, schedule, partials: 0, load: 0, loads: Vec::with_capacity(blocks) }
    }

    fn next_partial(&mut self) -> u32 {
        self.partials += 1;
        self.partials - 1
    }

    fn push(&mut self, unit: &Unit, tiles: core::ops::Range<u32>, partial: u32) {
        self.load += self.problem.unit_cost(tiles.end - tiles.start);
        // A sequence without keys has one item, all of nothing, which writes its zeros.
        let (first, last, of) = if unit.tiles == 0 { (0, 1, 1) } else { (tiles.start, tiles.end, unit.tiles) };
        self.schedule.items.push(WorkItem {
            sequence: unit.sequence,
            kv_head: unit.kv_head,
            first_row: unit.first_row,
            first,
            last,
            of,
            length_bound: self.problem.lengths[unit.sequence as usize],
            partial,
        });
    }

    /// Merges the unit's partial results, if it has any.
    fn merge(&mut self, unit: &Unit, first_partial: u32) {
        let partials = self.partials - first_partial;
        if partials > 0 {
            let Problem { group, shape, .. } = self.problem;
            self.schedule.merges.push(MergeItem {
                sequence: unit.sequence,
                first_q_head: unit.kv_head * group + unit.first_row,
                rows: shape.rows().min(group - unit.first_row),
                first_partial,
                partials,
            });
        }
    }

    /// Ends the open block, unless it is empty.
    fn close(&mut self) {
        if self.load > 0 {
            self.schedule.block_items.push(self.schedule.items.len() as u32);
            self.loads.push(self.load);
            self.load = 0;
        }
    }

    fn finish(mut self) -> (Schedule, Vec<u64>) {
        self.close();
        self.schedule.partials = self.partials;
        (self.schedule, self.loads)
    }
}
