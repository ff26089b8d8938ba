//! What begins together: blocks of neighbouring KV heads, whose rows of a token lie side by side.
use super::{geometry, h100};
use qkv::{CacheDType, Capture, DType, Geometry, Plan, PlanOptions, Properties, Splits, WorkItem};

/// A token's keys of all KV heads lie side by side, and blocks that begin together read them together.
#[test]
fn kv_heads_of_a_share_are_side_by_side() {
    let (geometry, lengths) = (geometry(128, [32, 8]), [5000, 100, 70_000]);
    for (splits, cluster) in [(Splits::Most, 1), (Splits::FixedSize(2048), 1), (Splits::Most, 4), (Splits::Never, 1)] {
        let options = PlanOptions { splits, cluster: Some(cluster), ..PlanOptions::default() };
        let plan = Plan::new(&geometry, &lengths, &h100(132), &options).expect("a plan");
        let shares: Vec<_> = plan.items().chunks(cluster as usize).map(|parts| parts[0]).collect();
        assert!(shares.len() >= 3 * 8);
        for heads in shares.chunks(8) {
            let key = |item: &WorkItem| (item.sequence, item.first);
            assert!(heads.iter().all(|item| key(item) == key(&heads[0])), "{splits:?}, {heads:?}");
            assert!(heads.iter().map(|item| item.kv_head).eq(0..8), "{splits:?}, {heads:?}");
        }
    }
}

/// Pairs of KV heads, of head dimensions that one warp takes, where units have most of the places of the device; of plans of the same batch size the same,
/// as one captured launch serves them.
#[test]
fn blocks_of_pairs_of_kv_heads_begin_together() {
    let planned = |heads, head_dim, lengths: &[u32], properties: &Properties, options: &PlanOptions| {
        Plan::new(&geometry(head_dim, heads), lengths, properties, options).expect("a plan")
    };
    let of_4_bits = Geometry::new(128, [32, 8], 16, DType::Bf16, CacheDType::NvFp4).expect("a geometry");
    for capture in [Capture::AnyPlan, Capture::ThisPlan] {
        let options = PlanOptions { capture, ..PlanOptions::default() };
        let of = |heads, head_dim, sequences: usize, properties: &Properties| {
            planned(heads, head_dim, &vec![1024; sequences], properties, &options).neighbours()
        };
        assert_eq!([of([32, 8], 128, 128, &h100(132)), of([32, 2], 64, 512, &h100(132))], [2, 2]);
        let plan = Plan::new(&of_4_bits, &[1024; 128], &h100(132), &options).expect("a plan");
        assert_eq!(plan.neighbours(), 1, "4 bits");
        assert_eq!(of([32, 8], 128, 8, &h100(132)), 1, "few units, which may be cut");
        assert_eq!(of([21, 7], 128, 128, &h100(132)), 1, "no pairs");
        assert_eq!([of([32, 8], 256, 128, &h100(132)), of([32, 8], 512, 128, &h100(132))], [1, 1], "long rows");
        assert_eq!(of([32, 8], 128, 128, &Properties { clusters: [0; 4], ..h100(132) }), 1, "no clusters");
    }
    let lengths: Vec<u32> = (0..128).map(|sequence| 100 * sequence).collect();
    let [even, ragged] =
        [&[1024; 128][..], &lengths].map(|lengths| planned([32, 8], 128, lengths, &h100(132), &PlanOptions::default()));
    assert!(ragged.neighbours() == 2 && ragged.items().len().is_multiple_of(2) && even.replays(&ragged));
}
