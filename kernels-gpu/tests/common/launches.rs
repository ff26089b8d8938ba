//! Launches of entries on the simulator, and the one of the page check.
use super::entry;
use cuda_std::sim::{self, Grid, Memory, Options};
use kernels_gpu::abi::{CheckPagesParams, NO_WINDOW, PageReport};
use kernels_gpu::kernels::{EntryInfo, Params, run};
use kernels_gpu::memory::Global;

/// A copy of `bytes` in the simulated memory.
pub fn upload(memory: &Memory, bytes: &[u8]) -> u64 {
    let at = memory.alloc(bytes.len());
    memory.write(at, bytes).unwrap_or_else(|e| panic!("{e}"));
    at
}

/// Launches an entry on the simulator.
pub fn launch(
    memory: &Memory,
    entry: &EntryInfo,
    blocks: u32,
    early: bool,
    options: &Options,
    params: &Params,
) -> Result<sim::Report, sim::Error> {
    // SAFETY: the addresses are of this memory, and the simulator checks each access.
    sim::launch(memory, &grid(entry, blocks, early), options, &|| unsafe { run(entry.name, params) })
}

/// The grid of an entry.
pub fn grid(entry: &EntryInfo, blocks: u32, early: bool) -> Grid<'_> {
    Grid {
        name: entry.name,
        blocks,
        threads: entry.threads,
        shared_bytes: entry.shared_bytes(),
        early,
        cluster: entry.cluster(),
    }
}

/// Runs the page check over a table whose rows are as long as the longest sequence needs.
pub fn check_pages(lengths: &[u32], table: &[i32], page_size: u32, pages: u32) -> Result<PageReport, sim::Error> {
    let memory = Memory::new();
    let words = |words: &[u32]| upload(&memory, &words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>());
    let report = memory.alloc(size_of::<PageReport>());
    let params = CheckPagesParams {
        block_table: Global::new(words(&table.iter().map(|id| *id as u32).collect::<Vec<_>>())),
        block_table_stride: (table.len() / lengths.len()) as i64,
        seq_lens: Global::new(words(lengths)),
        length_bounds: Global::new(words(lengths)),
        report: Global::new(report),
        batch: lengths.len() as u32,
        pages,
        page_shift: page_size.ilog2(),
        table_tokens: (table.len() / lengths.len()) as u32 * page_size,
        seen: NO_WINDOW,
        reserved: 0,
    };
    launch(&memory, entry("check_pages"), 1, false, &Options::default(), &Params::CheckPages(params))?;
    let mut bytes = [0; 12];
    memory.read(report, &mut bytes)?;
    let word = |i: usize| u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]);
    Ok(PageReport { sequence: word(0), page: word(1), id: word(2) as i32 })
}
