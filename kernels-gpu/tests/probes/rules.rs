//! What the probes' results must be, worked out here from the PTX ISA's text in plain Rust: exactly what moves and
//! converts; within a bound what rounds as the hardware likes. Shares no code with the simulator.
//!
//! * `mma`: f32 accumulation in any order, each of the 16 additions cutting off (not rounding) what does not fit 24 bits
//!   of the largest number met: 17 * 2^-23 * (|d| + sum |a b|). Sums of small integers have no error in any order.
//! * `ex2.approx.ftz`: 2 ulp; `lg2.approx.ftz`: 2^-22 absolute from 0.5 to 2, relative elsewhere (ISA, 9.7.3).
use kernels_gpu::layout::fragment::{a_register, accumulator_column, accumulator_rows, b_register};
use kernels_gpu::probe::{ProbeInfo, movement, order};
use numbers::{
    below, both, cut, e4m3_as_f16, e5m2_as_f16, f16_as_f32, fused, looked_up, multiplied, permuted, scattered,
};

#[path = "numbers.rs"]
mod numbers;
#[path = "product_rules.rs"]
mod product_rules;
#[path = "tensor_rules.rs"]
mod tensor_rules;

/// The NaN that f32 arithmetic gives.
const NAN: u32 = 0x7FFF_FFFF;

/// Words of a buffer that nobody wrote are expected to be this.
pub type Unwritten = u32;

/// Fails with the first result of any block that is not as it must be.
pub fn check(probe: &ProbeInfo, input: &[u32], results: &[u32], unwritten: Unwritten) -> Result<(), String> {
    let blocks = input.len() / probe.input_words as usize;
    if results.len() != blocks * probe.output_words as usize {
        return Err(format!("{} words for {blocks} blocks", results.len()));
    }
    let inputs = input.chunks_exact(probe.input_words as usize);
    for (block, (x, y)) in inputs.zip(results.chunks_exact(probe.output_words as usize)).enumerate() {
        let verdict = match probe.name {
            "probe_mma_bf16" => product(x, y, |bits| f64::from(f32::from_bits(u32::from(bits) << 16))),
            "probe_mma_f16" => product(x, y, |bits| half::f16::from_bits(bits).to_f64()),
            "probe_cvt_bf16x2" => packed(x, y, |bits| f64::from(f32::from_bits(u32::from(bits) << 16)), 0x7F80),
            "probe_cvt_f16x2" => packed(x, y, |bits| half::f16::from_bits(bits).to_f64(), 0x7C00),
            "probe_movmatrix" => exactly(y, |lane| {
                let element = |row: usize, column: usize| (x[4 * row + column / 2] >> (16 * (column % 2))) & 0xFFFF;
                let (row, column) = (lane / 4, 2 * (lane % 4));
                element(column, row) | (element(column + 1, row) << 16)
            }),
            "probe_cvt_f32_f16" => exactly(y, |lane| f16_as_f32(x[lane] & 0xFFFF)),
            "probe_lop3" => exactly(y, |i| looked_up([0, 1, 2].map(|word| x[3 * (i / 4) + word]), i % 4)),
            "probe_fma" => exactly(y, |lane| fused([0, 1, 2].map(|word| f32::from_bits(x[3 * lane + word])))),
            "probe_fma_rz" => exactly(y, |lane| cut([0, 1, 2].map(|word| f32::from_bits(x[3 * lane + word])))),
            "probe_cvt_rz_f16x2" => exactly(y, |lane| below(x[2 * lane]) << 16 | below(x[2 * lane + 1])),
            "probe_max_u16x2" => exactly(y, |lane| {
                let [a, b] = [x[2 * lane], x[2 * lane + 1]].map(|word| [word & 0xFFFF, word >> 16]);
                (0..2).fold(0, |word, half| word | if a[half] < b[half] { b[half] } else { a[half] } << (16 * half))
            }),
            "probe_prmt" => exactly(y, |lane| permuted(x[3 * lane], x[3 * lane + 1], x[3 * lane + 2])),
            "probe_moves" => exactly(y, |i| {
                let (low, high) = (x[2 * (i / 4)], x[2 * (i / 4) + 1]);
                [(low & 0xFFFF) * 0x10001, (low >> 16) * 0x10001, low, high][i % 4]
            }),
            "probe_mul_f16x2" => exactly(y, |lane| multiplied(x[2 * lane], x[2 * lane + 1])),
            "probe_e4m3_to_f16" | "probe_e4m3_to_f16_software" => exactly(y, |lane| both(x[lane], e4m3_as_f16)),
            "probe_e5m2_to_f16" => exactly(y, |lane| both(x[lane], e5m2_as_f16)),
            "probe_f32_to_e4m3" | "probe_f32_to_e4m3_software" => narrowed(x, y, [3, 7, 0x7E]),
            "probe_f32_to_e5m2" | "probe_f32_to_e5m2_software" => narrowed(x, y, [2, 15, 0x7B]),
            "probe_ex2" => each(x, y, power),
            "probe_lg2" => each(x, y, logarithm),
            "probe_vote_any" => exactly(y, |_| u32::from(x[..32].iter().any(|x| x % 2 == 1))),
            "probe_shfl_bfly" => exactly(y, |lane| x[lane ^ x[32 + lane] as usize]),
            "probe_shfl_idx" => exactly(y, |lane| x[x[32 + lane] as usize]),
            "probe_global" => exactly(y, |i| if i % 8 == 1 { unwritten } else { x[i] }),
            "probe_global_bytes" => exactly(y, |i| scattered(x[i / 2], i % 2, unwritten)),
            "probe_shared" => exactly(y, |i| match i {
                0..256 => x[8 * ((i / 8) ^ 5) + i % 8],
                256 => 0,
                _ => unwritten,
            }),
            "probe_ldmatrix" => exactly(y, |i| matrix(x, i, false)),
            "probe_ldmatrix_trans" => exactly(y, |i| matrix(x, i, true)),
            "probe_stmatrix" => exactly(y, |i| stored(x, i)),
            "probe_copy" => exactly(y, |i| copied(x, i, 16)),
            "probe_copy_4" => exactly(y, |i| copied(x, i, 4)),
            "probe_copy_groups" => {
                exactly(y, |i| if movement::has_copy(i as u32 / 128) { x[i] } else { movement::UNTOUCHED })
            }
            "probe_indices" => exactly(y, |i| [i as u32 / 4, block as u32, 64, blocks as u32][i % 4]),
            "probe_bar_sync" => exchanged(x, y, |thread| thread / 32, |thread, _| thread ^ 32),
            "probe_sync_threads" => exchanged(x, y, |thread| thread / 32, |thread, _| (thread + 32) % 128),
            "probe_bar_warp_sync" => exchanged(x, y, |lane| lane, |lane, round| lane ^ (1 << (round % 5))),
            "probe_wgmma_flight" => product_rules::flight(x, y),
            name if probe.blackwell => tensor_rules::check(name, x, y, unwritten),
            name if probe.hopper => product_rules::check(name, x, y),
            name => Err(format!("{name} has no rule here")),
        };
        verdict.map_err(|what| format!("block {block}: {what}"))?;
    }
    Ok(())
}

