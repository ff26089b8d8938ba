//! The append entries on the simulator: every byte of the cache afterwards is what a plain search over the formats' codes
//! says, and what no token goes to is as it was.
use cuda_std::sim::{Grid, Kind, Memory, Options, launch};
use cuda_std::thread::thread_idx_x;
use half::{bf16, f16};
use kernels_gpu::append::division::Divisor;
use kernels_gpu::append::ties;
use kernels_gpu::element::{Bf16, CacheKind, Element, ElementKind, F16};
use kernels_gpu::kernels::{ENTRIES, EntryInfo, Role};
use problem::{Problem, Scaling};
use std::sync::Mutex;

#[path = "append/problem.rs"]
mod problem;
#[path = "append/reference.rs"]
mod reference;

/// SplitMix64's output of a counter.
fn random(index: u64) -> u32 {
    let z = index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 32) as u32
}

fn draw(side: usize, token: usize, head: usize, column: usize) -> u32 {
    random((((side * 5000 + token) * 64 + head) * 512 + column) as u64)
}

/// Numbers of moderate size in either format; their bits differ, and so do K's and V's.
fn moderate(side: usize, token: usize, head: usize, column: usize) -> u16 {
    let word = draw(side, token, head, column);
    // Exponents of 2^-4 to 2^4 in f16, where bf16 has some 2^-36 to 2^28.
    (word & 0x83FF | (11 + (word >> 16) % 9) << 10) as u16
}

/// Any bits: NaN, infinities and subnormals among them.
fn any_bits(side: usize, token: usize, head: usize, column: usize) -> u16 {
    draw(side, token, head, column) as u16
}

fn appends() -> impl Iterator<Item = (&'static EntryInfo, ElementKind, CacheKind)> {
    ENTRIES.iter().filter_map(|entry| match entry.role {
        Role::Append { src, kv } => Some((entry, src, kv)),
        _ => None,
    })
}

/// Eleven tokens over five pages of 8: out of order, three of them skipped, one past the cache.
fn small(entry: &'static EntryInfo, head_dim: usize) -> Problem {
    Problem {
        entry,
        head_dim,
        heads: 3,
        page_size: 8,
        pages: 5,
        slots: vec![17, -1, 39, 0, 16, 40, 3, 7, i64::MIN, 22, 8],
        hnd: false,
        gap: 0,
        scaling: Scaling::Host(0.037, 1.9),
        interleaved: false,
        element: moderate,
        idle_blocks: 0,
    }
}

/// What an entry's cache may be scaled by.
fn scalings(kv: CacheKind) -> Vec<Scaling> {
    let (host, device) = ((0.37, 1.9), (3.1, 0.07));
    match kv {
        CacheKind::Bf16 | CacheKind::F16 => vec![Scaling::Host(1.0, 1.0)],
        CacheKind::Fp8E4M3 | CacheKind::Fp8E5M2 => vec![
            Scaling::Host(0.037, 1.9),
            Scaling::Device { host, device },
            Scaling::Dividing { host, device },
            Scaling::Rows,
        ],
        CacheKind::NvFp4 => {
            vec![Scaling::Host(0.0037, 1.9), Scaling::Device { host, device }, Scaling::Dividing { host, device }]
        }
    }
}

#[test]
fn every_entry_writes_every_format_of_page_and_scale() {
    let mut run = 0;
    for (entry, _, kv) in appends() {
        for head_dim in [64, 128, 256, 512] {
            for (scaling, hnd) in scalings(kv).into_iter().flat_map(|scaling| [(scaling, false), (scaling, true)]) {
                let orders = if kv == CacheKind::NvFp4 { &[false, true][..] } else { &[false] };
                for &interleaved in orders {
                    let gap = if hnd { 48 } else { 0 };
                    Problem { scaling, hnd, interleaved, gap, ..small(entry, head_dim) }.check();
                    run += 1;
                }
            }
        }
    }
    assert_eq!(run, 2 * 4 * (2 + 8 + 8 + 12));
}

