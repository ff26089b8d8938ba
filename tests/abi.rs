//! The records that host and kernels share: where each field lies, as written by the host and read by PTX.
use core::mem::{align_of, offset_of, size_of};
use kernels_gpu::abi::{
    AppendParams, CacheSide, CheckPagesParams, CombineParams, DecodeParams, MergeItem, PageReport, PlanCounts, Rows,
    WorkItem,
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
offsets!(CacheSide, 32: base 0 page_stride 8 token_stride 16 head_stride 24);
offsets!(WorkItem, 32: sequence 0 kv_head 4 first_row 8 first 12 last 16 of 20 length_bound 24 partial 28);
offsets!(MergeItem, 20: sequence 0 first_q_head 4 rows 8 first_partial 12 partials 16);
offsets!(PageReport, 12: sequence 0 page 4 id 8);
offsets!(DecodeParams, 288: q 0 out 24 k 48 v 80 k_scales 112 v_scales 144 k_scale 176 v_scale 184 lse 192
    block_table 200 block_table_stride 208 seq_lens 216 items 224 counts 232 partial_o 240 partial_lse 248
    scale_log2 256 value_scale 260 group 264 q_heads 268 page_shift 272 table_tokens 276 flags 280);
offsets!(AppendParams, 240: k 0 v 24 k_cache 48 v_cache 80 k_scales 112 v_scales 144 k_scale_at 176 v_scale_at 184
    slots 192 k_scale 200 v_scale 204 tokens 208 kv_heads 212 head_dim 216 page_shift 220 cache_slots 224 flags 232);
offsets!(CombineParams, 96: out 0 lse 24 merges 32 counts 40 partial_o 48 partial_lse 56 q_heads 64 slot_rows 68
    head_dim 72 rows 76 share_lanes 80 tasks 84);
offsets!(PlanCounts, 8: items 0 merges 4);
offsets!(CheckPagesParams, 56: block_table 0 block_table_stride 8 seq_lens 16 length_bounds 24 report 32 batch 40
    pages 44 page_shift 48 table_tokens 52);

#[test]
fn entries_take_the_records_of_their_role() {
    for entry in ENTRIES {
        let bytes = match entry.role {
            Role::Decode { .. } => size_of::<DecodeParams>(),
            Role::Combine { .. } => size_of::<CombineParams>(),
            Role::Append { .. } => size_of::<AppendParams>(),
            Role::CheckPages => size_of::<CheckPagesParams>(),
        };
        assert_eq!(entry.param_bytes, bytes, "{}", entry.name);
        // What a driver may be given by value, and what fits every chip's block.
        assert!(bytes <= 4096 && entry.shared_bytes() <= 99 << 10, "{}", entry.name);
    }
}

#[test]
fn records_are_words_without_padding() {
    // The host writes a plan's records word by word.
    assert_eq!((align_of::<WorkItem>(), align_of::<MergeItem>(), align_of::<PageReport>()), (4, 4, 4));
    assert_eq!((size_of::<WorkItem>() / 4, size_of::<MergeItem>() / 4), (8, 5));
}
