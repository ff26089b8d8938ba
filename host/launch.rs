//! An uploaded plan, a request prepared against it, and the launch: no allocation, no waiting, nothing left to check.
use crate::cache::CacheFor;
use crate::device::{Device, Launch, Stream};
use crate::dtype::{CacheDType, QueryFormat};
use crate::error::Error;
use crate::geometry::Geometry;
use crate::mask::Mask;
use crate::overlap::{self, Region};
use crate::pass::Pass;
use crate::plan::layout::Layout;
use crate::plan::{Capture, Plan};
use crate::request::{Decode, same, tree_room};
use crate::select::{self, KernelId};
use core::marker::PhantomData;
use kernels_gpu::abi::{CheckPagesParams, PageReport};
use kernels_gpu::kernels::Params;
use kernels_gpu::memory::Global;

/// A plan in a workspace on a device.
#[derive(Debug)]
pub struct Planned<'w> {
    pub(crate) device: Device,
    pub(crate) kernel: KernelId,
    pub(crate) combine: KernelId,
    pub(crate) geometry: Geometry,
    pub(crate) capture: Capture,
    pub(crate) layout: Layout,
    /// The stream that the plan was copied on: the one that the workspace serves.
    stream: Stream,
    /// The plan's part of the workspace.
    address: u64,
    batch: usize,
    /// Where each sequence's query tokens begin, and behind the last.
    query_starts: Vec<u32>,
    /// The most query tokens of a sequence, in this plan or those that captured launches are to serve.
    pub(crate) most_tokens: u32,
    mask: Mask,
    /// The longest planned sequence and its length.
    longest: (usize, u32),
    pub(crate) items: u32,
    /// Blocks of a cluster.
    pub(crate) cluster: u32,
    /// Whether these have an item each.
    pub(crate) neighbours: bool,
    pub(crate) merges: u32,
    /// The most shares of a merge.
    pub(crate) partials: u32,
    workspace: PhantomData<&'w mut ()>,
}

