//! Devices: a GPU by its context, or the simulator; the memory and streams that the library itself makes, and the one
//! place where the two kinds part.
#[cfg(feature = "cuda")]
use crate::driver::Context;
use crate::error::Error;
use crate::select::{Arch, CLUSTERS, Family, KernelId};
#[cfg(feature = "sim")]
use crate::simulator::{Simulator, SimulatorOptions};
use core::ffi::c_void;
use core::fmt;
use kernels_gpu::kernels::Params;
use std::sync::Arc;

/// What a plan must know of a device: plain data, so that plans can be made where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub arch: Arch,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_multiprocessor: u32,
    /// Most bytes of shared memory that a block may have.
    pub shared_per_block: u32,
    /// Families of kernels that this program has all code of for it, the simulator all; plans take of them what runs there.
    pub families: Vec<Family>,
    /// How many clusters of 2, 4, 8 and 16 blocks run at a time with every block alone on its multiprocessor: `[66, 30, 15, 7]` on an
    /// H100; 0 of each where the chip (9.0, 10.0 and 10.3 have them), the driver (11.8) or the code that it takes has no clusters.
    pub clusters: [u32; CLUSTERS.len()],
}

/// A GPU or the simulator. Cheap to clone, and usable from any thread.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    properties: Properties,
    backend: Backend,
}

/// The two kinds of device.
pub(crate) enum Backend {
    #[cfg(feature = "cuda")]
    Cuda(Context),
    #[cfg(feature = "sim")]
    Simulator(Simulator),
}

/// One launch of a kernel.
pub(crate) struct Launch<'a> {
    pub(crate) kernel: KernelId,
    /// At least 1, and whole clusters.
    pub(crate) blocks: u32,
    /// Blocks of a cluster.
    pub(crate) cluster: u32,
    pub(crate) params: &'a Params,
    /// May begin before the stream's previous kernel has ended.
    pub(crate) early: bool,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.0.properties).finish()
    }
}

impl Device {
    /// GPU `ordinal`, by its primary context, which is retained as long as the device lives: the one that the CUDA
    /// runtime, cudarc and candle use.
    ///
    /// # Errors
    /// No driver, no such device, or one older than sm_80.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: u32) -> Result<Self, Error> {
        let (context, properties) = Context::primary(ordinal)?;
        Ok(Self(Arc::new(Inner { properties, backend: Backend::Cuda(context) })))
    }

    /// The GPU of a context that somebody else made (a `CUcontext`). Kernels are loaded once a device made here: make it
    /// once and clone it.
    ///
    /// # Errors
    /// No driver, a NULL context, or a device older than sm_80.
    ///
    /// # Safety
    /// `context` is a live CUDA context that outlives this device and everything made from it.
    #[cfg(feature = "cuda")]
    pub unsafe fn from_context(context: *mut c_void) -> Result<Self, Error> {
        // SAFETY: handed on to the caller.
        let (context, properties) = unsafe { Context::foreign(context) }?;
        Ok(Self(Arc::new(Inner { properties, backend: Backend::Cuda(context) })))
    }

    /// As [`Device::from_context`], for a primary context, which is retained until the device is dropped.
    ///
    /// # Errors
    /// As there, and a context that is not its device's primary one.
    ///
    /// # Safety
    /// `context` is live during the call.
    #[cfg(feature = "cuda")]
    pub unsafe fn from_primary_context(context: *mut c_void) -> Result<Self, Error> {
        // SAFETY: handed on to the caller; `retain` makes the context live on.
        let (mut context, properties) = unsafe { Context::foreign(context) }?;
        context.retain()?;
        Ok(Self(Arc::new(Inner { properties, backend: Backend::Cuda(context) })))
    }

    /// The simulator with its default options.
    #[cfg(feature = "sim")]
    pub fn simulator() -> Self {
        Self::simulator_with(SimulatorOptions::default())
    }

    /// The simulator.
    #[cfg(feature = "sim")]
    pub fn simulator_with(options: SimulatorOptions) -> Self {
        let properties = options.properties();
        Self(Arc::new(Inner { properties, backend: Backend::Simulator(Simulator::new(options)) }))
    }

    /// The first GPU if there is one, else the simulator.
    ///
    /// # Errors
    /// Where there is neither; or where there is a driver whose first device cannot be used, its error.
    pub fn default_device() -> Result<Self, Error> {
        #[cfg(feature = "cuda")]
        let gpu = Self::cuda(0);
        #[cfg(not(feature = "cuda"))]
        let gpu = Err(Error::NoBackend);
        match gpu {
            #[cfg(feature = "sim")]
            Err(Error::NoDriver { .. } | Error::NoDevice { .. } | Error::NoBackend) => Ok(Self::simulator()),
            other => other,
        }
    }

    /// What plans are made for.
    pub fn properties(&self) -> &Properties {
        &self.0.properties
    }

    /// Whether this is the simulator.
    pub fn is_simulator(&self) -> bool {
        match self.0.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => false,
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => true,
        }
    }

    /// Kernels that the simulator has run to their end without a fault; `None` for a GPU.
    #[cfg(feature = "sim")]
    pub fn simulated(&self) -> Option<std::collections::BTreeSet<KernelId>> {
        match self.0.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => None,
            Backend::Simulator(ref simulator) => Some(simulator.ran()),
        }
    }

    /// The context (`CUcontext`) of a GPU; NULL for the simulator.
    pub fn context(&self) -> *mut c_void {
        match self.0.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => context.raw(),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => core::ptr::null_mut(),
        }
    }

    /// A stream by its handle (a `CUstream`); 0, 1 and 2, the default streams, are taken too. The simulator has one
    /// stream, whatever the handle.
    ///
    /// # Safety
    /// The handle is a live stream of this device's context, and stays one until its last use here.
    pub unsafe fn stream(&self, raw: *mut c_void) -> Stream {
        Stream(Arc::new(StreamInner { device: self.clone(), raw, owned: false }))
    }

    /// The legacy default stream (handle 0).
    pub fn default_stream(&self) -> Stream {
        Stream(Arc::new(StreamInner { device: self.clone(), raw: core::ptr::null_mut(), owned: false }))
    }

    /// A new stream, ordered with the legacy default stream (so with [`Buffer::read`] and [`Buffer::write`]); unlike
    /// that one it can be captured.
    ///
    /// # Errors
    /// The driver's.
    pub fn new_stream(&self) -> Result<Stream, Error> {
        let raw = match self.0.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => context.stream_create()?,
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => core::ptr::null_mut(),
        };
        Ok(Stream(Arc::new(StreamInner { device: self.clone(), raw, owned: true })))
    }

    /// Device memory, not initialised: for tests, tools and small programs.
    ///
    /// # Errors
    /// The driver's, such as being out of memory.
    pub fn alloc(&self, bytes: usize) -> Result<Buffer, Error> {
        let address = match self.0.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => context.alloc(bytes)?,
            #[cfg(feature = "sim")]
            Backend::Simulator(ref simulator) => simulator.alloc(bytes),
        };
        Ok(Buffer { device: self.clone(), address, bytes })
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.0.backend
    }

    /// Whether both are the same device object.
    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Loads a kernel ahead of its launch, and says which code of it.
    pub(crate) fn load(&self, kernel: KernelId) -> Result<String, Error> {
        match self.0.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => context.load(kernel),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => {
                let _ = kernel;
                Ok("simulated".to_owned())
            }
        }
    }

    /// # Safety
    /// The addresses in the parameters are of live buffers of this device, as the kernel's ABI says, until it has
    /// finished.
    pub(crate) unsafe fn launch(&self, stream: &Stream, launch: &Launch<'_>) -> Result<(), Error> {
        match self.0.backend {
            #[cfg(feature = "cuda")]
            // SAFETY: handed on to the caller; the stream is of this device by its type's contract.
            Backend::Cuda(ref context) => unsafe { context.launch(stream.raw(), launch) },
            #[cfg(feature = "sim")]
            Backend::Simulator(ref simulator) => {
                let _ = stream;
                simulator.launch(launch)
            }
        }
    }

    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        match self.0.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => context.read(address, bytes),
            #[cfg(feature = "sim")]
            Backend::Simulator(ref simulator) => simulator.read(address, bytes),
        }
    }
}

