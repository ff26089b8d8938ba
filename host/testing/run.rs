//! A case on a device: its bytes uploaded once, then decoded with any splits.
//!
//! Outputs are filled with NaN before each run and lie among bytes that nobody may write, so that a row left out and a
//! row too many both show.
use super::case::{Arrangement, Case};
use super::merge::filled;
use super::paged::{Paged, Side};
use super::stored::{CaseCache, Fp8Kind, NvFp4Kind};
use super::told::Told;
use super::variant::CaseQuery;
use crate::{
    Bf16, BlockScales, BlockTable, Buffer, CacheFor, CacheLayout, CacheShape, DType, Decode, Device, DeviceSpan, Error,
    F16, Format, Fp8E4M3, Fp8E5M2, Fp8Scales, Geometry, GlobalScale, HeadDim, Interleaved, KernelChoice, KernelId,
    KvCache, Linear, Lse, Need, NvFp4, NvFp4Scales, PackedLayout, Plan, PlanOptions, PrefixPlan, Query, QueryFormat,
    RawCache, ScaleOrder, SeqLens, Splits, Stream, TensorScale, TokenScales, Unsupported, Workspace,
};
use std::time::{Duration, Instant};

/// What a device answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `[tokens, q_heads, D]`; of an e4m3 output, codes times its scale.
    pub out: Vec<f32>,
    /// `[tokens, q_heads]`.
    pub lse: Vec<f32>,
    /// Whether bytes outside the output were written.
    pub strayed: bool,
    /// The decode kernel.
    pub kernel: KernelId,
    /// The most shares that a sequence and KV head was cut into.
    pub splits: usize,
    /// Blocks that began together, each with an item of its own.
    pub neighbours: u32,
    /// From launch to the stream's end, uploads aside.
    pub elapsed: Duration,
}

/// How a case is run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// How the plan splits.
    pub splits: Splits,
    /// Lengths to plan for instead of the case's own, a sequence each. Shorter ones clamp what the kernel sees.
    pub planned: Option<Vec<u32>>,
    /// Whether page ids are checked before the launch.
    pub checked: bool,
    /// Whether the plan is made as if query tokens were where they are without positions and spans: right, only not balanced.
    pub aligned: bool,
    /// Tokens that all sequences share page for page, read once.
    pub shared_prefix: Option<u32>,
    /// Which kernels may answer.
    pub kernel: KernelChoice,
    /// Blocks of a cluster.
    pub cluster: Option<u32>,
}

impl From<Splits> for RunOptions {
    fn from(splits: Splits) -> Self {
        Self { splits, ..Self::default() }
    }
}

/// The factors of K and V as the cache is told them: where they divide, their reciprocals.
fn told(case: &Case) -> [f32; 2] {
    let divides = matches!(case.cache, CaseCache::NvFp4(kind) if kind.divides);
    case.factors.map(|factor| if divides { 1.0 / factor } else { factor })
}

/// What is done with a case's cache once its format is a type.
pub(super) trait Work {
    /// What comes of it.
    type Done;

    /// Does it.
    fn run<Q: Format, K: CacheFor<Q>>(&self, on: &DeviceCase<'_>, cache: KvCache<'_, K>) -> Result<Self::Done, Error>;
}

impl Work for RunOptions {
    type Done = Answer;

    fn run<Q: Format, K: CacheFor<Q>>(&self, on: &DeviceCase<'_>, cache: KvCache<'_, K>) -> Result<Answer, Error> {
        on.decode::<Q, K>(Query::new(&on.query, on.query_shape())?, cache, self)
    }
}

/// A case's inputs in a device's memory.
pub struct DeviceCase<'c> {
    pub(super) device: &'c Device,
    pub(super) case: &'c Case,
    geometry: Geometry,
    pub(super) cache: Vec<Buffer>,
    shape: CacheShape,
    arrangement: Arrangement,
    /// Bytes of each buffer of the cache; a buffer of a device has at least 16.
    sizes: Vec<usize>,
    sides: [Side; 2],
    scale_sides: [Option<Side>; 2],
    /// The factors of K and V, f32, for scales that the device reads.
    factors: Buffer,
    query: Buffer,
    block_table: Buffer,
    table_width: usize,
    seq_lens: Buffer,
    told: Told<'c>,
}

