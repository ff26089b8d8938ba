//! Loads and stores, with their state space and width in the name.
#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
use crate::memory::{Global, Shared};
#[cfg(target_arch = "nvptx64")]
use core::arch::{asm, global_asm};

#[cfg(target_arch = "nvptx64")]
global_asm!(".extern .shared .align 1024 .b8 dynamic_shared[];");

/// `mov.u32 %r, dynamic_shared`: where the launch's shared memory begins, a multiple of 1024.
#[inline(always)]
#[cfg_attr(not(feature = "sim"), allow(unreachable_code))] // the twin is a panic then
pub fn dynamic_shared() -> Shared<u8> {
    #[cfg(target_arch = "nvptx64")]
    {
        let address: u32;
        // SAFETY: takes an address.
        unsafe { asm!("mov.u32 {}, dynamic_shared;", out(reg32) address, options(pure, nomem, nostack)) };
        Shared::new(address)
    }
    #[cfg(not(target_arch = "nvptx64"))]
    Shared::new(twin!(dynamic_shared()))
}

macro_rules! access {
    ($space:ident $reg:ident; $load:ident = $load_text:literal; $store:ident = $store_text:literal; $n:tt: $($r:ident)*) => {
        #[doc = concat!("`", $load_text, "`.")]
        ///
        /// # Safety
        /// The address is a multiple of the width, and its bytes are live and written before in an order observed here.
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $load(from: $space<u32>) -> [u32; $n] {
            #[cfg(target_arch = "nvptx64")]
            {
                $(let $r: u32;)*
                // SAFETY: the caller's promise.
                unsafe { asm!(access!(@load $load_text, $n), $(out(reg32) $r,)* from = in($reg) from.address, options(nostack, readonly)) };
                [$($r),*]
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($load(from.address))
        }

        #[doc = concat!("`", $store_text, "`.")]
        ///
        /// # Safety
        /// The address is a multiple of the width, its bytes are live, and nothing else touches them meanwhile.
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $store(to: $space<u32>, value: [u32; $n]) {
            #[cfg(target_arch = "nvptx64")]
            {
                let [$($r),*] = value;
                // SAFETY: the caller's promise.
                unsafe { asm!(access!(@store $store_text, $n), $(in(reg32) $r,)* to = in($reg) to.address, options(nostack)) };
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($store(to.address, value));
        }
    };
    (@load $text:literal, 1) => { concat!($text, " {0}, [{from}];") };
    (@load $text:literal, 2) => { concat!($text, " {{{0}, {1}}}, [{from}];") };
    (@load $text:literal, 4) => { concat!($text, " {{{0}, {1}, {2}, {3}}}, [{from}];") };
    (@store $text:literal, 1) => { concat!($text, " [{to}], {0};") };
    (@store $text:literal, 2) => { concat!($text, " [{to}], {{{0}, {1}}};") };
    (@store $text:literal, 4) => { concat!($text, " [{to}], {{{0}, {1}, {2}, {3}}};") };
}

access!(Global reg64; ld_global_b32 = "ld.global.b32"; st_global_b32 = "st.global.b32"; 1: a);
access!(Global reg64; ld_global_v2_b32 = "ld.global.v2.b32"; st_global_v2_b32 = "st.global.v2.b32"; 2: a b);
access!(Global reg64; ld_global_v4_b32 = "ld.global.v4.b32"; st_global_v4_b32 = "st.global.v4.b32"; 4: a b c d);
access!(Shared reg32; ld_shared_b32 = "ld.shared.b32"; st_shared_b32 = "st.shared.b32"; 1: a);
access!(Shared reg32; ld_shared_v2_b32 = "ld.shared.v2.b32"; st_shared_v2_b32 = "st.shared.v2.b32"; 2: a b);
access!(Shared reg32; ld_shared_v4_b32 = "ld.shared.v4.b32"; st_shared_v4_b32 = "st.shared.v4.b32"; 4: a b c d);

/// `st.global.b8`: the low byte of `value`.
///
/// # Safety
/// The byte is live, and nothing else touches it meanwhile.
#[inline(always)]
#[track_caller]
pub unsafe fn st_global_b8(to: Global<u8>, value: u32) {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: the caller's promise.
    unsafe {
        asm!("st.global.b8 [{}], {};", in(reg64) to.address, in(reg32) value, options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(st_global_b8(to.address, value));
}
