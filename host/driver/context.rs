//! A CUDA context at work: the user's own or the device's primary one, made current around each call and put back after
//! it, so that neither other libraries nor a second context in the process notice.
use crate::device::Properties;
use crate::driver::table::{Api, Handle, MAX_DYNAMIC_SHARED_SIZE_BYTES, NON_PORTABLE_CLUSTER_SIZE_ALLOWED};
use crate::error::Error;
use crate::module::{self, Choice, Image};
use crate::select::{self, Arch, CLUSTERS, KernelId, Need, Unsupported};
use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::marker::PhantomData;
use std::sync::OnceLock;

/// One context, with the kernels loaded into it so far.
pub(crate) struct Context {
    pub(crate) api: &'static Api,
    raw: Handle,
    /// The device whose primary context this is, retained until drop.
    retained: Option<c_int>,
    arch: Arch,
    /// One cell an entry of the kernels' list: a module is loaded when its kernel is first wanted, per context.
    functions: Box<[OnceLock<Result<Function, Error>>]>,
}

// SAFETY: the driver's functions may be called from any thread; the handle is only ever handed to them.
unsafe impl Send for Context {}
// SAFETY: as above; loading is serialised by each function's `OnceLock`.
unsafe impl Sync for Context {}

/// A kernel in a context.
#[derive(Clone)]
pub(super) struct Function {
    pub(super) module: Handle,
    pub(super) raw: Handle,
    /// The code that was loaded.
    pub(super) choice: Choice,
}

/// While it lives, the context is current on this thread.
pub(crate) struct Entered<'a> {
    context: &'a Context,
    pushed: bool,
    /// Contexts are current per thread: not `Send`.
    thread: PhantomData<*mut ()>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.pushed {
            let mut popped = core::ptr::null_mut();
            // SAFETY: what `enter` pushed is on top again, as every inner `enter` has popped its own.
            let _ = unsafe { (self.context.api.ctx_pop_current)(&raw mut popped) };
        }
    }
}

impl Context {
    /// The primary context of device `ordinal`.
    pub(crate) fn primary(ordinal: u32) -> Result<(Self, Properties), Error> {
        let api = Api::get()?;
        let count = api.device_count()?;
        if ordinal >= count {
            return Err(Error::NoDevice { ordinal, count });
        }
        let (mut device, mut raw) = (0, core::ptr::null_mut());
        // SAFETY: writes one integer; the ordinal is below the count.
        api.check("cuDeviceGet", unsafe { (api.device_get)(&raw mut device, ordinal as c_int) })?;
        let properties = properties(api, device)?;
        // SAFETY: writes one handle.
        let code = unsafe { (api.primary_ctx_retain)(&raw mut raw, device) };
        api.check("cuDevicePrimaryCtxRetain", code)?;
        let context = Self::new(api, raw, Some(device), properties.arch);
        let properties = Properties { clusters: context.clusters(&properties), ..properties };
        Ok((context, properties))
    }

    /// Somebody else's context.
    ///
    /// # Safety
    /// `raw` is a live context, and outlives what is made here.
    pub(crate) unsafe fn foreign(raw: Handle) -> Result<(Self, Properties), Error> {
        let api = Api::get()?;
        if raw.is_null() {
            return Err(Error::Value { field: "context", value: "NULL".into(), allowed: "live CUDA contexts" });
        }
        let mut context = Self::new(api, raw, None, Arch::OLDEST);
        let mut device = 0;
        let properties = {
            let _entered = context.enter()?;
            // SAFETY: writes one integer.
            api.check("cuCtxGetDevice", unsafe { (api.ctx_get_device)(&raw mut device) })?;
            properties(api, device)?
        };
        context.arch = properties.arch;
        let properties = Properties { clusters: context.clusters(&properties), ..properties };
        Ok((context, properties))
    }