impl<'c> DeviceCase<'c> {
    /// Uploads `case` as laid out in `paged`.
    ///
    /// # Errors
    /// A shape that no kernel takes, or the device's own error.
    pub fn new(device: &'c Device, case: &'c Case, paged: &Paged) -> Result<Self, Error> {
        let heads = [case.q_heads, case.kv_heads];
        let geometry =
            Geometry::new(case.head_dim, heads, paged.page_size, case.query_dtype(), case.cache.dtype(case.format))?;
        let upload = |bytes: &[u8]| {
            let buffer = device.alloc(bytes.len().max(16))?;
            buffer.write(bytes)?;
            Ok::<_, Error>(buffer)
        };
        let lengths = case.lengths().iter().flat_map(|length| length.to_le_bytes()).collect::<Vec<_>>();
        let table = paged.block_table.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>();
        Ok(Self {
            device,
            case,
            geometry,
            cache: paged.buffers.iter().map(|b| upload(b)).collect::<Result<_, _>>()?,
            shape: CacheShape {
                pages: paged.pages,
                page_size: paged.page_size,
                kv_heads: case.kv_heads,
                head_dim: HeadDim::try_from(case.head_dim)?,
            },
            arrangement: paged.arrangement,
            sizes: paged.buffers.iter().map(Vec::len).collect(),
            sides: [paged.k, paged.v],
            scale_sides: [paged.k_scales, paged.v_scales],
            factors: upload(&told(case).map(f32::to_le_bytes).concat())?,
            query: upload(&case.variants.query.encode(case.format, &case.q))?,
            block_table: upload(&table)?,
            table_width: paged.table_width,
            seq_lens: upload(&lengths)?,
            told: Told::new(device, case)?,
        })
    }

    /// Decodes the batch once.
    ///
    /// # Errors
    /// A plan that cannot be made, a page id out of range if they are checked, or the device's own error (on the
    /// simulator: what a kernel did wrong).
    pub fn run(&self, options: impl Into<RunOptions>) -> Result<Answer, Error> {
        let options = options.into();
        match self.case.variants.query {
            CaseQuery::Own => self.with_cache(&options),
            CaseQuery::Fp8E4M3 { scale } => self.narrow(scale, &options),
        }
    }

    /// With queries of FP8, whose scale is `scale`.
    fn narrow(&self, scale: f32, options: &RunOptions) -> Result<Answer, Error> {
        let CaseCache::Fp8E4M3(kind) = self.case.cache else {
            let (q, kv) = (self.case.query_dtype(), self.case.cache.dtype(self.case.format));
            return Err(Unsupported { needs: vec![Need::Formats { q, kv }] }.into());
        };
        let query = Query::quantised(&self.query, self.query_shape(), scale)?;
        self.decode::<Fp8E4M3, Fp8E4M3>(query, self.raw()?.typed(self.fp8(kind)?)?, options)
    }

    fn query_shape(&self) -> [usize; 3] {
        [self.case.tokens(), self.case.q_heads, self.case.head_dim]
    }

    /// Does `work` with the cache as its format has it.
    pub(super) fn with_cache<W: Work>(&self, work: &W) -> Result<W::Done, Error> {
        match self.case.format {
            DType::Bf16 => self.with_cache_for::<Bf16, W>(work),
            DType::F16 => self.with_cache_for::<F16, W>(work),
        }
    }

    fn with_cache_for<Q: Format, W: Work>(&self, work: &W) -> Result<W::Done, Error> {
        match self.case.cache {
            CaseCache::Own => work.run::<Q, Q>(self, self.own()?),
            CaseCache::Fp8E4M3(kind) => work.run::<Q, Fp8E4M3>(self, self.raw()?.typed(self.fp8(kind)?)?),
            CaseCache::Fp8E5M2(kind) => work.run::<Q, Fp8E5M2>(self, self.raw()?.typed(self.fp8(kind)?)?),
            CaseCache::NvFp4(kind) if kind.interleaved => {
                let v = |span, side: &Side| match self.arrangement {
                    Arrangement::Padded => BlockScales::with_strides(span, side.strides),
                    _ => BlockScales::hnd(span),
                };
                let scales = self.nvfp4::<Interleaved>(kind, v)?;
                work.run::<Q, NvFp4<Interleaved>>(self, self.raw()?.typed(scales)?)
            }
            CaseCache::NvFp4(kind) => {
                let scales = self.nvfp4::<Linear>(kind, |span, side| self.blocks(span, side))?;
                work.run::<Q, NvFp4>(self, self.raw()?.typed(scales)?)
            }
        }
    }

