//! A decode problem on the simulator without the host library: buffers, a plan made by hand, launches, and the answer.
#![allow(dead_code)] // Each suite uses a part of this.
use cache::Scaling;
use cuda_std::sim::{self, Delivery, Memory, Options};
use half::{bf16, f16};
use kernels_gpu::abi::{
    CombineParams, DecodeParams, MergeItem, NO_WINDOW, Output, OutputKind, Rows, WorkItem, group_reciprocal,
};
use kernels_gpu::config::{COMBINE_COLUMNS, Shape};
use kernels_gpu::element::ElementKind;
use kernels_gpu::kernels::{ENTRIES, EntryInfo, Params, Role, run};
use kernels_gpu::memory::Global;
use launches::{grid, launch, upload};
use oracle::{Row, Weights, attend};

pub mod cache;
pub mod launches;
pub mod oracle;
pub mod prompts;

/// A page id that no cache has: what a table holds past a sequence's end.
const NO_PAGE: i32 = 2_147_480_000;

pub struct Problem {
    pub entry: &'static EntryInfo,
    pub shape: Shape,
    pub group: u32,
    pub kv_heads: u32,
    pub page_size: u32,
    pub planned: Vec<u32>,
    pub lengths: Vec<u32>,
    /// Shares that each sequence and head is split into.
    pub splits: u32,
    /// Blocks of a cluster, which have a share together.
    pub cluster: u32,
    /// Blocks besides those that have work, whole clusters, as a captured launch has them; `None`: as many as there is work for.
    pub idle_blocks: Option<u32>,
    /// What the kernel is told that the table has pages for; `None`: the truth.
    pub table_tokens: Option<u32>,
    /// Shares that a task of the merge reads at a time.
    pub share_lanes: u32,
    pub delivery: Delivery,
    pub seed: u64,
    /// What the scales of a narrow cache are.
    pub scaling: Scaling,
    /// What q is multiplied by, and the softmax scale divided by.
    pub query_power: f32,
    /// Bits of `MaskFlags` besides.
    pub mask_flags: u32,
    /// What runs in the place of the entry's own body.
    pub body: Option<unsafe fn(&DecodeParams)>,
}

pub struct Answer {
    /// `[batch, q_heads, D]`.
    pub o: Vec<f32>,
    /// `[batch, q_heads]`, natural logarithm.
    pub lse: Vec<f32>,
}

/// A group of the row class in an entry's name, that does not fill its rows.
pub fn group_of(name: &str) -> u32 {
    match name.rsplit('_').next() {
        Some("eight") => 7,
        Some("few") => 13,
        _ => 35,
    }
}

/// The entry of that name.
pub fn entry(name: &str) -> &'static EntryInfo {
    ENTRIES.iter().find(|e| e.name == name).unwrap_or_else(|| panic!("no entry {name}"))
}

impl Problem {
    /// A problem for a decode entry: two sequences, two KV heads, pages of 16.
    pub fn new(name: &str, group: u32, lengths: &[u32]) -> Self {
        let entry = entry(name);
        let Role::Decode { shape, .. } = entry.role else { panic!("{name} does not decode") };
        Self {
            entry,
            shape,
            group,
            kv_heads: 2,
            page_size: 16,
            planned: lengths.to_vec(),
            lengths: lengths.to_vec(),
            splits: 1,
            cluster: 1,
            idle_blocks: None,
            table_tokens: None,
            share_lanes: 8,
            delivery: Delivery::Latest,
            seed: 1,
            scaling: Scaling::Host,
            query_power: 1.0,
            mask_flags: 0,
            body: None,
        }
    }

    fn q_heads(&self) -> u32 {
        self.group * self.kv_heads
    }

    fn pages_of(&self, sequence: usize) -> u32 {
        self.planned[sequence].div_ceil(self.page_size)
    }

    /// Page of a sequence's page `index`: neighbours are far apart, as in a cache that has been in use.
    fn page(&self, sequence: usize, index: u32) -> u32 {
        let before: u32 = (0..sequence).map(|s| self.pages_of(s)).sum();
        let pages: u32 = (0..self.planned.len()).map(|s| self.pages_of(s)).sum();
        pages - 1 - (before + index)
    }

