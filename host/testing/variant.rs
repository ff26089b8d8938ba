//! What cases ask for besides plain attention: as a shape that prints in one line and shrinks, and as the data it stands for.
use super::case::{CaseShape, Sequence};
use super::format;
use super::quantise::Codes;
use super::reference::{E4M3, Weights};
use crate::{DType, QueryDType};
use kernels_gpu::element::QueryKind;
use rand::Rng;
use rand::rngs::SmallRng;
use rand_distr::StandardNormal;

/// Format of a case's queries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum CaseQuery {
    /// That of the case.
    #[default]
    Own,
    /// FP8 e4m3, with a cache of it too. Results that are given no other format are of the case's.
    Fp8E4M3 {
        /// What codes are multiplied by: of 8 significant bits, so that numbers are exact in f32.
        scale: f32,
    },
}

impl CaseQuery {
    /// Queries that a kernel takes, and a case's format that goes with them.
    pub const fn of_kind(kind: QueryKind) -> (DType, Self) {
        match kind {
            QueryKind::Bf16 => (DType::Bf16, Self::Own),
            QueryKind::F16 => (DType::F16, Self::Own),
            // N(0, 1) reaches some 5.5, 448 times this is 6.1.
            QueryKind::Fp8E4M3 => (DType::F16, Self::Fp8E4M3 { scale: 7.0 / 512.0 }),
        }
    }

    /// `value` as queries of this format have it, in a case of `format`.
    pub fn round(self, format: DType, value: f32) -> f32 {
        match self {
            Self::Own => format::round(format, value),
            Self::Fp8E4M3 { scale } => E4M3.decode(E4M3.encode(value / scale)) * scale,
        }
    }

    /// The bytes of queries of this format.
    pub fn encode(self, format: DType, values: &[f32]) -> Vec<u8> {
        match self {
            Self::Own => format::encode_bytes(format, values),
            Self::Fp8E4M3 { scale } => values.iter().map(|value| E4M3.encode(value / scale)).collect(),
        }
    }

    /// The format, in a case of `format`.
    pub fn dtype(self, format: DType) -> QueryDType {
        match self {
            Self::Own => format.into(),
            Self::Fp8E4M3 { .. } => QueryDType::Fp8E4M3,
        }
    }

    /// What P is rounded to before it multiplies V.
    pub const fn weights(self, format: DType) -> Weights {
        match self {
            Self::Own => Weights::Sixteen(format),
            Self::Fp8E4M3 { .. } => Weights::Fp8E4M3,
        }
    }
}

/// Variants of a problem without their data; the default is plain causal attention of one query token a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct VariantShape {
    /// Format of the queries.
    pub query: CaseQuery,
    /// Query tokens.
    pub queries: QueryCounts,
    /// Keys before its position that a query token sees; `None`: all.
    pub left: Option<u32>,
    /// Keys behind its position that a query token sees; `None`: all.
    pub right: Option<u32>,
    /// The c of `c * tanh(logit / c)`.
    pub softcap: Option<f32>,
    /// One logit a head in the denominator.
    pub sinks: Option<SinkShape>,
    /// Whether heads have ALiBi slopes.
    pub alibi: bool,
    /// Where query tokens are among the keys, where it is told.
    pub positions: Option<PositionShape>,
    /// Keys that a query token sees both ways.
    pub spans: Option<SpanShape>,
    /// Which query tokens see one another.
    pub tree: Option<TreeShape>,
    /// Format of the output.
    pub output: CaseOutput,
}

/// Query tokens of a batch's sequences, the way that a request is told them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum QueryCounts {
    /// One each.
    #[default]
    One,
    /// So many each.
    Uniform(usize),
    /// So many of each sequence; none of a sequence that is missing here.
    Ragged(Vec<usize>),
}

/// The sinks of all heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SinkShape {
    /// Drawn from N(0, 2): beside the logits of some keys.
    Drawn,
    /// The same for all heads.
    All(f32),
}

/// Positions of query tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionShape {
    /// So many keys behind where the tokens are.
    Shifted(i32),
    /// Anywhere among the keys, a little before or behind them too, in no order.
    Drawn,
}

/// Spans of query tokens, a quarter of them empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanShape {
    /// Keys to either side of the position, at most.
    pub most: u32,
    /// Whether spans are seen within the window alone.
    pub in_window: bool,
}