    fn decode<T: QueryFormat, K: CacheFor<T>>(
        &self,
        query: Query<'_, T>,
        cache: KvCache<'_, K>,
        options: &RunOptions,
    ) -> Result<Answer, Error> {
        let q_heads = self.case.q_heads;
        let (batch, tokens) = (self.case.sequences.len(), self.case.tokens());
        let (out, lse) = (filled(self.device, self.told.output_bytes())?, filled(self.device, 4 * tokens * q_heads)?);
        let decode = Decode::with_query_lens(
            query,
            self.told.query_lens(),
            cache,
            BlockTable::new(&self.block_table, batch, self.table_width)?,
            SeqLens::new(&self.seq_lens, batch)?,
            self.told.output(&out)?,
        )?;
        let decode = self.told.ask(decode)?.lse(Lse::new(&lse, tokens, q_heads)?)?;
        let Launched { kernel, splits, neighbours, elapsed } = self.launch(&decode, options)?;
        let (out, strayed) = self.told.read(&out.read()?);
        let lse = lse.read()?;
        // No buffer is below 16 bytes: a small batch's has some behind its last row.
        let (lse, behind) = lse.split_at(4 * tokens * q_heads);
        let strayed = strayed || behind.iter().any(|&byte| byte != 0xFF);
        Ok(Answer { out, lse: floats(lse), strayed, kernel, splits, neighbours, elapsed })
    }

    fn launch<T: QueryFormat, K: CacheFor<T>>(
        &self,
        decode: &Decode<'_, T, K>,
        options: &RunOptions,
    ) -> Result<Launched, Error> {
        let lengths = options.planned.clone().unwrap_or_else(|| self.case.lengths());
        let RunOptions { splits, kernel, cluster, .. } = *options;
        let plan_options = PlanOptions { splits, kernel, cluster, ..PlanOptions::default() };
        let (batch, properties) = (self.told.batch(&lengths, options.aligned), self.device.properties());
        let stream = self.device.default_stream();
        if let Some(prefix) = options.shared_prefix {
            let plan = PrefixPlan::new(&self.geometry, prefix, batch, properties, &plan_options)?;
            let scratch = self.device.alloc(plan.workspace_bytes().max(16))?;
            let mut workspace = Workspace::new(DeviceSpan::from(&scratch));
            let planned = plan.upload(&stream, &mut workspace)?;
            let mut prepared = planned.prepare(decode)?;
            let elapsed = timed(&stream, || {
                if options.checked { prepared.launch_checked(&stream) } else { prepared.launch(&stream) }
            })?;
            return Ok(self.launched(plan.suffix(), elapsed));
        }
        let plan = Plan::new(&self.geometry, batch, properties, &plan_options)?;
        let scratch = self.device.alloc(plan.workspace_bytes().max(16))?;
        let mut workspace = Workspace::new(DeviceSpan::from(&scratch));
        let planned = plan.upload(&stream, &mut workspace)?;
        let mut prepared = planned.prepare(decode)?;
        let elapsed =
            timed(
                &stream,
                || {
                    if options.checked { prepared.launch_checked(&stream) } else { prepared.launch(&stream) }
                },
            )?;
        Ok(self.launched(&plan, elapsed))
    }

    fn launched(&self, plan: &Plan, elapsed: Duration) -> Launched {
        Launched { kernel: plan.kernel(), splits: self.splits(plan), neighbours: plan.neighbours(), elapsed }
    }

    /// The most shares of a sequence and KV head.
    fn splits(&self, plan: &Plan) -> usize {
        let sequences = 0..self.case.sequences.len();
        let pairs = sequences.flat_map(|sequence| (0..self.case.kv_heads).map(move |head| (sequence, head)));
        pairs.map(|(sequence, head)| plan.splits_of(sequence, head)).max().unwrap_or(0)
    }

