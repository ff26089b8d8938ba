//! A request as its kernels take it, and as the memory that it is. What depends on the plan is filled in where the two meet
//! ([`crate::launch`]).
use crate::cache::CacheFor;
use crate::dtype::QueryFormat;
use crate::overlap::Region;
use crate::request::Decode;
use crate::tensor::{Lse, RowsView};
use kernels_gpu::abi::{CheckPagesParams, DecodeParams, MaskFlags, NO_WINDOW, Rows, group_reciprocal};
use kernels_gpu::memory::Global;

impl<Q: QueryFormat, K: CacheFor<Q>> Decode<'_, Q, K> {
    /// What a decode entry takes, without a plan's items and partial results.
    pub(crate) fn params(&self) -> DecodeParams {
        let RowsView { address, token_stride, head_stride, .. } = self.query.rows;
        let (cache, page_size) = (self.cache.parts(), self.geometry.page_size());
        let softcap_log2 = self.softcap * core::f32::consts::LOG2_E;
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let rows = !self.mask.is_causal()
            || self.alibi.is_some()
            || self.positions.is_some()
            || self.spans.is_some()
            || self.tree.is_some();
        DecodeParams {
            q: Rows { base: Global::new(address), token_stride, head_stride },
            out: self.output.to_abi(),
            k: cache.k,
            v: cache.v,
            k_scales: cache.k_scales,
            v_scales: cache.v_scales,
            k_scale: cache.k_scale_at,
            v_scale: cache.v_scale_at,
            lse: Global::new(self.lse.as_ref().map_or(0, |lse| lse.address)),
            block_table: Global::new(self.block_table.address),
            block_table_stride: self.block_table.stride,
            seq_lens: Global::new(self.seq_lens.address),
            sinks: self.sinks.map_or(Global::NULL, |sinks| sinks.words.at()),
            slopes: self.alibi.map_or(Global::NULL, |slopes| slopes.words.at()),
            positions: self.positions.map_or(Global::NULL, |positions| positions.words.at()),
            spans: self.spans.map_or(Global::NULL, |spans| spans.words.at()),
            tree: self.tree.map_or(Global::NULL, |tree| tree.words.at()),
            items: Global::NULL,
            counts: Global::NULL,
            partial_o: Global::NULL,
            partial_lse: Global::NULL,
            scale_log2: self.scale_log2(),
            value_scale: cache.v_scale,
            group: self.geometry.group(),
            q_heads: self.geometry.q_heads(),
            page_shift: page_size.trailing_zeros(),
            table_tokens: self.block_table.max_pages.saturating_mul(page_size),
            flags: cache.flags | flag(rows, MaskFlags::ROWS) | flag(self.spans_in_window, MaskFlags::SPANS_IN_WINDOW),
            group_reciprocal: group_reciprocal(self.geometry.group()),
            window: self.mask.window(),
            softcap_log2,
            tree_words: self.tree.map_or(0, |tree| tree.row_words),
            keys_before: 0,
            softcap_inverse: if softcap_log2 > 0.0 { 1.0 / softcap_log2 } else { 0.0 },
        }
    }

    /// What the check of the page ids takes, for up to `most_tokens` query tokens a sequence and a plan's length bounds.
    pub(crate) fn check_params(&self, most_tokens: u32, length_bounds: Global<u32>) -> CheckPagesParams {
        let params = self.params();
        let [left, _] = params.window;
        let anywhere = self.positions.is_some() || self.spans.is_some();
        CheckPagesParams {
            block_table: params.block_table,
            block_table_stride: params.block_table_stride,
            seq_lens: params.seq_lens,
            length_bounds,
            report: Global::NULL,
            batch: self.seq_lens.batch,
            pages: self.cache.pages,
            page_shift: params.page_shift,
            table_tokens: params.table_tokens,
            seen: if anywhere { NO_WINDOW } else { left.saturating_add(most_tokens).min(NO_WINDOW) },
            reserved: 0,
        }
    }

    /// What a launch writes besides its workspace.
    pub(crate) fn written(&self) -> [Region; 2] {
        let none = Region { field: "lse", address: 0, bytes: 0 };
        [self.output.region(), self.lse.as_ref().map_or(none, Lse::region)]
    }

    /// What it reads.
    pub(crate) fn read(&self) -> [Region; 15] {
        let region = |field, address, bytes| Region { field, address, bytes };
        let none = |field| region(field, 0, 0);
        let [k, v, k_scales, v_scales, k_scale, v_scale] = self.cache.regions();
        [
            region("query", self.query.rows.address, self.query.rows.bytes),
            k,
            v,
            k_scales,
            v_scales,
            k_scale,
            v_scale,
            region("block_table", self.block_table.address, self.block_table.bytes),
            region("seq_lens", self.seq_lens.address, 4 * self.seq_lens.batch as usize),
            self.output.scale_region(),
            self.sinks.map_or(none("sinks"), |sinks| sinks.words.region()),
            self.alibi.map_or(none("alibi slopes"), |slopes| slopes.words.region()),
            self.positions.map_or(none("positions"), |positions| positions.words.region()),
            self.spans.map_or(none("spans"), |spans| spans.words.region()),
            self.tree.map_or(none("tree"), |tree| tree.words.region()),
        ]
    }
}
