//! The driver's functions that the useful part of `cust` reaches, by their own names: init, device, primary context,
//! module, function, stream, event, memory. Each finds the real one through our loader on its first call.
//!
//! Without a driver `cuInit` answers "no device" and the others "not initialised", so `cust` reports an ordinary error.
//! Codes that `cust`'s Rust enum lacks (it ends at CUDA 11.4) become 999: any other value would be undefined behaviour
//! there. What else `cust` declares (textures, arrays, graphs, legacy contexts) is left undefined on purpose: a program
//! that uses it fails to link, here and not at the user's.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]
use crate::driver::table::Api;
use crate::error::Error;
use core::ffi::{CStr, c_char, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

type Ptr = *mut c_void;
/// A `CUdeviceptr`.
type Address = u64;

const NOT_INITIALIZED: u32 = 3;
const NO_DEVICE: u32 = 100;
const SYMBOL_NOT_FOUND: u32 = 302;
const UNKNOWN: u32 = 999;

/// A code that `cust` can bear: those of its `CUresult`.
fn known(code: u32) -> u32 {
    match code {
        0..=8 | 34 | 100..=102 | 200..=202 | 205..=224 | 300..=304 | 400 | 401 | 500 | 600 => code,
        700..=705 | 708..=720 | 800..=809 | 900..=911 => code,
        _ => UNKNOWN,
    }
}

/// A driver function, found when it is first called.
struct Slot {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Slot {
    const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// Its address, or the code to answer instead.
    fn get(&self) -> Result<Ptr, u32> {
        let found = self.found.load(Ordering::Acquire);
        if found.is_null() { self.find() } else { Ok(found) }
    }

    #[cold]
    fn find(&self) -> Result<Ptr, u32> {
        match Api::get() {
            Ok(api) => {
                let found = api.symbol(self.name).ok_or(SYMBOL_NOT_FOUND)?;
                self.found.store(found, Ordering::Release);
                Ok(found)
            }
            Err(Error::Driver { code, .. }) => Err(known(code.unsigned_abs())),
            Err(_) if self.name == c"cuInit" => Err(NO_DEVICE),
            Err(_) => Err(NOT_INITIALIZED),
        }
    }
}

// A macro, because each line defines a symbol and a function of its own type.
macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> u32 {
            const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => c"",
            };
            static SLOT: Slot = Slot::new(NAME);
            match SLOT.get() {
                // SAFETY: the driver exports this name with this signature (cuda.h, CUDA 11.4 to 13); enums and handles
                // are passed as the integers and addresses that they are. The rest is the caller's promise.
                Ok(found) => known(unsafe {
                    let call = core::mem::transmute::<Ptr, unsafe extern "C" fn($($type),*) -> u32>(found);
                    call($($argument),*)
                }),
                Err(code) => code,
            }
        }
    )*};
}