    fn own<T: Format>(&self) -> Result<KvCache<'_, T>, Error> {
        match self.layout() {
            Ok(layout) => KvCache::new(self.span(0)?, self.span(1)?, self.shape, layout),
            Err(layout) => KvCache::packed(self.span(0)?, self.shape, layout),
        }
    }

    fn raw(&self) -> Result<RawCache<'_>, Error> {
        Ok(match self.layout() {
            Ok(layout) => RawCache::new(self.span(0)?, self.span(1)?, self.shape, layout),
            Err(layout) => RawCache::packed(self.span(0)?, self.shape, layout),
        })
    }

    /// The layout of two buffers, or of one.
    fn layout(&self) -> Result<CacheLayout, PackedLayout> {
        let bits = self.case.cache.dtype(self.case.format).bits();
        let elements = |side: Side| side.strides.map(|bytes| 8 * bytes / bits);
        match self.arrangement {
            Arrangement::Nhd => Ok(CacheLayout::Nhd),
            Arrangement::Hnd => Ok(CacheLayout::Hnd),
            Arrangement::Padded => {
                let [k, v] = self.sides.map(elements);
                Ok(CacheLayout::Strides { k, v })
            }
            Arrangement::PairNhd => Err(PackedLayout::PairNhd),
            Arrangement::PairHnd => Err(PackedLayout::PairHnd),
            Arrangement::ContentNhd => Err(PackedLayout::ContentNhd),
            Arrangement::ContentHnd => Err(PackedLayout::ContentHnd),
        }
    }

    /// Exactly the bytes of a buffer of the cache.
    fn span(&self, buffer: usize) -> Result<DeviceSpan<'_>, Error> {
        DeviceSpan::from(&self.cache[buffer]).slice(0, self.sizes[buffer])
    }

    /// A factor in device memory.
    fn factor(&self, side: usize) -> Result<DeviceSpan<'_>, Error> {
        DeviceSpan::from(&self.factors).slice(4 * side, 4)
    }

    fn fp8(&self, kind: Fp8Kind) -> Result<Fp8Scales<'_>, Error> {
        let [k, v] = self.case.factors;
        Ok(match kind {
            Fp8Kind::Tensor => Fp8Scales::per_tensor(TensorScale::value(k)?, TensorScale::value(v)?),
            Fp8Kind::OnDevice => Fp8Scales::per_tensor(
                TensorScale::on_device(self.factor(0)?)?,
                TensorScale::on_device(self.factor(1)?)?,
            ),
            Fp8Kind::TokenHead => {
                let of = |side: &Side| {
                    let span = self.span(side.buffer)?;
                    Ok::<_, Error>(match self.arrangement {
                        Arrangement::Padded => TokenScales::with_strides(span, side.strides.map(|bytes| bytes / 4)),
                        _ => TokenScales::new(span),
                    })
                };
                let [k, v] = self.scale_sides;
                let (Some(k), Some(v)) = (k, v) else {
                    let format = self.case.cache.dtype(self.case.format);
                    return Err(Error::Scales { format, given: "no scales", needed: "some a token and head" });
                };
                Fp8Scales::per_token_head(of(&k)?, of(&v)?)
            }
        })
    }

    /// Scales of NVFP4; V's blocks in a buffer of their own by `v`.
    fn nvfp4<'s, O: ScaleOrder>(
        &'s self,
        kind: NvFp4Kind,
        v: impl Fn(DeviceSpan<'s>, &Side) -> BlockScales<'s, O>,
    ) -> Result<NvFp4Scales<'s, O>, Error> {
        let global = |side: usize| match (kind.divides, kind.on_device) {
            (false, false) => GlobalScale::multiplies(told(self.case)[side]),
            (false, true) => GlobalScale::multiplies_on_device(self.factor(side)?),
            (true, false) => GlobalScale::divides(told(self.case)[side]),
            (true, true) => GlobalScale::divides_on_device(self.factor(side)?),
        };
        let (k_global, v_global) = (global(0)?, global(1)?);
        match self.scale_sides {
            [Some(k), Some(of_v)] if !kind.in_pages => {
                let k = self.blocks(self.span(k.buffer)?, &k);
                Ok(NvFp4Scales::new(k, v(self.span(of_v.buffer)?, &of_v), k_global, v_global))
            }
            _ => Ok(NvFp4Scales::in_pages(k_global, v_global)),
        }
    }

    /// Linear block scales in a buffer of their own.
    fn blocks<'s>(&self, span: DeviceSpan<'s>, side: &Side) -> BlockScales<'s, Linear> {
        match self.arrangement {
            Arrangement::Padded => BlockScales::with_strides(span, side.strides),
            Arrangement::Nhd | Arrangement::PairNhd | Arrangement::ContentNhd => BlockScales::nhd(span),
            Arrangement::Hnd | Arrangement::PairHnd | Arrangement::ContentHnd => BlockScales::hnd(span),
        }
    }
}

/// How a launch went.
struct Launched {
    kernel: KernelId,
    splits: usize,
    neighbours: u32,
    elapsed: Duration,
}

/// How long the device takes for `launch`, uploads before it aside.
fn timed(stream: &Stream, launch: impl FnOnce() -> Result<(), Error>) -> Result<Duration, Error> {
    stream.synchronize()?;
    let begin = Instant::now();
    launch()?;
    stream.synchronize()?;
    Ok(begin.elapsed())
}

/// The f32 numbers in `bytes`.
pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