/// Whether the ISA leaves no choice: the simulator's results are then the chip's, bit for bit.
pub fn is_exact(probe: &ProbeInfo) -> bool {
    ["probe_wgmma_flight", "probe_stmatrix"].contains(&probe.name)
        || !probe.hopper
            && !probe.blackwell
            && !["probe_mma_bf16", "probe_mma_f16", "probe_ex2", "probe_lg2"].contains(&probe.name)
}

fn exactly(results: &[u32], expected: impl Fn(usize) -> u32) -> Result<(), String> {
    for (index, &result) in results.iter().enumerate() {
        let expected = expected(index);
        if result != expected {
            return Err(format!("result {index} is {result:#010x}, not {expected:#010x}"));
        }
    }
    Ok(())
}

fn each(operands: &[u32], results: &[u32], right: fn(f32, f32) -> bool) -> Result<(), String> {
    for (&x, &y) in operands.iter().zip(results) {
        if !right(f32::from_bits(x), f32::from_bits(y)) {
            return Err(format!("f({} = {x:#010x}) is {} = {y:#010x}", f32::from_bits(x), f32::from_bits(y)));
        }
    }
    Ok(())
}

/// A block's product against the matrices that its lanes' registers are.
fn product(x: &[u32], y: &[u32], decode: fn(u16) -> f64) -> Result<(), String> {
    let (mut a, mut b) = ([[0.0; 16]; 16], [[0.0; 8]; 16]);
    for lane in 0..32 {
        let words = &x[10 * lane..][..10];
        let halves = |word: u32| [decode(word as u16), decode((word >> 16) as u16)];
        for register in 0..4 {
            let (row, column) = a_register(lane as u32, register);
            a[row as usize][column as usize..][..2].copy_from_slice(&halves(words[4 + register as usize]));
        }
        for register in 0..2 {
            let (k, column) = b_register(lane as u32, register);
            let [first, second] = halves(words[8 + register as usize]);
            (b[k as usize][column as usize], b[k as usize + 1][column as usize]) = (first, second);
        }
    }
    for lane in 0..32 {
        for element in 0..4 {
            let row = accumulator_rows(lane as u32)[element / 2] as usize;
            let column = accumulator_column(lane as u32) as usize + element % 2;
            let d = f64::from(f32::from_bits(x[10 * lane + element]));
            let terms: Vec<f64> = (0..16).map(|k| a[row][k] * b[k][column]).chain([d]).collect();
            let result = y[4 * lane + element];
            if !summed(&terms, f32::from_bits(result)) {
                return Err(format!("d[{row}][{column}] is {} = {result:#010x} of {terms:?}", f32::from_bits(result)));
            }
        }
    }
    Ok(())
}

