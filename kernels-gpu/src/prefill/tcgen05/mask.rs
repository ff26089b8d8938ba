//! What is done to the logits of edge tiles: [`crate::attention::mask`], for a thread's row.
use crate::abi::DecodeParams;
use crate::attention::mask::{Row, capped};
use crate::attention::softmax::reciprocal;
use crate::attention::visible::Interval;
use crate::attention::work::Work;
use crate::memory::Shared;
use crate::prefill::item;

/// Multiplies the logits of an edge tile by `scale`, of keys from `first` on and row `row` of the item, and does to them what is to be
/// done.
///
/// # Safety
/// As for the entry; the item at `item` is there.
#[inline(always)]
pub unsafe fn apply(params: &DecodeParams, scale: f32, item: Shared<u32>, s: &mut [f32], first: u32, row: u32) {
    // SAFETY: handed on to the caller.
    let (row, end) = unsafe {
        let Work { item, length, seen, .. } = &item::work(item);
        let end = seen.any.end;
        (Row::find(params, item, *length, row, end), end)
    };
    let (cap, biased, tree) = (params.softcap_log2, !params.slopes.is_null(), !params.tree.is_null());
    let inverse = reciprocal(cap);
    let Interval { begin, end: end_of_row } = row.keys;
    let (begin, keys) = (begin.wrapping_sub(first), end_of_row.saturating_sub(begin));
    for index in 0..s.len() {
        let key = first + index as u32;
        s[index] *= scale;
        if cap > 0.0 {
            s[index] = capped(s[index], cap, inverse);
        }
        if biased {
            s[index] = row.biased(s[index], key);
        }
        // SAFETY: handed on to the caller.
        let sees = if tree { unsafe { row.sees(key, end) } } else { (index as u32).wrapping_sub(begin) < keys };
        if !sees {
            s[index] = f32::NEG_INFINITY;
        }
    }
}
