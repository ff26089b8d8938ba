//! One request with its buffers within reach: for tests that launch it in ways of their own.
use super::common::judge::Exact;
use qkv::testing::case::{Arrangement, Case, CaseShape};
use qkv::testing::format;
use qkv::testing::paged::Paged;
use qkv::testing::run::Answer;
use qkv::testing::stored::CaseCache;
use qkv::testing::variant::VariantShape;
use qkv::{
    Bf16, BlockTable, Buffer, CacheLayout, CacheShape, DType, Decode, Device, Error, HeadDim, KernelId, KvCache, Lse,
    Output, Plan, PlanOptions, Query, SeqLens,
};
use std::time::Duration;

const HEAD_DIM: usize = 128;
const PAGE_SIZE: usize = 16;

/// A batch at D = 128 in bf16, 2 KV heads of 4 query heads, pages of 16.
pub struct Request {
    device: Device,
    case: Case,
    pages: usize,
    table_width: usize,
    cache: Vec<Buffer>,
    query: Buffer,
    block_table: Buffer,
    seq_lens: Buffer,
    out: Buffer,
    lse: Buffer,
}

impl Request {
    /// Sequences of `lengths` tokens.
    pub fn new(device: &Device, lengths: &[usize]) -> Result<Self, Error> {
        let shape = CaseShape {
            format: DType::Bf16,
            cache: CaseCache::Own,
            head_dim: HEAD_DIM,
            kv_heads: 2,
            group: 4,
            page_size: PAGE_SIZE,
            arrangement: Arrangement::Nhd,
            lengths: lengths.to_vec(),
            variant: VariantShape::default(),
            sharpness: 1.0,
            seed: lengths.iter().sum::<usize>() as u64,
        };
        let case = shape.build();
        let paged = Paged::new(&case, PAGE_SIZE, Arrangement::Nhd, shape.seed);
        let upload = |bytes: &[u8]| {
            let buffer = device.alloc(bytes.len())?;
            buffer.write(bytes)?;
            Ok::<_, Error>(buffer)
        };
        let rows = lengths.len() * case.q_heads;
        Ok(Self {
            pages: paged.pages,
            table_width: paged.table_width,
            cache: paged.buffers.iter().map(|bytes| upload(bytes)).collect::<Result<_, _>>()?,
            query: upload(&format::encode_bytes(case.format, &case.q))?,
            block_table: upload(&paged.block_table.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>())?,
            seq_lens: upload(&case.lengths().iter().flat_map(|length| length.to_le_bytes()).collect::<Vec<_>>())?,
            out: upload(&vec![0xFF; 2 * rows * HEAD_DIM])?,
            lse: upload(&vec![0xFF; 4 * rows])?,
            device: device.clone(),
            case,
        })
    }

    /// The request.
    pub fn decode(&self) -> Result<Decode<'_, Bf16, Bf16>, Error> {
        let (batch, heads) = (self.case.sequences.len(), self.case.q_heads);
        let (pages, page_size, kv_heads, head_dim) = (self.pages, PAGE_SIZE, self.case.kv_heads, HeadDim::D128);
        let shape = CacheShape { pages, page_size, kv_heads, head_dim };
        Decode::new(
            Query::new(&self.query, [batch, heads, HEAD_DIM])?,
            KvCache::new(&self.cache[0], &self.cache[1], shape, CacheLayout::Nhd)?,
            BlockTable::new(&self.block_table, batch, self.table_width)?,
            SeqLens::new(&self.seq_lens, batch)?,
            Output::new(&self.out, [batch, heads, HEAD_DIM])?,
        )?
        .scale(self.case.scale)?
        .lse(Lse::new(&self.lse, batch, heads)?)
    }

    /// A plan of it for `lengths`.
    pub fn plan(&self, lengths: &[u32], options: &PlanOptions) -> Result<Plan, Error> {
        Plan::new(self.decode()?.geometry(), lengths, self.device.properties(), options)
    }

    /// Its own lengths.
    pub fn lengths(&self) -> Vec<u32> {
        self.case.lengths()
    }

    /// Writes other lengths for the kernel to see, and NaN over the last answer.
    pub fn reset(&self, lengths: &[i32]) -> Result<(), Error> {
        self.seq_lens.write(&lengths.iter().flat_map(|length| length.to_le_bytes()).collect::<Vec<_>>())?;
        self.out.write(&vec![0xFF; self.out.bytes()])?;
        self.lse.write(&vec![0xFF; self.lse.bytes()])
    }

    /// Writes a page id.
    pub fn set_page(&self, sequence: usize, page: usize, id: i32) -> Result<(), Error> {
        let mut bytes = self.block_table.read()?;
        bytes[4 * (sequence * self.table_width + page)..][..4].copy_from_slice(&id.to_le_bytes());
        self.block_table.write(&bytes)
    }

    /// Pages of the cache.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of the output.
    pub fn output(&self) -> Result<Vec<u8>, Error> {
        self.out.read()
    }

    /// What is wrong with the answer that lies in the buffers, where sequences are to have had `lengths` tokens.
    pub fn judge(&self, lengths: &[usize], kernel: KernelId) -> Result<(), String> {
        let mut case = self.case.clone();
        case.sequences.iter_mut().zip(lengths).for_each(|(sequence, length)| sequence.length = *length);
        let read = |buffer: &Buffer| buffer.read().map_err(|error| error.to_string());
        let lse = read(&self.lse)?.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let out = format::decode_bytes(case.format, &read(&self.out)?);
        let answer = Answer { out, lse, strayed: false, kernel, splits: 0, neighbours: 1, elapsed: Duration::ZERO };
        Exact::new(&case).judge(&answer).map(|_| ()).map_err(|what| format!("lengths {lengths:?}: {what}"))
    }
}