    /// Retains a foreign context that is its device's primary one.
    pub(crate) fn retain(&mut self) -> Result<(), Error> {
        let (mut device, mut primary) = (0, core::ptr::null_mut());
        {
            let _entered = self.enter()?;
            // SAFETY: writes one integer.
            self.api.check("cuCtxGetDevice", unsafe { (self.api.ctx_get_device)(&raw mut device) })?;
        }
        // SAFETY: writes one handle.
        let code = unsafe { (self.api.primary_ctx_retain)(&raw mut primary, device) };
        self.api.check("cuDevicePrimaryCtxRetain", code)?;
        if primary != self.raw {
            // SAFETY: retained just now.
            let _ = unsafe { (self.api.primary_ctx_release)(device) };
            let (value, allowed) = (format!("{:p}", self.raw), "the primary context of its device");
            return Err(Error::Value { field: "context", value, allowed });
        }
        self.retained = Some(device);
        Ok(())
    }

    fn new(api: &'static Api, raw: Handle, retained: Option<c_int>, arch: Arch) -> Self {
        let functions = KernelId::all().map(|_| OnceLock::new()).collect();
        Self { api, raw, retained, arch, functions }
    }

    pub(crate) fn raw(&self) -> Handle {
        self.raw
    }

    /// Makes the context current until the answer is dropped; costs one call where it already is.
    pub(crate) fn enter(&self) -> Result<Entered<'_>, Error> {
        let mut current = core::ptr::null_mut();
        // SAFETY: writes one handle.
        self.api.check("cuCtxGetCurrent", unsafe { (self.api.ctx_get_current)(&raw mut current) })?;
        let pushed = current != self.raw;
        if pushed {
            // SAFETY: the context is live: retained here, or promised by `foreign`'s caller.
            self.api.check("cuCtxPushCurrent", unsafe { (self.api.ctx_push_current)(self.raw) })?;
        }
        Ok(Entered { context: self, pushed, thread: PhantomData })
    }

    /// How many clusters of each size run at a time with every block alone. What code of the kernels the driver takes is seen by the
    /// merge's, which most plans need anyway.
    fn clusters(&self, properties: &Properties) -> [u32; CLUSTERS.len()] {
        let clusters = || {
            let kernel = select::combine().ok()?;
            let merge = self.function(kernel).ok().filter(|merge| merge.choice.has_clusters())?;
            Some(self.clusters_alone(merge, kernel.info().shared_bytes(), properties))
        };
        if self.arch.has_clusters() { clusters().unwrap_or_default() } else { [0; CLUSTERS.len()] }
    }

    /// Loads a kernel, unless it has been, and says which code of it.
    pub(crate) fn load(&self, kernel: KernelId) -> Result<String, Error> {
        self.function(kernel).map(|function| function.choice.code.to_string())
    }

    pub(super) fn function(&self, kernel: KernelId) -> Result<&Function, Error> {
        let info = kernel.info();
        let load = || self.load_function(info.name, info.most_shared_bytes(self.arch.has_clusters()));
        self.functions[kernel.index()].get_or_init(load).as_ref().map_err(Clone::clone)
    }

    pub(super) fn load_function(&self, entry: &'static str, shared_bytes: u32) -> Result<Function, Error> {
        let (mut choice, mut others) = Image::choices(module::images(), self.arch, entry)?;
        let name: Vec<u8> = entry.bytes().chain([0]).collect();
        let _entered = self.enter()?;
        let refused = |error: &Error| matches!(error, Error::Driver { code, .. } if OTHER_CODE.contains(code));
        let module = loop {
            match self.load_module(&choice.code()?) {
                Err(error) if refused(&error) => choice = others.next().ok_or(error)?,
                loaded => break loaded?,
            }
        };
        let mut function = Function { module, raw: core::ptr::null_mut(), choice };
        let resolved = self.resolve(&mut function, &name, shared_bytes);
        if resolved.is_err() {
            // SAFETY: loaded above, and nothing of it is kept.
            let _ = unsafe { (self.api.module_unload)(module) };
        }
        resolved.map(|()| function)
    }

    fn load_module(&self, code: &[u8]) -> Result<Handle, Error> {
        let (mut module, none) = (core::ptr::null_mut(), core::ptr::null_mut());
        let call = self.api.module_load_data_ex;
        // SAFETY: `code` is a cubin, or PTX ended by NUL; no options.
        let answer = unsafe { call(&raw mut module, code.as_ptr().cast(), 0, none, core::ptr::null_mut()) };
        self.api.check("cuModuleLoadDataEx", answer).map(|()| module)
    }

    fn resolve(&self, function: &mut Function, name: &[u8], shared_bytes: u32) -> Result<(), Error> {
        let name = name.as_ptr().cast::<c_char>();
        // SAFETY: the module is loaded and the name ends with NUL.
        let answer = unsafe { (self.api.module_get_function)(&raw mut function.raw, function.module, name) };
        self.api.check("cuModuleGetFunction", answer)?;
        let shared = shared_bytes as c_int;
        // SAFETY: the function is of a loaded module.
        let answer = unsafe { (self.api.func_set_attribute)(function.raw, MAX_DYNAMIC_SHARED_SIZE_BYTES, shared) };
        self.api.check("cuFuncSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES)", answer)?;
        if self.arch.has_clusters() && function.choice.has_clusters() {
            // SAFETY: as above. Where it fails there is no room for such clusters, which is asked before they are planned.
            let _ = unsafe { (self.api.func_set_attribute)(function.raw, NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1) };
        }
        Ok(())
    }

    pub(crate) fn alloc(&self, bytes: usize) -> Result<u64, Error> {
        let _entered = self.enter()?;
        let mut address = 0;
        // SAFETY: writes one address; the driver refuses 0 bytes, so at least one is asked for.
        self.api.check("cuMemAlloc", unsafe { (self.api.mem_alloc)(&raw mut address, bytes.max(1)) })?;
        Ok(address)
    }

    /// Frees what `alloc` gave. Waits for work that uses it.
    pub(crate) fn free(&self, address: u64) -> Result<(), Error> {
        let _entered = self.enter()?;
        // SAFETY: freed once, by the buffer that owns it.
        self.api.check("cuMemFree", unsafe { (self.api.mem_free)(address) })
    }

    /// Copies to the device, and waits for it.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let _entered = self.enter()?;
        // SAFETY: the caller's buffer has as many bytes.
        let answer = unsafe { (self.api.memcpy_htod)(address, bytes.as_ptr().cast(), bytes.len()) };
        self.api.check("cuMemcpyHtoD", answer)
    }

    /// Copies from the device, and waits for it.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let _entered = self.enter()?;
        // SAFETY: the caller's buffer has as many bytes.
        let answer = unsafe { (self.api.memcpy_dtoh)(bytes.as_mut_ptr().cast(), address, bytes.len()) };
        self.api.check("cuMemcpyDtoH", answer)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Ok(entered) = self.enter() {
            for function in self.functions.iter().filter_map(|f| f.get()?.as_ref().ok()) {
                // SAFETY: loaded once, here, and no launch can follow.
                let _ = unsafe { (self.api.module_unload)(function.module) };
            }
            drop(entered);
        }
        if let Some(device) = self.retained {
            // SAFETY: retained once, at construction.
            let _ = unsafe { (self.api.primary_ctx_release)(device) };
        }
    }
}

