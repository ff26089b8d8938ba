//! Registers of warpgroups (`setmaxnreg`, sm_90a and later architectures of their own).
#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;

macro_rules! changes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {$(
        $(#[$doc])*
        /// All warps of a warpgroup execute it, and meet before the next change; the kernel has launch bounds.
        #[inline(always)]
        #[track_caller]
        pub fn $name<const N: u32>() {
            const { assert!(N.is_multiple_of(8) && 24 <= N && N <= 256, "multiples of 8 from 24 to 256 are allowed") };
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: the assembler sees to it that what the code needs is there.
            unsafe {
                asm!(concat!($text, " {};"), const N, options(nostack));
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name(N));
        }
    )*};
}

changes! {
    /// `setmaxnreg.inc.sync.aligned.u32 N`: waits until the block has the registers for N a thread.
    setmaxnreg_inc = "setmaxnreg.inc.sync.aligned.u32";
    /// `setmaxnreg.dec.sync.aligned.u32 N`: gives back what is above N a thread.
    setmaxnreg_dec = "setmaxnreg.dec.sync.aligned.u32";
}
