//! The table of driver functions, and how their codes become errors.
//!
//! Codes are integers: a driver newer than this library returns some that no list has, and a Rust enum of another value
//! is undefined behaviour.
use crate::error::Error;
use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use libloading::Library;
use std::sync::OnceLock;

/// A driver's answer: 0 is success.
pub(crate) type Code = c_int;
/// A context, stream, event, module, function or graph.
pub(crate) type Handle = *mut c_void;

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub(crate) const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
/// `CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION`.
const CLUSTER_DIMENSION: c_uint = 4;
/// `CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED`: clusters of more than 8 blocks.
pub(crate) const NON_PORTABLE_CLUSTER_SIZE_ALLOWED: c_int = 14;
/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`.
const PROGRAMMATIC_STREAM_SERIALIZATION: c_uint = 6;
/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: Code = 100;

/// One attribute of a launch: 72 bytes in `cuda.h` of CUDA 12 and 13, the value at 8.
#[repr(C)]
pub(crate) struct LaunchAttribute {
    id: c_uint,
    reserved: c_uint,
    value: [u32; 16],
}

impl LaunchAttribute {
    /// The kernel may begin before the stream's previous one has ended.
    pub(crate) const fn early() -> Self {
        Self::new(PROGRAMMATIC_STREAM_SERIALIZATION, [1, 0, 0])
    }

    /// Clusters of so many blocks, side by side.
    pub(crate) const fn cluster(blocks: u32) -> Self {
        Self::new(CLUSTER_DIMENSION, [blocks, 1, 1])
    }

    const fn new(id: c_uint, [x, y, z]: [u32; 3]) -> Self {
        Self { id, reserved: 0, value: [x, y, z, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] }
    }
}

/// `CUlaunchConfig`.
#[repr(C)]
pub(crate) struct LaunchConfig {
    pub(crate) grid: [c_uint; 3],
    pub(crate) block: [c_uint; 3],
    pub(crate) shared_bytes: c_uint,
    pub(crate) stream: Handle,
    pub(crate) attributes: *const LaunchAttribute,
    pub(crate) attribute_count: c_uint,
}

static_assertions::const_assert_eq!(size_of::<LaunchAttribute>(), 72);
static_assertions::const_assert_eq!(core::mem::offset_of!(LaunchAttribute, value), 8);
static_assertions::const_assert_eq!(size_of::<LaunchConfig>(), 56);
static_assertions::const_assert_eq!(core::mem::offset_of!(LaunchConfig, stream), 32);
static_assertions::const_assert_eq!(core::mem::offset_of!(LaunchConfig, attribute_count), 48);

// A macro, because a field, its type and its symbol would else be written three times over.
macro_rules! api {
    (
        needed { $($field:ident = $symbol:literal ($($argument:ty),*);)* }
        wanted { $($wanted:ident = $wanted_symbol:literal ($($wanted_argument:ty),*);)* }
    ) => {
        /// Addresses of the driver's functions, all found when the driver is loaded.
        pub(crate) struct Api {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) -> Code,)*
            $(pub(crate) $wanted: Option<unsafe extern "C" fn($($wanted_argument),*) -> Code>,)*
            /// Keeps the addresses valid.
            library: Library,
        }

        impl Api {
            fn load(library: Library) -> Result<Self, Error> {
                Ok(Self {
                    $(
                        // SAFETY: the driver exports this name with this signature (cuda.h, CUDA 11.4 to 13).
                        $field: *unsafe { library.get(concat!($symbol, "\0").as_bytes()) }
                            .map_err(|_| Error::DriverTooOld { function: $symbol, since: "11.4" })?,
                    )*
                    $(
                        // SAFETY: as above, if it exports the name.
                        $wanted: unsafe { library.get(concat!($wanted_symbol, "\0").as_bytes()) }.ok().map(|f| *f),
                    )*
                    library,
                })
            }
        }
    };
}

api! {
    needed {
        init = "cuInit" (c_uint);
        driver_get_version = "cuDriverGetVersion" (*mut c_int);
        get_error_name = "cuGetErrorName" (Code, *mut *const c_char);
        get_error_string = "cuGetErrorString" (Code, *mut *const c_char);
        device_get_count = "cuDeviceGetCount" (*mut c_int);
        device_get = "cuDeviceGet" (*mut c_int, c_int);
        device_get_name = "cuDeviceGetName" (*mut c_char, c_int, c_int);
        device_get_attribute = "cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
        primary_ctx_retain = "cuDevicePrimaryCtxRetain" (*mut Handle, c_int);
        primary_ctx_release = "cuDevicePrimaryCtxRelease_v2" (c_int);
        ctx_get_current = "cuCtxGetCurrent" (*mut Handle);
        ctx_push_current = "cuCtxPushCurrent_v2" (Handle);
        ctx_pop_current = "cuCtxPopCurrent_v2" (*mut Handle);
        ctx_get_device = "cuCtxGetDevice" (*mut c_int);
        module_load_data_ex = "cuModuleLoadDataEx" (*mut Handle, *const c_void, c_uint, *mut c_int, *mut *mut c_void);
        module_unload = "cuModuleUnload" (Handle);
        module_get_function = "cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
        func_set_attribute = "cuFuncSetAttribute" (Handle, c_int, c_int);
        launch_kernel = "cuLaunchKernel" (
            Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
        );
        mem_alloc = "cuMemAlloc_v2" (*mut u64, usize);
        mem_free = "cuMemFree_v2" (u64);
        mem_host_alloc = "cuMemHostAlloc" (*mut *mut c_void, usize, c_uint);
        mem_free_host = "cuMemFreeHost" (*mut c_void);
        memcpy_htod = "cuMemcpyHtoD_v2" (u64, *const c_void, usize);
        memcpy_dtoh = "cuMemcpyDtoH_v2" (*mut c_void, u64, usize);
        memcpy_htod_async = "cuMemcpyHtoDAsync_v2" (u64, *const c_void, usize, Handle);
        stream_create = "cuStreamCreate" (*mut Handle, c_uint);
        stream_destroy = "cuStreamDestroy_v2" (Handle);
        stream_synchronize = "cuStreamSynchronize" (Handle);
        stream_is_capturing = "cuStreamIsCapturing" (Handle, *mut c_int);
        stream_begin_capture = "cuStreamBeginCapture_v2" (Handle, c_int);
        stream_end_capture = "cuStreamEndCapture" (Handle, *mut Handle);
        graph_instantiate = "cuGraphInstantiateWithFlags" (*mut Handle, Handle, u64);
        graph_launch = "cuGraphLaunch" (Handle, Handle);
        graph_exec_destroy = "cuGraphExecDestroy" (Handle);
        graph_destroy = "cuGraphDestroy" (Handle);
        event_create = "cuEventCreate" (*mut Handle, c_uint);
        event_destroy = "cuEventDestroy_v2" (Handle);
        event_record = "cuEventRecord" (Handle, Handle);
        event_synchronize = "cuEventSynchronize" (Handle);
        event_elapsed_time = "cuEventElapsedTime" (*mut f32, Handle, Handle);
    }
    // None in drivers older than the CUDA that brought it.
    wanted {
        // 11.8: a launch with attributes.
        launch_kernel_ex = "cuLaunchKernelEx" (*const LaunchConfig, Handle, *mut *mut c_void, *mut *mut c_void);
        // 11.8: how many clusters of a launch's configuration run together.
        max_active_clusters = "cuOccupancyMaxActiveClusters" (*mut c_int, Handle, *const LaunchConfig);
        // 12.0: map, data type, rank, address, sizes, strides, box sizes, element strides, interleave, swizzle, L2 promotion,
        // fill of what is outside.
        tensor_map_encode_tiled = "cuTensorMapEncodeTiled" (
            *mut c_void, c_int, c_uint, u64, *const u64, *const u64, *const u32, *const u32, c_int, c_int, c_int, c_int
        );
    }
}

#[cfg(not(windows))]
const LIBRARY: &str = "libcuda.so.1";
#[cfg(windows)]
const LIBRARY: &str = "nvcuda.dll";

impl Api {
    /// The driver, loaded and initialised once.
    pub(crate) fn get() -> Result<&'static Self, Error> {
        static API: OnceLock<Result<Api, Error>> = OnceLock::new();
        let api = API.get_or_init(|| {
            // SAFETY: loading NVIDIA's driver runs its initialisers, as linking to it would.
            let library = unsafe { Library::new(LIBRARY) }.map_err(|e| Error::NoDriver { reason: loader_words(&e) })?;
            let api = Self::load(library)?;
            // SAFETY: `cuInit` may be called at any time; its flags must be 0.
            match unsafe { (api.init)(0) } {
                NO_DEVICE => Err(Error::NoDevice { ordinal: 0, count: 0 }),
                code => api.check("cuInit", code).map(|()| api),
            }
        });
        api.as_ref().map_err(Clone::clone)
    }

    /// The driver's version as CUDA counts it: 12040 is 12.4.
    pub(crate) fn version(&self) -> Result<u32, Error> {
        let mut version = 0;
        // SAFETY: writes one integer.
        self.check("cuDriverGetVersion", unsafe { (self.driver_get_version)(&raw mut version) })?;
        Ok(u32::try_from(version).unwrap_or(0))
    }

    /// Devices that the driver sees.
    pub(crate) fn device_count(&self) -> Result<u32, Error> {
        let mut count = 0;
        // SAFETY: writes one integer.
        self.check("cuDeviceGetCount", unsafe { (self.device_get_count)(&raw mut count) })?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// An error where `code`, the answer of `call`, is not 0.
    #[inline]
    pub(crate) fn check(&self, call: &'static str, code: Code) -> Result<(), Error> {
        if code == 0 { Ok(()) } else { Err(self.error(call, code)) }
    }

    #[cold]
    fn error(&self, call: &'static str, code: Code) -> Error {
        let text = |f: unsafe extern "C" fn(Code, *mut *const c_char) -> Code, unknown: &str| {
            let mut text = core::ptr::null();
            // SAFETY: writes the address of a string that lives as long as the driver, or leaves NULL.
            if unsafe { f(code, &raw mut text) } != 0 || text.is_null() {
                return unknown.to_owned();
            }
            // SAFETY: not NULL, and NUL-terminated by the driver's contract.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        };
        let name = text(self.get_error_name, "CUDA_ERROR_UNKNOWN");
        Error::Driver { call, code, name, text: text(self.get_error_string, "the driver has no words for this code") }
    }

    /// The address of any function of the driver.
    #[cfg_attr(not(feature = "cust"), expect(dead_code, reason = "for cust's symbols"))]
    pub(crate) fn symbol(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: only the address is taken.
        let symbol = unsafe { self.library.get::<*mut c_void>(name.to_bytes_with_nul()) }.ok()?;
        Some(*symbol).filter(|p| !p.is_null())
    }
}

/// What the loader said, without libloading's own preface.
fn loader_words(e: &libloading::Error) -> String {
    core::error::Error::source(e).map_or_else(|| e.to_string(), ToString::to_string)
}
