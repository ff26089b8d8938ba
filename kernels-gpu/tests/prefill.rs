//! Prefill against plain loops, without the host library: ragged prompts, chunks and single tokens in one launch.
#![cfg(not(target_arch = "nvptx64"))]
mod common;
use common::prompts::Prompts;

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
    ] {
        let mut prompts = Prompts::new(name, 5, &[(150, 20), (1, 1), (90, 2)]);
        prompts.page_size = 1 << shift;
        prompts.kv_heads = 2;
        prompts.check();
    }
}
