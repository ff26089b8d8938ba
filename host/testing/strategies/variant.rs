//! Decode problems that ask for chosen variants, each at its edges: windows one off a tile, a page or the sequence, caps and
//! sinks out of all proportion, as many query rows as an item has and one more.
use super::{arrangement, cache, format, group, head_dim, kernel_shape, length, page_size};
use crate::DType;
use crate::testing::case::CaseShape;
use crate::testing::stored::CaseCache;
use crate::testing::variant::{
    CaseOutput, CaseQuery, PositionShape, QueryCounts, SinkShape, SpanShape, TreeShape, VariantShape,
};
use proptest::prelude::*;
use proptest::sample::select;

/// Elements of K that a case of [`case`] has at most: fewer than without variants, as there are more query rows.
pub const KEY_ELEMENTS: usize = 32 * 1024;

/// Query rows of a sequence and KV head at which items, their classes or their number change, and one more.
pub const ROW_EDGES: [usize; 9] = [8, 16, 17, 32, 33, 64, 65, 128, 129];

/// What a request may ask for besides plain attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feature {
    /// Several query tokens a sequence.
    Queries,
    /// A window before the query.
    Left,
    /// A window behind it.
    Right,
    /// A soft cap.
    SoftCap,
    /// Sinks.
    Sinks,
    /// ALiBi slopes.
    Alibi,
    /// Positions.
    Positions,
    /// Prefix-LM spans.
    Spans,
    /// A tree mask.
    Tree,
    /// Another output format than the queries'.
    Output,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Queries,
        Self::Left,
        Self::Right,
        Self::SoftCap,
        Self::Sinks,
        Self::Alibi,
        Self::Positions,
        Self::Spans,
        Self::Tree,
        Self::Output,
    ];

    /// Every two that may be asked for together: all but trees with spans.
    pub fn pairs() -> Vec<[Self; 2]> {
        let all = Self::ALL.into_iter().flat_map(|one| Self::ALL.map(|other| [one, other]));
        all.filter(|&[one, other]| one < other && [one, other] != [Self::Spans, Self::Tree]).collect()
    }
}

/// A decode problem of one to three sequences that asks for `features`; a tree has several query tokens by itself.
pub fn case(features: &[Feature]) -> BoxedStrategy<CaseShape> {
    let features = features.to_vec();
    (format(), cache(), head_dim(), 1..=2usize, group(), page_size(), arrangement())
        .prop_flat_map(move |(format, cache, head_dim, kv_heads, group, page_size, arrangement)| {
            let most = KEY_ELEMENTS / (head_dim * kv_heads);
            let edges = Edges { head_dim, group, cache, page_size, most };
            let features = features.clone();
            let rest = (1..=3usize).prop_flat_map(move |batch| {
                let lengths = proptest::collection::vec(length(head_dim, group, cache, page_size, most / batch), batch);
                (lengths, variant(&features, batch, edges))
            });
            let sharpness = select(vec![1.0f32, 0.25, 4.0]);
            (rest, sharpness, any::<u64>().no_shrink()).prop_map(move |((lengths, variant), sharpness, seed)| {
                let shape = CaseShape {
                    format,
                    cache,
                    head_dim,
                    kv_heads,
                    group,
                    page_size,
                    arrangement,
                    lengths,
                    variant,
                    sharpness,
                    seed,
                };
                shape.suited()
            })
        })
        .boxed()
}

/// A decode problem that asks for one thing, or for two together.
pub fn one_or_two() -> impl Strategy<Value = CaseShape> {
    let one = select(Feature::ALL.to_vec()).prop_map(|feature| vec![feature]);
    let two = select(Feature::pairs()).prop_map(Vec::from);
    prop_oneof![1 => one, 3 => two].prop_flat_map(|features| case(&features))
}

/// What windows and counts are drawn next to.
#[derive(Clone, Copy, Debug)]
struct Edges {
    head_dim: usize,
    group: usize,
    cache: CaseCache,
    page_size: usize,
    /// Tokens that a sequence has at most.
    most: usize,
}

