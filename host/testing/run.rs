//! A case on a device: its bytes uploaded once, then decoded with any splits.
//!
//! Outputs are filled with NaN before each run and lie among bytes that nobody may write, so that a row left out and a
//! row too many both show.
use super::case::{Arrangement, Case};
use super::format;
use super::paged::Paged;
use crate::{
    Bf16, BlockTable, Buffer, CacheLayout, CacheShape, DType, Decode, Device, DeviceSpan, Error, F16, Format, Geometry,
    HeadDim, KernelId, KvCache, Lse, Output, PackedLayout, Plan, PlanOptions, Query, SeqLens, Splits, Workspace,
};
use std::time::{Duration, Instant};

/// Unused elements behind a token's output.
const OUTPUT_PADDING: usize = 8;

/// What a device answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `[batch, q_heads, D]`.
    pub out: Vec<f32>,
    /// `[batch, q_heads]`.
    pub lse: Vec<f32>,
    /// Whether bytes outside the output were written.
    pub strayed: bool,
    /// The decode kernel.
    pub kernel: KernelId,
    /// The most shares that a sequence and KV head was cut into.
    pub splits: usize,
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
}

impl From<Splits> for RunOptions {
    fn from(splits: Splits) -> Self {
        Self { splits, ..Self::default() }
    }
}

/// A case's inputs in a device's memory.
pub struct DeviceCase<'c> {
    device: &'c Device,
    case: &'c Case,
    geometry: Geometry,
    cache: Vec<Buffer>,
    shape: CacheShape,
    arrangement: Arrangement,
    strides: [[usize; 3]; 2],
    query: Buffer,
    block_table: Buffer,
    table_width: usize,
    seq_lens: Buffer,
}

impl<'c> DeviceCase<'c> {
    /// Uploads `case` as laid out in `paged`.
    ///
    /// # Errors
    /// A shape that no kernel takes, or the device's own error.
    pub fn new(device: &'c Device, case: &'c Case, paged: &Paged) -> Result<Self, Error> {
        let heads = [case.q_heads, case.kv_heads];
        let geometry = Geometry::new(case.head_dim, heads, paged.page_size, case.format, case.format)?;
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
            strides: [paged.k.strides, paged.v.strides],
            query: upload(&format::encode_bytes(case.format, &case.q))?,
            block_table: upload(&table)?,
            table_width: paged.table_width,
            seq_lens: upload(&lengths)?,
        })
    }

    /// Decodes the batch once.
    ///
    /// # Errors
    /// A plan that cannot be made, a page id out of range if they are checked, or the device's own error (on the
    /// simulator: what a kernel did wrong).
    pub fn run(&self, options: impl Into<RunOptions>) -> Result<Answer, Error> {
        match self.case.format {
            DType::Bf16 => self.run_as::<Bf16>(&options.into()),
            DType::F16 => self.run_as::<F16>(&options.into()),
        }
    }

    fn run_as<T: Format>(&self, options: &RunOptions) -> Result<Answer, Error> {
        let Case { head_dim, q_heads, .. } = *self.case;
        let batch = self.case.sequences.len();
        let lengths = options.planned.clone().unwrap_or_else(|| self.case.lengths());
        let plan_options = PlanOptions { splits: options.splits, ..PlanOptions::default() };
        let plan = Plan::new(&self.geometry, &lengths, self.device.properties(), &plan_options)?;
        let row = q_heads * head_dim;
        let token = row + OUTPUT_PADDING;
        let out = self.filled(2 * batch * token)?;
        let lse = self.filled(4 * batch * q_heads)?;
        let scratch = self.device.alloc(plan.workspace_bytes().max(16))?;
        let stream = self.device.default_stream();

        let decode = Decode::new(
            Query::<T>::new(&self.query, [batch, q_heads, head_dim])?,
            self.cache::<T>()?,
            BlockTable::new(&self.block_table, batch, self.table_width)?,
            SeqLens::new(&self.seq_lens, batch)?,
            Output::<T>::with_strides(&out, [batch, q_heads, head_dim], [token, head_dim])?,
        )?
        .scale(self.case.scale)?
        .lse(Lse::new(&lse, batch, q_heads)?)?;
        let mut workspace = Workspace::new(DeviceSpan::from(&scratch));
        let planned = plan.upload(&stream, &mut workspace)?;
        let mut prepared = planned.prepare(&decode)?;
        stream.synchronize()?;
        let begin = Instant::now();
        if options.checked { prepared.launch_checked(&stream) } else { prepared.launch(&stream) }?;
        stream.synchronize()?;
        let elapsed = begin.elapsed();

        let (bytes, lse) = (out.read()?, lse.read()?);
        let tokens = bytes.chunks_exact(2 * token);
        // No buffer is below 16 bytes: a small batch's has some behind its last row.
        let (lse, behind) = lse.split_at(4 * batch * q_heads);
        let behind = tokens.clone().map(|token| &token[2 * row..]).chain([tokens.remainder(), behind]);
        let strayed = behind.flatten().any(|&byte| byte != 0xFF);
        let kv_heads = self.case.kv_heads;
        let pairs = (0..batch).flat_map(|sequence| (0..kv_heads).map(move |head| (sequence, head)));
        Ok(Answer {
            out: tokens.flat_map(|token| format::decode_bytes(self.case.format, &token[..2 * row])).collect(),
            lse: lse.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            strayed,
            kernel: plan.kernel(),
            splits: pairs.map(|(sequence, head)| plan.splits_of(sequence, head)).max().unwrap_or(0),
            elapsed,
        })
    }

    fn cache<T: Format>(&self) -> Result<KvCache<'_, T>, Error> {
        let two = |layout| KvCache::new(&self.cache[0], &self.cache[1], self.shape, layout);
        let one = |layout| KvCache::packed(&self.cache[0], self.shape, layout);
        match self.arrangement {
            Arrangement::Nhd => two(CacheLayout::Nhd),
            Arrangement::Hnd => two(CacheLayout::Hnd),
            Arrangement::PairNhd => one(PackedLayout::PairNhd),
            Arrangement::PairHnd => one(PackedLayout::PairHnd),
            Arrangement::ContentNhd => one(PackedLayout::ContentNhd),
            Arrangement::ContentHnd => one(PackedLayout::ContentHnd),
            Arrangement::Padded => two(CacheLayout::Strides { k: self.strides[0], v: self.strides[1] }),
        }
    }

    fn filled(&self, bytes: usize) -> Result<Buffer, Error> {
        let buffer = self.device.alloc(bytes.max(16))?;
        buffer.write(&vec![0xFF; buffer.bytes()])?;
        Ok(buffer)
    }
}