/// Tree masks. Bits of tokens that a sequence does not have are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeShape {
    /// Every token sees itself and its ancestors; its parent is drawn, and may be the context.
    Forest,
    /// Each token is the next one's parent: causal.
    Chain,
    /// Any bits: a token need not see itself.
    Bits,
}

/// Format of a case's output.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum CaseOutput {
    /// That of the queries.
    #[default]
    Own,
    /// This 16-bit one.
    Sixteen(DType),
    /// f32.
    F32,
    /// FP8 e4m3.
    Fp8E4M3 {
        /// What results are divided by, and codes multiplied.
        scale: f32,
        /// Whether the device reads it.
        on_device: bool,
    },
}

/// The variants of a case, with their data.
#[derive(Clone, Debug, PartialEq)]
pub struct Variants {
    /// As in [`VariantShape`].
    pub query: CaseQuery,
    /// How the request is told the query tokens; how many they are, the sequences say.
    pub queries: QueryCounts,
    /// As in [`VariantShape`].
    pub left: Option<u32>,
    /// As in [`VariantShape`].
    pub right: Option<u32>,
    /// As in [`VariantShape`].
    pub softcap: Option<f32>,
    /// `[q_heads]`.
    pub sinks: Option<Vec<f32>>,
    /// ALiBi slopes `[q_heads]`.
    pub slopes: Option<Vec<f32>>,
    /// `[tokens]`.
    pub positions: Option<Vec<i32>>,
    /// Prefix-LM spans.
    pub spans: Option<Spans>,
    /// Tree mask.
    pub tree: Option<Tree>,
    /// As in [`VariantShape`].
    pub output: CaseOutput,
}

/// Prefix-LM spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spans {
    /// Keys `[begin, end)`, `[tokens]`.
    pub ranges: Vec<[i32; 2]>,
    /// As in [`SpanShape`].
    pub in_window: bool,
}

/// Packed bits of a tree mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// `[tokens, width]`: bit j of a token says that it sees the sequence's query token j.
    pub words: Vec<u32>,
    /// Words of a token.
    pub width: usize,
}

impl Default for VariantShape {
    fn default() -> Self {
        Self {
            query: CaseQuery::Own,
            queries: QueryCounts::One,
            left: None,
            right: Some(0),
            softcap: None,
            sinks: None,
            alibi: false,
            positions: None,
            spans: None,
            tree: None,
            output: CaseOutput::Own,
        }
    }
}

impl Default for Variants {
    fn default() -> Self {
        Self {
            query: CaseQuery::Own,
            queries: QueryCounts::One,
            left: None,
            right: Some(0),
            softcap: None,
            sinks: None,
            slopes: None,
            positions: None,
            spans: None,
            tree: None,
            output: CaseOutput::Own,
        }
    }
}

impl QueryCounts {
    /// Query tokens of a sequence.
    pub fn of(&self, sequence: usize) -> usize {
        match self {
            Self::One => 1,
            Self::Uniform(count) => *count,
            Self::Ragged(counts) => counts.get(sequence).copied().unwrap_or(0),
        }
    }

    /// Query tokens of all of `batch` sequences.
    pub fn total(&self, batch: usize) -> usize {
        (0..batch).map(|sequence| self.of(sequence)).sum()
    }

    /// The most that one of `batch` sequences has.
    pub fn most(&self, batch: usize) -> usize {
        (0..batch).map(|sequence| self.of(sequence)).max().unwrap_or(0)
    }
}

impl CaseOutput {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Own | Self::Sixteen(_) => 2,
            Self::F32 => 4,
            Self::Fp8E4M3 { .. } => 1,
        }
    }

    /// The numbers that `values` are once they are stored, for queries of `q`: rounded to nearest even, saturating in e4m3.
    pub fn round(self, q: DType, values: &[f32]) -> Vec<f32> {
        match self {
            Self::Own => values.iter().map(|&x| format::round(q, x)).collect(),
            Self::Sixteen(format) => values.iter().map(|&x| format::round(format, x)).collect(),
            Self::F32 => values.to_vec(),
            Self::Fp8E4M3 { scale, .. } => {
                let (codes, inverse) = (Codes::e4m3(), 1.0 / scale);
                values.iter().map(|x| codes.decode(codes.encode(x * inverse)) * scale).collect()
            }
        }
    }

    /// The numbers in `bytes`.
    pub fn decode(self, q: DType, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::Own => format::decode_bytes(q, bytes),
            Self::Sixteen(format) => format::decode_bytes(format, bytes),
            Self::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Self::Fp8E4M3 { scale, .. } => {
                let codes = Codes::e4m3();
                bytes.iter().map(|&byte| codes.decode(byte) * scale).collect()
            }
        }
    }

    /// The largest relative error of one rounding to it, 0 of f32.
    pub fn unit_roundoff(self, q: DType) -> f64 {
        match self {
            Self::Own => format::unit_roundoff(q),
            Self::Sixteen(format) => format::unit_roundoff(format),
            Self::F32 => 0.0,
            Self::Fp8E4M3 { .. } => 1.0 / 16.0,
        }
    }
}