impl Edges {
    /// Query tokens of a sequence: 1 to 16, or as many as make so many rows.
    fn count(self) -> BoxedStrategy<usize> {
        let most = (*ROW_EDGES.last().unwrap_or(&1)).div_ceil(self.group).max(1);
        let group = self.group;
        let rows = select(ROW_EDGES.to_vec()).prop_map(move |rows| rows.div_ceil(group));
        prop_oneof![2 => 1..=most.min(16), 1 => rows].boxed()
    }

    fn queries(self, batch: usize) -> BoxedStrategy<QueryCounts> {
        let uniform = self.count().prop_map(QueryCounts::Uniform);
        let one = prop_oneof![1 => Just(0), 4 => self.count()];
        let ragged = proptest::collection::vec(one, batch).prop_map(QueryCounts::Ragged);
        prop_oneof![uniform, ragged].boxed()
    }

    /// Keys to one side: none, one off a tile, a page or a length, or more than there are.
    fn window(self) -> BoxedStrategy<u32> {
        let most = self.most;
        let edge = length(self.head_dim, self.group, self.cache, self.page_size, most);
        prop_oneof![
            1 => Just(0),
            6 => edge.prop_map(|keys| keys as u32),
            1 => select(vec![most as u32 + 1, i32::MAX as u32, u32::MAX]),
        ]
        .boxed()
    }
}

fn variant(features: &[Feature], batch: usize, edges: Edges) -> BoxedStrategy<VariantShape> {
    let has = |feature| features.contains(&feature);
    let tile = kernel_shape(edges.head_dim, edges.group, edges.cache).tile_keys;
    let sink = select(vec![SinkShape::Drawn, SinkShape::All(0.0), SinkShape::All(1e4), SinkShape::All(-1e4)]);
    let position = prop_oneof![
        select(vec![0, 1, -1, 5, -7, 1000, -1000]).prop_map(PositionShape::Shifted),
        Just(PositionShape::Drawn),
    ];
    let span = (select(vec![0, 1, tile, 2 * tile + 1]), any::<bool>());
    let queries = has(Feature::Queries) || has(Feature::Tree);
    let masks = (
        when(queries, edges.queries(batch)),
        when(has(Feature::Left), edges.window()),
        // Whether there is an end behind the query at all.
        when(has(Feature::Right), proptest::option::of(edges.window())),
        when(has(Feature::Positions), position),
        when(has(Feature::Spans), span.prop_map(|(most, in_window)| SpanShape { most, in_window })),
        when(has(Feature::Tree), select(vec![TreeShape::Forest, TreeShape::Chain, TreeShape::Bits])),
    );
    let logits = (
        when(has(Feature::SoftCap), select(vec![1e-30f32, 1e-3, 0.5, 5.0, 50.0, 1e30])),
        when(has(Feature::Sinks), sink),
        when(has(Feature::Output), output()),
    );
    let alibi = has(Feature::Alibi);
    let all = (masks, logits).prop_map(move |((queries, left, right, positions, spans, tree), logits)| {
        let (softcap, sinks, output) = logits;
        VariantShape {
            query: CaseQuery::Own,
            queries: queries.unwrap_or_default(),
            left,
            right: right.unwrap_or(Some(0)),
            softcap,
            sinks,
            alibi,
            positions,
            spans,
            tree,
            output: output.unwrap_or_default(),
        }
    });
    all.boxed()
}

/// A format of the output, with scales in whose numbers results are far apart, usual, or beyond the largest code.
pub fn output() -> BoxedStrategy<CaseOutput> {
    let fp8 = (select(vec![1.0f32, 1.0 / 96.0, 1.0 / 4096.0]), any::<bool>());
    prop_oneof![
        select(DType::ALL.to_vec()).prop_map(CaseOutput::Sixteen),
        Just(CaseOutput::F32),
        fp8.prop_map(|(scale, on_device)| CaseOutput::Fp8E4M3 { scale, on_device }),
    ]
    .boxed()
}

fn when<S: Strategy + 'static>(asked: bool, strategy: S) -> BoxedStrategy<Option<S::Value>>
where
    S::Value: Clone,
{
    if asked { strategy.prop_map(Some).boxed() } else { Just(None).boxed() }
}
