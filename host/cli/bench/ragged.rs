//! Lengths as a server's batch has them: most sequences are short, and a few are very long.
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, LogNormal};

/// The longest: what models of today take.
pub const LONGEST: usize = 131_072;

/// Half of the sequences are shorter than this.
const MEDIAN: f64 = 1024.0;

/// Of the lengths' logarithm: one in six has more than 4.5 times the median, one in 44 more than 20 times.
const DEVIATION: f64 = 1.5;

/// Lengths of `batch` sequences, the same in every run: log-normal, cut to 1 to [`LONGEST`]. The first sequence has the most and,
/// of two or more, the last one token, so that both ends are there whatever is drawn.
pub fn lengths(batch: usize) -> Vec<usize> {
    // Neither number is what it refuses: a NaN, or a deviation below 0.
    let Ok(logarithms) = LogNormal::new(MEDIAN.ln(), DEVIATION) else { return Vec::new() };
    let mut random = SmallRng::seed_from_u64(17);
    let drawn = logarithms.sample_iter(&mut random).map(|length: f64| length.clamp(1.0, LONGEST as f64) as usize);
    let mut lengths: Vec<usize> = drawn.take(batch).collect();
    lengths.iter_mut().skip(1).next_back().into_iter().for_each(|last| *last = 1);
    lengths.iter_mut().take(1).for_each(|first| *first = LONGEST);
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_are_short_and_a_few_long() {
        let of_128 = lengths(128);
        assert_eq!((of_128.len(), of_128[0], of_128[127]), (128, LONGEST, 1));
        assert_eq!(of_128, lengths(128));
        // A change of the generator would make other lengths, whose times are not to be compared with recorded ones.
        assert_eq!(of_128[1..4], [3676, 255, 1336]);
        let shorter = |than| of_128.iter().filter(|&&length| length < than).count();
        assert!((50..78).contains(&shorter(1024)), "{}", shorter(1024));
        assert!((98..120).contains(&shorter(4590)), "{}", shorter(4590));
        assert_eq!((lengths(0), lengths(1), lengths(2)), (vec![], vec![LONGEST], vec![LONGEST, 1]));
    }
}