#[test]
fn any_bits_of_the_source_are_stored_as_the_definition_says() {
    for (entry, _, kv) in appends() {
        for scaling in scalings(kv) {
            let slots = (0..128).rev().collect();
            Problem { scaling, slots, pages: 16, element: any_bits, ..small(entry, 64) }.check();
        }
    }
}

/// A row of 64 for each 64 bit patterns: all that a source can hold, by scales of any size.
#[test]
fn every_number_of_a_source_becomes_its_code() {
    fn all_bits(side: usize, token: usize, _: usize, column: usize) -> u16 {
        let bits = (64 * token + column) as u16;
        // Neighbours in V's rows are far apart, so that blocks and rows have other maxima.
        if side == 0 { bits } else { bits.reverse_bits() }
    }
    let tiny = f32::exp2(-70.0) * 1.3;
    let scales = [(1.0, 0.75), (1.0 / 3.0, 448.0), (tiny, 1e25), (-0.7, 1e-42), (0.0, f32::INFINITY), (f32::NAN, -0.0)];
    for (entry, _, kv) in appends().filter(|(_, _, kv)| kv.bits() < 16) {
        let slots = (0..1024).map(|token| token ^ 5).collect();
        let whole = Problem { heads: 1, pages: 128, slots, element: all_bits, ..small(entry, 64) };
        for (k, v) in scales {
            Problem { scaling: Scaling::Host(k, v), ..whole.clone() }.check();
        }
        if kv != CacheKind::NvFp4 {
            Problem { scaling: Scaling::Rows, ..whole }.check();
        }
    }
}

/// Rows and blocks of the numbers half-way between two codes, of those codes, and of what is next to either.
#[test]
fn ties_go_to_the_even_code() {
    /// Magnitudes for a scale of 1 of the format with so many fraction bits, one e4m3 or e2m1 code and a half apart.
    fn halves(kind: ElementKind, token: usize, column: usize) -> u16 {
        let step = column / 3 % 16;
        // 1, 1 + 1/16, 1 + 2/16 and so on, in every binade from 2^-11 to 2^6; bf16 and f16 have them all.
        let x = (16 + step) as f32 / 16.0 * f32::exp2(token as f32 - 11.0);
        let bits = reference::bits(kind, if token.is_multiple_of(2) { x } else { -x });
        // The neighbours, but for the largest, by which a row's or block's scale would not be 1.
        match column % 3 {
            1 if x < 6.0 => bits + 1,
            2 => bits - 1,
            _ => bits,
        }
    }
    // Column 0 of each 16 is 6, or 448 or 57344 at a row's begin: the scale of block and row is then 1.
    fn element(kind: ElementKind, largest: f32, token: usize, column: usize) -> u16 {
        match column {
            0 => reference::bits(kind, largest),
            column if column % 16 == 0 => reference::bits(kind, 6.0),
            _ => halves(kind, token, column),
        }
    }
    type Element = fn(usize, usize, usize, usize) -> u16;
    for (entry, src, kv) in appends().filter(|(_, _, kv)| kv.bits() < 16) {
        let elements: Element = match (src, kv) {
            (ElementKind::Bf16, CacheKind::Fp8E5M2) => |_, t, _, c| element(ElementKind::Bf16, 57344.0, t, c),
            (ElementKind::F16, CacheKind::Fp8E5M2) => |_, t, _, c| element(ElementKind::F16, 57344.0, t, c),
            (ElementKind::Bf16, CacheKind::NvFp4) => |_, t, _, c| element(ElementKind::Bf16, 6.0, t, c),
            (ElementKind::F16, CacheKind::NvFp4) => |_, t, _, c| element(ElementKind::F16, 6.0, t, c),
            (ElementKind::Bf16, _) => |_, t, _, c| element(ElementKind::Bf16, 448.0, t, c),
            (ElementKind::F16, _) => |_, t, _, c| element(ElementKind::F16, 448.0, t, c),
        };
        // e2m1's ties are up to 5: binades 2^-11 to 2^2.
        let tokens = if kv == CacheKind::NvFp4 { 14 } else { 18 };
        let problem = Problem { heads: 1, slots: (0..tokens).collect(), element: elements, ..small(entry, 64) };
        Problem { scaling: Scaling::Host(1.0, 0.5), ..problem.clone() }.check();
        if kv != CacheKind::NvFp4 {
            Problem { scaling: Scaling::Rows, ..problem }.check();
        }
    }
}