/// What a driver says of code that it cannot use though it may be able to use other code: `CUDA_ERROR_INVALID_IMAGE`,
/// `NO_BINARY_FOR_GPU`, `INVALID_PTX`, `UNSUPPORTED_PTX_VERSION`.
const OTHER_CODE: [i32; 4] = [200, 209, 218, 222];

/// `CU_DEVICE_ATTRIBUTE_*`.
const MULTIPROCESSORS: c_int = 16;
const MAJOR: c_int = 75;
const MINOR: c_int = 76;
const SHARED_PER_MULTIPROCESSOR: c_int = 81;
const SHARED_PER_BLOCK_OPTIN: c_int = 97;

fn properties(api: &Api, device: c_int) -> Result<Properties, Error> {
    let attribute = |which: c_int| {
        let mut value = 0;
        // SAFETY: writes one integer.
        api.check("cuDeviceGetAttribute", unsafe { (api.device_get_attribute)(&raw mut value, which, device) })?;
        Ok::<_, Error>(c_uint::try_from(value).unwrap_or(0))
    };
    let arch = Arch { major: attribute(MAJOR)?, minor: attribute(MINOR)? };
    if arch < Arch::OLDEST {
        return Err(Unsupported { needs: vec![Need::Arch { arch }] }.into());
    }
    let mut name = [0_u8; 256];
    // SAFETY: writes at most that many bytes, NUL included.
    let answer = unsafe { (api.device_get_name)(name.as_mut_ptr().cast(), name.len() as c_int, device) };
    api.check("cuDeviceGetName", answer)?;
    let name = CStr::from_bytes_until_nul(&name).map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Properties {
        name,
        arch,
        multiprocessors: attribute(MULTIPROCESSORS)?,
        shared_per_multiprocessor: attribute(SHARED_PER_MULTIPROCESSOR)?,
        shared_per_block: attribute(SHARED_PER_BLOCK_OPTIN)?,
        families: module::families(module::images(), arch),
        clusters: [0; CLUSTERS.len()],
    })
}

