//! An uploaded plan, a request prepared against it, and the launch: no allocation, no waiting, nothing left to check.
use crate::cache::CacheFor;
use crate::device::{Device, Launch, Stream};
use crate::dtype::{CacheDType, Format};
use crate::error::Error;
use crate::geometry::Geometry;
use crate::overlap::{self, Region};
use crate::plan::layout::Layout;
use crate::plan::{Capture, Plan};
use crate::request::{Decode, same};
use crate::select::{self, KernelId};
use core::marker::PhantomData;
use kernels_gpu::abi::{CheckPagesParams, CombineParams, DecodeParams, PageReport, Rows};
use kernels_gpu::config::{COMBINE_COLUMNS, COMBINE_THREADS};
use kernels_gpu::kernels::Params;
use kernels_gpu::memory::Global;

/// Most blocks of a grid.
const MAX_BLOCKS: u64 = i32::MAX as u64;

/// Blocks of the merge in a captured launch: as many as run at a time (of 128 threads with 80 registers).
const COMBINE_BLOCKS_PER_MULTIPROCESSOR: u32 = 6;

/// Tasks of a merge block times the shares that each reads at a time.
const TASKS_SHARE_LANES: u32 = COMBINE_THREADS * 4 / COMBINE_COLUMNS;

/// Shares that a task of the merge reads at a time, each thread four of them in one trip to memory.
fn share_lanes(partials: u32) -> u32 {
    match partials {
        0..=8 => 2,
        9..=16 => 4,
        _ => TASKS_SHARE_LANES,
    }
}

/// A plan in a workspace on a device.
#[derive(Debug)]
pub struct Planned<'w> {
    device: Device,
    kernel: KernelId,
    combine: KernelId,
    geometry: Geometry,
    capture: Capture,
    layout: Layout,
    /// The stream that the plan was copied on: the one that the workspace serves.
    stream: Stream,
    /// The workspace.
    address: u64,
    batch: usize,
    /// The longest planned sequence and its length.
    longest: (usize, u32),
    items: u32,
    merges: u32,
    /// The most shares of a merge.
    partials: u32,
    workspace: PhantomData<&'w mut ()>,
}

