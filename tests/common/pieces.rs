//! Cases made of another case's numbers: its tokens one at a time, the paths of its trees, shares of its keys. Their answers
//! and the case's own must agree, whatever the oracle says.
use qkv::testing::case::{Case, Context, Sequence};
use qkv::testing::stored::Stored;
use qkv::testing::variant::{CaseOutput, QueryCounts, Variants};

/// The tokens of a context that are listed, in the list's order.
pub fn pick(case: &Case, context: usize, tokens: &[usize]) -> Context {
    let of = &case.contexts[context];
    let rows = || (0..case.kv_heads).flat_map(|head| tokens.iter().map(move |token| head * of.tokens + token));
    let numbers = |all: &[f32]| rows().flat_map(|row| all[row * case.head_dim..][..case.head_dim].to_vec()).collect();
    let (codes, scales) = case.cache.row_bytes(case.head_dim);
    let bytes = |all: &[u8], size: usize| rows().flat_map(|row| all[row * size..][..size].to_vec()).collect();
    let stored = |side: &Stored| Stored {
        numbers: numbers(&side.numbers),
        codes: bytes(&side.codes, codes),
        scales: bytes(&side.scales, scales),
    };
    let [k, v] = &of.new;
    Context { tokens: tokens.len(), new: [numbers(k), numbers(v)], k: stored(&of.k), v: stored(&of.v) }
}

/// Each query token of a causal case as a sequence of its own that ends with it.
pub fn one_at_a_time(case: &Case) -> Case {
    let mut tokens = Vec::new();
    for &Sequence { context, length, queries } in &case.sequences {
        // Of more query tokens than keys the first ones see nothing.
        let length = |index: usize| (length + index + 1).saturating_sub(queries);
        tokens.extend((0..queries).map(|index| Sequence { context, length: length(index), queries: 1 }));
    }
    let variants = Variants { queries: QueryCounts::One, ..case.variants.clone() };
    Case { sequences: tokens, variants, ..case.clone() }
}

/// A path of a tree as a sequence, and its query tokens in the case with the tree.
pub struct Paths {
    /// A sequence a leaf: the keys before the tree, then the path's, all of which are query tokens.
    pub case: Case,
    /// For each of its query tokens the one of the case with the tree.
    pub tokens: Vec<usize>,
}

/// Every root-to-leaf path of a case's forests, causal. Positions become those that the paths' tokens have by themselves.
pub fn paths(case: &Case) -> Paths {
    let tree = case.variants.tree.as_ref().expect("a tree");
    let sees = |token: usize, j: usize| tree.words[token * tree.width + j / 32] >> (j % 32) & 1 == 1;
    let (mut contexts, mut sequences, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for (index, &Sequence { context, length, queries }) in case.sequences.iter().enumerate() {
        let start = case.query_start(index);
        let before = length - queries;
        let leaf = |token: &usize| (0..queries).all(|other| other == *token || !sees(start + other, *token));
        for leaf in (0..queries).filter(leaf) {
            let path: Vec<usize> = (0..queries).filter(|&j| sees(start + leaf, j)).collect();
            let keys: Vec<usize> = (0..before).chain(path.iter().map(|j| before + j)).collect();
            sequences.push(Sequence { context: contexts.len(), length: keys.len(), queries: path.len() });
            contexts.push(pick(case, context, &keys));
            tokens.extend(path.iter().map(|j| start + j));
        }
    }
    let q = tokens.iter().flat_map(|&token| (0..case.q_heads).flat_map(move |head| case.query(token, head).to_vec()));
    let queries = QueryCounts::Ragged(sequences.iter().map(|s| s.queries).collect());
    let variants = Variants { queries, tree: None, positions: None, ..case.variants.clone() };
    let q = q.collect();
    Paths { case: Case { contexts, sequences, q, variants, ..case.clone() }, tokens }
}

/// How deep in its tree each query token is, behind the keys before the tree: positions for [`paths`].
pub fn depths(case: &Case) -> Vec<i32> {
    let tree = case.variants.tree.as_ref().expect("a tree");
    let mut depths = Vec::new();
    for (index, of) in case.sequences.iter().enumerate() {
        for token in (case.query_start(index)..).take(of.queries) {
            let sees = |j: &usize| tree.words[token * tree.width + j / 32] >> (j % 32) & 1 == 1;
            let ancestors = (0..of.queries).filter(sees).count();
            depths.push((of.length - of.queries + ancestors) as i32 - 1);
        }
    }
    depths
}

/// The keys of `case` cut into `shares`, a case each: of a sequence of `length` keys, share i has those of
/// `length * cuts[i] .. length * cuts[i + 1]` over the last cut. States to be merged: f32, without sinks; what query
/// tokens see is told by positions.
pub fn shares(case: &Case, cuts: &[usize]) -> Vec<Case> {
    let whole = *cuts.last().expect("a cut");
    let share = |ends: &[usize]| {
        let (mut contexts, mut sequences, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for (index, of) in case.sequences.iter().enumerate() {
            let [begin, end] = [ends[0], ends[1]].map(|cut| of.length * cut / whole);
            sequences.push(Sequence { context: index, length: end - begin, queries: of.queries });
            contexts.push(pick(case, of.context, &(begin..end).collect::<Vec<_>>()));
            let start = case.query_start(index);
            let own = |i: usize| (of.length + i) as i32 - of.queries as i32;
            let position = |i| case.variants.positions.as_ref().map_or(own(i), |positions| positions[start + i]);
            positions.extend((0..of.queries).map(|i| position(i) - begin as i32));
        }
        let positions = Some(positions);
        let variants = Variants { sinks: None, output: CaseOutput::F32, positions, ..case.variants.clone() };
        Case { contexts, sequences, variants, ..case.clone() }
    };
    cuts.windows(2).map(share).collect()
}

/// The case with the first `tokens` keys of every sequence those of the first one, each a context of its own.
pub fn share_prefix(case: &mut Case, tokens: usize) {
    let all = case.clone();
    for (index, context) in case.contexts.iter_mut().enumerate().skip(1) {
        let [first, own] = [(0, 0..tokens), (index, tokens..context.tokens)]
            .map(|(of, keys)| pick(&all, of, &keys.collect::<Vec<_>>()));
        *context = joined(&all, &first, &own);
    }
}

/// The tokens of one context, then those of another.
fn joined(case: &Case, one: &Context, other: &Context) -> Context {
    fn per_head<T: Copy>(heads: usize, sides: [&[T]; 2]) -> Vec<T> {
        let [one, other] = sides.map(|side| side.len() / heads);
        (0..heads).flat_map(|h| [&sides[0][h * one..][..one], &sides[1][h * other..][..other]].concat()).collect()
    }
    let heads = case.kv_heads;
    let stored = |one: &Stored, other: &Stored| Stored {
        numbers: per_head(heads, [&one.numbers, &other.numbers]),
        codes: per_head(heads, [&one.codes, &other.codes]),
        scales: per_head(heads, [&one.scales, &other.scales]),
    };
    Context {
        tokens: one.tokens + other.tokens,
        new: [0, 1].map(|side: usize| per_head(heads, [&one.new[side], &other.new[side]])),
        k: stored(&one.k, &other.k),
        v: stored(&one.v, &other.v),
    }
}
