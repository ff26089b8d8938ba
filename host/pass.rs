//! The kernels of one plan over one request: the decode or prefill, and the merge of what the plan cut.
mod maps;

use crate::device::Stream;
use crate::error::Error;
use crate::launch::Planned;
use crate::plan::Capture;
use kernels_gpu::abi::{CombineParams, DecodeParams, LaunchFlags, MaskFlags, PrefillParams};
use kernels_gpu::config::{COMBINE_COLUMNS, COMBINE_THREADS};
use kernels_gpu::kernels::Params;
use kernels_gpu::memory::Global;

/// Most blocks of a grid.
pub(crate) const MAX_BLOCKS: u64 = i32::MAX as u64;

/// Blocks of the merge in a captured launch: as many as run at a time (of 128 threads with 80 registers).
const COMBINE_BLOCKS_PER_MULTIPROCESSOR: u32 = 6;

/// Tasks of a merge block times the shares that each reads at a time.
const TASKS_SHARE_LANES: u32 = COMBINE_THREADS * 4 / COMBINE_COLUMNS;

/// Shares that a task of the merge reads at a time, each thread four of them in one trip to memory.
pub(crate) fn share_lanes(partials: u32) -> u32 {
    match partials {
        0..=8 => 2,
        9..=16 => 4,
        _ => TASKS_SHARE_LANES,
    }
}

/// Blocks of a merge.
pub(crate) fn merge_blocks(combine: &CombineParams) -> u32 {
    combine.tasks.div_ceil(TASKS_SHARE_LANES / combine.share_lanes)
}

/// A plan's kernels with their parameters.
#[derive(Debug)]
pub(crate) struct Pass<'r> {
    pub(crate) planned: &'r Planned<'r>,
    decode: DecodeParams,
    /// Of a prefill kernel: the rest.
    prefill: Option<PrefillParams>,
    combine: CombineParams,
    tasks_a_merge: u32,
}

impl<'r> Pass<'r> {
    /// A request's `params`, of `tokens` query tokens over a cache of `pages` pages, with what is the plan's.
    pub(crate) fn new(
        planned: &'r Planned<'r>,
        params: DecodeParams,
        [tokens, pages]: [u32; 2],
    ) -> Result<Self, Error> {
        let layout = &planned.layout;
        let (partial_o, partial_lse) = (planned.part(layout.partial_o_at), planned.part(layout.partial_lse_at));
        let head_dim = planned.geometry.head_dim().get() as u32;
        let slot_rows = planned.kernel.tiling().map_or(0, |tiling| tiling.rows);
        let merge_rows = slot_rows.min(planned.most_tokens.saturating_mul(params.group));
        let tasks_a_merge = u64::from(merge_rows) * u64::from(head_dim / COMBINE_COLUMNS);
        if u64::from(layout.merges) * tasks_a_merge > MAX_BLOCKS {
            return Err(Error::PlanTooLarge { items: u64::from(planned.merges), most: MAX_BLOCKS / tasks_a_merge });
        }
        let several = if planned.most_tokens > 1 { MaskFlags::ROWS } else { 0 };
        let neighbours = if planned.neighbours { LaunchFlags::NEIGHBOURS } else { 0 };
        Ok(Self {
            planned,
            prefill: maps::prefill(&planned.device, planned.kernel, &planned.geometry, &params, [tokens, pages])?,
            decode: DecodeParams {
                items: planned.part(layout.items_at),
                partial_o,
                partial_lse,
                flags: params.flags | several | neighbours,
                ..params
            },
            combine: CombineParams {
                out: params.out,
                lse: params.lse,
                sinks: params.sinks,
                merges: planned.part(layout.merges_at),
                counts: Global::NULL,
                partial_o,
                partial_lse,
                q_heads: params.q_heads,
                group: params.group,
                group_reciprocal: params.group_reciprocal,
                slot_rows,
                head_dim,
                rows: merge_rows,
                partials: 0,
                share_lanes: share_lanes(planned.partials),
                tasks: planned.merges * tasks_a_merge as u32,
                lse_factor: 1.0,
            },
            tasks_a_merge: tasks_a_merge as u32,
        })
    }

    /// Launches both on the plan's stream.
    pub(crate) fn launch(&self, stream: &Stream) -> Result<(), Error> {
        let planned = self.planned;
        let layout = &planned.layout;
        let (mut decode, mut combine) = (self.decode, self.combine);
        let (mut blocks, mut most_merge_blocks) = (planned.items, u32::MAX);
        if planned.capture == Capture::AnyPlan && stream.capturing()? {
            (decode.counts, combine.counts) = (planned.part(layout.counts_at), planned.part(layout.counts_at));
            blocks = layout.items;
            // Each merges several rows where there are that many.
            let most = COMBINE_BLOCKS_PER_MULTIPROCESSOR * planned.device.properties().multiprocessors;
            (combine.tasks, most_merge_blocks) = (layout.merges * self.tasks_a_merge, most);
        }
        if blocks == 0 {
            return Ok(());
        }
        let params = match self.prefill {
            None => Params::Decode(decode),
            Some(prefill) => Params::Prefill(PrefillParams { decode, items: planned.items, ..prefill }),
        };
        let blocks = blocks.min(layout.most_blocks) * planned.kernel.info().cluster();
        planned.run(stream, planned.kernel, [blocks, planned.cluster], &params, false)?;
        let merge_blocks = merge_blocks(&combine).min(most_merge_blocks);
        if merge_blocks > 0 {
            planned.run(stream, planned.combine, [merge_blocks, 1], &Params::Combine(combine), true)?;
        }
        Ok(())
    }
}