impl Planned<'_> {
    pub(crate) fn new(plan: &Plan, stream: &Stream, address: u64, combine: KernelId) -> Self {
        let longest = plan.lengths().iter().copied().enumerate().max_by_key(|&(_, length)| length);
        Self {
            device: stream.device().clone(),
            stream: stream.clone(),
            kernel: plan.kernel(),
            combine,
            geometry: *plan.geometry(),
            capture: plan.options().capture,
            layout: *plan.layout(),
            address,
            batch: plan.lengths().len(),
            longest: longest.unwrap_or((0, 0)),
            items: plan.items().len() as u32,
            merges: plan.merges().len() as u32,
            partials: plan.merges().iter().map(|merge| merge.partials).max().unwrap_or(0),
            workspace: PhantomData,
        }
    }

    /// Checks a request against the plan, and writes the kernels' parameters.
    ///
    /// The same plan serves every layer of a model whose geometry is the same: prepare each, launch each.
    ///
    /// # Errors
    /// Another batch, geometry or format than planned; a block table too narrow for the longest planned sequence;
    /// an output, log-sum-exp or workspace that shares memory with anything else of the request.
    pub fn prepare<'r, Q: Format, K: CacheFor<Q>>(&'r self, decode: &Decode<'r, Q, K>) -> Result<Prepared<'r>, Error> {
        self.check(decode.geometry(), decode.batch())?;
        let (sequence, length) = self.longest;
        let page_size = self.geometry.page_size();
        let (needed, max_pages) = (length.div_ceil(page_size) as usize, decode.block_table.max_pages as usize);
        if needed > max_pages {
            return Err(Error::BlockTableTooNarrow { max_pages, sequence, length, needed, page_size });
        }
        self.check_overlap(decode)?;
        let table_tokens = decode.block_table.max_pages.saturating_mul(page_size);
        let rows = |view: &crate::tensor::RowsView| Rows {
            base: Global::new(view.address),
            token_stride: view.token_stride,
            head_stride: view.head_stride,
        };
        let (cache, pages) = (decode.cache.parts(), decode.cache.pages);
        let out = rows(&decode.output.rows);
        let lse = Global::new(decode.lse.as_ref().map_or(0, |lse| lse.address));
        let (partial_o, partial_lse) = (self.part(self.layout.partial_o_at), self.part(self.layout.partial_lse_at));
        let (head_dim, q_heads) = (self.geometry.head_dim().get() as u32, self.geometry.q_heads());
        let slot_rows = self.kernel.shape().map_or(0, |shape| shape.rows());
        let merge_rows = slot_rows.min(self.geometry.group());
        let tasks_a_merge = u64::from(merge_rows) * u64::from(head_dim / COMBINE_COLUMNS);
        if u64::from(self.layout.merges) * tasks_a_merge > MAX_BLOCKS {
            return Err(Error::PlanTooLarge { items: u64::from(self.merges), most: MAX_BLOCKS / tasks_a_merge });
        }
        let block_table = Global::new(decode.block_table.address);
        let seq_lens = Global::new(decode.seq_lens.address);
        let block_table_stride = decode.block_table.stride;
        Ok(Prepared {
            planned: self,
            decode: DecodeParams {
                q: rows(&decode.query.rows),
                out,
                k: cache.k,
                v: cache.v,
                k_scales: cache.k_scales,
                v_scales: cache.v_scales,
                k_scale: cache.k_scale_at,
                v_scale: cache.v_scale_at,
                lse,
                block_table,
                block_table_stride,
                seq_lens,
                items: self.part(self.layout.items_at),
                counts: Global::NULL,
                partial_o,
                partial_lse,
                scale_log2: decode.scale_log2(),
                value_scale: cache.v_scale,
                group: self.geometry.group(),
                q_heads,
                page_shift: page_size.trailing_zeros(),
                table_tokens,
                flags: cache.flags,
                reserved: 0,
            },
            combine: CombineParams {
                out,
                lse,
                merges: self.part(self.layout.merges_at),
                counts: Global::NULL,
                partial_o,
                partial_lse,
                q_heads,
                slot_rows,
                head_dim,
                rows: merge_rows,
                share_lanes: share_lanes(self.partials),
                tasks: self.merges * tasks_a_merge as u32,
                reserved: 0,
            },
            check: Params::CheckPages(CheckPagesParams {
                block_table,
                block_table_stride,
                seq_lens,
                length_bounds: self.part(self.layout.length_bounds_at),
                report: self.part(self.layout.report_at),
                batch: self.batch as u32,
                pages,
                page_shift: page_size.trailing_zeros(),
                table_tokens,
            }),
            pages,
            tasks_a_merge: tasks_a_merge as u32,
        })
    }

    fn check_overlap<Q: Format, K: CacheFor<Q>>(&self, decode: &Decode<'_, Q, K>) -> Result<(), Error> {
        let region = |field, address, bytes| Region { field, address, bytes };
        let words = |field, address, count: u32| region(field, address, 4 * count as usize);
        let Decode { query, cache, block_table, seq_lens, output, lse, .. } = decode;
        let lse = lse.as_ref().map_or((0, 0), |lse| (lse.address, 4 * lse.tokens as usize * lse.heads as usize));
        let written = [
            region("output", output.rows.address, output.rows.bytes),
            region("lse", lse.0, lse.1),
            region("workspace", self.address, self.layout.bytes),
        ];
        let [k, v, k_scales, v_scales, k_scale, v_scale] = cache.regions();
        let read = [
            region("query", query.rows.address, query.rows.bytes),
            k,
            v,
            k_scales,
            v_scales,
            k_scale,
            v_scale,
            region("block_table", block_table.address, block_table.bytes),
            words("seq_lens", seq_lens.address, seq_lens.batch),
        ];
        overlap::check(written, read)
    }

    fn check(&self, geometry: &Geometry, batch: usize) -> Result<(), Error> {
        let planned = &self.geometry;
        dtype("query", geometry.q(), planned.q())?;
        dtype("cache", geometry.kv(), planned.kv())?;
        let dim = |g: &Geometry| g.head_dim().get() as u32;
        same("query head_dim", dim(geometry), "planned head_dim", dim(planned))?;
        same("query heads", geometry.q_heads(), "planned q_heads", planned.q_heads())?;
        same("cache kv_heads", geometry.kv_heads(), "planned kv_heads", planned.kv_heads())?;
        same("cache page_size", geometry.page_size(), "planned page_size", planned.page_size())?;
        if batch != self.batch {
            let (field, other) = ("query tokens", "planned lengths");
            return Err(Error::Mismatch { field, value: batch, other, expected: self.batch });
        }
        Ok(())
    }

    fn part<T>(&self, at: usize) -> Global<T> {
        Global::new(self.address + at as u64)
    }
}

