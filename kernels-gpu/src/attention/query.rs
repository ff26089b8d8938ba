//! q, from global memory to B operands, loaded once an item: each warp its slice, which where warps share a head all of them then read in
//! shared memory, a slice at a time.
use super::exchange::{fragment, row_maximum};
use super::work::{QueryRow, rows};
use crate::abi::{DecodeParams, WorkItem};
use crate::config::{Shape, TILE_ROWS};
use crate::element::Element;
use crate::fault::{Fault, planted};
use crate::layout::fragment::{accumulator_column, b_register};
use crate::layout::place::Place;
use crate::memory::{Global, Shared};
use crate::ptx::convert::{cvt_rn_f16x2, prmt_b32};
use crate::ptx::memory::{ld_global_b32, ld_global_v2_b32, ld_global_v4_b32, ld_shared_v4_b32, st_shared_v4_b32};
use crate::ptx::sync::{bar_sync, shfl_bfly, shfl_idx};
use crate::tile::operand::KvElement;
use crate::tile::{OfRows, Query, ROW_TILES};
use cuda_std::thread;

/// The warp's rows and columns of q, rows past the item's zero.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn load<Q: Element, K: KvElement<Q>>(
    params: &DecodeParams,
    item: &WorkItem,
    place: &Place,
    shape: &Shape,
) -> Query {
    let first_row = place.row_warp * shape.warp_rows();
    let rows_there = rows(params, item) - item.first_row;
    let first_head = item.kv_head * params.group;
    let columns = (place.column_warp * shape.slice * 2) as i64;
    let mut operands = Query::default();
    for tile in 0..shape.row_tiles as usize {
        let (_, row) = b_register(place.lane, 0);
        let row = first_row + TILE_ROWS * tile as u32 + row;
        if row < rows_there {
            let QueryRow { token, head } = QueryRow::of(params, item, row);
            let at = (item.q_start + token) as i64 * params.q.token_stride
                + (first_head + head) as i64 * params.q.head_stride
                + columns;
            // SAFETY: the row is one of the sequence's, the columns are of this warp's slice.
            unsafe {
                let row = params.q.base.byte_offset(at).cast();
                load_row::<Q, K>(&mut operands, tile, row, place.lane, shape);
            }
        }
    }
    operands
}

/// What was loaded as B operands, and what each of the lane's rows is to be multiplied by for it: 1, or the power of two by which it
/// was brought into f16's range.
#[inline(always)]
pub fn prepared<Q: Element, K: KvElement<Q>>(
    mut operands: Query,
    shared: Shared<u8>,
    place: &Place,
    shape: &Shape,
) -> (Query, OfRows<f32>) {
    if K::PRODUCTS == 1 || !Q::WIDE {
        return (operands, [1.0; 4]);
    }
    let scale = bring_into_range(&mut operands, shared, place, shape);
    (operands, scale)
}

/// The operands of all slices.
pub struct Slices {
    /// Of a warp that has the head alone.
    own: Query,
    /// Where warps share it, of their rows.
    shared: Shared<u8>,
}

impl Slices {
    /// Of each warp's own slice, `own`.
    #[inline(always)]
    pub fn new(own: Query, shared: Shared<u8>, place: &Place, shape: &Shape) -> Self {
        let of_rows = shape.query_offset() + place.row_warp * shape.query_bytes();
        let slices = Self { own, shared: shared.byte_offset(of_rows) };
        if shape.column_warps > 1 {
            // Teams have the same rows.
            if place.team == 0 {
                for index in 0..fragments(shape) {
                    let words =
                        if shape.row_tiles == 1 { [own[2 * index][0], own[2 * index + 1][0]] } else { own[index] };
                    let [[a, b], [c, d]] = words;
                    // SAFETY: this warp's slice, which others read behind the barrier.
                    unsafe { st_shared_v4_b32(slices.fragment(place.column_warp, index, place, shape), [a, b, c, d]) };
                }
            }
            if !planted(Fault::SlicesFull) {
                if shape.teams > 1 {
                    thread::sync_threads();
                } else {
                    bar_sync(place.row_barrier(shape), 32 * shape.column_warps);
                }
            }
        }
        slices
    }

    /// Those of slice `slice`.
    #[inline(always)]
    pub fn get(&self, slice: u32, place: &Place, shape: &Shape) -> Query {
        if shape.column_warps == 1 {
            return self.own;
        }
        let mut q = Query::default();
        for index in 0..fragments(shape) {
            // SAFETY: written before the barrier.
            let [a, b, c, d] = unsafe { ld_shared_v4_b32(self.fragment(slice, index, place, shape)) };
            if shape.row_tiles == 1 {
                (q[2 * index][0], q[2 * index + 1][0]) = ([a, b], [c, d]);
            } else {
                q[index] = [[a, b], [c, d]];
            }
        }
        q
    }

