//! Launches of loaded kernels: with attributes where one is asked for, which is a call of its own.
use crate::device::{Launch, Properties};
use crate::driver::context::{Context, Function};
use crate::driver::table::{Handle, LaunchAttribute, LaunchConfig, MAX_DYNAMIC_SHARED_SIZE_BYTES};
use crate::error::Error;
use crate::select::CLUSTERS;
use core::ffi::{c_int, c_void};

/// What is launched of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// Blocks: whole clusters.
    pub(crate) blocks: u32,
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub(crate) shared_bytes: u32,
    /// Blocks of a cluster.
    pub(crate) cluster: u32,
    /// May begin before the stream's previous kernel has ended. Without effect where the driver is older than that.
    pub(crate) early: bool,
}

impl Context {
    /// Launches a kernel. Allocates nothing and waits for nothing.
    ///
    /// # Safety
    /// The addresses in the parameters are of live buffers of this context, as the kernel's ABI says, until the kernel
    /// has finished; `stream` is a stream of this context.
    pub(crate) unsafe fn launch(&self, stream: Handle, launch: &Launch<'_>) -> Result<(), Error> {
        let info = launch.kernel.info();
        let function = self.function(launch.kernel)?;
        let grid = Grid {
            blocks: launch.blocks,
            threads: info.threads,
            shared_bytes: info.shared_bytes_of(launch.cluster),
            cluster: launch.cluster,
            early: launch.early && function.choice.may_start_early(),
        };
        // SAFETY: the parameters are of the entry's type; the rest is the caller's promise.
        unsafe { self.start(function, stream, &grid, launch.params.address()) }
    }

    /// # Safety
    /// As for [`Context::launch`]; `params` is the struct that the kernel takes.
    unsafe fn start(
        &self,
        function: &Function,
        stream: Handle,
        grid: &Grid,
        params: *const c_void,
    ) -> Result<(), Error> {
        let mut arguments = [params.cast_mut()];
        let _entered = self.enter()?;
        let (arguments, extra) = (arguments.as_mut_ptr(), core::ptr::null_mut());
        let Grid { blocks, threads, shared_bytes, cluster, early } = *grid;
        let attributes: &[LaunchAttribute] = match (cluster > 1, early) {
            (false, false) => &[],
            (false, true) => &[LaunchAttribute::early()],
            (true, false) => &[LaunchAttribute::cluster(cluster)],
            (true, true) => &[LaunchAttribute::cluster(cluster), LaunchAttribute::early()],
        };
        match self.api.launch_kernel_ex {
            Some(call) if !attributes.is_empty() => {
                let config = LaunchConfig {
                    grid: [blocks, 1, 1],
                    block: [threads, 1, 1],
                    shared_bytes,
                    stream,
                    attributes: attributes.as_ptr(),
                    attribute_count: attributes.len() as u32,
                };
                // SAFETY: one argument of the entry's parameter type; the rest is the caller's promise.
                let answer = unsafe { call(&raw const config, function.raw, arguments, extra) };
                self.api.check("cuLaunchKernelEx", answer)
            }
            None if cluster > 1 => Err(Error::DriverTooOld { function: "cuLaunchKernelEx", since: "11.8" }),
            _ => {
                let call = self.api.launch_kernel;
                let raw = function.raw;
                // SAFETY: as above.
                let answer = unsafe { call(raw, blocks, 1, 1, threads, 1, 1, shared_bytes, stream, arguments, extra) };
                self.api.check("cuLaunchKernel", answer)
            }
        }
    }

    /// How many clusters of each size run at a time of a kernel like `function`, which is loaded, with all of the shared memory that a block
    /// may have: each block alone on its multiprocessor. 0 where the driver does not say. `own_bytes` is what its launches have.
    pub(super) fn clusters_alone(
        &self,
        function: &Function,
        own_bytes: u32,
        properties: &Properties,
    ) -> [u32; CLUSTERS.len()] {
        let (Some(call), Some(_)) = (self.api.max_active_clusters, self.api.launch_kernel_ex) else { return [0; 4] };
        let Ok(_entered) = self.enter() else { return [0; 4] };
        // SAFETY: the function is of a loaded module.
        let limit = |bytes: u32| unsafe {
            (self.api.func_set_attribute)(function.raw, MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes as c_int) == 0
        };
        let shared_bytes = properties.shared_per_block;
        if !limit(shared_bytes) {
            return [0; 4];
        }
        let clusters = CLUSTERS.map(|blocks| {
            let attributes = [LaunchAttribute::cluster(blocks)];
            let config = LaunchConfig {
                grid: [blocks, 1, 1],
                block: [32, 1, 1],
                shared_bytes,
                stream: core::ptr::null_mut(),
                attributes: attributes.as_ptr(),
                attribute_count: attributes.len() as u32,
            };
            let mut clusters = 0;
            // SAFETY: writes one integer, and reads the configuration alone.
            let counted = unsafe { call(&raw mut clusters, function.raw, &raw const config) } == 0;
            if counted { clusters.max(0) as u32 } else { 0 }
        });
        // As it was: not to be told of a kernel that has little.
        limit(own_bytes);
        clusters
    }

    /// Loads a probe, launches it once, waits for its end and unloads it.
    ///
    /// # Safety
    /// As for [`Context::launch`]; `params` is the struct that the probe takes.
    #[cfg(feature = "probe")]
    pub(crate) unsafe fn probe(&self, name: &'static str, grid: &Grid, params: *const c_void) -> Result<(), Error> {
        let function = self.load_function(name, grid.shared_bytes)?;
        let _entered = self.enter()?;
        let stream = core::ptr::null_mut();
        // SAFETY: the caller's promise.
        let done = unsafe { self.start(&function, stream, grid, params) }.and_then(|()| self.synchronize(stream));
        // SAFETY: loaded above; its only launch is over.
        let _ = unsafe { (self.api.module_unload)(function.module) };
        done
    }
}
