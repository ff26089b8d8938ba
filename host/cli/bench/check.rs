//! Rows of a timed output against the CPU: a fast wrong kernel is not timed.
use super::BenchError;
use super::cases::Case;
use super::stored::Rows;
use crate::DType;
use crate::testing::format;
use crate::testing::reference::{self, Key, Rule};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Rows compared a case: at 32768 tokens and D = 512 a row is 50 million operations.
const ROWS: usize = 16;

/// Elements of an output that are numbers in memory at once, a thread.
const PIECE: usize = 1 << 16;

/// One copy of a case's inputs, as uploaded.
pub struct HostCopy<'a> {
    /// Format of q.
    pub format: DType,
    /// How K and V are to be read.
    pub rows: &'a Rows,
    /// K's pages.
    pub k: &'a [u8],
    /// V, the same.
    pub v: &'a [u8],
    /// Page ids `[batch, pages a sequence]`, those of a shared prefix first in every row.
    pub table: &'a [i32],
    /// q `[batch * q_len, q_heads, D]`.
    pub q: &'a [u8],
}

/// A row of the output, and what the CPU says it is.
pub struct Sample {
    /// Its place in `[batch * q_len, q_heads]`.
    row: usize,
    expected: Vec<f32>,
}

/// Computes sampled rows on the CPU, on all cores.
pub fn samples(case: &Case, copy: &HostCopy<'_>) -> Vec<Sample> {
    let mut random = SmallRng::seed_from_u64(7);
    let count = case.batch * case.asked.q_len * case.q_heads;
    let mut rows: Vec<usize> = (0..ROWS.min(count)).map(|_| random.random_range(0..count)).collect();
    // The first and the last: where an off-by-one in a grid shows.
    rows.extend([0, count.saturating_sub(1)].into_iter().filter(|&row| row < count));
    rows.sort_unstable();
    rows.dedup();
    std::thread::scope(|scope| {
        let workers: Vec<_> = rows.into_iter().map(|row| scope.spawn(move || expected(case, copy, row))).collect();
        // A worker that panicked has no answer: its row is NaN, and no output agrees with it.
        workers.into_iter().map(|worker| worker.join().unwrap_or(Sample { row: 0, expected: vec![f32::NAN] })).collect()
    })
}

fn expected(case: &Case, copy: &HostCopy<'_>, row: usize) -> Sample {
    let Case { head_dim: d, kv_heads, page_size, asked, .. } = *case;
    let (token, head) = (row / case.q_heads, row % case.q_heads);
    let (sequence, index) = (token / asked.q_len, token % asked.q_len);
    let kv_head = head / (case.q_heads / kv_heads);
    let table = &copy.table[sequence * case.table_width()..];
    let length = asked.prefix + case.lengths()[sequence];
    // Query tokens are the last ones: each sees the keys up to its own, or all.
    let position = length - asked.q_len + index;
    let end = if asked.causal { position + 1 } else { length };
    let first = asked.window.map_or(0, |left| position.saturating_sub(left as usize));
    let gather = |side: &[u8]| {
        let mut rows = Vec::with_capacity((end - first) * d);
        for key in first..end {
            let page = table[key / page_size] as usize;
            rows.extend(copy.rows.row(side, page, key % page_size, kv_head));
        }
        rows
    };
    let (k, v) = (gather(copy.k), gather(copy.v));
    let q = format::decode_bytes(copy.format, &copy.q[2 * row * d..2 * (row + 1) * d]);
    let keys = k.chunks_exact(d).zip(v.chunks_exact(d)).map(|(k, v)| Key { k, v, distance: 0 });
    let rule = Rule::plain(copy.format, 1.0 / (d as f32).sqrt());
    Sample { row, expected: reference::attend(&rule, &q, keys).exact }
}

/// The largest error of the sampled rows of `output` (`[batch * q_len, q_heads, D]` in `format`), relative to its largest
/// magnitude.
///
/// # Errors
/// An infinity or a NaN anywhere in it.
pub fn error(samples: &[Sample], format: DType, output: &[u8]) -> Result<f64, BenchError> {
    let largest = largest(format, output)?;
    let mut worst = 0.0f32;
    for sample in samples {
        let d = sample.expected.len();
        let actual = format::decode_bytes(format, &output[2 * sample.row * d..][..2 * d]);
        for (actual, expected) in actual.iter().zip(&sample.expected) {
            let error = (actual - expected).abs();
            worst = if error.is_nan() { f32::INFINITY } else { worst.max(error) };
        }
    }
    Ok(f64::from(worst) / f64::from(largest.max(f32::MIN_POSITIVE)))
}

