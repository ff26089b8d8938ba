//! What the probes are given: random words and the operands where instructions differ: NaN, infinities, subnormals, ties.
use kernels_gpu::probe::{PROBES, ProbeInfo, order};

#[path = "product_operands.rs"]
mod product_operands;
#[path = "tensor_operands.rs"]
mod tensor_operands;

/// A probe with the operands of all its blocks.
pub struct Trials {
    /// Which.
    pub probe: &'static ProbeInfo,
    /// `[blocks, input_words]`.
    pub input: Vec<u32>,
}

/// SplitMix64: the same operands on every machine.
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next word.
    pub fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    /// Below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.word()) * u64::from(n)) >> 32) as u32
    }

    /// In -1 to 1.
    fn unit(&mut self) -> f32 {
        self.word() as i32 as f32 / 2_147_483_648.0
    }

    /// 0 to `n` - 1 in some order.
    fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i as usize, self.below(i + 1) as usize);
        }
        order
    }

    fn words(&mut self, n: u32) -> Vec<u32> {
        (0..n).map(|_| self.word()).collect()
    }
}

/// Every probe with its trials.
pub fn all() -> Vec<Trials> {
    PROBES.iter().enumerate().map(|(index, probe)| Trials { probe, input: input(probe, index as u64) }).collect()
}

fn input(probe: &ProbeInfo, seed: u64) -> Vec<u32> {
    let random = &mut Random::new(seed);
    let blocks = |n: u32, random: &mut Random, block: &dyn Fn(u32, &mut Random) -> Vec<u32>| -> Vec<u32> {
        (0..n).flat_map(|index| block(index, random)).collect()
    };
    let input = match probe.name {
        "probe_mma_bf16" => blocks(96, random, &|index, random| mma(index, random, encode_bf16)),
        "probe_mma_f16" => blocks(96, random, &|index, random| mma(index, random, encode_f16)),
        "probe_cvt_bf16x2" => conversions(random, 16),
        "probe_cvt_f16x2" | "probe_cvt_rz_f16x2" => conversions(random, 13),
        "probe_movmatrix" => blocks(32, random, &|_, random| random.words(32)),
        "probe_cvt_f32_f16" => (0..1 << 16).map(|half| random.word() << 16 | half).collect(),
        "probe_lop3" | "probe_max_u16x2" | "probe_moves" => random.words(8 * probe.input_words),
        "probe_fma" | "probe_fma_rz" => fused(random),
        "probe_prmt" => blocks(96, random, &|_, random| random.words(96)),
        "probe_mul_f16x2" => blocks(64, random, &|index, random| products(index, random)),
        "probe_e4m3_to_f16" | "probe_e4m3_to_f16_software" | "probe_e5m2_to_f16" => (0..1 << 16).collect(),
        "probe_f32_to_e4m3" | "probe_f32_to_e4m3_software" => narrowings(random, 3, 7),
        "probe_f32_to_e5m2" | "probe_f32_to_e5m2_software" => narrowings(random, 2, 15),
        "probe_ex2" => numbers(random, |random| 160.0 * random.unit()),
        "probe_lg2" => numbers(random, |random| 1.0 + 0.75 * random.unit()),
        "probe_shfl_bfly" => blocks(40, random, &|index, random| {
            // The kernels' masks first, alike in all lanes; then any, each lane its own.
            let mask = |random: &mut Random| if index < 8 { 1 << (index % 5) } else { random.below(32) };
            [random.words(32), (0..32).map(|_| mask(random)).collect()].concat()
        }),
        "probe_vote_any" => blocks(40, random, &|index, random| {
            // None, one of the lanes, any.
            (0..32)
                .map(|lane| random.word() & !1 | u32::from(lane + 1 == index || index > 32 && random.below(8) == 0))
                .collect()
        }),
        "probe_shfl_idx" => {
            blocks(40, random, &|_, random| [random.words(32), (0..32).map(|_| random.below(32)).collect()].concat())
        }
        "probe_global" | "probe_global_bytes" | "probe_shared" | "probe_copy_groups" => {
            random.words(8 * probe.input_words)
        }
        "probe_ldmatrix" | "probe_ldmatrix_trans" => blocks(16, random, &|index, random| {
            // Rows in order, in any order, and repeated.
            let rows = match index % 3 {
                0 => (0..32).collect(),
                1 => random.permutation(256)[..32].to_vec(),
                _ => (0..32).map(|_| random.below(256)).collect(),
            };
            [rows, random.words(1024)].concat()
        }),
        "probe_copy" => copies(random, 16),
        "probe_copy_4" => copies(random, 4),
        "probe_indices" => random.words(5 * probe.input_words),
        "probe_bar_sync" | "probe_sync_threads" => exchanges(random, 4 * order::ROUNDS, 128),
        "probe_bar_warp_sync" => exchanges(random, 32 * order::ROUNDS, 32),
        "probe_stmatrix" => blocks(16, random, &|index, random| {
            // Rows in order, and in any.
            let rows = if index == 0 { (0..128).collect() } else { random.permutation(128) };
            [rows, random.words(512)].concat()
        }),
        "probe_wgmma_flight" => blocks(4, random, &|_, random| product_operands::flight(random)),
        // Few: a block's check is a thousand times an instruction's of a warp.
        name if probe.blackwell => blocks(12, random, &|index, random| tensor_operands::block(name, index, random)),
        name if probe.hopper => blocks(16, random, &|index, random| product_operands::block(name, index, random)),
        name => panic!("{name} has no operands here"),
    };
    assert!(input.len().is_multiple_of(probe.input_words as usize), "{}: {} words", probe.name, input.len());
    input
}

