//! Who does what where blocks are persistent: a prefill kernel's grid has as many blocks as run at a time, and block `b` of `n`
//! does items `b`, `b + n`, `b + 2 n` and so on. The order of the list is what levels them, and what they read together.
//!
//! **Sections.** Blocks that run at the same time read each pair's (sequence's and KV head's) keys and values once from memory
//! only if what all of them read fits the L2. The longest items of a whole batch are of all pairs: at D = 256, 8 prompts of
//! 1024 tokens and 16 KV heads, each round of blocks then reads 134 MB and waits for the memory. So pairs come in sections
//! whose keys and values fit, one after the other, those with the longest items first; within one the longest items first.
//! Microseconds of causal prompts on an H100 80GB HBM3, by the size of a section:
//!
//! | D | batch | all pairs | one pair | 16 MB | 32 MB |
//! |---|---|---|---|---|---|
//! | 256 | 8 x 1024 | 397 | 257.6 | 261.2 | 271.0 |
//! | 256 | 2 x 8192 | 3328 | 2818 | 2820 | 2796 |
//! | 128 | 8 x 1024 | | 149.0 | 150.2 | 152.9 |
//! | 128 | 2 x 8192 | | 1539 | 1534 | 1540 |
//!
//! **Rounds.** That list is dealt in rounds of an item a block: the longest item of a round goes to the block that has the
//! least so far, the next longest to the block with the next least, and so on. Where a section ends a round has its shortest
//! items and the longest of the next, and what that leaves uneven may be more than later rounds level (one prompt of 8192 tokens
//! and 32 query heads on 8 had its fullest block 4.1 % above the mean). So where the fullest is more than a hundredth above it,
//! all rounds are dealt again, up to twice, each by what the blocks have of all others (0.15 %). The last round may be short;
//! the blocks that have an item of it are numbered first.
//!
//! **Bound.** In whatever order the list is, blocks differ by at most the longest item when all rounds have been dealt once, so
//! the fullest has at most the mean and the longest item. For let the loads before a round be `l1 <= l2 <= ...` and the items
//! `a1 >= a2 >= ...`, what is missing of the last round counted as items of nothing. Of two blocks `i < j` the difference after
//! it, `(ai - aj) - (lj - li)`, is at most `ai - aj`, an item, and at least `-(lj - li)`, which is the difference before it. To deal
//! a round again never adds to the fullest: the longest to the least is the order in which the largest sum is smallest. Causal
//! prompts then end within a few hundredths of the mean (`tests/plan/prefill.rs`).
use crate::device::Properties;
use crate::plan::cost::PrefillCost;
use crate::plan::problem::Problem;
use crate::plan::schedule::{Cut, longest_first};
use crate::select::KernelId;
use core::cmp::Reverse;
use core::ops::Range;
use kernels_gpu::abi::WorkItem;
use kernels_gpu::kernels::Role;

/// Bytes of keys and values of a section: a third of an H100's L2, as rounds meet two sections where one ends, and Q and the
/// output pass through it too.
const SECTION_BYTES: u64 = 16 << 20;

/// Blocks, or clusters of blocks, of a persistent kernel on a device: as many as run at a time. `None` for a kernel whose
/// every item has a block of its own.
pub(crate) fn grid(kernel: KernelId, properties: &Properties) -> Option<u32> {
    let info = kernel.info();
    match info.role {
        Role::Prefill { .. } => {
            Some((properties.multiprocessors.saturating_mul(info.min_blocks) / info.cluster()).max(1))
        }
        _ => None,
    }
}

/// Puts items in the order in which blocks take them. They come pair by pair, the pairs with the longest items first.
pub(crate) fn deal(items: &mut [WorkItem], problem: &Problem<'_>) {
    let of_pairs = items.chunk_by(|a, b| (a.sequence, a.kv_head) == (b.sequence, b.kv_head));
    let pairs = of_pairs.map(|items| (items.len(), items.first().map_or(0, |item| problem.pair_bytes(item.sequence))));
    let sections = sections(pairs);
    let dealt = Dealt::new(items, &sections, problem.workers, |item| item.last - item.first);
    let mut of_round = Vec::with_capacity(dealt.loads.len());
    for (round, blocks) in items.chunks_mut(dealt.loads.len().max(1)).zip(dealt.rounds()) {
        of_round.clear();
        of_round.extend_from_slice(round);
        for (item, &block) in of_round.iter().zip(blocks) {
            round[block as usize] = *item;
        }
    }
}

