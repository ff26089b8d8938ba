//! Between tensor memory and registers: a warp's loads and stores, and their waits.
//!
//! Warp `w` reaches lanes `32 (w % 4)` to that + 31, its thread `l` the lane `l` of these.
#![cfg_attr(
    not(any(feature = "sim", target_arch = "nvptx64")),
    allow(unreachable_code, unused_mut, unused_variables, dead_code)
)] // the twins are panics then
#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
use crate::memory::TensorMemory;
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;
#[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
use cuda_std::sim::op;

/// What the simulator knows of a load; nothing on the device.
#[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
type State = op::Load;
#[cfg(not(all(feature = "sim", not(target_arch = "nvptx64"))))]
type State = ();

/// Registers that a load is under way to.
#[must_use = "only `tcgen05_wait_ld` gives the registers"]
pub struct Loading<const N: usize> {
    registers: [u32; N],
    #[cfg_attr(target_arch = "nvptx64", allow(dead_code))] // nothing to know
    state: State,
}

/// Numbers of registers that one instruction moves: 1, 2, 4, …, 128.
pub trait Words: Sized {
    // The instructions, one each.
    #[doc(hidden)]
    #[cfg(target_arch = "nvptx64")]
    unsafe fn load(at: u32) -> Self;
    #[doc(hidden)]
    #[cfg(target_arch = "nvptx64")]
    unsafe fn store(self, at: u32);
    /// Ties the registers to this place in the program.
    #[doc(hidden)]
    fn pin(&mut self);
}

macro_rules! words {
    ($($n:literal: $first:literal $($i:literal)*;)*) => {$(
        impl Words for [u32; $n] {
            #[inline(always)]
            #[cfg(target_arch = "nvptx64")]
            unsafe fn load(at: u32) -> Self {
                let mut r = [0; $n];
                // SAFETY: the caller's promise.
                unsafe {
                    asm!(
                        concat!("tcgen05.ld.sync.aligned.32x32b.x", $n, ".b32 {{{", $first, "}", $(", {", $i, "}",)* "}}, [{at}];"),
                        out(reg32) r[$first], $(out(reg32) r[$i],)* at = in(reg32) at,
                        options(nostack)
                    )
                };
                r
            }

            #[inline(always)]
            #[cfg(target_arch = "nvptx64")]
            unsafe fn store(self, at: u32) {
                // SAFETY: the caller's promise.
                unsafe {
                    asm!(
                        concat!("tcgen05.st.sync.aligned.32x32b.x", $n, ".b32 [{at}], {{{", $first, "}", $(", {", $i, "}",)* "}};"),
                        in(reg32) self[$first], $(in(reg32) self[$i],)* at = in(reg32) at,
                        options(nostack)
                    )
                };
            }

            #[inline(always)]
            fn pin(&mut self) {
                #[cfg(target_arch = "nvptx64")]
                {
                    let r = self;
                    // SAFETY: no instruction.
                    unsafe { asm!(concat!("// {", $first, "}", $(" {", $i, "}",)*), inout(reg32) r[$first], $(inout(reg32) r[$i],)* options(nomem, nostack)) };
                }
            }
        }
    )*};
}

#[rustfmt::skip]
words! {
    1: 0;
    2: 0 1;
    4: 0 1 2 3;
    8: 0 1 2 3 4 5 6 7;
    16: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15;
    32: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31;
    64:
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39
        40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63;
    128:
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39
        40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75
        76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108
        109 110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127;
}

/// Loads that a wait gives the registers of: one, an array or a tuple of them.
pub trait Loads {
    /// Their registers.
    type Loaded;

    #[doc(hidden)]
    fn loaded(self) -> Self::Loaded;
}

impl<const N: usize> Loads for Loading<N>
where
    [u32; N]: Words,
{
    type Loaded = [u32; N];

    #[inline(always)]
    fn loaded(mut self) -> [u32; N] {
        self.registers.pin();
        #[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
        op::tcgen05_take(self.state, &mut self.registers);
        self.registers
    }
}

impl<const K: usize, L: Loads> Loads for [L; K] {
    type Loaded = [L::Loaded; K];

    #[inline(always)]
    fn loaded(self) -> Self::Loaded {
        self.map(L::loaded)
    }
}

macro_rules! tuples {
    ($(($($of:ident $name:ident),*);)*) => {$(
        impl<$($of: Loads),*> Loads for ($($of,)*) {
            type Loaded = ($($of::Loaded,)*);

            #[inline(always)]
            fn loaded(self) -> Self::Loaded {
                let ($($name,)*) = self;
                ($($name.loaded(),)*)
            }
        }
    )*};
}

tuples! {
    (A a, B b);
    (A a, B b, C c);
}

/// `tcgen05.ld.sync.aligned.32x32b.xN.b32`: register `i` of a thread is column `i` from `at` of its lane. A whole warp.
///
/// # Safety
/// `at` is alike in the warp, its lane is the warp's first, and its columns are allocated; what wrote them happened before, fenced.
#[inline(always)]
#[track_caller]
pub unsafe fn tcgen05_ld_32x32b<const N: usize>(at: TensorMemory) -> Loading<N>
where
    [u32; N]: Words,
{
    #[cfg(target_arch = "nvptx64")]
    {
        // SAFETY: the caller's promise.
        Loading { registers: unsafe { <[u32; N]>::load(at.bits()) }, state: () }
    }
    #[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
    {
        let mut registers = [0; N];
        let state = op::tcgen05_ld_32x32b(at.bits(), &mut registers);
        Loading { registers, state }
    }
    #[cfg(not(any(feature = "sim", target_arch = "nvptx64")))]
    twin!(tcgen05_ld_32x32b(at.bits()))
}

/// `tcgen05.wait::ld.sync.aligned`: until all of the warp's loads have ended. Gives the registers of `loads`.
#[inline(always)]
#[track_caller]
pub fn tcgen05_wait_ld<L: Loads>(loads: L) -> L::Loaded {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition of memory.
    unsafe {
        asm!("tcgen05.wait::ld.sync.aligned;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(tcgen05_wait_ld());
    loads.loaded()
}

/// `tcgen05.st.sync.aligned.32x32b.xN.b32`: column `i` from `at` of a thread's lane becomes its `values[i]`. A whole warp.
///
/// # Safety
/// As for [`tcgen05_ld_32x32b`]; nothing else touches the columns until [`tcgen05_wait_st`].
#[inline(always)]
#[track_caller]
pub unsafe fn tcgen05_st_32x32b<const N: usize>(at: TensorMemory, values: [u32; N])
where
    [u32; N]: Words,
{
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: the caller's promise.
    unsafe {
        values.store(at.bits());
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(tcgen05_st_32x32b(at.bits(), &values));
}

/// `tcgen05.wait::st.sync.aligned`: until all of the warp's stores have ended.
#[inline(always)]
#[track_caller]
pub fn tcgen05_wait_st() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition of memory.
    unsafe {
        asm!("tcgen05.wait::st.sync.aligned;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(tcgen05_wait_st());
}