/// f32 to bf16 by cutting: operands need not be rounded.
fn encode_bf16(value: f32) -> u32 {
    value.to_bits() >> 16
}

fn encode_f16(value: f32) -> u32 {
    u32::from(half::f16::from_f32(value).to_bits())
}

/// A product's operands, of the kind `index % 6`.
fn mma(index: u32, random: &mut Random, encode: fn(f32) -> u32) -> Vec<u32> {
    let element = |random: &mut Random| -> u32 {
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1.0];
        match index % 6 {
            0 => encode(random.below(17) as f32 - 8.0), // integers: sums are exact, so one element astray shows
            1 => encode(random.unit()),
            2 => encode(random.unit() * f32::exp2(random.below(24) as f32 - 12.0)),
            3 if random.below(40) == 0 => encode(special[random.below(6) as usize]),
            3 => encode(random.unit()),
            4 => random.below(1 << 16) & 0x807F, // zeros and subnormals (of f16, the smaller half)
            _ => random.word() & 0xBFFF,         // any bits below 2 in magnitude
        }
    };
    let mut lanes = Vec::new();
    for _ in 0..32 {
        for _ in 0..4 {
            let d = match index % 6 {
                0 => random.below(1 << 12) as f32 - 2048.0,
                2 => random.unit() * f32::exp2(random.below(30) as f32 - 15.0),
                4 => random.unit() * f32::from_bits(0x0100_0000),
                _ => random.unit(),
            };
            lanes.push(d.to_bits());
        }
        for _ in 0..6 {
            let (low, high) = (element(random), element(random));
            lanes.push(high << 16 | low);
        }
    }
    lanes
}

/// Copies of up to `width` bytes a lane: all lanes one size, then sizes of their own. Not only multiples of 4: the ISA
/// takes any.
fn copies(random: &mut Random, width: u32) -> Vec<u32> {
    (0..=width)
        .flat_map(|size| {
            let own = |lane: u32, random: &mut Random| match size < width {
                true => (size + lane / 16) % (width + 1),
                false => random.below(width + 1),
            };
            let sizes: Vec<u32> = (0..32).map(|lane| own(lane, random)).collect();
            [sizes, random.permutation(32), random.words(128)].concat()
        })
        .collect()
}

/// f32 around the ties of a conversion that drops `dropped` bits, and special numbers.
fn conversions(random: &mut Random, dropped: u32) -> Vec<u32> {
    let mut words = specials();
    for _ in 0..1500 {
        let kept = random.word() >> dropped << dropped;
        let half = 1 << (dropped - 1);
        // Above 2^16 an f16 is infinite; half of the words lie in its range, some where it is subnormal.
        let near = 0x3F80_0000u32.wrapping_add((random.word() as i32 >> 3) as u32) >> dropped << dropped;
        words.extend([kept, kept | half, kept | (half - 1), kept | (half + 1), near | half, near | (half + 1)]);
        // An f16 subnormal has as many fewer bits as its exponent is below: ties are further up.
        let tiny = (113 - random.below(12)) << 23 | random.below(1 << 10) << 13;
        words.extend([tiny, tiny | 1 << 13, tiny | (random.below(1 << 13)), random.word()]);
    }
    whole(words, 64)
}

/// f32 for a conversion to an 8-bit format: every number that it has, every tie between two, and the f32 beside those;
/// any bits of its range, and special numbers.
fn narrowings(random: &mut Random, fraction_bits: i32, bias: i32) -> Vec<u32> {
    let value = |code: i32| {
        let (exponent, fraction) = (code >> fraction_bits, code & ((1 << fraction_bits) - 1));
        let implicit = if exponent > 0 { 1 << fraction_bits } else { 0 };
        (implicit + fraction) as f32 * f32::exp2((exponent.max(1) - bias - fraction_bits) as f32)
    };
    let mut words = specials();
    for code in 0..0x80 {
        let tie = (value(code) + value(code + 1)) / 2.0;
        let near = [value(code), tie].map(f32::to_bits).into_iter().flat_map(|b| [b, b + 1, b.saturating_sub(1)]);
        words.extend(near.flat_map(|bits| [bits, bits | 1 << 31]));
    }
    words.extend(
        (0..4000).map(|_| 0x3F80_0000u32.wrapping_add((random.word() as i32 >> 4) as u32) ^ random.below(2) << 31),
    );
    whole(words, 64)
}

