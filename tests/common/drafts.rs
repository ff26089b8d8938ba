//! Drafts against the same tokens one at a time, trees against their paths.
use super::judge::Exact;
use super::pieces::{depths, one_at_a_time, paths};
use super::variants::{answer, judge};
use qkv::testing::case::{Case, CaseShape};
use qkv::testing::run::Answer;
use qkv::testing::tolerance;
use qkv::{Device, Splits};

/// The answer's rows of some tokens, in their order.
pub fn rows_of(case: &Case, answer: &Answer, tokens: &[usize]) -> Answer {
    let (lse, out) = (case.q_heads, case.q_heads * case.head_dim);
    let rows = |all: &[f32], size: usize| tokens.iter().flat_map(|t| all[t * size..][..size].to_vec()).collect();
    Answer { out: rows(&answer.out, out), lse: rows(&answer.lse, lse), ..answer.clone() }
}

/// Causal drafts, and the same tokens one at a time: both right, and each as near to the other as to what is right.
pub fn drafts_are_their_tokens(device: &Device, shape: &CaseShape, splits: Splits) -> Result<(), String> {
    let drafts = shape.build();
    let single = one_at_a_time(&drafts);
    let together = judge(device, shape, &drafts, &[splits])?.remove(0);
    let apart = answer(device, shape, &single, splits)?;
    Exact::new(&drafts).judge(&apart).map_err(|what| format!("one at a time: {what}"))?;
    near(&drafts, &together, &apart)
}

/// Every token of a tree, and the same token on each path that it is on.
pub fn trees_are_their_paths(device: &Device, shape: &CaseShape, splits: Splits) -> Result<(), String> {
    let mut case = shape.build();
    if shape.variant.positions.is_some() {
        case.variants.positions = Some(depths(&case));
    }
    let tree = judge(device, shape, &case, &[splits])?.remove(0);
    let paths = paths(&case);
    let along = answer(device, shape, &paths.case, splits)?;
    let expanded = rows_of(&case, &tree, &paths.tokens);
    let exact = Exact::new(&paths.case);
    exact.judge(&along).map_err(|what| format!("paths: {what}"))?;
    exact.judge(&expanded).map_err(|what| format!("the tree by its paths' oracle: {what}"))?;
    near(&paths.case, &expanded, &along)
}

/// Two right answers are within both their bounds of each other.
pub fn near(case: &Case, one: &Answer, other: &Answer) -> Result<(), String> {
    let bound = Exact::new(case).tolerance().map_or(0.0, |tolerance| 2.0 * tolerance.bound());
    let error = tolerance::error(&one.out, &other.out).map_err(|what| what.to_string())?;
    if error <= bound { Ok(()) } else { Err(format!("{error:.1e} apart, bound {bound:.1e}")) }
}
