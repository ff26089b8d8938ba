//! A prefix that a batch shares, in the first row of the block table alone.
use super::judge::{Exact, bits};
use super::pieces::share_prefix;
use qkv::testing::case::{Case, CaseShape};
use qkv::testing::paged::{BAD_PAGE, Paged};
use qkv::testing::run::{Answer, DeviceCase, RunOptions};
use qkv::testing::tolerance;
use qkv::{Device, Error, Splits};

/// A case whose sequences share their first `pages` pages, and its cache; the prefix is in the first row alone.
pub fn shared(shape: &CaseShape, pages: usize) -> (Case, Paged) {
    let mut case = shape.build();
    share_prefix(&mut case, pages * shape.page_size);
    let mut paged = Paged::new(&case, shape.page_size, shape.arrangement, shape.seed);
    for row in paged.block_table.chunks_exact_mut(paged.table_width).skip(1) {
        row[..pages].fill(BAD_PAGE);
    }
    (case, paged)
}

/// The same with the prefix's pages in every row, as a server has them.
fn in_every_row(paged: &Paged, pages: usize) -> Paged {
    let mut paged = paged.clone();
    let first = paged.block_table[..pages].to_vec();
    paged.block_table.chunks_exact_mut(paged.table_width).for_each(|row| row[..pages].copy_from_slice(&first));
    paged
}

/// Runs a case as it lies in `paged`.
///
/// # Errors
/// The library's.
pub fn run(device: &Device, case: &Case, paged: &Paged, options: RunOptions) -> Result<Answer, Error> {
    DeviceCase::new(device, case, paged).and_then(|on| on.run(options))
}

/// Judged by the oracle, against the plain plan over whole sequences, and run again.
pub fn check(device: &Device, shape: &CaseShape, pages: usize, splits: Splits) -> Result<(), String> {
    let (case, paged) = shared(shape, pages);
    let shared_prefix = Some((pages * shape.page_size) as u32);
    let options = RunOptions { splits, shared_prefix, ..RunOptions::default() };
    let wrong = |error: Error| error.to_string();
    let once = run(device, &case, &paged, options.clone()).map_err(wrong)?;
    let exact = Exact::new(&case);
    exact.judge(&once).map_err(|what| format!("shared: {what}"))?;
    let again = run(device, &case, &paged, options.clone()).map_err(wrong)?;
    if bits(&again) != bits(&once) {
        return Err("another run, another answer".into());
    }
    let whole = in_every_row(&paged, pages);
    let checked = run(device, &case, &whole, RunOptions { checked: true, ..options }).map_err(wrong)?;
    if bits(&checked) != bits(&once) {
        return Err("a checked launch, another answer".into());
    }
    let plain = run(device, &case, &whole, splits.into()).map_err(wrong)?;
    exact.judge(&plain).map_err(|what| format!("plain: {what}"))?;
    let apart = tolerance::error(&once.out, &plain.out).map_err(|what| what.to_string())?;
    let bound = exact.tolerance().map_or(0.0, |tolerance| 2.0 * tolerance.bound());
    if apart <= bound { Ok(()) } else { Err(format!("{apart:.1e} from the plain plan, bound {bound:.1e}")) }
}
