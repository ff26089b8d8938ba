//! The oracle: attention as the textbook writes it, one plain loop in f64.
//!
//! It shares no code with the kernels nor with the same-precision reference that tolerances are made of; its inputs are
//! the 16-bit numbers that the kernel reads, its outputs are not rounded. A row without keys gives zeros and an LSE of -inf.
//! Which keys a row sees is asked of each key ([`Sight::sees`]), where kernels and reference work with ranges.

/// One row's answer.
pub struct Answer {
    /// Output `[D]`.
    pub out: Vec<f64>,
    /// Log of the sum of exponentials, natural; the sink is not in it.
    pub lse: f64,
    /// `[D]`: sum of p * |v|, what rounding p can cost at most in units of its roundoff.
    pub magnitude: Vec<f64>,
    /// `[D]`: root of the sum of (p * v)^2, what it costs where errors of either sign add up.
    pub spread: Vec<f64>,
    /// Largest `scale * sum |q| |k|` of a key, and what is added to it: what rounding scores can cost in units of f32's
    /// roundoff.
    pub score_magnitude: f64,
    /// Keys that the row sees.
    pub keys: usize,
}

/// One query row besides its numbers.
pub struct Row<'a> {
    /// Its elements.
    pub q: &'a [f32],
    /// Softmax scale.
    pub scale: f32,
    /// Scaled scores become `c * tanh(score / c)`.
    pub softcap: Option<f32>,
    /// ALiBi: times key - position.
    pub slope: f32,
    /// A logit in the denominator that no value belongs to.
    pub sink: Option<f32>,
    /// What it sees.
    pub sight: Sight<'a>,
}

/// What decides which keys a query token sees.
pub struct Sight<'a> {
    /// Keys of its sequence.
    pub length: i64,
    /// Query tokens of its sequence: the last ones of its keys.
    pub queries: i64,
    /// Its position.
    pub position: i64,
    /// Keys that it sees before its position.
    pub left: Option<u32>,
    /// And behind it.
    pub right: Option<u32>,
    /// Keys `[begin, end)` that it sees besides, and whether those further off than `left` are hidden all the same.
    pub span: Option<([i32; 2], bool)>,
    /// Bit j: it sees the sequence's query token j.
    pub tree: Option<&'a [u32]>,
}

impl Sight<'_> {
    /// All of `length` keys, for the last one's token.
    pub fn all(length: usize) -> Self {
        let length = length as i64;
        Self { length, queries: 1, position: length - 1, left: None, right: Some(0), span: None, tree: None }
    }

    /// Whether the token sees `key`.
    pub fn sees(&self, key: i64) -> bool {
        let near_enough = self.left.is_none_or(|left| self.position - key <= i64::from(left));
        if let Some(bits) = self.tree {
            let of_tree = key - (self.length - self.queries);
            if of_tree >= 0 {
                let (word, bit) = (of_tree / 32, of_tree % 32);
                return (bits[word as usize] >> bit) & 1 == 1;
            }
            return near_enough;
        }
        let not_ahead = self.right.is_none_or(|right| key - self.position <= i64::from(right));
        let in_span = self.span.is_some_and(|([begin, end], in_window)| {
            let hidden = in_window && self.left.is_some_and(|left| (key - self.position).abs() > i64::from(left));
            i64::from(begin) <= key && key < i64::from(end) && !hidden
        });
        (near_enough && not_ahead) || in_span
    }
}

/// Attention of a query row over the keys that it sees; `k(i)` and `v(i)` give the rows of key i.
pub fn attention<'a>(row: &Row<'_>, k: impl Fn(usize) -> &'a [f32], v: impl Fn(usize) -> &'a [f32]) -> Answer {
    let d = row.q.len();
    let (mut seen, mut scores, mut score_magnitude) = (Vec::new(), Vec::new(), 0.0f64);
    for i in (0..row.sight.length).filter(|&i| row.sight.sees(i)) {
        let key = k(i as usize);
        let (mut sum, mut magnitude) = (0.0f64, 0.0f64);
        for (q, k) in row.q.iter().zip(key) {
            let product = f64::from(*q) * f64::from(*k);
            sum += product;
            magnitude += product.abs();
        }
        let mut score = sum * f64::from(row.scale);
        if let Some(cap) = row.softcap {
            score = f64::from(cap) * (score / f64::from(cap)).tanh();
        }
        let bias = f64::from(row.slope) * (i - row.sight.position) as f64;
        seen.push(i as usize);
        scores.push(score + bias);
        score_magnitude = score_magnitude.max(magnitude * f64::from(row.scale).abs() + bias.abs());
    }
    let (mut out, mut magnitude, mut spread) = (vec![0.0f64; d], vec![0.0f64; d], vec![0.0f64; d]);
    let keys = seen.len();
    if keys == 0 {
        return Answer { out, lse: f64::NEG_INFINITY, magnitude, spread, score_magnitude, keys };
    }
    let mut largest = f64::NEG_INFINITY;
    for &s in &scores {
        if s > largest {
            largest = s;
        }
    }
    let of_keys: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
    let denominator = of_keys + row.sink.map_or(0.0, |sink| (f64::from(sink) - largest).exp());
    for (i, s) in seen.into_iter().zip(scores) {
        let p = (s - largest).exp() / denominator;
        let value = v(i);
        for c in 0..d {
            out[c] += p * f64::from(value[c]);
            magnitude[c] += p * f64::from(value[c]).abs();
            spread[c] += (p * f64::from(value[c])).powi(2);
        }
    }
    spread.iter_mut().for_each(|sum| *sum = sum.sqrt());
    Answer { out, lse: largest + of_keys.ln(), magnitude, spread, score_magnitude, keys }
}
