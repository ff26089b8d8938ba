//! Attention over disjoint sets of keys put together: each set's result and log-sum-exp are a *state*, and the states of all
//! sets are merged exactly as if their keys had been in one. What a context that several devices hold needs.
use crate::device::{Device, Launch, Stream};
use crate::dtype::HeadDim;
use crate::error::Error;
use crate::geometry::u32_field;
use crate::mask::Sinks;
use crate::output::AnyOutput;
use crate::overlap::{self, Region};
use crate::pass::{MAX_BLOCKS, merge_blocks, share_lanes};
use crate::request::same;
use crate::select;
use crate::tensor::{COPY_BYTES, DeviceSpan, Lse};
use core::marker::PhantomData;
use kernels_gpu::abi::{CombineParams, group_reciprocal};
use kernels_gpu::config::{COMBINE_COLUMNS, MAX_SPLITS};
use kernels_gpu::kernels::Params;
use kernels_gpu::memory::Global;

/// Results over disjoint sets of keys, all in f32 and contiguous: outputs `[states, tokens, q_heads, head_dim]`, and their
/// log-sum-exps `[states, tokens, q_heads]`, natural and without sinks: what [`crate::Decode`] answers in
/// [`F32`](crate::F32) with [`Lse`]. A row without keys has -inf there.
#[derive(Clone, Copy, Debug)]
pub struct States<'a> {
    o: Region,
    lse: Region,
    states: u32,
    tokens: u32,
    heads: u32,
    head_dim: HeadDim,
    owner: PhantomData<&'a ()>,
}

impl<'a> States<'a> {
    /// States of shape `[states, tokens, q_heads, head_dim]`.
    ///
    /// # Errors
    /// A head dimension without kernels; no state, or more than 512; spans too short, or not aligned to 16 bytes (outputs) or
    /// 4 (log-sum-exps); 2^31 or more of `tokens * q_heads * q_heads`, or 2^37 or more elements a state.
    pub fn new(o: impl Into<DeviceSpan<'a>>, lse: impl Into<DeviceSpan<'a>>, shape: [usize; 4]) -> Result<Self, Error> {
        let (o, lse, [states, tokens, heads, head_dim]) = (o.into(), lse.into(), shape);
        let head_dim = HeadDim::try_from(head_dim)?;
        if states == 0 || states > MAX_SPLITS as usize {
            return Err(Error::Value { field: "states", value: states.to_string(), allowed: "1 to 512" });
        }
        let rows = states.checked_mul(tokens).and_then(|rows| rows.checked_mul(heads)?.checked_mul(4));
        let lse_bytes = rows.ok_or(Error::TooLarge { field: "states' lse" })?;
        let o_bytes = lse_bytes.checked_mul(head_dim.get()).filter(|&bytes| bytes <= i64::MAX as usize);
        let o_bytes = o_bytes.ok_or(Error::TooLarge { field: "states" })?;
        o.check("states", COPY_BYTES, o_bytes)?;
        lse.check("states' lse", 4, lse_bytes)?;
        let (tokens, heads) = (u32_field("states tokens", tokens)?, u32_field("states q_heads", heads)?);
        check_rows(tokens, heads, head_dim)?;
        Ok(Self {
            o: Region { field: "states", address: o.address(), bytes: o_bytes },
            lse: Region { field: "states' lse", address: lse.address(), bytes: lse_bytes },
            states: states as u32,
            tokens,
            heads,
            head_dim,
            owner: PhantomData,
        })
    }

    /// What their merge is launched with.
    pub(crate) fn params(
        &self,
        output: &AnyOutput<'_>,
        lse: Option<&Lse<'_>>,
        sinks: Option<Sinks<'_>>,
    ) -> CombineParams {
        let (rows, head_dim) = (self.tokens * self.heads, self.head_dim.get() as u32);
        CombineParams {
            out: output.to_abi(),
            lse: Global::new(lse.map_or(0, |lse| lse.address)),
            sinks: sinks.map_or(Global::NULL, |sinks| sinks.words.at()),
            merges: Global::NULL,
            counts: Global::NULL,
            partial_o: Global::new(self.o.address),
            partial_lse: Global::new(self.lse.address),
            q_heads: self.heads,
            group: self.heads,
            group_reciprocal: group_reciprocal(self.heads.max(1)),
            slot_rows: rows,
            head_dim,
            rows,
            partials: self.states,
            share_lanes: share_lanes(self.states),
            tasks: rows * (head_dim / COMBINE_COLUMNS),
            lse_factor: core::f32::consts::LOG2_E,
        }
    }
}

