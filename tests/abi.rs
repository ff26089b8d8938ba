//! The records that host and kernels share: where each field lies, as written by the host and read by PTX.
use core::mem::{align_of, offset_of, size_of};
use kernels_gpu::abi::{
    AppendParams, CacheSide, CheckPagesParams, CombineParams, DecodeParams, MergeItem, Output, PageReport, PlanCounts,
    PrefillParams, Rows, WorkItem, group_reciprocal, quotient,
};
use kernels_gpu::kernels::{ENTRIES, Role};
use static_assertions::const_assert_eq;

macro_rules! offsets {
    ($record:ty, $size:literal: $($field:ident $offset:literal)*) => {
        const_assert_eq!(size_of::<$record>(), $size);
        $(const_assert_eq!(offset_of!($record, $field), $offset);)*
    };
}

offsets!(Rows, 24: base 0 token_stride 8 head_stride 16);
offsets!(Output, 40: rows 0 kind 24 scale 28 scale_at 32);
offsets!(CacheSide, 32: base 0 page_stride 8 token_stride 16 head_stride 24);
offsets!(WorkItem, 48: sequence 0 kv_head 4 first_row 8 first 12 last 16 of 20 length_bound 24 partial 28 q_start 32
    q_len 36 reserved 40);
offsets!(MergeItem, 24: q_start 0 first_head 4 first_row 8 rows 12 first_partial 16 partials 20);
offsets!(PageReport, 12: sequence 0 page 4 id 8);
offsets!(DecodeParams, 368: items 0 counts 8 seq_lens 16 block_table 24 block_table_stride 32 keys_before 40
    table_tokens 44 q 48 window 72 group 80 q_heads 84 page_shift 88 flags 92 group_reciprocal 96
    softcap_log2 100 softcap_inverse 104 scale_log2 108 k 112 v 144 k_scales 176 v_scales 208 k_scale 240
    v_scale 248 sinks 256 slopes 264 positions 272 spans 280 tree 288 value_scale 296 tree_words 300 out 304
    lse 344 partial_o 352 partial_lse 360);
offsets!(PrefillParams, 1056: maps 0 query_map 512 decode 640 steps 1008 outside 1024 box_shift 1032 items 1036
    query_boxes 1040);
offsets!(AppendParams, 240: k 0 v 24 k_cache 48 v_cache 80 k_scales 112 v_scales 144 k_scale_at 176 v_scale_at 184
    slots 192 k_scale 200 v_scale 204 tokens 208 kv_heads 212 head_dim 216 page_shift 220 cache_slots 224 flags 232);
offsets!(CombineParams, 128: out 0 lse 40 sinks 48 merges 56 counts 64 partial_o 72 partial_lse 80 q_heads 88 group 92
    group_reciprocal 96 slot_rows 100 head_dim 104 rows 108 partials 112 share_lanes 116 tasks 120 lse_factor 124);
offsets!(PlanCounts, 8: items 0 merges 4);
offsets!(CheckPagesParams, 64: block_table 0 block_table_stride 8 seq_lens 16 length_bounds 24 report 32 batch 40
    pages 44 page_shift 48 table_tokens 52 seen 56);

#[test]
fn entries_take_the_records_of_their_role() {
    for entry in ENTRIES {
        let bytes = match entry.role {
            Role::Decode { .. } => size_of::<DecodeParams>(),
            Role::Prefill { .. } => size_of::<PrefillParams>(),
            Role::Combine => size_of::<CombineParams>(),
            Role::Append { .. } => size_of::<AppendParams>(),
            Role::CheckPages => size_of::<CheckPagesParams>(),
        };
        assert_eq!(entry.param_bytes, bytes, "{}", entry.name);
        // What a driver may be given by value, and what fits a block of every chip that it is for.
        let shared = if entry.prefills() { 227 << 10 } else { 99 << 10 };
        assert!(bytes <= 4096 && entry.shared_bytes() <= shared, "{}", entry.name);
    }
}

#[test]
fn records_are_words_without_padding() {
    // The host writes a plan's records word by word.
    assert_eq!((align_of::<WorkItem>(), align_of::<MergeItem>(), align_of::<PageReport>()), (4, 4, 4));
    assert_eq!((size_of::<WorkItem>() / 4, size_of::<MergeItem>() / 4), (12, 6));
}

/// A row's token is a product with its group's reciprocal: right for every row that a plan may have.
#[test]
fn quotients_by_groups_are_exact() {
    for group in 1..=64 {
        let reciprocal = group_reciprocal(group);
        let last = (1 << 25) - 1;
        let rows = (0..4 * group).chain(last - 2 * group..=last).chain((0..last).step_by(65_521));
        for row in rows.flat_map(|row| [row, row / group * group, (row / group * group).saturating_sub(1)]) {
            assert_eq!(quotient(row, reciprocal), row / group, "{row} / {group}");
        }
    }
}
