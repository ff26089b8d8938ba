//! The device's standard library under the names of Rust-CUDA's `cuda_std`, for rustc's own PTX backend.
//!
//! Same paths and signatures as `cuda_std` 0.2.2 for what it covers: [`kernel`], [`thread`]. On the host, with the
//! feature `sim`, the same functions run on the simulator (module `sim`).
#![cfg_attr(target_arch = "nvptx64", no_std, feature(stdarch_nvptx))]

pub use cuda_std_macros::kernel;
pub use qkv_kernel_abi::nvvm_internal;

#[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
pub mod sim;
pub mod thread;

/// What kernels import.
pub mod prelude {
    pub use crate::{kernel, nvvm_internal, thread};
}

#[cfg(target_arch = "nvptx64")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