/// Pairs of f16 whose products are of any size, subnormal or special.
fn products(index: u32, random: &mut Random) -> Vec<u32> {
    let element = |random: &mut Random| match index % 4 {
        0 => random.below(1 << 16) & 0x83FF | 0x3C00, // 1 to 2: a half of the last place is a tie
        1 => encode_f16(random.unit() * f32::exp2(random.below(30) as f32 - 24.0)),
        2 if random.below(8) == 0 => [0x7E01, 0x7C00, 0xFC00, 0, 0x8000, 0x0001, 0x7BFF][random.below(7) as usize],
        _ => random.below(1 << 16),
    };
    (0..64).map(|_| element(random) << 16 | element(random)).collect()
}

/// Triples for a * b + c: where the sum cancels to what a product rounded by itself would lose, where c is of any size
/// beside the product, where all is subnormal, any bits, and special numbers.
fn fused(random: &mut Random) -> Vec<u32> {
    let mut words = Vec::new();
    let sized =
        |random: &mut Random, spread: u32| random.unit() * f32::exp2(random.below(spread) as f32 - spread as f32 / 2.0);
    for _ in 0..4000 {
        let (a, b) = (sized(random, 60), sized(random, 60));
        words.extend([a, b, -(a * b)].map(f32::to_bits));
        words.extend([a, b, sized(random, 100)].map(f32::to_bits));
        let tiny = f32::from_bits(random.below(1 << 24));
        words.extend([a, f32::MIN_POSITIVE * b, tiny].map(f32::to_bits));
        words.extend([random.word(), random.word(), random.word()]);
    }
    let specials = specials();
    let special = |random: &mut Random| specials[random.below(specials.len() as u32) as usize];
    words.extend((0..2000).flat_map(|_| [special(random), special(random), special(random)]));
    // Ones: 3 words each of 32 lanes.
    whole(words, 96)
}

/// Random arguments of `draw`, any bits, and special numbers.
fn numbers(random: &mut Random, draw: impl Fn(&mut Random) -> f32) -> Vec<u32> {
    let mut words = specials();
    words.extend((0..20_000).map(|_| draw(random).to_bits()));
    words.extend(random.words(20_000));
    words.extend((-160..=160).map(|integer| (integer as f32).to_bits()));
    words.extend((-126..=127).map(|exponent| f32::exp2(exponent as f32).to_bits()));
    whole(words, 32)
}

fn specials() -> Vec<u32> {
    let positive = [
        0,
        1,
        0x007F_FFFF,
        0x0080_0000,
        0x0080_0001,
        0x3F80_0000,
        0x3F7F_FFFF,
        0x3F80_0001,
        0x4300_0000,
        0x42FF_FFFF,
        0x42FC_0000,
        0x42FC_0001,
        0x4280_0000,
        0x477F_E000,
        0x477F_EFFF,
        0x477F_F000,
        0x477F_F001,
        0x3380_0000,
        0x3300_0000,
        0x3300_0001,
        0x3880_0000,
        0x387F_C000,
        0x7F7F_FFFF,
        0x7F7F_7FFF,
        0x7F7F_8000,
        0x7F80_0000,
        0x7F80_0001,
        0x7FC0_0000,
        0x7FFF_FFFF,
    ];
    positive.iter().flat_map(|bits| [*bits, bits | 0x8000_0000]).collect()
}

/// Filled up with ones to whole blocks.
fn whole(mut words: Vec<u32>, block: usize) -> Vec<u32> {
    words.resize(words.len().next_multiple_of(block), 0x3F80_0000);
    words
}

/// A chain that visits all its places, numbers of steps, values.
fn exchanges(random: &mut Random, steps: u32, values: u32) -> Vec<u32> {
    let mut words = Vec::new();
    for block in 0..24 {
        let order = random.permutation(order::CHAIN);
        let mut chain = vec![0; order::CHAIN as usize];
        for (at, next) in order.iter().zip(order.iter().cycle().skip(1)) {
            chain[*at as usize] = *next;
        }
        words.extend(chain);
        // A few threads are far behind the others; in the first block nobody is.
        words.extend((0..steps).map(|_| if block > 0 && random.below(4) == 0 { random.below(300) } else { 0 }));
        words.extend(random.words(values));
    }
    words
}
