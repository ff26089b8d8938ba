//! What the probes of what Hopper adds are given, and what their results must be, worked out here from the PTX ISA's text in
//! plain loops. Shares no code with the simulator.
use kernels_gpu::layout::tensor_map::{TileSwizzle, TiledLayout};
use kernels_gpu::probe::hopper::{BLOCKS, HopperProbe};
use kernels_gpu::probe::order;

/// SplitMix64: the same operands on every machine.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.word()) * u64::from(n)) >> 32) as u32
    }
}

/// The operands of [`BLOCKS`] blocks.
pub fn input(probe: &HopperProbe) -> Vec<u32> {
    let seed = probe.name.bytes().fold(0u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
    let random = &mut Random(seed);
    let mut input: Vec<u32> = (0..BLOCKS * probe.input_words).map(|_| random.word()).collect();
    for (block, words) in input.chunks_exact_mut(probe.input_words as usize).enumerate() {
        if let Some(map) = probe.input_map {
            for (dimension, coordinate) in words[..map.rank as usize].iter_mut().enumerate() {
                // The first blocks inside; the others about once each across an edge, or outside.
                let (size, extent) = (map.sizes[dimension] as u32, map.box_sizes[dimension]);
                let astray = block >= 4 && random.below(map.rank) == 0;
                let anywhere = match astray {
                    false => random.below((size + 1).saturating_sub(extent).max(1)),
                    true => random.below(size + extent + 3).wrapping_sub(extent + 1),
                };
                // Of the innermost dimension multiples of 16 bytes; others are an illegal instruction on the chip.
                let step = if dimension == 0 { 16 / map.element_bytes } else { 1 };
                *coordinate = anywhere & step.wrapping_neg();
            }
        }
        if probe.name == "probe_mbarrier" {
            chain(words, block, random);
        }
    }
    input
}

/// A chain that visits all its places, and numbers of steps.
fn chain(words: &mut [u32], block: usize, random: &mut Random) {
    let chain = order::CHAIN as usize;
    let mut places: Vec<usize> = (0..chain).collect();
    for i in (1..chain).rev() {
        places.swap(i, random.below(i as u32 + 1) as usize);
    }
    for (&at, &next) in places.iter().zip(places.iter().cycle().skip(1)) {
        words[at] = next as u32;
    }
    for steps in &mut words[chain..chain + 4 * order::ROUNDS as usize] {
        *steps = if block > 0 && random.below(4) == 0 { random.below(300) } else { 0 };
    }
}

/// The results of [`BLOCKS`] blocks; `unwritten` is what was there before.
pub fn expected(probe: &HopperProbe, input: &[u32], unwritten: u32) -> Vec<u32> {
    if let Some(map) = probe.output_map {
        return stored(probe, &map, input, unwritten);
    }
    let blocks = input.chunks_exact(probe.input_words as usize).enumerate();
    let results = blocks.flat_map(|(block, x)| {
        let block = block as u32;
        match probe.name {
            "probe_mbarrier" => exchanged(x),
            "probe_bulk" => x.to_vec(),
            "probe_multicast" => {
                let tiles = [block / 2 * 2, block / 2 * 2 + 1].map(|block| tile(probe, input, block));
                tiles.concat()
            }
            "probe_distributed" => {
                let of = |rank: u32| {
                    let block = (block / 4 * 4 + (block + rank) % 4) as usize;
                    input[32 * block..32 * (block + 1)].to_vec()
                };
                [of(3), of(2), vec![0x400 + block % 4; 32]].concat()
            }
            "probe_st_async" => {
                let of = |rank: u32| &input[192 * (block / 4 * 4 + (block + rank) % 4) as usize..];
                [&of(3)[..128], &of(2)[128..192]].concat()
            }
            "probe_warpgroups" => {
                (0..384).map(|i| if i < 128 { x[i] } else { x[i].wrapping_add(u32::from(i % 32 == 0)) }).collect()
            }
            _ => tile(probe, input, block),
        }
    });
    results.collect()
}

/// The coordinates that a block names.
pub fn coordinates<'a>(probe: &HopperProbe, input: &'a [u32], block: u32) -> &'a [u32] {
    &input[(block * probe.input_words) as usize..]
}