forward! {
    cuInit(flags: u32);
    cuDriverGetVersion(version: Ptr);
    cuDeviceGet(device: Ptr, ordinal: i32);
    cuDeviceGetAttribute(value: Ptr, attribute: u32, device: i32);
    cuDeviceGetCount(count: Ptr);
    cuDeviceGetName(name: Ptr, bytes: i32, device: i32);
    cuDeviceTotalMem_v2(bytes: Ptr, device: i32);
    cuDevicePrimaryCtxRelease_v2(device: i32);
    cuDevicePrimaryCtxReset_v2(device: i32);
    cuDevicePrimaryCtxRetain(context: Ptr, device: i32);
    cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32);
    cuCtxGetApiVersion(context: Ptr, version: Ptr);
    cuCtxGetCacheConfig(config: Ptr);
    cuCtxGetDevice(device: Ptr);
    cuCtxGetFlags(flags: Ptr);
    cuCtxGetLimit(value: Ptr, limit: u32);
    cuCtxGetSharedMemConfig(config: Ptr);
    cuCtxGetStreamPriorityRange(least: Ptr, greatest: Ptr);
    cuCtxSetCacheConfig(config: u32);
    cuCtxSetCurrent(context: Ptr);
    cuCtxSetLimit(limit: u32, value: usize);
    cuCtxSetSharedMemConfig(config: u32);
    cuCtxSynchronize();
    cuModuleGetFunction(function: Ptr, module: Ptr, name: Ptr);
    cuModuleGetGlobal_v2(address: Ptr, bytes: Ptr, module: Ptr, name: Ptr);
    cuModuleLoad(module: Ptr, file: Ptr);
    cuModuleLoadData(module: Ptr, image: Ptr);
    cuModuleLoadDataEx(module: Ptr, image: Ptr, count: u32, options: Ptr, values: Ptr);
    cuModuleUnload(module: Ptr);
    cuFuncGetAttribute(value: Ptr, attribute: u32, function: Ptr);
    cuFuncSetAttribute(function: Ptr, attribute: u32, value: i32);
    cuFuncSetCacheConfig(function: Ptr, config: u32);
    cuFuncSetSharedMemConfig(function: Ptr, config: u32);
    cuOccupancyAvailableDynamicSMemPerBlock(bytes: Ptr, function: Ptr, blocks: i32, threads: i32);
    cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Ptr, function: Ptr, threads: i32, bytes: usize);
    cuOccupancyMaxPotentialBlockSize(
        grid: Ptr, threads: Ptr, function: Ptr, bytes_of: Ptr, bytes: usize, limit: i32
    );
    cuLaunchKernel(
        function: Ptr, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, bytes: u32, stream: Ptr, arguments: Ptr,
        extra: Ptr
    );
    cuLaunchHostFunc(stream: Ptr, function: Ptr, data: Ptr);
    cuStreamCreateWithPriority(stream: Ptr, flags: u32, priority: i32);
    cuStreamDestroy_v2(stream: Ptr);
    cuStreamGetFlags(stream: Ptr, flags: Ptr);
    cuStreamGetPriority(stream: Ptr, priority: Ptr);
    cuStreamSynchronize(stream: Ptr);
    cuStreamWaitEvent(stream: Ptr, event: Ptr, flags: u32);
    cuEventCreate(event: Ptr, flags: u32);
    cuEventDestroy_v2(event: Ptr);
    cuEventElapsedTime(milliseconds: Ptr, from: Ptr, to: Ptr);
    cuEventQuery(event: Ptr);
    cuEventRecord(event: Ptr, stream: Ptr);
    cuEventSynchronize(event: Ptr);
    cuMemAlloc_v2(address: Ptr, bytes: usize);
    cuMemAllocAsync(address: Ptr, bytes: usize, stream: Ptr);
    cuMemAllocHost_v2(address: Ptr, bytes: usize);
    cuMemAllocManaged(address: Ptr, bytes: usize, flags: u32);
    cuMemFree_v2(address: Address);
    cuMemFreeAsync(address: Address, stream: Ptr);
    cuMemFreeHost(address: Ptr);
    cuMemGetInfo_v2(free: Ptr, total: Ptr);
    cuMemcpyDtoD_v2(to: Address, from: Address, bytes: usize);
    cuMemcpyDtoDAsync_v2(to: Address, from: Address, bytes: usize, stream: Ptr);
    cuMemcpyDtoH_v2(to: Ptr, from: Address, bytes: usize);
    cuMemcpyDtoHAsync_v2(to: Ptr, from: Address, bytes: usize, stream: Ptr);
    cuMemcpyHtoD_v2(to: Address, from: Ptr, bytes: usize);
    cuMemcpyHtoDAsync_v2(to: Address, from: Ptr, bytes: usize, stream: Ptr);
    cuMemsetD8_v2(to: Address, value: u8, count: usize);
    cuMemsetD8Async(to: Address, value: u8, count: usize, stream: Ptr);
    cuMemsetD16_v2(to: Address, value: u16, count: usize);
    cuMemsetD16Async(to: Address, value: u16, count: usize, stream: Ptr);
    cuMemsetD32_v2(to: Address, value: u32, count: usize);
    cuMemsetD32Async(to: Address, value: u32, count: usize, stream: Ptr);
}

/// Always answers: `cust` panics in `to_string` on anything but success.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(code: u32, text: *mut *const c_char) -> u32 {
    static SLOT: Slot = Slot::new(c"cuGetErrorString");
    if let Ok(found) = SLOT.get() {
        // SAFETY: as above.
        let answer = unsafe {
            let call = core::mem::transmute::<Ptr, unsafe extern "C" fn(u32, *mut *const c_char) -> u32>(found);
            call(code, text)
        };
        if answer == 0 {
            return 0;
        }
    }
    let words = match code {
        0 => c"no error",
        NOT_INITIALIZED => c"the CUDA driver is not there or not initialised",
        NO_DEVICE => c"no CUDA device, or no CUDA driver",
        SYMBOL_NOT_FOUND => c"the CUDA driver has no such function",
        _ => c"unknown CUDA error",
    };
    // SAFETY: the caller's place for one address.
    unsafe { *text = words.as_ptr() };
    0
}
