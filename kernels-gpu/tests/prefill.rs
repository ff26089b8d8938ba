//! Prefill against plain loops, without the host library: ragged prompts, chunks and single tokens in one launch.
#![cfg(not(target_arch = "nvptx64"))]
mod common;
use common::prompts::Prompts;
use cuda_std::sim::Delivery;

const ENTRIES: [&str; 13] = [
    "prefill_d64_bf16_bf16",
    "prefill_d64_f16_f16",
    "prefill_d128_bf16_bf16",
    "prefill_d128_f16_f16",
    "prefill_d128_bf16_bf16_long",
    "prefill_d128_f16_f16_long",
    "prefill_d256_bf16_bf16",
    "prefill_d256_f16_f16",
    "prefill_d512_bf16_bf16",
    "prefill_d512_f16_f16",
    "prefill_d64_e4m3_e4m3",
    "prefill_d128_e4m3_e4m3",
    "prefill_d256_e4m3_e4m3",
];

#[test]
fn a_prompt_is_what_plain_loops_say() {
    Prompts::new("prefill_d128_bf16_bf16", 4, &[(70, 70)]).check();
}

#[test]
fn pages_of_every_size_and_chunks_are_right() {
    for (shift, name) in [
        (0, "prefill_d64_bf16_bf16"),
        (2, "prefill_d128_f16_f16"),
        (3, "prefill_d64_f16_f16"),
        (6, "prefill_d256_bf16_bf16"),
        // A row is half a box, of boxes and of single tokens.
        (0, "prefill_d64_e4m3_e4m3"),
        (2, "prefill_d64_e4m3_e4m3"),
        (4, "prefill_d64_e4m3_e4m3"),
    ] {
        let mut prompts = Prompts::new(name, 5, &[(150, 20), (1, 1), (90, 2)]);
        prompts.page_size = 1 << shift;
        prompts.kv_heads = 2;
        prompts.check();
    }
}

/// A prompt of several tiles, one with a part of one, one token of many, and one that has no keys yet.
fn mixed(name: &str, group: u32) -> Prompts {
    let mut prompts = Prompts::new(name, group, &[]);
    let tile = prompts.shape.tile_keys;
    prompts.sequences = vec![(tile + 9, 40), (2 * tile + 3, 1), (0, 1), (17, 17)];
    prompts
}

#[test]
fn every_head_dimension_and_element_is_right() {
    for name in ENTRIES {
        [4, 5].into_iter().for_each(|group| mixed(name, group).check());
    }
}

#[test]
fn the_order_of_threads_and_copies_changes_no_bit() {
    for name in [
        "prefill_d64_f16_f16",
        "prefill_d64_e4m3_e4m3",
        "prefill_d128_bf16_bf16",
        "prefill_d128_f16_f16_long",
        "prefill_d256_bf16_bf16",
        "prefill_d512_bf16_bf16",
    ] {
        let mut prompts = mixed(name, 5);
        let mut run = |delivery, order, blocks| -> Vec<u32> {
            (prompts.delivery, prompts.order, prompts.blocks) = (delivery, order, blocks);
            prompts.run().unwrap_or_else(|error| panic!("{name}: {error}")).into_iter().map(f32::to_bits).collect()
        };
        let first = run(Delivery::Latest, 1, 2);
        for (delivery, order, blocks) in
            [(Delivery::Latest, 1, 2), (Delivery::Latest, 2, 2), (Delivery::Earliest, 7, 2), (Delivery::Latest, 5, 1)]
        {
            assert_eq!(run(delivery, order, blocks), first, "{name}, {delivery:?}, order {order}, {blocks} blocks");
        }
    }
}

#[test]
fn what_no_row_sees_reaches_no_result() {
    // Windows that begin within a tile, a box of the tensor map and a page; on its first key; and on a sequence's.
    for (name, page_size, left) in [
        ("prefill_d64_bf16_bf16", 16, 100),
        ("prefill_d64_f16_f16", 1, 31),
        ("prefill_d128_bf16_bf16", 128, 69),
        ("prefill_d128_f16_f16", 4, 128),
        ("prefill_d128_bf16_bf16_long", 2, 128),
        ("prefill_d256_bf16_bf16", 32, 0),
        ("prefill_d256_f16_f16", 16, 79),
        ("prefill_d512_bf16_bf16", 16, 100),
        ("prefill_d512_f16_f16", 2, 64),
        ("prefill_d64_e4m3_e4m3", 16, 100),
        ("prefill_d64_e4m3_e4m3", 1, 69),
    ] {
        let mut prompts = mixed(name, 4);
        let tile = prompts.shape.tile_keys;
        prompts.sequences.extend([(3 * tile + 5, 30), (left + 20, 20), (2 * tile, 1)]);
        (prompts.kv_heads, prompts.page_size, prompts.window, prompts.poison) = (2, page_size, [left, 0], true);
        prompts.check();
    }
}

/// The warps that copy keys have nothing to wait for there, and nobody waits for them.
#[test]
fn items_without_keys_stay_until_all_have_read_them() {
    for (order, delivery) in [(1, Delivery::Latest), (2, Delivery::Latest), (3, Delivery::Earliest)] {
        for name in ["prefill_d64_bf16_bf16", "prefill_d512_bf16_bf16"] {
            let mut prompts = Prompts::new(name, 4, &[(0, 1); 12]);
            prompts.sequences.push((70, 2));
            (prompts.blocks, prompts.order, prompts.delivery) = (1, order, delivery);
            prompts.check();
        }
    }
}

#[test]
fn d512_is_what_plain_loops_say() {
    Prompts::new("prefill_d512_bf16_bf16", 4, &[(70, 70), (200, 3)]).check();
}

/// Most of their tiles are worked out again.
#[test]
fn logits_of_8_bits_that_are_large_are_right() {
    for name in ["prefill_d64_e4m3_e4m3", "prefill_d128_e4m3_e4m3", "prefill_d256_e4m3_e4m3"] {
        for sharpness in [8.0, 64.0] {
            let mut prompts = mixed(name, 3);
            prompts.sharpness = sharpness;
            prompts.check();
        }
    }
}

/// Codes of 8 bits, of which each query token sees one key: it is the value of that one, wherever transposing has left it.
#[test]
fn each_key_of_8_bits_meets_its_own_value() {
    for name in ["prefill_d64_e4m3_e4m3", "prefill_d128_e4m3_e4m3", "prefill_d256_e4m3_e4m3"] {
        let mut prompts = Prompts::new(name, 2, &[]);
        let tile = prompts.shape.tile_keys;
        (prompts.sequences, prompts.window) = (vec![(tile + 16, tile + 16)], [0, 0]);
        prompts.check();
    }
}

#[test]
fn lengths_at_the_edges_of_tiles_of_8_bits_are_right() {
    for (name, page_size) in
        [("prefill_d64_e4m3_e4m3", 32), ("prefill_d128_e4m3_e4m3", 16), ("prefill_d256_e4m3_e4m3", 64)]
    {
        let mut prompts = Prompts::new(name, 8, &[]);
        let tile = prompts.shape.tile_keys;
        let lengths = [1, 2, 31, tile - 1, tile, tile + 1, 2 * tile - 1, 2 * tile, 4 * tile + 37, 5 * tile + 1];
        prompts.sequences = lengths.iter().map(|&keys| (keys, 1 + keys % 3)).collect();
        (prompts.kv_heads, prompts.page_size) = (2, page_size);
        prompts.check();
    }
}