    fn hash(&self, what: u64, a: u32, b: u32, c: u32) -> u32 {
        let mut x = self.seed ^ (what << 60) ^ (u64::from(a) << 40) ^ (u64::from(b) << 20) ^ u64::from(c);
        for _ in 0..3 {
            x = (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x ^= x >> 32;
        }
        x as u32
    }

    fn value(&self, what: u64, a: u32, b: u32, c: u32) -> f32 {
        (self.hash(what, a, b, c) as f32 / u32::MAX as f32 - 0.5) * 3.0
    }

    /// An element of q: some rows are far from 1, as far as the format goes.
    fn query(&self, sequence: u32, head: u32, column: u32) -> f32 {
        let value = self.value(0, sequence, head, column) * self.query_power;
        if self.wide_query() { bf16::from_f32(value).to_f32() } else { f16::from_f32(value).to_f32() }
    }

    fn wide_query(&self) -> bool {
        matches!(self.entry.role, Role::Decode { q: ElementKind::Bf16, .. })
    }

    fn decode(&self, bytes: [u8; 2]) -> f32 {
        if self.wide_query() { bf16::from_le_bytes(bytes).to_f32() } else { f16::from_le_bytes(bytes).to_f32() }
    }

    fn encode(&self, value: f32) -> [u8; 2] {
        if self.wide_query() { bf16::from_f32(value).to_le_bytes() } else { f16::from_f32(value).to_le_bytes() }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt() / self.query_power
    }

    /// The answer by plain loops in f64, a row for each sequence and query head.
    fn expected(&self) -> Vec<Row> {
        let d = self.shape.head_dim;
        let row = |what, a, b| -> Vec<f32> { (0..d).map(|c| self.cached(what, a, b, c)).collect() };
        let mut rows = Vec::new();
        for sequence in 0..self.lengths.len() as u32 {
            let length = self.lengths[sequence as usize].min(self.planned[sequence as usize]);
            for kv_head in 0..self.kv_heads {
                let kv = kv_head + 1000 * sequence;
                let keys: Vec<_> = (0..length).map(|t| (row(1, kv, t), row(2, kv, t))).collect();
                let heads = kv_head * self.group..(kv_head + 1) * self.group;
                rows.extend(heads.map(|head| {
                    let q: Vec<f32> = (0..d).map(|c| self.query(sequence, head, c)).collect();
                    attend(&q, &keys, self.scale(), Weights::BF16)
                }));
            }
        }
        rows
    }

    fn items(&self) -> (Vec<WorkItem>, Vec<MergeItem>, u32) {
        let (rows, mut items, mut merges, mut slots) = (self.shape.rows(), Vec::new(), Vec::new(), 0);
        for (sequence, &planned) in self.planned.iter().enumerate() {
            let tiles = planned.div_ceil(self.shape.tile_keys).max(1);
            for kv_head in 0..self.kv_heads {
                for first_row in (0..self.group).step_by(rows as usize) {
                    let (sequence, first_partial) = (sequence as u32, slots);
                    for index in 0..self.splits * self.cluster {
                        slots += u32::from(self.splits > 1 && index % self.cluster == 0);
                        let partial = if self.splits == 1 { WorkItem::WHOLE } else { slots - 1 };
                        let part = |n: u32| tiles * n / (self.splits * self.cluster);
                        items.push(WorkItem {
                            sequence,
                            kv_head,
                            first_row,
                            first: part(index),
                            last: part(index + 1),
                            of: tiles,
                            length_bound: planned,
                            partial,
                            q_start: sequence,
                            q_len: 1,
                            reserved: [0; 2],
                        });
                    }
                    if self.splits > 1 {
                        merges.push(MergeItem {
                            q_start: sequence,
                            first_head: kv_head * self.group,
                            first_row,
                            rows: rows.min(self.group - first_row),
                            first_partial,
                            partials: self.splits,
                        });
                    }
                }
            }
        }
        (items, merges, slots)
    }

    /// Runs decode, and combine if there are splits.
    pub fn run(&self) -> Result<Answer, sim::Error> {
        let memory = Memory::new();
        let (d, batch, q_heads) = (self.shape.head_dim, self.lengths.len() as u32, self.q_heads());
        let q: Vec<u8> = (0..batch)
            .flat_map(|s| (0..q_heads).flat_map(move |h| (0..d).map(move |c| (s, h, c))))
            .flat_map(|(s, h, c)| self.encode(self.query(s, h, c)))
            .collect();
        let width = (0..batch as usize).map(|s| self.pages_of(s)).max().unwrap_or(0) + 1;
        let table: Vec<u8> = (0..batch as usize)
            .flat_map(|s| (0..width).map(move |i| (s, i)))
            .map(|(s, i)| {
                let used = i < self.lengths[s].min(self.planned[s]).div_ceil(self.page_size);
                if used { self.page(s, i) as i32 } else { NO_PAGE }
            })
            .flat_map(i32::to_le_bytes)
            .collect();
        let (items, merges, slots) = self.items();
        let rows = |base: u64| Rows {
            base: Global::new(base),
            token_stride: i64::from(2 * q_heads * d),
            head_stride: i64::from(2 * d),
        };
        let words = |words: Vec<u32>| upload(&memory, &words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>());
        let item_words = items.iter().flat_map(|i| {
            let share = [i.sequence, i.kv_head, i.first_row, i.first, i.last, i.of, i.length_bound, i.partial];
            share.into_iter().chain([i.q_start, i.q_len, 0, 0])
        });
        let out = memory.alloc((2 * batch * q_heads * d) as usize);
        let lse = memory.alloc((4 * batch * q_heads) as usize);
        let slot_rows = self.shape.rows();
        let counts = match self.idle_blocks {
            None => Global::NULL,
            Some(_) => Global::new(words(vec![items.len() as u32, merges.len() as u32])),
        };
        let idle = self.idle_blocks.unwrap_or(0);
        let idle_items = std::iter::repeat_n(u32::MAX, 12 * idle as usize);
        let (known, [k_scale, v_scale], flags) = self.factors(&memory);
        let params = DecodeParams {
            q: rows(upload(&memory, &q)),
            out: Output {
                rows: rows(out),
                kind: if self.wide_query() { OutputKind::Bf16 } else { OutputKind::F16 } as u32,
                scale: 1.0,
                scale_at: Global::NULL,
            },
            k: self.cache(&memory, 1),
            v: self.cache(&memory, 2),
            k_scales: self.scales(&memory, 1),
            v_scales: self.scales(&memory, 2),
            k_scale,
            v_scale,
            lse: Global::new(lse),
            block_table: Global::new(upload(&memory, &table)),
            block_table_stride: i64::from(width),
            seq_lens: Global::new(words(self.lengths.clone())),
            sinks: Global::NULL,
            slopes: Global::NULL,
            positions: Global::NULL,
            spans: Global::NULL,
            tree: Global::NULL,
            items: Global::new(words(item_words.chain(idle_items).collect())),
            counts,
            partial_o: Global::new(memory.alloc((4 * slots.max(1) * slot_rows * d) as usize)),
            partial_lse: Global::new(memory.alloc((4 * slots.max(1) * slot_rows) as usize)),
            scale_log2: self.scale() * std::f32::consts::LOG2_E * known[0],
            value_scale: known[1],
            group: self.group,
            q_heads,
            page_shift: self.page_size.ilog2(),
            table_tokens: self.table_tokens.unwrap_or(width * self.page_size),
            flags: flags | self.mask_flags,
            group_reciprocal: group_reciprocal(self.group),
            window: [NO_WINDOW, 0],
            softcap_log2: 0.0,
            tree_words: 0,
            keys_before: 0,
            softcap_inverse: 0.0,
        };
        let options = Options { delivery: self.delivery, seed: self.seed, max_operations: 1 << 26, workers: 1 };
        let shared_bytes = self.entry.shared_bytes_of(self.cluster);
        let grid =
            sim::Grid { cluster: self.cluster, shared_bytes, ..grid(self.entry, items.len() as u32 + idle, false) };
        // SAFETY: the addresses are of this memory, and the simulator checks each access.
        sim::launch(&memory, &grid, &options, &|| unsafe {
            match self.body {
                Some(body) => body(&params),
                None => run(self.entry.name, &Params::Decode(params)),
            }
        })?;
        if !merges.is_empty() {
            let merge_words =
                merges.iter().flat_map(|m| [m.q_start, m.first_head, m.first_row, m.rows, m.first_partial, m.partials]);
            let tasks = merges.len() as u32 * slot_rows.min(self.group) * (d / COMBINE_COLUMNS);
            let combine = CombineParams {
                out: params.out,
                lse: params.lse,
                sinks: Global::NULL,
                merges: Global::new(words(merge_words.collect())),
                counts,
                partial_o: params.partial_o,
                partial_lse: params.partial_lse,
                q_heads,
                group: self.group,
                group_reciprocal: group_reciprocal(self.group),
                slot_rows,
                head_dim: d,
                rows: slot_rows.min(self.group),
                partials: 0,
                share_lanes: self.share_lanes,
                tasks,
                lse_factor: 1.0,
            };
            // With counts any grid will do: one that has each block merge several rows.
            let blocks = self.idle_blocks.map_or(tasks.div_ceil(8 / self.share_lanes), |_| 3);
            launch(&memory, entry("combine"), blocks, true, &options, &Params::Combine(combine))?;
        }
        let mut o = vec![0; (2 * batch * q_heads * d) as usize];
        memory.read(out, &mut o)?;
        let mut sums = vec![0; (4 * batch * q_heads) as usize];
        memory.read(lse, &mut sums)?;
        Ok(Answer {
            o: o.chunks_exact(2).map(|b| self.decode([b[0], b[1]])).collect(),
            lse: sums.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        })
    }

    /// Runs, and compares with the plain loops.
    pub fn check(&self) {
        self.judge(&self.run().unwrap_or_else(|e| panic!("{e}")));
    }

    /// Compares an answer with the plain loops.
    pub fn judge(&self, answer: &Answer) {
        let (expected, d) = (self.expected(), self.shape.head_dim as usize);
        assert_eq!((answer.o.len(), answer.lse.len()), (expected.len() * d, expected.len()));
        for (index, row) in expected.iter().enumerate() {
            let near =
                |got: f32, want: f64, bound: f64| f64::from(got) == want || (f64::from(got) - want).abs() <= bound;
            for (column, (&got, &want)) in answer.o[index * d..][..d].iter().zip(&row.o).enumerate() {
                assert!(near(got, want, row.o_bound), "o[{index}][{column}]: {got}, not {want} within {}", row.o_bound);
            }
            let (got, want) = (answer.lse[index], row.lse);
            assert!(near(got, want, row.lse_bound), "lse[{index}]: {got}, not {want} within {}", row.lse_bound);
        }
    }
}
