//! Prefill on Blackwell against plain loops, without the host library: ragged prompts, chunks and single tokens in one launch.
#![cfg(not(target_arch = "nvptx64"))]
mod common;
use common::prompts::Prompts;
use cuda_std::sim::Delivery;
use kernels_gpu::kernels::{ENTRIES, Family};
use proptest::prelude::*;

/// Its entries.
fn entries() -> impl Iterator<Item = &'static str> {
    ENTRIES.iter().filter(|entry| entry.family() == Family::Tcgen05).map(|entry| entry.name)
}

/// A prompt of several tiles, one with a part of one, one token of many, and one that has no keys yet.
fn mixed(name: &str, group: u32) -> Prompts {
    let mut prompts = Prompts::new(name, group, &[]);
    let tile = prompts.shape.tile_keys;
    prompts.sequences = vec![(tile + 9, 40), (2 * tile + 3, 1), (0, 1), (17, 17)];
    prompts
}

#[test]
fn a_prompt_is_what_plain_loops_say() {
    Prompts::new("prefill_tcgen05_d128_bf16_bf16", 4, &[(70, 70)]).check();
}

#[test]
fn a_pair_is_what_plain_loops_say() {
    Prompts::new("prefill_tcgen05_d512_bf16_bf16", 4, &[(70, 70), (200, 3)]).check();
}

#[test]
fn every_head_dimension_and_element_is_right() {
    assert_eq!(entries().count(), 12);
    for name in entries() {
        [4, 5].into_iter().for_each(|group| mixed(name, group).check());
    }
}

#[test]
fn pages_of_every_size_and_chunks_are_right() {
    for (shift, name) in [
        (0, "prefill_tcgen05_d64_bf16_bf16"),
        (2, "prefill_tcgen05_d128_f16_f16"),
        (3, "prefill_tcgen05_d64_f16_f16"),
        (6, "prefill_tcgen05_d256_bf16_bf16"),
        (5, "prefill_tcgen05_d512_f16_f16"),
        (0, "prefill_tcgen05_d64_e4m3_e4m3"),
        (2, "prefill_tcgen05_d64_e4m3_e4m3"),
        (4, "prefill_tcgen05_d64_e4m3_e4m3"),
    ] {
        let mut prompts = Prompts::new(name, 5, &[(150, 20), (1, 1), (90, 2)]);
        (prompts.page_size, prompts.kv_heads) = (1 << shift, 2);
        prompts.check();
    }
}

#[test]
fn the_order_of_threads_and_copies_changes_no_bit() {
    for name in [
        "prefill_tcgen05_d64_f16_f16",
        "prefill_tcgen05_d64_e4m3_e4m3",
        "prefill_tcgen05_d256_bf16_bf16",
        "prefill_tcgen05_d512_bf16_bf16",
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
    for (name, page_size, left) in [
        ("prefill_tcgen05_d64_bf16_bf16", 16, 100),
        ("prefill_tcgen05_d128_bf16_bf16", 128, 69),
        ("prefill_tcgen05_d256_f16_f16", 4, 128),
        ("prefill_tcgen05_d512_bf16_bf16", 16, 100),
        ("prefill_tcgen05_d64_e4m3_e4m3", 16, 100),
        ("prefill_tcgen05_d64_e4m3_e4m3", 1, 69),
    ] {
        let mut prompts = mixed(name, 4);
        let tile = prompts.shape.tile_keys;
        prompts.sequences.extend([(3 * tile + 5, 30), (left + 20, 20), (2 * tile, 1)]);
        (prompts.kv_heads, prompts.page_size, prompts.window, prompts.poison) = (2, page_size, [left, 0], true);
        prompts.check();
    }
}

/// Nobody waits for anybody there, but for who tells of items.
#[test]
fn items_without_keys_stay_until_all_have_read_them() {
    for (order, delivery) in [(1, Delivery::Latest), (2, Delivery::Latest), (3, Delivery::Earliest)] {
        for name in ["prefill_tcgen05_d64_bf16_bf16", "prefill_tcgen05_d256_f16_f16", "prefill_tcgen05_d512_bf16_bf16"]
        {
            let mut prompts = Prompts::new(name, 4, &[(9, 1)]);
            prompts.sequences.extend([(0, 1); 12]);
            prompts.sequences.push((70, 2));
            (prompts.blocks, prompts.order, prompts.delivery) = (1, order, delivery);
            prompts.check();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Odd lengths, groups, pages and windows.
    #[test]
    fn any_batch_is_what_plain_loops_say(
        entry in 0..12_usize, group in 1..=9_u32, page in 0..=7_u32, left in prop::option::of(0..300_u32),
        sequences in prop::collection::vec((0..300_u32, 1..=20_u32), 1..=3), order in 0..100_u64, late in any::<bool>(),
    ) {
        let name = entries().nth(entry).expect("an entry");
        let sequences: Vec<_> = sequences.into_iter().map(|(keys, queries)| (keys.max(queries), queries)).collect();
        let mut prompts = Prompts::new(name, group, &sequences);
        (prompts.page_size, prompts.order, prompts.seed) = (1 << page, order, order);
        prompts.delivery = if late { Delivery::Latest } else { Delivery::Earliest };
        if let Some(left) = left {
            (prompts.window, prompts.poison) = ([left, 0], true);
        }
        prompts.check();
    }
}
