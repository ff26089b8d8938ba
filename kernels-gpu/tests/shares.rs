//! Decode and combine against plain loops: shares of every kind, without the host library's planner.
mod common;
use common::{Problem, group_of};
use cuda_std::sim::Delivery;
use kernels_gpu::abi::PageReport;

const BF16: [&str; 12] = [
    "decode_d64_bf16_bf16_eight",
    "decode_d64_bf16_bf16_few",
    "decode_d64_bf16_bf16_many",
    "decode_d128_bf16_bf16_eight",
    "decode_d128_bf16_bf16_few",
    "decode_d128_bf16_bf16_many",
    "decode_d256_bf16_bf16_eight",
    "decode_d256_bf16_bf16_few",
    "decode_d256_bf16_bf16_many",
    "decode_d512_bf16_bf16_eight",
    "decode_d512_bf16_bf16_few",
    "decode_d512_bf16_bf16_many",
];

#[test]
fn whole_and_split_sequences_give_the_oracles_answer() {
    for name in BF16 {
        let group = group_of(name);
        for (splits, share_lanes, idle_blocks) in [(1, 8, None), (3, 2, None), (3, 4, Some(5)), (9, 8, Some(0))] {
            let mut problem = Problem::new(name, group, &[77, 0, 161]);
            problem.splits = splits;
            problem.idle_blocks = idle_blocks;
            problem.share_lanes = share_lanes;
            problem.delivery = if splits == 1 { Delivery::Latest } else { Delivery::Earliest };
            problem.check();
        }
    }
}

#[test]
fn blocks_of_a_cluster_give_the_oracles_answer_together() {
    let narrow = [
        "decode_d128_f16_e4m3_eight",
        "decode_d512_bf16_e4m3_few",
        "decode_d64_bf16_nvfp4_few",
        "decode_d256_bf16_nvfp4_eight",
    ];
    let of_few = BF16.into_iter().filter(|name| !name.ends_with("many"));
    for (index, name) in of_few.chain(narrow).enumerate() {
        for (cluster, splits) in [(2, 1), (4, 3), (8, 1), (8, 2), (16, 1), (16, 2)] {
            let mut problem = Problem::new(name, group_of(name), &[77, 0, 161]);
            (problem.cluster, problem.splits) = (cluster, splits);
            problem.idle_blocks = (splits > 1).then_some(cluster);
            problem.delivery = if index % 2 == 0 { Delivery::Latest } else { Delivery::Earliest };
            problem.check();
        }
    }
}

#[test]
fn shares_hold_for_lengths_below_the_planned() {
    for lengths in [[1, 300], [200, 17], [0, 5], [999, 400]] {
        let mut problem = Problem::new("decode_d128_bf16_bf16_few", 4, &[300, 300]);
        problem.lengths = lengths.to_vec();
        problem.splits = 4;
        problem.check();
        (problem.cluster, problem.splits) = (4, 1);
        problem.check();
    }
}

#[test]
fn any_page_size_is_right() {
    for shift in 0..=10 {
        let mut problem = Problem::new("decode_d64_bf16_bf16_few", 5, &[67, 130]);
        problem.page_size = 1 << shift;
        problem.check();
    }
}

#[test]
fn the_page_check_reports_the_first_bad_id() {
    let none = common::launches::check_pages(&[40, 7, 0], &[3, 2, 1, 0, 9, 9, 9, 9, 9], 16, 4)
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(none.sequence, PageReport::NONE);
    for (bad, id) in [(4, 4), (5, -1), (5, i32::MAX)] {
        let mut table = [3, 2, 1, 0, 3, 2];
        table[bad] = id;
        let report = common::launches::check_pages(&[40, 48], &table, 16, 4).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(report, PageReport { sequence: 1, page: bad as u32 - 3, id });
    }
}

#[test]
fn no_length_is_longer_than_the_block_table() {
    let mut problem = Problem::new("decode_d64_bf16_bf16_few", 5, &[300, 20]);
    problem.table_tokens = Some(96);
    let answer = problem.run().unwrap_or_else(|e| panic!("{e}"));
    problem.lengths = vec![96, 20];
    problem.judge(&answer);
}