    /// The lane's four words of fragment `index` of a slice.
    #[inline(always)]
    fn fragment(&self, slice: u32, index: usize, place: &Place, shape: &Shape) -> Shared<u32> {
        fragment(self.shared, slice * fragments(shape) as u32 + index as u32, place.lane)
    }
}

/// Fragments of four words a lane that the operands of a slice of 128 columns are.
#[inline(always)]
const fn fragments(shape: &Shape) -> usize {
    4 * shape.row_tiles as usize
}

/// Loads the lane's columns of one row, in the order in which the products of an x4 take them ([`crate::tile::operand`]).
///
/// # Safety
/// As for the entry; `row` begins the warp's slice.
#[inline(always)]
unsafe fn load_row<Q: Element, K: KvElement<Q>>(
    operands: &mut Query,
    rows: usize,
    row: Global<u32>,
    lane: u32,
    shape: &Shape,
) {
    let thread = lane % 4;
    let count = shape.slice as usize / 16;
    // SAFETY: columns of the slice; a lane's 2, 4 or 8 neighbours are aligned as rows are, to 16 bytes.
    unsafe {
        match K::PRODUCTS {
            1 => {
                // The lane's part of the address once: what is constant behind it is the loads' own offset.
                let row = row.at(b_register(lane, 0).0 / 2);
                for index in 0..count {
                    let at = |register| row.byte_offset((32 * index as u32 + 2 * b_register(0, register).0) as i64);
                    let ([low], [high]) = (ld_global_b32(at(0)), ld_global_b32(at(1)));
                    operands[index][rows] = [low, high];
                }
            }
            2 => {
                let row = row.at(2 * thread);
                for index in 0..count {
                    operands[index][rows] = ld_global_v2_b32(row.byte_offset(32 * index as i64));
                }
            }
            _ => {
                let row = row.at(4 * thread);
                for index in 0..count / 2 {
                    let [a, b, c, d] = ld_global_v4_b32(row.byte_offset(64 * index as i64));
                    [operands[2 * index][rows], operands[2 * index + 1][rows]] = if K::EVEN_AND_ODD {
                        [0x5410, 0x7632].map(|select| [prmt_b32(a, b, select), prmt_b32(c, d, select)])
                    } else {
                        [[a, b], [c, d]]
                    };
                }
            }
        }
    }
}

/// bf16's sign in both halves.
const MAGNITUDES: u32 = 0x7FFF_7FFF;

/// Makes bf16 operands f16 ones, each row times the power of two that puts its largest number into `2^14 .. 2^15` (8 bits
/// of fraction in f16's 11, and 2^-29 of the largest still a number); gives the inverse powers of the lane's rows.
///
/// The largest of the whole row: a warp adds up products with all slices, so all scale alike.
#[inline(always)]
fn bring_into_range(operands: &mut Query, shared: Shared<u8>, place: &Place, shape: &Shape) -> OfRows<f32> {
    let count = shape.slice as usize / 16;
    let row_tiles = shape.row_tiles as usize;
    // Operands have row g of each tile.
    let mut largest = [0u32; ROW_TILES];
    for operand in operands.iter().take(count) {
        for rows in 0..row_tiles {
            for pair in operand[rows] {
                let magnitudes = pair & MAGNITUDES;
                largest[rows] = largest[rows].max(magnitudes & 0xFFFF).max(magnitudes >> 16);
            }
        }
    }
    for lane_mask in [1, 2] {
        largest = largest.map(|bits| bits.max(shfl_bfly(bits, lane_mask)));
    }
    row_maximum(shared, &mut largest, place, shape);
    // Exponents of f32, where they stay normal: a row of zeros, or one below 2^-112, is multiplied by 2^126.
    let up = largest.map(|bits| (127 + 127 + 14 - (bits >> 7)).min(253));
    let power = |exponent: u32| f32::from_bits(exponent << 23);
    for operand in operands.iter_mut().take(count) {
        for rows in 0..row_tiles {
            let factor = power(up[rows]);
            operand[rows] = operand[rows].map(|pair| {
                let (low, high) = (f32::from_bits(pair << 16), f32::from_bits(pair & 0xFFFF_0000));
                cvt_rn_f16x2(high * factor, low * factor)
            });
        }
    }
    // Everything else has rows 2 t and 2 t + 1: of the lanes 4 (2 t) and 4 (2 t + 1).
    let mut down = [1.0; 2 * ROW_TILES];
    for row in 0..2 * row_tiles {
        let lane = 4 * (accumulator_column(place.lane) + row as u32 % 2);
        down[row] = power(254 - shfl_idx(up[row / 2], lane));
    }
    down
}