impl VariantShape {
    /// The variants of `shape`, whose sequences are `sequences`, drawn from `random`.
    pub(super) fn build(&self, shape: &CaseShape, sequences: &[Sequence], random: &mut SmallRng) -> Variants {
        let q_heads = shape.q_heads();
        let positions = self.positions.map(|kind| {
            let of = |&Sequence { length, queries, .. }: &Sequence| {
                let first = length as i32 - queries as i32;
                let drawn = |i, random: &mut SmallRng| match kind {
                    PositionShape::Shifted(by) => first + i + by,
                    PositionShape::Drawn => random.random_range(-2..=length as i32 + 2),
                };
                (0..queries as i32).map(|i| drawn(i, random)).collect::<Vec<_>>()
            };
            sequences.iter().flat_map(of).collect::<Vec<i32>>()
        });
        let own = sequences.iter().flat_map(|s| (0..s.queries).map(|i| s.length as i32 - s.queries as i32 + i as i32));
        let told: Vec<i32> = positions.clone().unwrap_or_else(|| own.collect());
        let spans = self.spans.map(|SpanShape { most, in_window }| {
            let mut range = |&p: &i32| {
                let [before, behind] = [0, 1].map(|_| random.random_range(0..=most as i32));
                // An empty one may be anywhere.
                if random.random_ratio(1, 4) { [p + before, p + before - behind] } else { [p - before, p + 1 + behind] }
            };
            Spans { ranges: told.iter().map(&mut range).collect(), in_window }
        });
        Variants {
            query: self.query,
            queries: self.queries.clone(),
            left: self.left,
            right: self.right,
            softcap: self.softcap,
            sinks: self.sinks.map(|kind| {
                let normal = |random: &mut SmallRng| 2.0 * random.sample::<f32, _>(StandardNormal);
                let one = |_| match kind {
                    SinkShape::Drawn => normal(random),
                    SinkShape::All(sink) => sink,
                };
                (0..q_heads).map(one).collect()
            }),
            // Those of the first paper on ALiBi: a geometric sequence from near 1 to 2^-8.
            slopes: self.alibi.then(|| (1..=q_heads).map(|h| (-8.0 * h as f32 / q_heads as f32).exp2()).collect()),
            positions,
            spans,
            tree: self.tree.map(|kind| kind.build(sequences, random)),
            output: self.output,
        }
    }
}

impl TreeShape {
    fn build(self, sequences: &[Sequence], random: &mut SmallRng) -> Tree {
        let width = sequences.iter().map(|s| s.queries).max().unwrap_or(0).div_ceil(32).max(1);
        let mut words = Vec::new();
        for &Sequence { queries, .. } in sequences {
            let mut rows: Vec<Vec<bool>> = Vec::with_capacity(queries);
            for token in 0..queries {
                let mut row = match self {
                    Self::Bits => (0..queries).map(|_| random.random()).collect(),
                    Self::Chain => (0..queries).map(|other| other < token).collect(),
                    Self::Forest => match random.random_range(0..=token) {
                        // No parent among them: the context's last token is.
                        0 => vec![false; queries],
                        parent => rows[parent - 1].clone(),
                    },
                };
                if self != Self::Bits {
                    row[token] = true;
                }
                rows.push(row);
            }
            for mut row in rows {
                row.resize(32 * width, true);
                let (whole, _) = row.as_chunks::<32>();
                words.extend(whole.iter().map(|bits| (0..32).fold(0u32, |word, j| word | u32::from(bits[j]) << j)));
            }
        }
        Tree { words, width }
    }
}