/// Zeros of both signs, a NaN among them, infinities, and numbers too small for a scale: the cases that the docs name.
#[test]
fn extremes_of_a_row() {
    fn rows(kind: ElementKind, token: usize, column: usize) -> u16 {
        let x = match (token, column) {
            (1, _) => -0.0,
            (2, 17) | (3, 17) => f32::NAN,
            (2, _) => 0.0,
            (4, 5) => f32::INFINITY,
            (5, 5) => f32::NEG_INFINITY,
            (6, _) => return 1 + (column as u16 % 2) * 0x8000,
            (3..=5, _) => column as f32 - 31.5,
            _ => 0.0,
        };
        reference::bits(kind, x)
    }
    for (entry, src, kv) in appends().filter(|(_, _, kv)| kv.bits() < 16) {
        let element: fn(usize, usize, usize, usize) -> u16 = match src {
            ElementKind::Bf16 => |_, t, _, c| rows(ElementKind::Bf16, t, c),
            ElementKind::F16 => |_, t, _, c| rows(ElementKind::F16, t, c),
        };
        for scaling in scalings(kv) {
            Problem { heads: 1, slots: (0..7).collect(), element, scaling, ..small(entry, 64) }.check();
        }
        if kv != CacheKind::NvFp4 {
            let problem = Problem { heads: 1, slots: (0..7).collect(), element, ..small(entry, 64) };
            let cache = Problem { scaling: Scaling::Rows, ..problem }.run().unwrap_or_else(|e| panic!("{e}"));
            let (row, scale) =
                (|t: usize| &cache.elements[0][64 * t..][..64], |t: usize| &cache.scales[0][4 * t..][..4]);
            assert!(row(0).iter().chain(row(1)).all(|&code| code == 0), "zeros are zeros");
            assert!(row(2).iter().enumerate().all(|(c, &code)| code == if c == 17 { 0x7F } else { 0 }));
            assert_eq!((scale(0), scale(2)), (&[0; 4][..], &[0; 4][..]));
            assert_eq!(row(3)[17], 0x7F, "NaN stays one");
            assert_eq!((row(4)[5], scale(4)), (0x7F, &f32::INFINITY.to_le_bytes()[..]), "infinity is not a number");
            assert_ne!(scale(6), [0; 4], "the smallest number has a scale");
        }
    }
}

#[test]
fn pages_of_one_token_and_launches_of_any_size() {
    for (entry, ..) in appends() {
        let one = Problem { page_size: 1, pages: 64, heads: 1, ..small(entry, 64) };
        // One row is four threads of a warp; none at all is a grid of idle blocks.
        Problem { slots: vec![63], ..one.clone() }.check();
        Problem { slots: vec![-7; 9], ..one.clone() }.check();
        Problem { slots: vec![], idle_blocks: 1, ..one.clone() }.check();
        let slots = (0..64).rev().filter(|slot| slot % 5 != 1).collect();
        Problem { slots, idle_blocks: 3, heads: 5, ..one }.check();
        // A page of 1024, and slots beyond 32 bits that are not the low half's.
        let slots = vec![1023, (1 << 32) + 5, 1 << 62, 4];
        Problem { page_size: 1024, pages: 1, slots, gap: 16, ..small(entry, 128) }.check();
    }
}

/// Two tokens for one slot: whichever is last, the simulator tells; the host's checked launch refuses it before.
#[test]
fn two_tokens_of_one_slot_are_a_race() {
    for (entry, ..) in appends() {
        let error = Problem { slots: vec![4, 9, 4], ..small(entry, 512) }.run().err();
        assert_eq!(error.map(|error| error.kind), Some(Kind::Race), "{}", entry.name);
    }
}

