//! Decode: the query tokens of a step, one or a few a sequence, against its paged cache. Memory-bound: all that matters is that every warp always
//! has copies under way, so warps load what they read themselves and wait for nobody whose data they do not need.
use super::exchange::merge_teams;
use super::gather::Gathering;
use super::join::Cluster;
use super::load::Ring;
use super::mask::Records;
use super::softmax::OnlineSoftmax;
use super::weights::WeightExchange;
use super::work::Work;
use super::{epilogue, mask, query, scale};
use crate::abi::{CacheFlags, DecodeParams};
use crate::element::Element;
use crate::layout::place::{Kernel, Place};
use crate::ptx::memory::dynamic_shared;
use crate::ptx::sync::griddepcontrol_launch_dependents;
use crate::tile::operand::KvElement;
use crate::tile::scales::{BlockScales, scale_keys};
use crate::tile::{self, Accumulator, Query, Scores, product};
use cuda_std::thread;

/// One block: some query rows of one KV head against a share of the sequence's keys.
///
/// # Safety
/// The addresses in `params` are of live buffers of the sizes that [`crate::abi`] says, the plan's records are what the
/// host's planner made for this entry, and the launch has the entry's threads and shared memory.
#[inline(always)]
pub unsafe fn decode<const R: u32, const D: u32, Q: Element, K: KvElement<Q>>(params: &DecodeParams) {
    let shape = &const { Kernel::<R, D, K>::SHAPE };
    let place = &Place::here(shape);
    let shared = dynamic_shared();
    let records = Records::at(shared.byte_offset(shape.records_offset()));
    // The merge's blocks may begin as soon as all of these have; they wait for their results.
    griddepcontrol_launch_dependents();
    // SAFETY: the caller's promise; what a tile needs is waited for by `Ring` just before.
    unsafe {
        let Some((item, first_length)) = Work::counted(params, thread::block_idx_x()) else { return };
        // Beside the trips for the length and the page ids; with many rows there are no registers for it that early.
        let (early, mut loaded) = (shape.row_warps == 1, Query::default());
        if early {
            loaded = query::load::<Q, K>(params, &item, place, shape);
        }
        let work = Work::of(params, item, Some(first_length), place.lane, &shape.tiling());
        let mut ring = Ring::start(params, &work, shared, place, shape);
        Gathering::begin(shared, Cluster::here(params, shape), place, shape);
        mask::write_records(params, &work, records, place, shape);
        if !early {
            loaded = query::load::<Q, K>(params, &work.item, place, shape);
        }
        let (q, unscale) = query::prepared::<Q, K>(loaded, shared, place, shape);
        let q = query::Slices::new(q, shared, place, shape);
        let scale = unscale.map(|unscale| unscale * scale::of_scores::<Q, K>(params));
        let blocks = &BlockScales::new(params.flags & CacheFlags::V_INTERLEAVED != 0, place.lane, shape);
        let mut weights = WeightExchange::new(shared);
        let mut softmax = OnlineSoftmax::new();
        let mut o = Accumulator::default();
        while ring.has_tile() {
            let mut sums = [Scores::default(); 2];
            for piece in 0..shape.pieces() / 2 {
                let key = ring.key(params, piece, place, shape);
                for panel in 0..shape.panels {
                    let (q, key) = (&q.get(piece * shape.panels + panel, place, shape), key.panel(panel, shape));
                    product::scores::<Q, K>(&mut sums, q, key, blocks, place.lane, shape); // S += K Q^T
                }
            }
            let mut s = tile::added(sums, shape);
            let [key_scales, value_scales] = ring.key_scales(params, shape);
            if let Some(scales) = key_scales {
                scale_keys(&mut s, scales, place.lane, shape);
            }
            tile::scale_scores(&mut s, &scale, shape);
            if work.edges.cover(ring.tile()) {
                mask::apply(params, &mut s, ring.tile(), ring.end_key(), records, place, shape);
            }
            weights.give::<Q, K>(&mut softmax, &mut s, &mut o, value_scales, place, shape); // S becomes P
            for piece in 0..shape.pieces() / 2 {
                let value = ring.value(params, piece, place, shape);
                for panel in 0..shape.panels {
                    let (p, value) =
                        (&weights.part(piece * shape.panels + panel, place, shape), value.panel(panel, shape));
                    product::accumulate::<Q, K>(&mut o, p, value, blocks, place.lane, shape); // O += P V
                }
            }
            ring.advance(shape);
        }
        let cluster = Cluster::here(params, shape);
        Gathering::ring_is_read(&cluster, shape);
        softmax.finish(shape);
        let place = &place.renewed(shape);
        // Read once more: kept through the loop it would cost the registers that the loop lacks. Its trip is hidden by the merge.
        let item = &Work::item(params, thread::block_idx_x());
        let merged = merge_teams(shared, ring.base(), &o, softmax, cluster, place, shape);
        epilogue::store::<Q, K>(params, item, &o, &merged, [shared, ring.base()], place, shape);
    }
}
