//! The simulator as a device: the kernels' own source run on the host, every race, bound and barrier checked. Launches
//! are synchronous, there is one stream, and a fault in a kernel is the launch's error.
use crate::device::{Launch, Properties};
use crate::error::Error;
use crate::select::{Arch, CLUSTERS, Family, KernelId};
use cuda_std::sim;
pub use cuda_std::sim::Delivery;
use kernels_gpu::kernels::{Params, run};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How the simulator behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulatorOptions {
    /// The architecture that it passes for, when plans are made.
    pub arch: Arch,
    /// Multiprocessors that plans spread work over.
    pub multiprocessors: u32,
    /// When asynchronous copies deliver their bytes.
    pub delivery: Delivery,
    /// Chooses the order of blocks and threads.
    pub seed: u64,
    /// Threads of the host that run blocks. With 1, which of several faults is reported does not depend on luck.
    pub workers: usize,
    /// Operations that a block's threads may do together: a bound for loops that do not end.
    pub max_operations: u64,
}

impl Default for SimulatorOptions {
    /// Four multiprocessors of an sm_80, latest delivery, seed 0, and as many workers as the host has cores.
    fn default() -> Self {
        let sim::Options { delivery, seed, max_operations, .. } = sim::Options::default();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self { arch: Arch::OLDEST, multiprocessors: 4, delivery, seed, workers, max_operations }
    }
}

impl SimulatorOptions {
    pub(crate) fn properties(&self) -> Properties {
        let Self { arch, multiprocessors, .. } = *self;
        let shared_per_block = arch.shared_per_block();
        Properties {
            name: "sim".to_owned(),
            arch,
            multiprocessors,
            // The 1 KiB that a block costs besides.
            shared_per_multiprocessor: shared_per_block + (1 << 10),
            shared_per_block,
            families: Family::ALL.to_vec(),
            clusters: CLUSTERS.map(|blocks| if arch.has_clusters() { (multiprocessors / blocks).max(1) } else { 0 }),
        }
    }
}

/// A simulated GPU's memory and how to run on it.
pub(crate) struct Simulator {
    memory: sim::Memory,
    options: sim::Options,
    /// Kernels that ran without a fault: what tests of coverage ask for.
    ran: Mutex<BTreeSet<KernelId>>,
    /// The launches of a capture under way: they are recorded, not run.
    capture: Mutex<Option<Vec<Recorded>>>,
}

/// A captured launch.
#[derive(Clone, Copy)]
pub(crate) struct Recorded {
    kernel: KernelId,
    blocks: u32,
    cluster: u32,
    params: Params,
    early: bool,
}

impl Simulator {
    pub(crate) fn new(options: SimulatorOptions) -> Self {
        let SimulatorOptions { delivery, seed, workers, max_operations, .. } = options;
        let options = sim::Options { delivery, seed, workers: workers.max(1), max_operations };
        Self { memory: sim::Memory::new(), options, ran: Mutex::default(), capture: Mutex::default() }
    }

    pub(crate) fn alloc(&self, bytes: usize) -> u64 {
        self.memory.alloc(bytes.max(1))
    }

    pub(crate) fn free(&self, address: u64) {
        // An address that is none of its own cannot come from a `Buffer`.
        let _ = self.memory.free(address);
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        self.memory.write(address, bytes).map_err(fault)
    }

    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.memory.read(address, bytes).map_err(fault)
    }

    fn recording(&self) -> MutexGuard<'_, Option<Vec<Recorded>>> {
        self.capture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether launches are being recorded.
    pub(crate) fn capturing(&self) -> bool {
        self.recording().is_some()
    }

    /// Records what `body` launches.
    pub(crate) fn capture(&self, body: impl FnOnce() -> Result<(), Error>) -> Result<Vec<Recorded>, Error> {
        let before = self.recording().replace(Vec::new());
        let done = body();
        let mut recording = self.recording();
        let launches = recording.take().unwrap_or_default();
        *recording = before;
        done.map(|()| launches)
    }

    /// Runs what was recorded, in its order.
    pub(crate) fn replay(&self, launches: &[Recorded]) -> Result<(), Error> {
        launches.iter().try_for_each(|&Recorded { kernel, blocks, cluster, ref params, early }| {
            self.launch(&Launch { kernel, blocks, cluster, params, early })
        })
    }

    /// Runs a kernel, or records it while a capture is under way.
    pub(crate) fn launch(&self, launch: &Launch<'_>) -> Result<(), Error> {
        let Launch { kernel, blocks, cluster, params, early } = *launch;
        if let Some(launches) = self.recording().as_mut() {
            launches.push(Recorded { kernel, blocks, cluster, params: *params, early });
            return Ok(());
        }
        let info = launch.kernel.info();
        let grid = sim::Grid {
            name: info.name,
            blocks: launch.blocks,
            threads: info.threads,
            shared_bytes: info.shared_bytes_of(cluster),
            early: launch.early,
            cluster,
        };
        let params: Params = *launch.params;
        let body = || {
            // SAFETY: the simulator checks every address, and reports one that is of no live buffer.
            unsafe { run(info.name, &params) }
        };
        sim::launch(&self.memory, &grid, &self.options, &body).map_err(fault)?;
        self.ran.lock().unwrap_or_else(PoisonError::into_inner).insert(launch.kernel);
        Ok(())
    }

    /// Runs a probe: `body` is what its threads do.
    #[cfg(feature = "probe")]
    pub(crate) fn probe(&self, grid: &sim::Grid, body: &(impl Fn() + Sync)) -> Result<(), Error> {
        sim::launch(&self.memory, grid, &self.options, body).map(|_| ()).map_err(fault)
    }

    pub(crate) fn ran(&self) -> BTreeSet<KernelId> {
        self.ran.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn fault(error: sim::Error) -> Error {
    Error::Simulator(Box::new(error))
}