/// When the fullest block of a cut ends, in nanoseconds.
pub(crate) fn fullest(problem: &Problem<'_>, cut: Cut, cost: &PrefillCost) -> f64 {
    let (mut items, mut pairs) = (Vec::new(), Vec::new());
    for sequence in longest_first(problem, cut) {
        let begin = items.len();
        for tile in problem.row_tiles(sequence).rev() {
            let shares = cut.shares(tile.tiles, problem.tiling.teams);
            let end = |share| cut.begin(share, shares, tile.tiles);
            // Rows without keys have an item as long as one tile's, which the list does not tell from it.
            items.extend((0..shares).map(|share| (end(share + 1) - end(share)).max(1)));
        }
        let of_pair = begin..items.len();
        pairs.resize(pairs.len() + problem.kv_heads as usize, (of_pair.len(), problem.pair_bytes(sequence)));
        (1..problem.kv_heads).for_each(|_| items.extend_from_within(of_pair.clone()));
    }
    let Dealt { loads, .. } = Dealt::new(&mut items, &sections(pairs), problem.workers, |&tiles| tiles);
    let of_block = |(block, &tiles): (usize, &u64)| cost.list((items.len() - block).div_ceil(loads.len()), tiles);
    loads.iter().enumerate().map(of_block).fold(0.0, f64::max)
}

/// Sections of a list: as many pairs each as have at most so many bytes together, and at least one. Of each pair its items
/// and its bytes.
fn sections(pairs: impl IntoIterator<Item = (usize, u64)>) -> Vec<Range<usize>> {
    let mut sections = Vec::new();
    let (mut section, mut bytes) = (0..0, 0_u64);
    for (items, of_pair) in pairs {
        bytes = bytes.saturating_add(of_pair);
        if bytes > SECTION_BYTES && !section.is_empty() {
            sections.push(section.clone());
            (section, bytes) = (section.end..section.end, of_pair);
        }
        section.end += items;
    }
    sections.push(section);
    sections
}

/// How often all rounds are dealt at most, again only where the fullest block has more than a hundredth above the mean.
const PASSES: u32 = 3;

/// Which block has which item of a list, and so many tiles.
struct Dealt {
    /// Of each item its block: of the last round's the first blocks.
    blocks: Vec<u32>,
    /// Tiles of each block that has an item.
    loads: Vec<u64>,
}

impl Dealt {
    /// Sorts each section, and the rounds, and deals the list to `blocks` blocks. Of items of one length in a section those of
    /// a pair stay side by side.
    ///
    /// What an item takes besides its tiles is the same for all: all blocks have as many items, but for the last round.
    fn new<T>(list: &mut [T], sections: &[Range<usize>], blocks: u32, tiles: impl Fn(&T) -> u32) -> Self {
        let blocks = list.len().min(blocks as usize);
        let mut dealt = Self { blocks: vec![0; list.len()], loads: vec![0; blocks] };
        if blocks == 0 {
            return dealt;
        }
        for section in sections {
            list[section.clone()].sort_by_key(|item| Reverse(tiles(item)));
        }
        // In order but where a section ends, and the sort finds what is in order.
        list.chunks_mut(blocks).for_each(|round| round.sort_by_key(|item| Reverse(tiles(item))));
        let tiles: Vec<_> = list.iter().map(|item| u64::from(tiles(item))).collect();
        let mean = tiles.iter().sum::<u64>() as f64 / blocks as f64;
        for pass in 0..PASSES {
            dealt.pass(&tiles, pass > 0);
            if dealt.loads.iter().all(|&load| load as f64 <= 1.01 * mean) {
                break;
            }
        }
        dealt.renumber();
        dealt
    }

    /// Deals each round, the longest item to the block with the least, `again` by what the blocks have of all others.
    fn pass(&mut self, tiles: &[u64], again: bool) {
        let blocks = self.loads.len();
        // Tiles and, in the last bits, the block: one number, as every round sorts them. 2^24 items of at most 2^25 tiles leave
        // the bits free: no block has much more than its part of them.
        let bits = blocks.next_power_of_two().ilog2();
        let mut least = Vec::with_capacity(blocks);
        for (tiles, of_items) in tiles.chunks(blocks).zip(self.blocks.chunks_mut(blocks)) {
            if again {
                tiles.iter().zip(&*of_items).for_each(|(tiles, &block)| self.loads[block as usize] -= tiles);
            }
            least.clear();
            least.extend(self.loads.iter().zip(0_u64..).map(|(load, block)| load << bits | block));
            least.sort_unstable();
            for ((tiles, of_item), least) in tiles.iter().zip(of_items).zip(&least) {
                let block = least & ((1 << bits) - 1);
                self.loads[block as usize] += tiles;
                *of_item = block as u32;
            }
        }
    }

