//! A prefill problem on the simulator without the host library: ragged prompts, chunks and single tokens in one launch.
use super::oracle::{Weights, attend, number_of_e4m3};
use super::{entry, launch};
use cuda_std::sim::{self, Delivery, Memory, Options};
use half::{bf16, f16};
use kernels_gpu::abi::{
    CacheFlags, CacheSide, DecodeParams, MaskFlags, NO_WINDOW, Output, OutputKind, PrefillParams, Rows, WorkItem,
    group_reciprocal,
};
use kernels_gpu::element::QueryKind;
use kernels_gpu::kernels::{EntryInfo, Params, Role};
use kernels_gpu::layout::tensor_map::{TensorMap, TileSwizzle, TiledLayout};
use kernels_gpu::memory::Global;
use kernels_gpu::prefill::shape::{COLUMNS_BYTES, PrefillShape};

/// Sequences of `(keys, query tokens)`, each with its pages in falling order from the cache's last.
pub struct Prompts {
    pub entry: &'static EntryInfo,
    pub shape: PrefillShape,
    pub sequences: Vec<(u32, u32)>,
    pub group: u32,
    pub kv_heads: u32,
    pub page_size: u32,
    pub window: [u32; 2],
    pub blocks: u32,
    pub delivery: Delivery,
    /// Of the values.
    pub seed: u64,
    /// Of the order that threads run and copies arrive in.
    pub order: u64,
    /// Whether keys that no row sees are NaN, and every second page with none but those is none.
    pub poison: bool,
    /// What keys are multiplied by, a power of two: how far logits spread.
    pub sharpness: f32,
}

impl Prompts {
    pub fn new(name: &str, group: u32, sequences: &[(u32, u32)]) -> Self {
        let entry = entry(name);
        let Role::Prefill { shape, .. } = entry.role else { panic!("{name} is no prefill entry") };
        Self {
            entry,
            shape,
            sequences: sequences.to_vec(),
            group,
            kv_heads: 1,
            page_size: 16,
            window: [NO_WINDOW, 0],
            blocks: 2,
            delivery: Delivery::Latest,
            seed: 1,
            order: 1,
            poison: false,
            sharpness: 1.0,
        }
    }

    fn kind(&self) -> QueryKind {
        let Role::Prefill { q, .. } = self.entry.role else { panic!("{} is no prefill entry", self.entry.name) };
        q
    }

    /// Bytes of an element.
    fn bytes(&self) -> u32 {
        self.shape.element_bytes
    }

    /// What the stored elements of the queries (0), K (1) and V (2) are multiplied by: those of 8 bits.
    fn scale(&self, what: u64) -> f32 {
        if self.kind() == QueryKind::Fp8E4M3 { [6.0, 1.5 * self.sharpness, 2.0][what as usize] } else { 1.0 }
    }