/// Whether `result` is the sum of `terms` within the bound.
fn summed(terms: &[f64], result: f32) -> bool {
    let (sum, magnitude): (f64, f64) = (terms.iter().sum(), terms.iter().map(|term| term.abs()).sum());
    if sum.is_nan() {
        return result.to_bits() == NAN;
    }
    if sum.is_infinite() {
        return f64::from(result) == sum;
    }
    if magnitude < 16_777_216.0 && terms.iter().all(|term| term.fract() == 0.0) {
        return f64::from(result) == sum;
    }
    // The smallest subnormals are what cutting cannot go below.
    (f64::from(result) - sum).abs() <= 17.0 * (f64::exp2(-23.0) * magnitude + f64::exp2(-149.0))
}

/// Two conversions: `high` and `low` nearest in the format, ties to even, a NaN 0x7FFF. `infinity` is its bits.
fn packed(x: &[u32], y: &[u32], decode: fn(u16) -> f64, infinity: u16) -> Result<(), String> {
    for (pair, &packed) in x.chunks_exact(2).zip(y) {
        for (&operand, result) in pair.iter().zip([(packed >> 16) as u16, packed as u16]) {
            if !nearest(f32::from_bits(operand), result, decode, infinity) {
                return Err(format!("{} = {operand:#010x} became {result:#06x}", f32::from_bits(operand)));
            }
        }
    }
    Ok(())
}

fn nearest(x: f32, result: u16, decode: fn(u16) -> f64, infinity: u16) -> bool {
    if x.is_nan() {
        return result == 0x7FFF;
    }
    let magnitude = result & 0x7FFF;
    if (result >> 15 == 1) != x.is_sign_negative() || magnitude > infinity {
        return false;
    }
    if x.is_infinite() {
        return magnitude == infinity;
    }
    // Rounding takes infinity for the number that would follow the largest.
    let largest = decode(infinity - 1);
    let value = |bits: u16| if bits == infinity { 2.0 * largest - decode(infinity - 2) } else { decode(bits) };
    let distance = |bits: u16| (f64::from(x.abs()) - value(bits)).abs();
    let own = distance(magnitude);
    // Beyond infinity's stand-in nothing is nearer.
    let beyond = magnitude == infinity && f64::from(x.abs()) >= value(infinity);
    let neighbours = [magnitude.checked_sub(1), (magnitude < infinity).then_some(magnitude + 1)];
    beyond
        || neighbours.into_iter().flatten().all(|other| {
            let other = distance(other);
            own < other || (own == other && magnitude.is_multiple_of(2))
        })
}

/// Conversions to the format of `[fraction bits, bias, largest code]`: no code is nearer, none even as near; NaN is 0x7F.
fn narrowed(x: &[u32], y: &[u32], [fraction_bits, bias, largest]: [u32; 3]) -> Result<(), String> {
    let value = |code: u32| {
        let (exponent, fraction) = (code >> fraction_bits, code % (1 << fraction_bits));
        let significand = if exponent == 0 { fraction } else { fraction + (1 << fraction_bits) };
        f64::from(significand) * f64::exp2(f64::from(exponent.max(1)) - f64::from(bias + fraction_bits))
    };
    for (pair, &packed) in x.chunks_exact(2).zip(y) {
        for (&operand, code) in pair.iter().zip([packed >> 8, packed & 0xFF]) {
            let number = f32::from_bits(operand);
            let own = code & 0x7F;
            let distance = |code: u32| (f64::from(number.abs()).min(1e9) - value(code)).abs();
            let better =
                |other: u32| distance(other) < distance(own) || distance(other) == distance(own) && own % 2 == 1;
            let right = match number.is_nan() {
                true => code == 0x7F,
                false => {
                    let signed = code >> 7 == u32::from(number.is_sign_negative());
                    signed && own <= largest && !(0..=largest).any(|other| other != own && better(other))
                }
            };
            if !right {
                return Err(format!("{number} = {operand:#010x} became {code:#04x}"));
            }
        }
    }
    Ok(())
}