/// Pinned host memory for one copy at a time, and the event that says when the copy has left it.
pub(crate) struct Pinned {
    address: *mut c_void,
    bytes: usize,
    event: Handle,
}

// SAFETY: owned memory and a handle that any thread may use.
unsafe impl Send for Pinned {}

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: c_uint = 2;
/// `CU_MEMHOSTALLOC_PORTABLE`: pinned for every context.
const PORTABLE: c_uint = 1;

impl Pinned {
    pub(crate) fn new(context: &Context, bytes: usize) -> Result<Self, Error> {
        let (api, _entered) = (context.api, context.enter()?);
        let mut pinned = Self { address: core::ptr::null_mut(), bytes, event: core::ptr::null_mut() };
        // SAFETY: writes one address.
        let answer = unsafe { (api.mem_host_alloc)(&raw mut pinned.address, bytes.max(1), PORTABLE) };
        api.check("cuMemHostAlloc", answer)?;
        // The driver promises nothing of what is in it, and `bytes` lends it as a slice.
        // SAFETY: so many bytes were allocated above.
        unsafe { pinned.address.cast::<u8>().write_bytes(0, bytes.max(1)) };
        // SAFETY: writes one handle.
        let made = api.check("cuEventCreate", unsafe { (api.event_create)(&raw mut pinned.event, DISABLE_TIMING) });
        if made.is_err() {
            // SAFETY: allocated above.
            let _ = unsafe { (api.mem_free_host)(pinned.address) };
        }
        made.map(|()| pinned)
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.bytes
    }

    /// The memory, once the last copy from it has been made.
    pub(crate) fn bytes(&mut self, context: &Context) -> Result<&mut [u8], Error> {
        let _entered = context.enter()?;
        // SAFETY: the event is live; one never recorded counts as done.
        context.api.check("cuEventSynchronize", unsafe { (context.api.event_synchronize)(self.event) })?;
        // SAFETY: owned, `bytes` long, written whole by `new`, and no copy reads it any more.
        Ok(unsafe { core::slice::from_raw_parts_mut(self.address.cast::<u8>(), self.bytes) })
    }

    /// Copies the first `bytes` to the device, in the stream's order.
    pub(crate) fn send(&mut self, context: &Context, stream: Handle, to: u64, bytes: usize) -> Result<(), Error> {
        let (api, _entered) = (context.api, context.enter()?);
        // SAFETY: at most `self.bytes`, which stay put until the event recorded below has happened.
        let answer = unsafe { (api.memcpy_htod_async)(to, self.address, bytes.min(self.bytes), stream) };
        api.check("cuMemcpyHtoDAsync", answer)?;
        // SAFETY: event and stream are live, of this context.
        api.check("cuEventRecord", unsafe { (api.event_record)(self.event, stream) })
    }

    /// Frees it, after its last copy.
    pub(crate) fn free(&mut self, context: &Context) {
        if let Ok(_entered) = context.enter() {
            let api = context.api;
            // SAFETY: all three of live handles, once: the owner drops this after the call.
            unsafe {
                let _ = (api.event_synchronize)(self.event);
                let _ = (api.event_destroy)(self.event);
                let _ = (api.mem_free_host)(self.address);
            }
        }
    }
}