/// Refuses a format other than the planned one.
fn dtype(field: &'static str, value: impl Into<CacheDType>, expected: impl Into<CacheDType>) -> Result<(), Error> {
    let (value, expected) = (value.into(), expected.into());
    if value == expected { Ok(()) } else { Err(Error::DType { field, value, expected }) }
}

/// A request that is ready to be launched, any number of times.
#[derive(Debug)]
pub struct Prepared<'r> {
    planned: &'r Planned<'r>,
    decode: DecodeParams,
    combine: CombineParams,
    check: Params,
    pages: u32,
    tasks_a_merge: u32,
}

impl Prepared<'_> {
    /// Launches it: the decode kernel, and the merge of what the plan cut. Returns before they have run; on a stream in
    /// capture they become part of the graph.
    ///
    /// Lengths are read on the device when the kernels run, and clamped to the planned ones and to what the block table has
    /// pages for. A graph that another library captures from the stream needs this device (or a clone) as long as it is
    /// launched: the kernels' code is its.
    ///
    /// # Errors
    /// Another stream than the plan was uploaded on; the driver's; on the simulator the first fault that a kernel committed.
    pub fn launch(&mut self, stream: &Stream) -> Result<(), Error> {
        let planned = self.planned;
        stream.expect_device(&planned.device)?;
        if stream.raw() != planned.stream.raw() {
            return Err(Error::OtherStream);
        }
        if planned.items == 0 {
            return Ok(());
        }
        let (mut decode, mut combine) = (self.decode, self.combine);
        let (mut items, mut most_merge_blocks) = (planned.items, u32::MAX);
        if planned.capture == Capture::AnyPlan && stream.capturing()? {
            let layout = &planned.layout;
            (decode.counts, combine.counts) = (planned.part(layout.counts_at), planned.part(layout.counts_at));
            items = layout.items;
            // Each merges several rows where there are that many.
            let most = COMBINE_BLOCKS_PER_MULTIPROCESSOR * planned.device.properties().multiprocessors;
            (combine.tasks, most_merge_blocks) = (layout.merges * self.tasks_a_merge, most);
        }
        self.run(stream, planned.kernel, items, &Params::Decode(decode), false)?;
        let merge_blocks = combine.tasks.div_ceil(TASKS_SHARE_LANES / combine.share_lanes).min(most_merge_blocks);
        if merge_blocks > 0 {
            self.run(stream, planned.combine, merge_blocks, &Params::Combine(combine), true)?;
        }
        Ok(())
    }

    /// Checks the page ids on the device first, waits for the answer, and launches only if all are in range.
    ///
    /// # Errors
    /// As [`Prepared::launch`]; a stream in capture; the first page id out of range, in the order (sequence, page).
    pub fn launch_checked(&mut self, stream: &Stream) -> Result<(), Error> {
        let planned = self.planned;
        stream.expect_device(&planned.device)?;
        if stream.raw() != planned.stream.raw() {
            return Err(Error::OtherStream);
        }
        if stream.capturing()? {
            return Err(Error::Capturing { what: "the check of the page ids waits for the device" });
        }
        if planned.batch > 0 {
            self.run(stream, select::check_pages()?, 1, &self.check, false)?;
            stream.synchronize()?;
            let mut report = [0; size_of::<PageReport>()];
            planned.device.read(planned.address + planned.layout.report_at as u64, &mut report)?;
            let [s0, s1, s2, s3, p0, p1, p2, p3, i0, i1, i2, i3] = report;
            let sequence = u32::from_le_bytes([s0, s1, s2, s3]);
            if sequence != PageReport::NONE {
                let page = u32::from_le_bytes([p0, p1, p2, p3]) as usize;
                let id = i32::from_le_bytes([i0, i1, i2, i3]);
                return Err(Error::PageId { sequence: sequence as usize, page, id, pages: self.pages });
            }
        }
        self.launch(stream)
    }

    fn run(&self, stream: &Stream, kernel: KernelId, blocks: u32, params: &Params, early: bool) -> Result<(), Error> {
        // SAFETY: the request's views were checked against their buffers and the plan, and both are borrowed; that they
        // stay until the work is done is the promise of whoever made their spans.
        unsafe { self.planned.device.launch(stream, &Launch { kernel, blocks, params, early }) }
    }
}