/// Subnormals become zeros of their sign.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// Distance of f32 at `value`.
fn ulp(value: f64) -> f64 {
    f64::exp2(value.abs().log2().floor().max(-126.0) - 23.0)
}

fn power(x: f32, y: f32) -> bool {
    let x = flushed(x);
    if x.is_nan() {
        return y.to_bits() == NAN;
    }
    let exact = f64::from(x).exp2();
    // 2^0, and what is infinite or zero in f64 too.
    if [0.0, 1.0, f64::INFINITY].contains(&exact) {
        return y.to_bits() == (exact as f32).to_bits();
    }
    let (smallest, largest) = (f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX));
    let bound = 2.0 * ulp(exact);
    // Whether a result this near to either end is still a number is within the error.
    let zero = exact - bound < smallest && y.to_bits() == 0;
    let infinite = exact + bound > largest && y == f32::INFINITY;
    zero || infinite || (!y.is_subnormal() && (f64::from(y) - exact).abs() <= bound)
}

fn logarithm(x: f32, y: f32) -> bool {
    let x = flushed(x);
    if x.is_nan() || x < 0.0 {
        return y.to_bits() == NAN;
    }
    if x == 0.0 || x.is_infinite() {
        return y == if x == 0.0 { f32::NEG_INFINITY } else { f32::INFINITY };
    }
    let exact = f64::from(x).log2();
    let scale = if (0.5..=2.0).contains(&x) { 1.0 } else { exact.abs() };
    (f64::from(y) - exact).abs() <= f64::exp2(-22.0) * scale
}

/// Word `index` of the results of `ldmatrix.x4`: of tile `register`, row `lane / 4`, the pair `lane % 4`; transposed, the
/// elements `lane / 4` of two rows.
fn matrix(x: &[u32], index: usize, transposed: bool) -> u32 {
    let (lane, register) = (index / 4, index % 4);
    let element = |row: usize, column: usize| {
        let word = x[32 + 4 * x[8 * register + row] as usize + column / 2];
        word >> (16 * (column % 2)) & 0xFFFF
    };
    let (fixed, first) = (lane / 4, 2 * (lane % 4));
    let at = |i: usize| if transposed { element(first + i, fixed) } else { element(fixed, first + i) };
    at(1) << 16 | at(0)
}

/// Word `index` of shared memory after `stmatrix.x4` of four warps: lane `8 i + r` names row r of tile i, of which lane `4 r + t` has
/// the pair t.
fn stored(x: &[u32], index: usize) -> u32 {
    let thread = (0..128).find(|&thread| x[thread] as usize == index / 4).unwrap_or(0);
    let (warp, tile, row) = (thread / 32, thread % 32 / 8, thread % 8);
    x[128 + 4 * (32 * warp + 4 * row + index % 4) + tile]
}

/// Word `index` of shared memory after copies of `width` bytes: the first bytes of the lane that copied there, then zeros;
/// past the width what was there.
fn copied(x: &[u32], index: usize, width: usize) -> u32 {
    let first = 4 * (index % 4);
    if first >= width {
        return movement::UNTOUCHED;
    }
    let lane = (0..32).find(|lane| x[32 + lane] as usize == index / 4).unwrap_or(0);
    let source: Vec<u8> = x[64 + 4 * lane..][..4].iter().flat_map(|word| word.to_le_bytes()).collect();
    let byte = |i: usize| if i < x[lane] as usize { source[i] } else { 0 };
    u32::from_le_bytes([byte(first), byte(first + 1), byte(first + 2), byte(first + 3)])
}

/// The rounds of an exchange: who steps with `group`, and takes the value of `partner`.
fn exchanged(
    x: &[u32],
    y: &[u32],
    group: fn(usize) -> usize,
    partner: fn(usize, usize) -> usize,
) -> Result<(), String> {
    let (chain, rounds) = (order::CHAIN as usize, order::ROUNDS as usize);
    let threads = y.len();
    let steps = (group(threads - 1) + 1) * rounds;
    let mut values = x[chain + steps..].to_vec();
    let mut places: Vec<usize> = (0..threads).map(|thread| thread % chain).collect();
    for round in 0..rounds {
        for (thread, place) in places.iter_mut().enumerate() {
            for _ in 0..x[chain + group(thread) * rounds + round] {
                *place = x[*place] as usize;
            }
        }
        let before = values.clone();
        for (thread, value) in values.iter_mut().enumerate() {
            let other = before[partner(thread, round)];
            *value = value.wrapping_mul(5).wrapping_add(other).wrapping_add(places[thread] as u32);
        }
    }
    exactly(y, |thread| values[thread])
}
