//! The instructions, one a function; nothing else in the project writes `asm!`.
//!
//! On the device a function is its instruction. On the host it is the simulator's twin of the same name
//! (`cuda_std::sim::op`), which does what the PTX ISA says and checks what it demands. Barriers and shuffles go through
//! LLVM's intrinsics, which carry `convergent`; an `asm!` call site is not known to.
#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
pub mod bulk;
pub mod cluster;
pub mod convert;
pub mod copy;
pub mod math;
pub mod mbarrier;
pub mod memory;
pub mod mma;
#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
pub mod registers;
pub mod sync;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "100"))]
pub mod tcgen05;
#[cfg(any(not(target_arch = "nvptx64"), qkv_sm = "90"))]
pub mod wgmma;

/// The host's side of a function: its twin, or without the simulator a panic that says so.
#[cfg(not(target_arch = "nvptx64"))]
macro_rules! twin {
    ($name:ident $(::<$n:literal>)? ($($arg:expr),*)) => {{
        #[cfg(feature = "sim")]
        {
            cuda_std::sim::op::$name $(::<$n>)? ($($arg),*)
        }
        #[cfg(not(feature = "sim"))]
        {
            $(let _ = $arg;)*
            unimplemented!("kernels run on the host through the feature `sim`")
        }
    }};
}
#[cfg(not(target_arch = "nvptx64"))]
pub(crate) use twin;