    /// An element as stored, of which the first [`Prompts::bytes`] count, and as a number.
    fn element(&self, what: u64, a: u32, b: u32, c: u32) -> ([u8; 2], f32) {
        let mut x = self.seed ^ (what << 60) ^ (u64::from(a) << 40) ^ (u64::from(b) << 20) ^ u64::from(c);
        for _ in 0..3 {
            x = (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x ^= x >> 32;
        }
        let value = (x as u32 as f32 / u32::MAX as f32 - 0.5) * 3.0 * if what == 1 { self.sharpness } else { 1.0 };
        match self.kind() {
            QueryKind::Bf16 => {
                let value = bf16::from_f32(value);
                (value.to_le_bytes(), value.to_f32())
            }
            QueryKind::F16 => {
                let value = f16::from_f32(value);
                (value.to_le_bytes(), value.to_f32())
            }
            QueryKind::Fp8E4M3 => {
                // Any code but NaN's: magnitudes up to 1.75.
                let code = ((x >> 33) % 0x3F) as u8 | ((x >> 40) as u8 & 0x80);
                ([code, 0], number_of_e4m3(code) * self.scale(what))
            }
        }
    }

    fn pages_before(&self, sequence: usize) -> u32 {
        self.sequences[..sequence].iter().map(|(keys, _)| keys.div_ceil(self.page_size)).sum()
    }

    fn pages(&self) -> u32 {
        self.pages_before(self.sequences.len())
    }

    /// The first key of a sequence that its cache has to have.
    fn first_key(&self, sequence: usize) -> u32 {
        let (keys, queries) = self.sequences[sequence];
        if self.poison { keys.saturating_sub(queries).saturating_sub(self.window[0]) } else { 0 }
    }

    /// K (1) or V (2), `[pages, page_size, kv_heads, D]`; what no sequence has is NaN.
    fn cache(&self, what: u64) -> Vec<u8> {
        let row = (self.kv_heads * self.shape.head_dim) as usize;
        let width = self.bytes() as usize;
        let mut bytes = vec![0xFF; width * row * (self.pages() * self.page_size) as usize];
        for (sequence, &(keys, _)) in self.sequences.iter().enumerate() {
            for key in self.first_key(sequence)..keys {
                let page = self.pages() - 1 - self.pages_before(sequence) - key / self.page_size;
                let at = width * row * (page * self.page_size + key % self.page_size) as usize;
                for column in 0..row {
                    let stored = self.element(what, sequence as u32, key, column as u32).0;
                    bytes[at + width * column..][..width].copy_from_slice(&stored[..width]);
                }
            }
        }
        bytes
    }

    fn map(&self, cache: u64, box_sizes: [u32; 5]) -> TensorMap {
        let (d, heads, in_group) = (u64::from(self.shape.head_dim), u64::from(self.kv_heads), self.page_size.min(8));
        let row = d * u64::from(self.bytes());
        let token = row * heads;
        let layout = TiledLayout {
            rank: 5,
            element_bytes: self.bytes(),
            sizes: [
                self.columns().min(self.shape.head_dim).into(),
                in_group.into(),
                row.div_ceil(128),
                (self.page_size / in_group).into(),
                self.outside().into(),
            ],
            strides: [token, 128, u64::from(in_group) * token, row],
            box_sizes,
            swizzle: TileSwizzle::Bytes128,
        };
        layout.simulated(cache).unwrap_or_else(|error| panic!("{error}"))
    }

    fn query_map(&self, queries: u64, tokens: u32) -> TensorMap {
        let (d, group) = (self.shape.head_dim, self.group);
        let head = u64::from(self.bytes() * d);
        let layout = TiledLayout {
            rank: 5,
            element_bytes: self.bytes(),
            sizes: [
                self.columns().min(d).into(),
                group.into(),
                tokens.into(),
                self.shape.parts().into(),
                self.kv_heads.into(),
            ],
            strides: [head, head * u64::from(group * self.kv_heads), 128, head * u64::from(group)],
            box_sizes: [self.columns(), group, self.shape.block_rows() / group, self.shape.parts(), 1],
            swizzle: TileSwizzle::Bytes128,
        };
        layout.simulated(queries).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Columns of a box.
    fn columns(&self) -> u32 {
        COLUMNS_BYTES / self.bytes()
    }

    /// Rows of D elements that the cache has: the first that it has not.
    fn outside(&self) -> u32 {
        self.pages() * self.page_size * self.kv_heads
    }

    fn items(&self) -> Vec<WorkItem> {
        let rows = self.shape.tiling().rows;
        let mut items = Vec::new();
        let mut q_start = 0;
        for (sequence, &(keys, q_len)) in (0..).zip(&self.sequences) {
            for kv_head in 0..self.kv_heads {
                for first_row in (0..q_len * self.group).step_by(rows as usize) {
                    let whole = WorkItem { sequence, kv_head, first_row, q_start, q_len, ..WorkItem::NOTHING };
                    items.push(WorkItem { first: 0, last: 1, of: 1, length_bound: keys, ..whole });
                }
            }
            q_start += q_len;
        }
        items
    }

    pub fn run(&self) -> Result<Vec<f32>, sim::Error> {
        let memory = Memory::new();
        let upload = |bytes: &[u8]| {
            let at = memory.alloc(bytes.len().max(1));
            memory.write(at, bytes).unwrap_or_else(|e| panic!("{e}"));
            at
        };
        let words = |words: Vec<u32>| upload(&words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>());
        let (d, q_heads) = (self.shape.head_dim, self.group * self.kv_heads);
        let tokens: u32 = self.sequences.iter().map(|(_, queries)| queries).sum();
        let width = self.bytes() as usize;
        let stored = |row, c| self.element(0, row, 0, c).0.into_iter().take(width);
        let q: Vec<u8> = (0..tokens * q_heads).flat_map(|row| (0..d).flat_map(move |c| stored(row, c))).collect();
        let [k, v] = [1, 2].map(|what| upload(&self.cache(what)));
        let pages = self.sequences.iter().map(|(keys, _)| keys.div_ceil(self.page_size));
        let width = pages.max().unwrap_or(0) + 1;
        let table = (0..self.sequences.len()).flat_map(|s| {
            let used = self.sequences[s].0.div_ceil(self.page_size);
            let first = self.pages().wrapping_sub(1).wrapping_sub(self.pages_before(s));
            let seen = self.first_key(s) / self.page_size;
            // Of the pages that no row sees every second is there.
            let known = move |i| i < used && (i >= seen || i % 2 == 0);
            (0..width).map(move |i| if known(i) { first - i } else { 0x7FFF_0000 })
        });
        let rows = |base: u64| Rows {
            base: Global::new(base),
            token_stride: i64::from(self.bytes() * q_heads * d),
            head_stride: i64::from(self.bytes() * d),
        };
        let side = |base: u64| CacheSide {
            base: Global::new(base),
            page_stride: i64::from(self.bytes() * self.page_size * self.kv_heads * d),
            token_stride: i64::from(self.bytes() * self.kv_heads * d),
            head_stride: i64::from(self.bytes() * d),
        };
        let narrow = self.kind() == QueryKind::Fp8E4M3;
        let items = self.items();
        let item_words = items.iter().flat_map(|i| {
            let share = [i.sequence, i.kv_head, i.first_row, i.first, i.last, i.of, i.length_bound, i.partial];
            share.into_iter().chain([i.q_start, i.q_len, 0, 0])
        });
        let out = memory.alloc((4 * tokens * q_heads * d) as usize);
        let decode = DecodeParams {
            q: rows(upload(&q)),
            out: Output {
                rows: Rows { token_stride: i64::from(4 * q_heads * d), head_stride: i64::from(4 * d), ..rows(out) },
                kind: OutputKind::F32 as u32,
                scale: 1.0,
                scale_at: Global::NULL,
            },
            k: side(k),
            v: side(v),
            k_scales: CacheSide::NONE,
            v_scales: CacheSide::NONE,
            // Of 8 bits a part of K's is read at launch, and all of V's, which divides.
            k_scale: if narrow { Global::new(words(vec![(self.scale(1) / 2.0).to_bits()])) } else { Global::NULL },
            v_scale: if narrow { Global::new(words(vec![(1.0 / self.scale(2)).to_bits()])) } else { Global::NULL },
            lse: Global::NULL,
            block_table: Global::new(words(table.collect())),
            block_table_stride: i64::from(width),
            seq_lens: Global::new(words(self.sequences.iter().map(|s| s.0).collect())),
            sinks: Global::NULL,
            slopes: Global::NULL,
            positions: Global::NULL,
            spans: Global::NULL,
            tree: Global::NULL,
            items: Global::new(words(item_words.collect())),
            counts: Global::NULL,
            partial_o: Global::NULL,
            partial_lse: Global::NULL,
            scale_log2: std::f32::consts::LOG2_E / (d as f32).sqrt() * self.scale(0) * if narrow { 2.0 } else { 1.0 },
            value_scale: 1.0,
            group: self.group,
            q_heads,
            page_shift: self.page_size.ilog2(),
            table_tokens: width * self.page_size,
            flags: MaskFlags::ROWS | if narrow { CacheFlags::V_DIVIDES } else { 0 },
            group_reciprocal: group_reciprocal(self.group),
            window: self.window,
            softcap_log2: 0.0,
            tree_words: 0,
            keys_before: 0,
            softcap_inverse: 0.0,
        };
        let box_tokens = self.page_size.min(self.shape.most_box_tokens());
        let boxes = |side: usize| {
            [[self.columns(), 8, self.shape.box_parts()[side], box_tokens.div_ceil(8), 1], [self.columns(), 1, 1, 1, 1]]
        };
        let maps = [(k, 0, 0), (v, 1, 0), (k, 0, 1), (v, 1, 1)].map(|(cache, side, which)| {
            if box_tokens < 8 && which == 0 { TensorMap::NONE } else { self.map(cache, boxes(side)[which]) }
        });
        let (steps, outside) = ([[self.page_size * self.kv_heads, 1]; 2], [self.outside(); 2]);
        let boxes = self.shape.block_rows().is_multiple_of(self.group);
        let query_map = if boxes { self.query_map(decode.q.base.address, tokens) } else { TensorMap::NONE };
        let query_boxes = u32::from(boxes);
        let (items, box_shift) = (items.len() as u32, box_tokens.ilog2());
        let params = Params::Prefill(PrefillParams {
            maps,
            query_map,
            decode,
            steps,
            outside,
            box_shift,
            items,
            query_boxes,
            reserved: 0,
        });
        let options = Options { delivery: self.delivery, seed: self.order, max_operations: 1 << 28, workers: 1 };
        launch(&memory, self.entry, self.blocks * self.shape.cluster, false, &options, &params)?;
        let mut o = vec![0; (4 * tokens * q_heads * d) as usize];
        memory.read(out, &mut o)?;
        Ok(o.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// What rounds P.
    fn weights(&self) -> Weights {
        if self.kind() == QueryKind::Fp8E4M3 { Weights::E4M3 } else { Weights::BF16 }
    }

    pub fn check(&self) {
        let answer = self.run().unwrap_or_else(|error| panic!("{error}"));
        let (d, q_heads) = (self.shape.head_dim, self.group * self.kv_heads);
        let mut token = 0;
        for (sequence, &(keys, queries)) in self.sequences.iter().enumerate() {
            for query in 0..queries {
                let position = i64::from(keys) - i64::from(queries) + i64::from(query);
                let [left, right] = self.window.map(i64::from);
                let seen = (0..keys).filter(|&key| (position - left..=position + right).contains(&key.into()));
                let seen: Vec<u32> = seen.collect();
                for head in 0..q_heads {
                    let of = |what, key| -> Vec<f32> {
                        let columns = head / self.group * d..(head / self.group + 1) * d;
                        columns.map(|c| self.element(what, sequence as u32, key, c).1).collect()
                    };
                    let rows: Vec<_> = seen.iter().map(|&key| (of(1, key), of(2, key))).collect();
                    let row = token * q_heads + head;
                    let q: Vec<f32> = (0..d).map(|c| self.element(0, row, 0, c).1).collect();
                    let want = attend(&q, &rows, 1.0 / (d as f32).sqrt(), self.weights());
                    for column in 0..d as usize {
                        let got = f64::from(answer[(row * d) as usize + column]);
                        let expected = want.o[column];
                        let bound = want.o_bound;
                        assert!(
                            (got - expected).abs() <= bound,
                            "sequence {sequence}, token {query}, head {head}, column {column}: {got}, not {expected} within {bound}"
                        );
                    }
                }
                token += 1;
            }
        }
    }
}