/// Refuses rows that a merge does not count in 32 bits.
pub(crate) fn check_rows(tokens: u32, heads: u32, head_dim: HeadDim) -> Result<(), Error> {
    let rows = u64::from(tokens) * u64::from(heads);
    // The token of a row is a product with the reciprocal of the heads, exact up to here.
    let product = rows.saturating_mul(heads.into());
    if product >= 1 << 31 {
        let (field, allowed) = ("states' tokens * q_heads * q_heads", "below 2^31");
        return Err(Error::Value { field, value: product.to_string(), allowed });
    }
    let elements = rows * head_dim.get() as u64;
    if elements > MAX_BLOCKS * u64::from(COMBINE_COLUMNS) {
        let (field, allowed) = ("states' tokens * q_heads * head_dim", "below 2^37");
        return Err(Error::Value { field, value: elements.to_string(), allowed });
    }
    Ok(())
}

/// A merge of states, ready to be launched any number of times.
///
/// With outputs `o_i` and log-sum-exps `e_i` of the states the result is `sum(exp(e_i) o_i) / (sum(exp(e_i)) + exp(sink))`, and
/// its log-sum-exp `ln(sum(exp(e_i)))`. Sinks belong here alone: states are made without them, so each counts once.
#[derive(Debug)]
pub struct MergeStates<'a> {
    states: States<'a>,
    output: AnyOutput<'a>,
    lse: Option<Lse<'a>>,
    sinks: Option<Sinks<'a>>,
}

impl<'a> MergeStates<'a> {
    /// The merge of `states` into `output`.
    ///
    /// # Errors
    /// Tokens, heads or head dimensions that differ; an output in the states' memory.
    pub fn new(states: States<'a>, output: impl Into<AnyOutput<'a>>) -> Result<Self, Error> {
        let output = output.into();
        same("output tokens", output.rows.tokens, "states tokens", states.tokens)?;
        same("output heads", output.rows.heads, "states q_heads", states.heads)?;
        let dim = |head_dim: HeadDim| head_dim.get() as u32;
        same("output head_dim", dim(output.rows.head_dim), "states head_dim", dim(states.head_dim))?;
        Self { states, output, lse: None, sinks: None }.checked()
    }

    /// Writes the log-sum-exp of all keys too.
    ///
    /// # Errors
    /// A shape other than the states' tokens and heads; memory of the states or the output.
    pub fn lse(mut self, lse: Lse<'a>) -> Result<Self, Error> {
        same("lse tokens", lse.tokens, "states tokens", self.states.tokens)?;
        same("lse q_heads", lse.heads, "states q_heads", self.states.heads)?;
        self.lse = Some(lse);
        self.checked()
    }

    /// Adds a sink to each head's denominator.
    ///
    /// # Errors
    /// Another number of heads than the states'; memory of the output or the log-sum-exp.
    pub fn sinks(mut self, sinks: Sinks<'a>) -> Result<Self, Error> {
        same("sinks q_heads", sinks.heads, "states q_heads", self.states.heads)?;
        self.sinks = Some(sinks);
        self.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        let nothing = |field| Region { field, address: 0, bytes: 0 };
        let lse = self.lse.as_ref().map_or(nothing("lse"), Lse::region);
        let sinks = self.sinks.map_or(nothing("sinks"), |sinks| sinks.words.region());
        let read = [self.states.o, self.states.lse, self.output.scale_region(), sinks];
        overlap::check([self.output.region(), lse], read).map(|()| self)
    }

    /// Loads the kernel ahead: what a first launch does otherwise, and a launch in a capture may not.
    ///
    /// # Errors
    /// The driver's.
    pub fn load(&self, device: &Device) -> Result<(), Error> {
        device.load(select::combine()?).map(|_| ())
    }

    /// Launches it. Returns before it has run, allocates nothing and waits for nothing; on a stream in capture it becomes
    /// part of the graph (after [`load`](Self::load) or a launch outside).
    ///
    /// # Errors
    /// The driver's; on the simulator the first fault that the kernel committed.
    pub fn launch(&self, stream: &Stream) -> Result<(), Error> {
        let combine = self.states.params(&self.output, self.lse.as_ref(), self.sinks);
        if combine.tasks == 0 {
            return Ok(());
        }
        let (kernel, blocks, params) = (select::combine()?, merge_blocks(&combine), Params::Combine(combine));
        let launch = Launch { kernel, blocks, cluster: 1, params: &params, early: false };
        // SAFETY: the views were checked against their buffers and one another, and are borrowed; that they stay until the
        // work is done, on this stream's device, is the promise of whoever made their spans.
        unsafe { stream.device().launch(stream, &launch) }
    }
}