/// Every dividend that there is.
#[test]
fn sixths_of_16_bits_are_those_of_ieee_754() {
    let found = Mutex::new(Vec::new());
    let body = || {
        for bits in (0..=u16::MAX).skip(thread_idx_x() as usize).step_by(32) {
            for x in [bf16::from_bits(bits).to_f32(), f16::from_bits(bits).to_f32()] {
                let (got, right) = (Divisor::SIX.quotient(x), x / 6.0);
                if got.to_bits() != right.to_bits() && !(got.is_nan() && right.is_nan()) {
                    found.lock().expect("no panic").push((x, got, right));
                }
            }
        }
    };
    let grid = Grid { name: "sixths", blocks: 1, threads: 32, shared_bytes: 0, early: false, cluster: 1 };
    launch(&Memory::new(), &grid, &Options::default(), &body).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.into_inner().expect("no panic"), [], "(x, got, right)");
}

/// Codes by limits against quotients: every number that a source has over steps of all kinds, and what is next to each tie
/// over very many.
#[test]
fn a_code_by_limits_is_that_of_the_quotient() {
    fn code_of<S: Element>(found: &Mutex<Vec<(u32, f32, u32)>>, words: [u32; 8], step: f32) {
        let codes = ties::e2m1::<S>(words, step);
        for i in 0..16 {
            let bits = (words[i / 2] >> (16 * (i % 2))) as u16;
            let (x, got) = (reference::number(S::KIND, bits), codes[i / 8] >> (4 * (i % 8)) & 15);
            // A NaN's sign is the caller's to take away.
            let right = match (x.is_nan(), step == 0.0) {
                (_, true) => 0,
                (true, _) => 7 | if step < f32::INFINITY { u32::from(bits >> 15) << 3 } else { 0 },
                _ => u32::from(reference::E2M1.encode(x / step)),
            };
            if got != right {
                found.lock().expect("no panic").push((u32::from(bits), step, got << 4 | right));
            }
        }
    }
    /// Four numbers up and three down from the tie's.
    fn near<S: Element>(step: f32, negative: bool) -> [[u32; 8]; 4] {
        let place = |i: usize| {
            let tie = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0][i / 8];
            let bits = reference::bits(S::KIND, tie * step) + i as u16 % 8;
            u32::from(bits.saturating_sub(3) & 0x7FFF | u16::from(negative) << 15)
        };
        [0, 16, 32, 48]
            .map(|first| core::array::from_fn(|word| place(first + 2 * word) | place(first + 2 * word + 1) << 16))
    }
    let ends = [0, 1, 2, 0x7F_FFFF, 0x7F_FFFE, 0x40_0000, 0x2A_AAAB, 0x4C_CCCD, 0x0F_0F0F, 0x10_0000];
    let exponents = [0, 1, 2, 20, 60, 66, 67, 68, 100, 110, 117, 127, 130, 140, 160, 186, 187, 188, 230, 252, 253, 254];
    let mut steps: Vec<f32> = vec![0.0, f32::INFINITY, f32::NAN];
    for (i, &exponent) in exponents.iter().enumerate() {
        steps.extend([0, 1, 2].map(|j| f32::from_bits(exponent << 23 | ends[(3 * i + j) % 10])));
    }
    let found = Mutex::new(Vec::new());
    let body = || {
        let thread = thread_idx_x();
        for &step in &steps {
            for chunk in (thread..4096).step_by(32) {
                let words = core::array::from_fn(|word| {
                    let first = 16 * chunk + 2 * word as u32;
                    first | (first + 1) << 16
                });
                code_of::<Bf16>(&found, words, step);
                code_of::<F16>(&found, words, step);
            }
        }
        for i in 0..TRIALS {
            let i = i * 32 + u64::from(thread);
            let mantissa = match i % 4 {
                // What e4m3 has, where ties are met exactly; mantissas next to those; any.
                0 => (random(i) & 7) << 20,
                1 => ((random(i) & 0x3FF) << 13).wrapping_add(random(!i) % 5).wrapping_sub(2) & 0x7F_FFFF,
                _ => random(i) & 0x7F_FFFF,
            };
            let step =
                |exponents: u32, first: u32| f32::from_bits((first + random(i | 1 << 40) % exponents) << 23 | mantissa);
            for words in near::<Bf16>(step(255, 0), i % 2 == 0) {
                code_of::<Bf16>(&found, words, step(255, 0));
            }
            for words in near::<F16>(step(45, 127 - 28), i % 2 == 0) {
                code_of::<F16>(&found, words, step(45, 127 - 28));
            }
        }
    };
    const TRIALS: u64 = 2_000;
    let grid = Grid { name: "limits", blocks: 1, threads: 32, shared_bytes: 0, early: false, cluster: 1 };
    let options = Options { max_operations: 1 << 34, ..Options::default() };
    launch(&Memory::new(), &grid, &options, &body).unwrap_or_else(|error| panic!("{error}"));
    let found = found.into_inner().expect("no panic");
    assert!(found.is_empty(), "{} of them, (x, step, got and right): {:x?}", found.len(), &found[..found.len().min(5)]);
}

