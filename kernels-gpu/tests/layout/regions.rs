//! What lies where in the shared memory of a decode kernel.
use super::{all, shapes};
use kernels_gpu::attention::join::{Cluster, Share};
use kernels_gpu::config::{COMBINE_COLUMNS, ROW_RECORD_BYTES, STATS_BYTES};
use kernels_gpu::tile::column_tiles;

#[test]
fn regions_of_shared_memory_do_not_overlap() {
    for shape in shapes() {
        let mut regions: Vec<(u32, u32)> = Vec::new(); // begin, bytes
        for ring in 0..shape.rings() {
            let first = ring * shape.ring_bytes();
            assert_eq!(shape.slot_bytes(), shape.panels * shape.panel_stride());
            for panel in 0..shape.slots * shape.panels {
                let (data, scales) = (shape.panel_bytes(), shape.panel_stride() - shape.panel_bytes());
                regions.push((first + panel * shape.panel_stride(), data));
                assert_eq!(scales, if shape.block_scales() { shape.panel_scale_bytes() } else { 0 });
                if scales > 0 {
                    regions.push((first + panel * shape.panel_stride() + data, scales));
                }
            }
            if !shape.block_scales() && shape.scale_bytes > 0 {
                assert_eq!(shape.panel_scale_bytes(), 2 * 4 * shape.panel_keys, "an f32 a key, of K and of V");
                let of_tile = |tile| first + shape.slots * shape.slot_bytes() + tile * shape.panel_scale_bytes();
                regions.extend((0..shape.stages()).map(|tile| (of_tile(tile), shape.panel_scale_bytes())));
            }
        }
        if shape.column_warps > 1 {
            regions.extend(
                (0..shape.row_warps)
                    .map(|rows| (shape.query_offset() + rows * shape.query_bytes(), shape.query_bytes())),
            );
            for (buffer, warp) in all(2, shape.warps() as usize) {
                let part = buffer * shape.warps() + warp;
                regions.push((shape.weights_offset() + part * shape.weight_bytes(), shape.weight_bytes()));
            }
            assert_eq!(shape.weight_bytes(), shape.row_tiles * 32 * 8, "two words a lane a tile of rows");
            assert_eq!(
                shape.query_bytes(),
                shape.row_tiles * (shape.head_dim / 16) * 32 * 8,
                "two for each 16 columns"
            );
            regions.push((shape.excess_offset(), 2 * 4 * shape.warps()));
        }
        if shape.teams > 1 || shape.column_warps > 1 {
            for part in 0..shape.warps() * shape.row_tiles {
                regions.push((shape.stats_offset() + part * STATS_BYTES, STATS_BYTES));
            }
        }
        if shape.row_warps == 1 {
            let o_bytes = column_tiles(&shape) as u32 * shape.row_tiles * 512;
            assert!(o_bytes <= shape.ring_bytes(), "a warp's O fits its ring");
            assert_eq!(column_tiles(&shape) as u32 % shape.teams, 0, "each team finishes as many columns");
        } else {
            assert_eq!(shape.teams, 1, "one warp alone writes O to a ring");
        }
        regions
            .extend((0..shape.rows()).map(|row| (shape.records_offset() + row * ROW_RECORD_BYTES, ROW_RECORD_BYTES)));
        regions.sort_unstable();
        for pair in regions.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{shape:?}: {pair:?}");
        }
        assert!(regions.iter().all(|(begin, bytes)| begin % 16 == 0 && bytes % 16 == 0));
        assert_eq!(regions.last().map(|(begin, bytes)| begin + bytes), Some(shape.shared_bytes()), "{shape:?}");
        assert_eq!(
            (shape.panel_stride() % 128, shape.ring_bytes() % 128),
            (0, 0),
            "panels are aligned for the swizzle"
        );
        assert_eq!(shape.head_dim % COMBINE_COLUMNS, 0);
    }
}

#[test]
fn blocks_of_a_cluster_finish_each_fragment_once() {
    let mut seen = 0;
    for shape in shapes() {
        assert_eq!(shape.shared_bytes_of(1), shape.shared_bytes());
        for blocks in [2, 4, 8, 16] {
            if shape.row_warps > 1 {
                assert!(!shape.gathers(blocks));
                continue;
            }
            let each = shape.fragments() / shape.row_tiles;
            let shares = (0..blocks).map(|rank| Cluster { rank, blocks }.share(&shape));
            let of_share = |share: Share| (0..share.count).map(move |index| share.tile * each + share.first + index);
            let finished: Vec<u32> = shares.flat_map(of_share).collect();
            assert_eq!(finished, (0..shape.fragments()).collect::<Vec<_>>(), "{shape:?}, {blocks}");
            let of_warp = shape.gather_bytes(blocks);
            assert_eq!(of_warp % 16, 0);
            let sent = if blocks > 2 { shape.warps() * of_warp } else { 0 };
            assert_eq!(shape.shared_bytes_of(blocks), shape.shared_bytes() + sent);
            // An mbarrier, and from each block two maxima and sums of four lanes, and of each fragment 16 bytes of 32 lanes.
            let fragments = blocks * 512 * shape.fragments().div_ceil(blocks);
            let in_ring = shape.sent_to_ring(blocks);
            assert!(
                !in_ring || blocks == 2 || shape.output_bytes() + fragments <= shape.ring_bytes(),
                "{shape:?}, {blocks}"
            );
            assert_eq!(of_warp, 16 + blocks * 64 + if in_ring { 0 } else { fragments });
            // Of Hopper, with 1 KiB that a block costs besides: a sixteenth cluster of 8 has a place beside the others.
            assert!(2 * (shape.shared_bytes_of(blocks) + 1024) <= 228 * 1024, "{shape:?}, {blocks}");
            seen += 1;
        }
    }
    assert_eq!(seen, 96, "four dimensions, three formats, two classes of few rows, four sizes");
}