impl Planned<'_> {
    pub(crate) fn new(plan: &Plan, stream: &Stream, address: u64, combine: KernelId) -> Self {
        let longest = plan.lengths().iter().copied().enumerate().max_by_key(|&(_, length)| length);
        let (sequence, length) = longest.unwrap_or((0, 0));
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
            query_starts: plan.query_starts().to_vec(),
            most_tokens: plan.most_tokens(),
            mask: plan.mask(),
            longest: (sequence, length + plan.keys_before()),
            items: plan.items().len() as u32,
            cluster: plan.neighbours() * plan.cluster() * plan.kernel().info().cluster(),
            neighbours: plan.neighbours() > 1,
            merges: plan.merges().len() as u32,
            partials: plan.merges().iter().map(|merge| merge.partials).max().unwrap_or(0),
            workspace: PhantomData,
        }
    }

    /// Checks a request against the plan, and writes the kernels' parameters.
    ///
    /// The same plan serves every layer of a model whose geometry and mask are the same: prepare each, launch each.
    ///
    /// # Errors
    /// Another batch, geometry, format, mask or other query tokens than planned; a block table too narrow for the longest
    /// planned sequence; an output, log-sum-exp or workspace that shares memory with anything else of the request; of a prefill
    /// kernel strides of the cache that a tensor map does not have.
    pub fn prepare<'r, Q: QueryFormat, K: CacheFor<Q>>(
        &'r self,
        decode: &Decode<'r, Q, K>,
    ) -> Result<Prepared<'r>, Error> {
        self.check(decode)?;
        let [output, lse] = decode.written();
        overlap::check([output, lse, self.region()], decode.read())?;
        let counts = [decode.query.rows.tokens, decode.cache.pages];
        Ok(Prepared { pass: Pass::new(self, decode.params(), counts)?, check: self.page_check(decode) })
    }

    /// The part of the workspace that is the plan's.
    pub(crate) fn region(&self) -> Region {
        Region { field: "workspace", address: self.address, bytes: self.layout.bytes }
    }

    /// Checks all of a request against the plan but what memory it shares.
    pub(crate) fn check<Q: QueryFormat, K: CacheFor<Q>>(&self, decode: &Decode<'_, Q, K>) -> Result<(), Error> {
        self.check_geometry(decode.geometry())?;
        if decode.batch() != self.batch {
            let (field, other) = ("query tokens", "planned lengths");
            return Err(Error::Mismatch { field, value: decode.batch(), other, expected: self.batch });
        }
        for (sequence, planned) in self.query_starts.iter().zip(self.query_starts.iter().skip(1)).enumerate() {
            let (expected, start) = ([*planned.0, *planned.1], |index| decode.query_lens.start(index));
            let value = [start(sequence), start(sequence + 1)];
            if value != expected {
                return Err(Error::QueryTokens { sequence, value, expected });
            }
        }
        if decode.mask.window() != self.mask.window() {
            return Err(Error::Mask { value: decode.mask, expected: self.mask });
        }
        if let Some(tree) = &decode.tree {
            tree_room(tree, self.most_tokens)?;
        }
        let (sequence, length) = self.longest;
        let page_size = self.geometry.page_size();
        let (needed, max_pages) = (length.div_ceil(page_size) as usize, decode.block_table.max_pages as usize);
        if needed > max_pages {
            return Err(Error::BlockTableTooNarrow { max_pages, sequence, length, needed, page_size });
        }
        Ok(())
    }

    fn check_geometry(&self, geometry: &Geometry) -> Result<(), Error> {
        let planned = &self.geometry;
        dtype("query", geometry.q(), planned.q())?;
        dtype("cache", geometry.kv(), planned.kv())?;
        let dim = |g: &Geometry| g.head_dim().get() as u32;
        same("query head_dim", dim(geometry), "planned head_dim", dim(planned))?;
        same("query heads", geometry.q_heads(), "planned q_heads", planned.q_heads())?;
        same("cache kv_heads", geometry.kv_heads(), "planned kv_heads", planned.kv_heads())?;
        same("cache page_size", geometry.page_size(), "planned page_size", planned.page_size())
    }

    /// Refuses a stream that the workspace does not serve.
    pub(crate) fn expect_stream(&self, stream: &Stream) -> Result<(), Error> {
        stream.expect_device(&self.device)?;
        if stream.raw() == self.stream.raw() { Ok(()) } else { Err(Error::OtherStream) }
    }

    /// What the check of a request's page ids is launched with.
    pub(crate) fn page_check<Q: QueryFormat, K: CacheFor<Q>>(&self, decode: &Decode<'_, Q, K>) -> CheckPagesParams {
        let check = decode.check_params(self.most_tokens, self.part(self.layout.length_bounds_at));
        CheckPagesParams { report: self.part(self.layout.report_at), ..check }
    }

    /// Checks page ids on the device, and waits for the answer.
    pub(crate) fn check_pages(&self, stream: &Stream, check: &CheckPagesParams) -> Result<(), Error> {
        self.expect_stream(stream)?;
        if stream.capturing()? {
            return Err(Error::Capturing { what: "the check of the page ids waits for the device" });
        }
        if check.batch == 0 {
            return Ok(());
        }
        self.run(stream, select::check_pages()?, [1, 1], &Params::CheckPages(*check), false)?;
        stream.synchronize()?;
        let mut report = [0; size_of::<PageReport>()];
        self.device.read(self.address + self.layout.report_at as u64, &mut report)?;
        let [s0, s1, s2, s3, p0, p1, p2, p3, i0, i1, i2, i3] = report;
        let sequence = u32::from_le_bytes([s0, s1, s2, s3]);
        if sequence == PageReport::NONE {
            return Ok(());
        }
        let page = u32::from_le_bytes([p0, p1, p2, p3]) as usize;
        let id = i32::from_le_bytes([i0, i1, i2, i3]);
        Err(Error::PageId { sequence: sequence as usize, page, id, pages: check.pages })
    }

    /// Launches so many blocks, in clusters of so many, on a request that was prepared against this plan.
    pub(crate) fn run(
        &self,
        stream: &Stream,
        kernel: KernelId,
        [blocks, cluster]: [u32; 2],
        params: &Params,
        early: bool,
    ) -> Result<(), Error> {
        // SAFETY: the request's views were checked against their buffers and the plan, and both are borrowed; that they
        // stay until the work is done is the promise of whoever made their spans.
        unsafe { self.device.launch(stream, &Launch { kernel, blocks, cluster, params, early }) }
    }

    /// A part of the plan in device memory.
    pub(crate) fn part<T>(&self, at: usize) -> Global<T> {
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
    pass: Pass<'r>,
    check: CheckPagesParams,
}

impl Prepared<'_> {
    /// Launches it: the decode or prefill kernel, and the merge of what the plan cut. Returns before they have run; on a stream in
    /// capture they become part of the graph.
    ///
    /// Lengths are read on the device when the kernels run, and clamped to the planned ones and to what the block table has
    /// pages for. A graph that another library captures from the stream needs this device (or a clone) as long as it is
    /// launched: the kernels' code is its.
    ///
    /// # Errors
    /// Another stream than the plan was uploaded on; the driver's; on the simulator the first fault that a kernel committed.
    pub fn launch(&mut self, stream: &Stream) -> Result<(), Error> {
        self.pass.planned.expect_stream(stream)?;
        self.pass.launch(stream)
    }

    /// Checks the page ids on the device first, waits for the answer, and launches only if all are in range. Pages that lie
    /// before every window are not looked at.
    ///
    /// # Errors
    /// As [`Prepared::launch`]; a stream in capture; the first page id out of range, in the order (sequence, page).
    pub fn launch_checked(&mut self, stream: &Stream) -> Result<(), Error> {
        self.pass.planned.check_pages(stream, &self.check)?;
        self.launch(stream)
    }
}
