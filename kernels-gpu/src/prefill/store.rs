//! The end of an item: [`crate::attention::epilogue`], for a warpgroup's accumulators.
use super::product::Product;
use super::shape::PrefillShape;
use super::softmax::RowSoftmax;
use crate::abi::{DecodeParams, WorkItem};
use crate::attention::epilogue::{Row, store_lse};
use crate::attention::output;

/// Stores a thread's rows of O, the first of which is the item's row `row`, from its columns `column` on. Of warpgroups with
/// other columns of the same rows the first one's begin with column 0.
///
/// # Safety
/// As for the entry.
#[inline(always)]
pub unsafe fn store<Q: Product>(
    params: &DecodeParams,
    item: &WorkItem,
    softmax: &RowSoftmax,
    o: &[f32],
    [row, column]: [u32; 2],
    shape: &PrefillShape,
) {
    // SAFETY: handed on to the caller.
    let factor = if item.partial == WorkItem::WHOLE { unsafe { output::factor(&params.out) } } else { 1.0 };
    // SAFETY: as above.
    let scale = unsafe { Q::output_scale(params) };
    for of_thread in 0..2 {
        let sums = [softmax.maximum[of_thread], softmax.sum[of_thread]];
        // SAFETY: handed on to the caller; the row is one of the item's, the columns are this thread's and its neighbours'.
        unsafe {
            let number = row + 8 * of_thread as u32;
            if column == 0 {
                store_lse(params, item, number, sums, &shape.tiling());
            }
            let row = Row::finish(params, item, number, sums, &shape.tiling());
            let factor = row.inverse * scale * factor;
            row.to.from_column(column / 8 * 8).store_quads(column % 8 / 2, o.len() / 4, row.exists, |pair| {
                let first = 4 * pair + 2 * of_thread;
                [o[first] * factor, o[first + 1] * factor]
            });
        }
    }
}
