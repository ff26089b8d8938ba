//! Decode over FP8 and NVFP4 caches against plain loops over the numbers that their codes stand for.
mod common;
use common::cache::Scaling;
use common::{Problem, group_of};
use cuda_std::sim::Delivery;

fn names(cache: &str) -> impl Iterator<Item = String> {
    let dims = [64, 128, 256, 512];
    let queries = dims.into_iter().flat_map(|d| ["bf16", "f16"].map(|q| (d, q)));
    let classes = queries.flat_map(|(d, q)| ["eight", "few", "many"].map(|rows| (d, q, rows)));
    classes.map(move |(d, q, rows)| format!("decode_d{d}_{q}_{cache}_{rows}"))
}

fn check(cache: &str, scaling: Scaling) {
    for (index, name) in names(cache).enumerate() {
        let group = group_of(&name);
        let mut problem = Problem::new(&name, group, &[77, 0, 321]);
        problem.scaling = scaling;
        problem.splits = 1 + index as u32 % 3;
        problem.delivery = if index % 2 == 0 { Delivery::Latest } else { Delivery::Earliest };
        println!("{name} {scaling:?}");
        problem.check();
    }
}

#[test]
fn e4m3_by_the_tensor() {
    check("e4m3", Scaling::Host);
}

#[test]
fn e5m2_by_the_tensor() {
    check("e5m2", Scaling::Device);
}

#[test]
fn e4m3_by_token_and_head() {
    check("e4m3", Scaling::Tokens);
}

#[test]
fn nvfp4_with_linear_scales() {
    check("nvfp4", Scaling::DeviceReciprocal);
}

#[test]
fn nvfp4_with_interleaved_scales() {
    check("nvfp4", Scaling::Interleaved);
}

/// Queries of bf16 that f16 cannot hold, above and below: a power of two brings each row into range.
#[test]
fn queries_far_outside_of_f16() {
    for power in [2f32.powi(60), 2f32.powi(-60)] {
        for name in ["decode_d128_bf16_e4m3_few", "decode_d512_bf16_e5m2_many", "decode_d256_bf16_nvfp4_few"] {
            let mut problem = Problem::new(name, 7, &[77, 200]);
            problem.query_power = power;
            problem.check();
        }
    }
}

#[test]
fn any_page_size_is_right() {
    for shift in 0..=10 {
        let mut problem = Problem::new("decode_d64_bf16_e4m3_few", 5, &[67, 130]);
        (problem.page_size, problem.scaling) = (1 << shift, Scaling::Tokens);
        problem.check();
        let mut problem = Problem::new("decode_d128_bf16_nvfp4_many", 17, &[67, 130]);
        (problem.page_size, problem.scaling) = (4 << shift.min(8), Scaling::Interleaved);
        problem.check();
    }
}
