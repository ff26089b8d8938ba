//! A launch: its parameters checked, its blocks dealt to workers in a seeded order, their reports added up.
use super::clock::{MAX_BLOCKS, MAX_THREADS};
use super::error::{Error, Kind};
use super::memory::{Memory, Slots};
use super::schedule::{Worker, is_inside};
use super::site::{Operation, Sites};
use super::{Grid, Options, Report};
use std::panic::Location;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Dynamic shared memory that a block can have: 227 KiB, as on sm_90 and sm_100.
const MAX_SHARED_BYTES: u32 = 227 << 10;

/// What all blocks of a launch share.
pub(super) struct Launch<'a> {
    pub grid: &'a Grid<'a>,
    pub options: &'a Options,
    pub slots: &'a Slots,
    /// Counts the launches on its memory.
    pub id: u64,
    pub sites: Sites,
}

/// Runs `body` once for each thread of `grid` on `memory`, and returns what was done or the first violation.
///
/// Launches on one memory follow one another. After an error the memory holds what was written so far.
#[track_caller]
pub fn launch(memory: &Memory, grid: &Grid<'_>, options: &Options, body: &(dyn Fn() + Sync)) -> Result<Report, Error> {
    check(grid, Location::caller())?;
    memory.with_launch(|slots, id| {
        let launch = Launch { grid, options, slots, id, sites: Sites::default() };
        let order = block_order(grid.blocks / grid.cluster, options.seed);
        let next = AtomicUsize::new(0);
        let report = Mutex::new(Ok(Report::default()));
        // Each worker takes the next block of the order until none is left or one has failed.
        let work = || match run_blocks(&launch, &order, &next, body) {
            Ok(done) => {
                if let Ok(report) = &mut *report.lock().unwrap_or_else(PoisonError::into_inner) {
                    report.operations += done.operations;
                    done.counts.into_iter().for_each(|(name, n)| *report.counts.entry(name).or_default() += n);
                }
            }
            Err((position, error)) => {
                next.store(order.len(), Ordering::Relaxed);
                let report = &mut *report.lock().unwrap_or_else(PoisonError::into_inner);
                if report.as_ref().err().is_none_or(|&(earlier, _)| position < earlier) {
                    *report = Err((position, error));
                }
            }
        };
        match options.workers.min(order.len()) {
            0 | 1 => work(),
            workers => std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work)))),
        }
        report.into_inner().unwrap_or_else(PoisonError::into_inner).map_err(|(_, error)| *error)
    })
}

fn run_blocks(
    launch: &Launch<'_>,
    order: &[u32],
    next: &AtomicUsize,
    body: &(dyn Fn() + Sync),
) -> Result<Report, (usize, Box<Error>)> {
    let mut worker = None;
    let mut operations = 0;
    loop {
        let position = next.fetch_add(1, Ordering::Relaxed);
        let Some(&cluster) = order.get(position) else { break };
        let worker = match &mut worker {
            Some(worker) => worker,
            empty => empty.insert(Worker::new(launch).map_err(|error| (position, error))?),
        };
        operations += worker.run(cluster, body).map_err(|error| (position, error))?;
    }
    let counts = worker.map_or([0; Operation::ALL.len()], |worker| worker.counts());
    let counted = Operation::ALL.iter().zip(counts).filter(|&(_, count)| count > 0);
    Ok(Report { operations, counts: counted.map(|(operation, count)| (operation.name(), count)).collect() })
}

fn check(grid: &Grid<'_>, location: &'static Location<'static>) -> Result<(), Error> {
    let Grid { blocks, threads, shared_bytes, cluster, .. } = *grid;
    let refuse = |detail: String| {
        Err(Error {
            kind: Kind::BadOperand,
            kernel: grid.name.to_owned(),
            block: 0,
            thread: 0,
            operation: "launch",
            location: Some(location),
            other: None,
            detail,
        })
    };
    if !(1..=MAX_BLOCKS).contains(&blocks) {
        return refuse(format!("blocks is {blocks}; allowed are 1 to {MAX_BLOCKS}"));
    }
    if !threads.is_multiple_of(32) || !(32..=1024).contains(&threads) {
        return refuse(format!("threads is {threads}; allowed are multiples of 32 from 32 to 1024"));
    }
    if shared_bytes > MAX_SHARED_BYTES {
        return refuse(format!("shared_bytes is {shared_bytes}; allowed are 0 to {MAX_SHARED_BYTES}"));
    }
    if !matches!(cluster, 1 | 2 | 4 | 8 | 16) {
        return refuse(format!("cluster is {cluster}; allowed are 1, 2, 4, 8 and 16"));
    }
    if cluster * threads > MAX_THREADS {
        let most = MAX_THREADS / cluster;
        return refuse(format!("threads is {threads}; allowed are at most {most} in clusters of {cluster}"));
    }
    if !blocks.is_multiple_of(cluster) {
        return refuse(format!("blocks is {blocks}; allowed are multiples of the cluster's {cluster}"));
    }
    if is_inside() {
        return refuse("a kernel's body cannot launch".to_owned());
    }
    Ok(())
}

/// A permutation of the blocks (of the clusters), by Fisher and Yates.
fn block_order(blocks: u32, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..blocks).collect();
    let mut state = seed;
    for i in (1..order.len()).rev() {
        order.swap(i, (random(&mut state) % (i as u64 + 1)) as usize);
    }
    order
}

/// The next number of SplitMix64.
pub(super) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
