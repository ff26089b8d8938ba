//! Inputs of a benchmark: N(0, 1) numbers in a 16-bit format, and pages in random order.
use crate::DType;
use crate::testing::format;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use std::sync::OnceLock;

/// Numbers drawn for a whole run: 64 MiB of 16-bit elements.
pub const POOL: usize = 32 << 20;

/// Numbers that one thread draws, from a seed of its own: the same whatever the number of cores.
const BLOCK: usize = 1 << 16;

/// Independent N(0, 1) numbers, in f32 and, once asked for, in the 16-bit formats.
pub struct Normals {
    values: Vec<f32>,
    encoded: [OnceLock<Vec<u8>>; DType::ALL.len()],
}

impl Normals {
    /// Draws `count` of them, on all cores.
    pub fn draw(count: usize) -> Self {
        let mut values = vec![0.0f32; count];
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let share = count.div_ceil(workers).next_multiple_of(BLOCK).max(BLOCK);
        std::thread::scope(|scope| {
            for (worker, part) in values.chunks_mut(share).enumerate() {
                scope.spawn(move || {
                    for (block, part) in part.chunks_mut(BLOCK).enumerate() {
                        let mut random = SmallRng::seed_from_u64((worker * share / BLOCK + block) as u64);
                        part.fill_with(|| random.sample(StandardNormal));
                    }
                });
            }
        });
        Self { values, encoded: Default::default() }
    }

    /// Their little-endian bytes in `format`.
    pub fn encoded(&self, format: DType) -> &[u8] {
        let index = DType::ALL.iter().position(|&f| f == format).unwrap_or_default();
        self.encoded[index].get_or_init(|| format::encode_bytes(format, &self.values))
    }
}

/// Fills `walked` with `bytes` bytes of `pool` over and over, from a random element on.
pub fn walk(pool: &[u8], bytes: usize, random: &mut SmallRng, walked: &mut Vec<u8>) {
    walked.clear();
    walked.reserve_exact(bytes);
    let mut from = 2 * random.random_range(0..(pool.len() / 2).max(1));
    while walked.len() < bytes && !pool.is_empty() {
        let piece = (bytes - walked.len()).min(pool.len() - from);
        walked.extend_from_slice(&pool[from..from + piece]);
        from = 0;
    }
}

/// Page ids `0 .. pages` in random order.
pub fn shuffled_pages(pages: i32, random: &mut SmallRng) -> Vec<i32> {
    let mut ids: Vec<i32> = (0..pages).collect();
    ids.shuffle(random);
    ids
}

/// Page ids `0 .. pages` in order, from a random one on: other tables are other pages where little of each is read.
pub fn contiguous_pages(pages: i32, random: &mut SmallRng) -> Vec<i32> {
    let first = random.random_range(0..pages.max(1));
    (first..pages).chain(0..first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_normal() {
        let Normals { values, .. } = Normals::draw(3 * BLOCK + 17);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        let beyond_two = values.iter().filter(|v| v.abs() > 2.0).count() as f64 / n;
        // 200,000 draws: the mean is within 0.0022 and the variance within 0.0032 of theirs, one standard deviation.
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.015, "{mean} {variance}");
        assert!((beyond_two - 0.0455).abs() < 0.003, "{beyond_two}");
    }

    #[test]
    fn a_walk_has_the_bytes_asked_for_and_wraps() {
        let pool: Vec<u8> = (0..20).collect();
        let (mut random, mut walked) = (SmallRng::seed_from_u64(1), Vec::new());
        for bytes in [0, 2, 20, 64] {
            walk(&pool, bytes, &mut random, &mut walked);
            assert_eq!(walked.len(), bytes);
            assert!(walked.windows(2).all(|w| w[1] == (w[0] + 1) % 20));
            assert!(walked.first().is_none_or(|first| first % 2 == 0));
        }
        walk(&[], 4, &mut random, &mut walked);
        assert!(walked.is_empty());
    }

    #[test]
    fn every_page_is_used_once() {
        let mut ids = shuffled_pages(1000, &mut SmallRng::seed_from_u64(2));
        assert!(ids.windows(2).any(|w| w[0] > w[1]));
        ids.sort_unstable();
        assert!(ids.into_iter().eq(0..1000));
        let ids = contiguous_pages(1000, &mut SmallRng::seed_from_u64(2));
        assert!(ids.windows(2).all(|w| w[1] == (w[0] + 1) % 1000) && ids.len() == 1000);
        assert!(contiguous_pages(0, &mut SmallRng::seed_from_u64(2)).is_empty());
    }
}
