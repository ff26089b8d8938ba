//! Who does what where blocks are persistent: a prefill kernel's grid has as many blocks as run at a time, and block `b` of `n`
//! does items `b`, `b + n`, `b + 2 n` and so on. The order of the list is what levels them.
//!
//! Items are dealt the longest first, to and fro, so that a block that was given the longest of a round is given the shortest of
//! the next. The last round, which may be short, is dealt from the block that has the least. Two blocks then differ by at most
//! the longest item: in each round, what is missing of the last one counted as items of nothing, they differ by at most
//! what the round's longest and shortest do, in turns the one way and the other, and these ranges do not overlap. So the
//! fullest block has at most the mean and the longest item.
use crate::device::Properties;
use crate::plan::cost::PrefillCost;
use crate::plan::problem::{Problem, RowTile};
use crate::plan::schedule::Cut;
use crate::select::KernelId;
use kernels_gpu::abi::WorkItem;
use kernels_gpu::kernels::Role;

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

/// Puts items in the order in which `blocks` blocks take them. Of items of one length those of a KV head stay side by side, as
/// they read the same keys at the same time.
pub(crate) fn deal(items: &mut [WorkItem], blocks: u32) {
    items.sort_by_key(|item| core::cmp::Reverse(item.last - item.first));
    let rounds = items.len().div_ceil(blocks as usize);
    for (round, of_round) in items.chunks_mut(blocks as usize).enumerate() {
        if backwards(round, rounds) {
            of_round.reverse();
        }
    }
}

/// Whether a round is dealt from the last block to the first: the last round, the one that may be short, is not.
const fn backwards(round: usize, rounds: usize) -> bool {
    (rounds - round).is_multiple_of(2)
}

/// When the fullest block of a cut ends, in nanoseconds.
pub(crate) fn fullest(problem: &Problem<'_>, cut: Cut, cost: &PrefillCost) -> f64 {
    let mut of_a_head = Vec::new();
    for RowTile { tiles, .. } in problem.all_row_tiles() {
        let shares = cut.shares(tiles, problem.tiling.teams);
        let end = |share| cut.begin(share, shares, tiles);
        of_a_head.extend((0..shares).map(|share| end(share + 1) - end(share)));
    }
    of_a_head.sort_unstable_by_key(|&tiles| core::cmp::Reverse(tiles));
    let (heads, blocks) = (problem.kv_heads as usize, problem.workers as usize);
    let (count, mut loads) = (of_a_head.len() * heads, vec![0.0; blocks.min(of_a_head.len() * heads)]);
    let rounds = count.div_ceil(blocks);
    let sizes = of_a_head.iter().flat_map(|&tiles| core::iter::repeat_n(tiles, heads));
    for (rank, tiles) in sizes.enumerate() {
        let at = rank % blocks;
        let block = if backwards(rank / blocks, rounds) { blocks - 1 - at } else { at };
        if let Some(load) = loads.get_mut(block) {
            *load += cost.item(tiles);
        }
    }
    loads.into_iter().fold(0.0, f64::max)
}