/// The largest magnitude of `output`, on all cores: a prefill's is a gigabyte.
fn largest(format: DType, output: &[u8]) -> Result<f32, BenchError> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let share = (output.len() / 2).div_ceil(workers).max(PIECE);
    let of_share = |(worker, part): (usize, &[u8])| {
        let mut largest = 0.0f32;
        for (piece, bytes) in part.chunks(2 * PIECE).enumerate() {
            let values = format::decode_bytes(format, bytes);
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                return Err(BenchError::NotFinite { index: worker * share + piece * PIECE + at, value: values[at] });
            }
            largest = values.iter().fold(largest, |m, v| m.max(v.abs()));
        }
        Ok(largest)
    };
    std::thread::scope(|scope| {
        let parts = output.chunks(2 * share).enumerate();
        let workers: Vec<_> = parts.map(|part| scope.spawn(move || of_share(part))).collect();
        // A worker that panicked has seen nothing: an output of which that is so does not pass.
        let unseen = || Err(BenchError::NotFinite { index: 0, value: f32::NAN });
        workers.into_iter().try_fold(0.0f32, |most, worker| Ok(most.max(worker.join().unwrap_or_else(|_| unseen())?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::cases::{Asked, Kind};
    use crate::cli::bench::ragged;
    use crate::testing::format::encode_bytes;
    use crate::{CacheDType, CacheShape, HeadDim};

    /// Three sequences of 20 tokens in pages of 16, D = 64, 4 query heads on 2 KV heads.
    fn case() -> Case {
        Case {
            kind: Kind::Decode,
            model: "m".into(),
            head_dim: 64,
            q_heads: 4,
            kv_heads: 2,
            batch: 3,
            tokens: 20,
            kv: "bf16".into(),
            page_size: 16,
            asked: Asked::default(),
        }
    }

    /// Where all of q is 0 attention is the mean of the values: V holds the id of its page, plus 100 for head 1.
    #[test]
    fn rows_are_found_through_the_page_table() {
        let (case, table) = (case(), [4, 2, 0, 5, 3, 1]);
        let v: Vec<f32> =
            (0..6 * 16 * 2 * 64).map(|i| (i / (16 * 2 * 64)) as f32 + 100.0 * (i / 64 % 2) as f32).collect();
        let (q, k, v) = (vec![0; 2 * 3 * 4 * 64], vec![0; 2 * v.len()], encode_bytes(DType::Bf16, &v));
        let shape = CacheShape { pages: 6, page_size: 16, kv_heads: 2, head_dim: HeadDim::D64 };
        let rows = &Rows::new(CacheDType::Bf16, shape);
        let copy = HostCopy { format: DType::Bf16, rows, k: &k, v: &v, table: &table, q: &q };
        let samples = samples(&case, &copy);
        assert!(samples.iter().any(|s| s.row == 0) && samples.iter().any(|s| s.row == 11));
        let mut output = vec![0.0; 3 * 4 * 64];
        for (row, output) in output.chunks_exact_mut(64).enumerate() {
            let (sequence, kv_head) = (row / 4, row % 4 / 2);
            let pages = [table[2 * sequence], table[2 * sequence + 1]].map(|id| id as f32);
            output.fill((16.0 * pages[0] + 4.0 * pages[1]) / 20.0 + 100.0 * kv_head as f32);
        }
        let judge = |output: &[f32]| error(&samples, DType::Bf16, &encode_bytes(DType::Bf16, output));
        assert!(judge(&output).expect("finite") < 4e-3);
        output[0] += 2.0;
        assert!(judge(&output).expect("finite") > 0.015);
        output[700] = f32::NAN;
        assert!(matches!(judge(&output), Err(BenchError::NotFinite { index: 700, .. })));
    }

    #[test]
    fn a_large_output_is_looked_at_whole() {
        let mut values = vec![0.5f32; 5 * PIECE + 3];
        values[4 * PIECE + 1] = -2.0;
        let of = |values: &[f32]| largest(DType::F16, &encode_bytes(DType::F16, values));
        assert_eq!(of(&values).expect("finite"), 2.0);
        for index in [5 * PIECE + 2, 3 * PIECE] {
            values[index] = f32::INFINITY;
            assert!(matches!(of(&values), Err(BenchError::NotFinite { index: at, .. }) if at == index));
        }
        assert_eq!(largest(DType::F16, &[]).expect("nothing"), 0.0);
    }

    /// A prefill of all of a sequence's tokens, causal and not: V holds the token.
    #[test]
    fn a_prefill_s_tokens_see_the_keys_up_to_theirs_or_all() {
        let table = [4, 2, 0, 5, 3, 1];
        let mut v = vec![0.0; 6 * 16 * 2 * 64];
        for (i, v) in v.iter_mut().enumerate() {
            let (page, slot) = (i / (16 * 2 * 64), i / (2 * 64) % 16);
            let place = table.iter().position(|&id| id == page as i32).expect("every page is used");
            *v = (place % 2 * 16 + slot) as f32;
        }
        let (q, k, v) = (vec![0; 2 * 60 * 4 * 64], vec![0; 2 * v.len()], encode_bytes(DType::Bf16, &v));
        let shape = CacheShape { pages: 6, page_size: 16, kv_heads: 2, head_dim: HeadDim::D64 };
        let rows = &Rows::new(CacheDType::Bf16, shape);
        let copy = HostCopy { format: DType::Bf16, rows, k: &k, v: &v, table: &table, q: &q };
        for (causal, window) in [(true, None), (false, None), (true, Some(5)), (false, Some(5))] {
            let asked = Asked { q_len: 20, causal, window, ..Asked::default() };
            let case = Case { kind: Kind::Prefill, asked, ..case() };
            for row in [0, 4 * 20, 4 * 33 + 3, 239usize] {
                let token = row / 4 % 20;
                let first = window.map_or(0, |left| token.saturating_sub(left as usize));
                let last = if causal { token } else { 19 };
                let (mean, sample) = ((first + last) as f32 / 2.0, expected(&case, &copy, row));
                assert!((sample.expected[0] - mean).abs() < 1e-4, "row {row}: {} {mean}", sample.expected[0]);
            }
        }
    }

    /// Two query tokens a sequence behind a prefix of a page, a window of 18 keys before each: of both pages.
    #[test]
    fn query_tokens_see_their_window_of_prefix_and_rest() {
        let asked = Asked { q_len: 2, window: Some(18), prefix: 16, shared: true, ..Asked::default() };
        let case = Case { tokens: 10, asked, ..case() };
        let table = [3, 0, 3, 1, 3, 2];
        let v: Vec<f32> = (0..4 * 16 * 2 * 64).map(|i| (i / (16 * 2 * 64)) as f32).collect();
        let (q, k, v) = (vec![0; 2 * 6 * 4 * 64], vec![0; 2 * v.len()], encode_bytes(DType::Bf16, &v));
        let shape = CacheShape { pages: 4, page_size: 16, kv_heads: 2, head_dim: HeadDim::D64 };
        let rows = &Rows::new(CacheDType::Bf16, shape);
        let copy = HostCopy { format: DType::Bf16, rows, k: &k, v: &v, table: &table, q: &q };
        for (row, keys_of_prefix) in [(0, 10.0), (4, 9.0), (8, 10.0), (23, 9.0)] {
            // Token 24 of 26 sees keys 6 to 24, the next one 7 to 25.
            let own = f64::from(table[2 * (row / 8) + 1]);
            let mean = (3.0 * keys_of_prefix + own * (19.0 - keys_of_prefix)) / 19.0;
            let sample = expected(&case, &copy, row);
            assert!((f64::from(sample.expected[0]) - mean).abs() < 1e-5, "row {row}: {} {mean}", sample.expected[0]);
        }
    }
    /// Every page's values are its sequence's number, which is 1 for the first and 2 for the last, of one token.
    #[test]
    fn where_lengths_differ_each_sequence_has_its_own_keys() {
        let asked = Asked { ragged: true, ..Asked::default() };
        let case = Case { batch: 2, tokens: ragged::LONGEST, page_size: 1024, asked, ..case() };
        let pages = ragged::LONGEST / 1024 + 1;
        let mut table: Vec<i32> = (0..pages as i32 - 1).rev().collect();
        table.push(pages as i32 - 1);
        table.resize(2 * case.table_width(), 0);
        let bytes = 1024 * 2 * 64 * 2;
        let mut v = vec![0; pages * bytes];
        v[..(pages - 1) * bytes].copy_from_slice(&encode_bytes(DType::Bf16, &[1.0]).repeat((pages - 1) * bytes / 2));
        v[(pages - 1) * bytes..].copy_from_slice(&encode_bytes(DType::Bf16, &[2.0]).repeat(bytes / 2));
        // Behind the last sequence's one token: numbers that must not count.
        v[(pages - 1) * bytes + 2 * 64 * 2..].fill(0x7F);
        let (q, k) = (vec![0; 2 * 2 * 4 * 64], vec![0; v.len()]);
        let shape = CacheShape { pages, page_size: 1024, kv_heads: 2, head_dim: HeadDim::D64 };
        let rows = &Rows::new(CacheDType::Bf16, shape);
        let copy = HostCopy { format: DType::Bf16, rows, k: &k, v: &v, table: &table, q: &q };
        for (row, value) in [(0, 1.0), (3, 1.0), (4, 2.0), (7, 2.0)] {
            let sample = expected(&case, &copy, row);
            assert!(sample.expected.iter().all(|x| (x - value).abs() < 1e-3), "row {row}: {}", sample.expected[0]);
        }
    }
}
