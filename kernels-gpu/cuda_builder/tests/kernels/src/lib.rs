//! Kernels for the builder's own test: a clean one, one with stack, one behind the feature `probe`.
#![no_std]
#![feature(abi_ptx, asm_experimental_arch, stdarch_nvptx)]
use core::arch::{asm, global_asm, nvptx};

global_asm!(".extern .shared .align 16 .b8 shared_memory[];");

/// 1 where `QKV_FAULT=seven` planted it, and the architecture's number above it.
const MARK: u32 = if option_env!("QKV_FAULT").is_some() { 1 } else { 0 } + 100 * SM;
#[cfg(qkv_sm = "80")]
const SM: u32 = 80;
#[cfg(qkv_sm = "90")]
const SM: u32 = 90;
#[cfg(qkv_sm = "100")]
const SM: u32 = 100;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Writes a number that says how it was built.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn clean(out: *mut u32) {
    let window: u32;
    // SAFETY: takes an address, touches no memory.
    unsafe { asm!("mov.u32 {}, shared_memory;", out(reg32) window) };
    // SAFETY: never run.
    unsafe { out.write_volatile(window + MARK + nvptx::_thread_idx_x() as u32) }
}

/// An array indexed at run time lives in local memory.
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn with_stack(out: *mut u32, index: u32) {
    let mut array = [0_u32; 64];
    for (at, element) in array.iter_mut().enumerate() {
        // SAFETY: never run.
        *element = unsafe { out.add(at).read_volatile() };
    }
    // SAFETY: never run.
    unsafe { out.write_volatile(array[(index & 63) as usize]) }
}

/// Not in the list of entries.
#[cfg(feature = "probe")]
#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn probe_only(out: *mut u32) {
    // SAFETY: never run.
    unsafe { out.write_volatile(7) }
}
