//! What is done to the logits of edge tiles: [`crate::attention::mask`], for a thread's row, in tensor memory: of all keys at a time there
//! would be no registers for it, and the compiler would take minutes.
use crate::abi::DecodeParams;
use crate::attention::mask::{Row, capped};
use crate::attention::work::Work;
use crate::fault::{Fault, planted};
use crate::memory::{Shared, TensorMemory};
use crate::prefill::item;
use crate::ptx::math::renewed;
use crate::ptx::tcgen05::{tcgen05_ld_32x32b, tcgen05_st_32x32b, tcgen05_wait_ld, tcgen05_wait_st};

/// Columns of tensor memory at a time.
const COLUMNS: usize = 32;

/// Multiplies the logits of an edge tile by `scale`, `keys` of row `row` of the item from `first` on, and does to them what is to be
/// done, where they are, in the columns at `s`.
///
/// # Safety
/// As for the entry; the item at `item` is there, and so is S; a whole warp calls it.
#[inline(always)]
pub unsafe fn apply(
    params: &DecodeParams,
    scale: f32,
    item: Shared<u32>,
    s: TensorMemory,
    [first, keys]: [u32; 2],
    row: u32,
) {
    // As a value of this place: whether it is above 0, asked ahead, would be kept through all loops, in memory.
    let params = &DecodeParams { keys_before: renewed(params.keys_before), ..*params };
    // SAFETY: handed on to the caller.
    let (row, end) = unsafe {
        let Work { item, length, seen, .. } = &item::work(item);
        (Row::find(params, item, *length, row, seen.any.end), seen.any.end)
    };
    let (mut column, keys) = (0, renewed(keys));
    while column < keys {
        // SAFETY: handed on to the caller.
        unsafe {
            let at = s.at_column(column);
            let mut scores = tcgen05_wait_ld(tcgen05_ld_32x32b::<COLUMNS>(at)).map(f32::from_bits);
            for index in 0..COLUMNS {
                let key = first + column + index as u32;
                let mut score = scores[index] * scale;
                if params.softcap_log2 > 0.0 {
                    score = capped(score, params.softcap_log2, params.softcap_inverse);
                }
                if !params.slopes.is_null() {
                    score = row.biased(score, key);
                }
                scores[index] = if row.sees(key, end) { score } else { f32::NEG_INFINITY };
            }
            tcgen05_st_32x32b::<COLUMNS>(at, scores.map(f32::to_bits));
        }
        column += COLUMNS as u32;
    }
    if !planted(Fault::MaskStore) {
        tcgen05_wait_st();
    }
}
