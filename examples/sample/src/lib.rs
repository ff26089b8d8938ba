//! The problem that the examples decode, and its answer by plain loops in f64: three sequences in shuffled pages, four
//! query heads a KV head, bf16. Every example brings these numbers to a device in its own way and hands the output back
//! to [`finish`].
use qkv::{CacheShape, HeadDim};
use std::{error::Error, process::ExitCode};

/// Sequences.
pub const BATCH: usize = 3;
/// Tokens that each of them has in the cache.
pub const LENGTHS: [u32; BATCH] = [1, 37, 300];
/// Query heads.
pub const Q_HEADS: usize = 8;
/// Columns of the block table: pages of the longest sequence.
pub const MAX_PAGES: usize = LENGTHS[2].div_ceil(SHAPE.page_size as u32) as usize;
/// The shape of q and of the output.
pub const ROWS: [usize; 3] = [BATCH, Q_HEADS, D];
/// The cache, K and V each `[pages, page_size, kv_heads, head_dim]`.
pub const SHAPE: CacheShape = CacheShape { pages: 40, page_size: 16, kv_heads: 2, head_dim: HeadDim::D128 };

const D: usize = 128;

/// The numbers: q, k and v as the bits of bf16.
pub struct Sample {
    /// `[BATCH, Q_HEADS, D]`.
    pub q: Vec<u16>,
    /// `[pages, page_size, kv_heads, D]`.
    pub k: Vec<u16>,
    /// As `k`.
    pub v: Vec<u16>,
    /// `[BATCH, MAX_PAGES]`.
    pub block_table: Vec<i32>,
    /// `[BATCH]`.
    pub seq_lens: Vec<i32>,
}

impl Sample {
    /// Always the same numbers.
    pub fn new() -> Self {
        let mut state = 1u32;
        let mut numbers = |count: usize| -> Vec<u16> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // An odd multiple of 1/128 from -2 to 2, never 0: exact in bf16, which is the upper half of f32.
                ((2.0 * (state >> 24) as f32 - 255.0) / 128.0).to_bits() >> 16
            };
            (0..count).map(|_| next() as u16).collect()
        };
        let side = SHAPE.pages * SHAPE.page_size * SHAPE.kv_heads * D;
        let (q, k, v) = (numbers(BATCH * Q_HEADS * D), numbers(side), numbers(side));
        // 27 and 40 have no common divisor: this visits every page once.
        let block_table = (0..BATCH * MAX_PAGES).map(|i| (i * 27 % SHAPE.pages) as i32).collect();
        Self { q, k, v, block_table, seq_lens: LENGTHS.map(|length| length as i32).to_vec() }
    }

    /// The output's largest error, in units of what rounding to bf16 explains.
    fn error(&self, out: &[u16]) -> f64 {
        let mut worst = 0.0f64;
        for row in 0..BATCH * Q_HEADS {
            let (sequence, head) = (row / Q_HEADS, row % Q_HEADS);
            for (column, (expected, magnitude)) in self.row(sequence, head).into_iter().enumerate() {
                // P and the output are rounded once each, by at most 2^-8 of their size.
                let explained = 2.0 * magnitude / 256.0;
                let error = (value(out[row * D + column]) - expected).abs() / explained;
                worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
            }
        }
        worst
    }

    /// Softmax of q·k over the sequence's keys, times v: each column's sum of p * v, and of p * |v|.
    fn row(&self, sequence: usize, head: usize) -> Vec<(f64, f64)> {
        let q = &self.q[(sequence * Q_HEADS + head) * D..][..D];
        let kv_head = head / (Q_HEADS / SHAPE.kv_heads);
        let at = |key: usize| {
            let page = self.block_table[sequence * MAX_PAGES + key / SHAPE.page_size] as usize;
            ((page * SHAPE.page_size + key % SHAPE.page_size) * SHAPE.kv_heads + kv_head) * D
        };
        let keys = LENGTHS[sequence] as usize;
        let dot = |k: &[u16]| q.iter().zip(k).map(|(&q, &k)| value(q) * value(k)).sum::<f64>();
        let s: Vec<f64> = (0..keys).map(|key| dot(&self.k[at(key)..][..D]) / (D as f64).sqrt()).collect();
        let largest = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let p: Vec<f64> = s.iter().map(|s| (s - largest).exp()).collect();
        let sum: f64 = p.iter().sum();
        let column = |column: usize| {
            let terms = p.iter().enumerate().map(|(key, p)| p / sum * value(self.v[at(key) + column]));
            terms.fold((0.0, 0.0), |(o, magnitude), term| (o + term, magnitude + term.abs()))
        };
        (0..D).map(column).collect()
    }
}

impl Default for Sample {
    fn default() -> Self {
        Self::new()
    }
}

/// The number that these bits of bf16 are.
fn value(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// Judges an example's output, says so, and gives its exit code: 0 right, 1 wrong, 2 not run.
pub fn finish(sample: &Sample, decoded: Result<(String, Vec<u16>), Box<dyn Error>>) -> ExitCode {
    let (device, out) = match decoded {
        Ok(decoded) => decoded,
        Err(error) => {
            eprintln!("not run: {error}");
            return ExitCode::from(2);
        }
    };
    if out.len() != BATCH * Q_HEADS * D {
        println!("{device}: FAIL, {} numbers", out.len());
        return ExitCode::from(1);
    }
    let error = sample.error(&out);
    let right = error <= 1.0;
    println!("{device}: error {error:.3} of what rounding explains: {}", if right { "ok" } else { "FAIL" });
    if right { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

#[cfg(test)]
mod tests {
    use super::{Sample, value};

    #[test]
    fn the_judge_takes_rounding_and_nothing_more() {
        let sample = Sample::new();
        let rows = (0..super::BATCH * super::Q_HEADS).flat_map(|r| sample.row(r / super::Q_HEADS, r % super::Q_HEADS));
        // Cut off instead of rounded: twice as far.
        let mut out: Vec<u16> = rows.map(|(o, _)| ((o as f32).to_bits() >> 16) as u16).collect();
        assert!(sample.error(&out) <= 1.0);
        out[7] = ((value(out[7]) as f32 + 0.1).to_bits() >> 16) as u16;
        assert!(sample.error(&out) > 1.0);
        out[7] = 0x7FC0; // NaN
        assert!(sample.error(&out) > 1.0);
    }
}