    /// Numbers the blocks as the last round, which may be short, has them.
    fn renumber(&mut self) {
        let blocks = self.loads.len();
        let mut numbers = vec![None; blocks];
        let last = self.blocks.chunks(blocks).next_back().unwrap_or_default();
        last.iter().zip(0_u32..).for_each(|(&block, number)| numbers[block as usize] = Some(number));
        let others = numbers.iter_mut().filter(|number| number.is_none());
        others.zip(last.len() as u32..).for_each(|(other, number)| *other = Some(number));
        let numbers: Vec<_> = numbers.into_iter().flatten().collect();
        self.blocks.iter_mut().for_each(|block| *block = numbers[*block as usize]);
        let mut loads = vec![0; blocks];
        self.loads.iter().zip(&numbers).for_each(|(&load, &number)| loads[number as usize] = load);
        self.loads = loads;
    }

    /// The blocks of each round's items.
    fn rounds(&self) -> impl Iterator<Item = &[u32]> {
        self.blocks.chunks(self.loads.len().max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::{PrefillCost, fullest};
    use crate::device::Properties;
    use crate::dtype::DType;
    use crate::geometry::Geometry;
    use crate::plan::batch::{Batch, Tokens};
    use crate::plan::cost::Cost;
    use crate::plan::problem::Problem;
    use crate::plan::schedule::{Cut, schedule};
    use crate::plan::{PlanOptions, able};
    use crate::query_lens::QueryLens;
    use crate::select::{Arch, Family, Variant};

    /// The fullest block of a list as it is in the plan.
    fn of_schedule(problem: &Problem<'_>, cut: Cut, cost: &PrefillCost) -> f64 {
        let mut loads = vec![(0, 0); problem.workers as usize];
        for (index, item) in schedule(problem, cut, 1).items.iter().enumerate() {
            let (items, tiles) = &mut loads[index % problem.workers as usize];
            (*items, *tiles) = (*items + 1, *tiles + u64::from(item.last - item.first));
        }
        loads.into_iter().map(|(items, tiles)| cost.list(items, tiles)).fold(0.0, f64::max)
    }

    #[test]
    fn what_is_judged_is_what_is_dealt() {
        let properties = |multiprocessors| Properties {
            name: "test".into(),
            arch: Arch::HOPPER,
            multiprocessors,
            shared_per_multiprocessor: 228 << 10,
            shared_per_block: 227 << 10,
            families: Family::ALL.to_vec(),
            clusters: [66, 30, 15, 7],
        };
        let (lengths, starts) = ([8192, 100, 0, 60_000, 3000], [0, 8192, 8292, 8300, 8301, 10_000]);
        for (head_dim, heads) in [(64, [64, 8]), (128, [24, 8]), (256, [16, 16])] {
            let geometry = Geometry::new(head_dim, heads, 16, DType::Bf16, DType::Bf16).expect("a geometry");
            let batch = Batch::from(&lengths).query_lens(QueryLens::Ragged(&starts));
            let tokens = Tokens::new(&batch, &PlanOptions::default()).expect("query tokens");
            for multiprocessors in [1, 7, 132, 100_000] {
                let properties = properties(multiprocessors);
                let variant = Variant { q_len: 8192, ..Variant::PLAIN };
                let kernel = able(&geometry, &properties, variant).expect("a kernel")[0];
                let problem = Problem::new(kernel, &geometry, &batch, &tokens, &properties).expect("a problem");
                let Cost::Prefill(cost) = problem.cost else { panic!("{kernel} is no prefill kernel") };
                for cut in [Cut::Whole, Cut::About(20), Cut::Every(7), Cut::Most] {
                    assert_eq!(fullest(&problem, cut, &cost), of_schedule(&problem, cut, &cost), "{kernel}, {cut:?}");
                }
            }
        }
    }
}