/// The quotients against f32's own, for divisors and dividends of every size.
#[test]
fn a_quotient_is_that_of_ieee_754() {
    let found = Mutex::new(Vec::new());
    let body = || {
        let bits = |i: u64| random(i);
        let mantissa = |i: u64| match i % 4 {
            0 => 0x7F_FFFF,
            1 => bits(i) & 7,
            _ => bits(i) & 0x7F_FFFF,
        };
        for i in 0..1_000u64 {
            let i = i * 32 + u64::from(thread_idx_x());
            let divisor = match i % 3 {
                0 => f32::from_bits(bits(i)),
                _ => f32::from_bits((127 - 30 + bits(!i) % 60) << 23 | mantissa(i)),
            };
            let by = Divisor::new(divisor);
            for j in 0..24 {
                let word = bits(i << 20 | j | 1 << 50);
                let x = match j {
                    0..4 => f32::from_bits(word),
                    4..8 => bf16::from_bits(word as u16).to_f32(),
                    8..12 => f16::from_bits(word as u16).to_f32(),
                    // Half-way between two f32 and next to it, as near as a product rounded is.
                    12..20 => {
                        let middle = f64::from(f32::from_bits((127 - 15 + word % 30) << 23 | word >> 9))
                            * (1.0 + f64::exp2(-24.0));
                        (middle * f64::from(divisor)) as f32
                    }
                    _ => [0.0, -0.0, f32::INFINITY, f32::NAN][j as usize - 20],
                };
                let (got, right) = (by.prepare([x]).map(|x| by.quotient(x))[0], x / divisor);
                let exact = got.to_bits() == right.to_bits() || got.is_nan() && right.is_nan();
                let sign = got.is_sign_negative() == right.is_sign_negative();
                let beyond = |q: f32| q.abs() < f32::exp2(-18.0) || q.abs() >= 1_048_576.0;
                if !(exact || sign && beyond(got) && beyond(right) && (got.abs() < 1.0) == (right.abs() < 1.0)) {
                    found.lock().expect("no panic").push((x, divisor, got, right));
                }
            }
        }
    };
    let grid = Grid { name: "quotients", blocks: 1, threads: 32, shared_bytes: 0, early: false, cluster: 1 };
    let options = Options { max_operations: 1 << 30, ..Options::default() };
    launch(&Memory::new(), &grid, &options, &body).unwrap_or_else(|error| panic!("{error}"));
    let found = found.into_inner().expect("no panic");
    assert!(found.is_empty(), "{} of them, (x, divisor, got, right): {:?}", found.len(), &found[..found.len().min(5)]);
}