/// A stream of a device. Cheap to clone.
#[derive(Clone)]
pub struct Stream(Arc<StreamInner>);

struct StreamInner {
    device: Device,
    raw: *mut c_void,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the simulator has nothing to destroy"))]
    owned: bool,
}

// SAFETY: the handle is only handed to the driver, which takes it from any thread.
unsafe impl Send for StreamInner {}
// SAFETY: as above.
unsafe impl Sync for StreamInner {}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:p} of {})", self.0.raw, self.0.device.properties().name)
    }
}

impl Stream {
    /// Waits until all of its work is done.
    ///
    /// # Errors
    /// What went wrong in that work, or the driver's refusal (a stream in capture cannot be waited for).
    pub fn synchronize(&self) -> Result<(), Error> {
        match self.0.device.0.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => context.synchronize(self.0.raw),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => Ok(()),
        }
    }

    /// The handle (a `CUstream`).
    pub fn raw(&self) -> *mut c_void {
        self.0.raw
    }

    /// Its device.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Refuses a stream of another device than `device`: two device objects of one context count as one.
    pub(crate) fn expect_device(&self, device: &Device) -> Result<(), Error> {
        let own = self.device();
        let same_context = !own.context().is_null() && own.context() == device.context();
        if own.same(device) || same_context {
            return Ok(());
        }
        let name = |d: &Device| format!("{} at {:p}", d.properties().name, Arc::as_ptr(&d.0));
        Err(Error::OtherDevice { field: "stream", value: name(own), expected: name(device) })
    }

    /// Whether it is being captured into a graph.
    pub(crate) fn capturing(&self) -> Result<bool, Error> {
        match self.0.device.0.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => context.capturing(self.0.raw),
            #[cfg(feature = "sim")]
            Backend::Simulator(ref simulator) => Ok(simulator.capturing()),
        }
    }
}

impl Drop for StreamInner {
    fn drop(&mut self) {
        match self.device.0.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) if self.owned => context.stream_destroy(self.raw),
            _ => {}
        }
    }
}

/// Owned device memory. Dropping it waits for work that uses it, and frees it.
#[derive(Debug)]
pub struct Buffer {
    device: Device,
    address: u64,
    bytes: usize,
}

impl Buffer {
    /// Its device address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fills its first bytes, and waits for that.
    ///
    /// # Errors
    /// More bytes than it has, or the driver's.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() > self.bytes {
            return Err(Error::BufferTooSmall { field: "buffer", bytes: self.bytes, needed: bytes.len() });
        }
        match self.device.0.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => context.write(self.address, bytes),
            #[cfg(feature = "sim")]
            Backend::Simulator(ref simulator) => simulator.write(self.address, bytes),
        }
    }

    /// All of its bytes, after the work on streams that are ordered with the default stream.
    ///
    /// # Errors
    /// The driver's; on the simulator also bytes that nothing was ever written to.
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; self.bytes];
        self.device.read(self.address, &mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // An error here is of earlier work or a context already gone; there is no one to tell.
        match self.device.0.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => drop(context.free(self.address)),
            #[cfg(feature = "sim")]
            Backend::Simulator(ref simulator) => simulator.free(self.address),
        }
    }
}