/// The bytes' offset in the tensor of element `element` of the box (in the order of the tile) at `coordinates`, if it is
/// inside.
fn place(map: &TiledLayout, coordinates: &[u32], element: usize) -> Option<usize> {
    let (mut rest, mut offset) = (element, 0);
    for (dimension, &coordinate) in coordinates[..map.rank as usize].iter().enumerate() {
        let extent = map.box_sizes[dimension] as usize;
        let index = i64::from(coordinate as i32) + (rest % extent) as i64;
        rest /= extent;
        if index < 0 || index >= map.sizes[dimension] as i64 {
            return None;
        }
        let stride = if dimension == 0 { u64::from(map.element_bytes) } else { map.strides[dimension - 1] };
        offset += index as usize * stride as usize;
    }
    Some(offset)
}

/// Where byte `byte` of the rows of a box is in its tile, which begins at a multiple of 1024.
fn swizzled(map: &TiledLayout, byte: usize) -> usize {
    let chunks = match map.swizzle {
        TileSwizzle::None => 1,
        TileSwizzle::Bytes32 => 2,
        TileSwizzle::Bytes64 => 4,
        TileSwizzle::Bytes128 => 8,
    };
    byte ^ (byte / 128 % chunks * 16)
}

/// How many elements of the box at `coordinates` are inside.
#[allow(dead_code, reason = "asked by the tests without a GPU")]
pub fn elements_inside(map: &TiledLayout, coordinates: &[u32]) -> usize {
    let elements = map.tile_bytes() as usize / map.element_bytes as usize;
    (0..elements).filter(|&element| place(map, coordinates, element).is_some()).count()
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The tile of the box that a block names.
fn tile(probe: &HopperProbe, input: &[u32], block: u32) -> Vec<u32> {
    let Some(map) = probe.input_map else { panic!("{} has no rule here", probe.name) };
    let tensor = bytes(input);
    let width = map.element_bytes as usize;
    let mut tile = vec![0; map.tile_bytes() as usize];
    for element in 0..tile.len() / width {
        let Some(from) = place(&map, coordinates(probe, input, block), element) else { continue };
        let to = swizzled(&map, element * width);
        tile[to..to + width].copy_from_slice(&tensor[from..from + width]);
    }
    words(&tile)
}

/// All results after each block has stored its tile at column -8 of its rows.
fn stored(probe: &HopperProbe, map: &TiledLayout, input: &[u32], unwritten: u32) -> Vec<u32> {
    let mut tensor = bytes(&vec![unwritten; (BLOCKS * probe.output_words) as usize]);
    let width = map.element_bytes as usize;
    for (block, tile) in (0..).zip(input.chunks_exact(probe.input_words as usize)) {
        let tile = bytes(tile);
        for element in 0..tile.len() / width {
            let Some(to) = place(map, &[64, 8 * block], element) else { continue };
            let from = swizzled(map, element * width);
            tensor[to..to + width].copy_from_slice(&tile[from..from + width]);
        }
    }
    words(&tensor)
}

/// The rounds of the exchange, with the value of the next warp.
fn exchanged(x: &[u32]) -> Vec<u32> {
    let (chain, rounds) = (order::CHAIN as usize, order::ROUNDS as usize);
    let mut values = x[chain + 4 * rounds..].to_vec();
    let mut places: Vec<usize> = (0..128).map(|thread| thread % chain).collect();
    for round in 0..rounds {
        for (thread, place) in places.iter_mut().enumerate() {
            for _ in 0..x[chain + thread / 32 * rounds + round] {
                *place = x[*place] as usize;
            }
        }
        let before = values.clone();
        for (thread, value) in values.iter_mut().enumerate() {
            *value =
                value.wrapping_mul(5).wrapping_add(before[(thread + 32) % 128]).wrapping_add(places[thread] as u32);
        }
    }
    values
}
