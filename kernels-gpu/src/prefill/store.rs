//! The end of an item: [`crate::attention::epilogue`], for a warpgroup's accumulators.
use super::shape::PrefillShape;
use super::softmax::RowSoftmax;
use crate::abi::{DecodeParams, WorkItem};
use crate::attention::epilogue::Row;
use crate::attention::output;

/// Stores a thread's rows of O, the first of which is the item's row `row`, from its columns `column` on.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn store(
    params: &DecodeParams,
    item: &WorkItem,
    softmax: &RowSoftmax,
    o: &[f32],
    [row, column]: [u32; 2],
    shape: &PrefillShape,
) {
    // SAFETY: handed on to the caller.
    let factor = if item.partial == WorkItem::WHOLE { unsafe { output::factor(&params.out) } } else { 1.0 };
    for of_thread in 0..2 {
        let sums = [softmax.maximum[of_thread], softmax.sum[of_thread]];
        // SAFETY: handed on to the caller; the row is one of the item's, the columns are this thread's.
        unsafe {
            let row = Row::finish(params, item, row + 8 * of_thread as u32, sums, column == 0, &shape.tiling());
            if row.exists {
                for pair in 0..o.len() / 4 {
                    let values = [o[4 * pair + 2 * of_thread], o[4 * pair + 2 * of_thread + 1]];
                    row.to.store_pair(8 * pair as u32 + column, values.map(|value| value * row.inverse * factor));
                }
            }
        }
    }
}
