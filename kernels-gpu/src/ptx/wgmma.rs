//! Products of a warpgroup (`wgmma`, sm_90a alone): four warps, 128 threads, arrive together.
//!
//! D is 64 × N in registers, A 64 × K in shared memory (`ss`) or registers (`rs`), B N × K in shared memory; K is 32 bytes. A
//! product is issued and runs on while its warpgroup does other things, so its registers are out of reach until a wait:
//!
//! * [`wgmma_fence`] takes registers that were written, accumulators and A's fragments, and gives them as [`InFlight`] and
//!   [`Fenced`]; nothing else makes these, so no product is without its fence.
//! * A product takes and gives [`InFlight`]: several to one accumulator need no fence in between.
//! * Fragments of A are in flight with what they are multiplied for ([`InFlight::fed_by`]), so that their registers hold
//!   nothing else before the wait.
//! * [`wgmma_wait_group`] takes [`InFlight`] and gives the accumulator back. What it is not given stays in flight.
//!
//! Between a fence and its wait no instruction may name the registers, not even a move, or ptxas waits after each product
//! (its notes C7510 to C7514). Values that nobody can read give the compiler no reason for one; where they enter and leave,
//! an empty `asm!` ties them ("pins"), so that what computed them stays before the fence and what uses them after the wait.
#![cfg_attr(
    not(any(feature = "sim", target_arch = "nvptx64")),
    allow(unreachable_code, unused_mut, unused_variables, dead_code)
)] // the twins are panics then
mod accumulator;

use crate::layout::descriptor::{Descriptor, KMajor, Major};
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;
#[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
use cuda_std::sim::op;

/// What the simulator knows of registers; nothing on the device.
#[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
type State = op::Registers;
#[cfg(not(all(feature = "sim", not(target_arch = "nvptx64"))))]
type State = ();

/// An accumulator that products are, or may be, under way to, with the fragments of A that they read: none, or [`Fenced`].
#[must_use = "only `wgmma_wait_group` gives the accumulator back"]
pub struct InFlight<A, P = ()> {
    registers: A,
    fragments: P,
    #[cfg_attr(target_arch = "nvptx64", allow(dead_code))] // nothing to know
    state: State,
}

/// Fragments of A, of `K` steps, that nothing has touched since their fence.
#[derive(Clone, Copy)]
pub struct Fenced<const K: usize> {
    registers: [[u32; 4]; K],
    #[cfg_attr(target_arch = "nvptx64", allow(dead_code))] // nothing to know
    state: State,
}

impl<A> InFlight<A> {
    /// The accumulator of products whose A are these fragments; the same ones may feed another accumulator, too.
    #[inline(always)]
    pub fn fed_by<const K: usize>(self, fragments: Fenced<K>) -> InFlight<A, Fenced<K>> {
        InFlight { registers: self.registers, fragments, state: self.state }
    }
}

impl<A, const K: usize> InFlight<A, Fenced<K>> {
    /// The same accumulator, whose next products' A are `fragments`, while those before may be under way.
    #[inline(always)]
    pub fn then_fed_by<const L: usize>(self, fragments: Fenced<L>) -> InFlight<A, (Fenced<K>, Fenced<L>)> {
        InFlight { registers: self.registers, fragments: (self.fragments, fragments), state: self.state }
    }
}

/// Fragments of A that products are issued with.
pub trait Fragments: Feed {
    /// Those of `step` along K.
    #[doc(hidden)]
    fn of_step(&self, step: usize) -> [u32; 4];

    #[doc(hidden)]
    fn state(&self) -> State;
}

impl<const K: usize> Fragments for Fenced<K> {
    #[inline(always)]
    fn of_step(&self, step: usize) -> [u32; 4] {
        self.registers[step]
    }

    #[inline(always)]
    fn state(&self) -> State {
        self.state
    }
}

impl<const K: usize, const L: usize> Fragments for (Fenced<K>, Fenced<L>) {
    #[inline(always)]
    fn of_step(&self, step: usize) -> [u32; 4] {
        self.1.of_step(step)
    }

    #[inline(always)]
    fn state(&self) -> State {
        self.1.state
    }
}

/// Registers that products read until a wait: none, or [`Fenced`].
pub trait Feed: Copy {
    /// Uses them, so that nothing else is in them before.
    #[doc(hidden)]
    fn keep(self);
}

impl Feed for () {
    #[inline(always)]
    fn keep(self) {}
}

impl<const K: usize> Feed for Fenced<K> {
    #[inline(always)]
    fn keep(self) {
        #[cfg(target_arch = "nvptx64")]
        for [a, b, c, d] in self.registers {
            // SAFETY: no instruction.
            unsafe {
                asm!("// {} {} {} {}", in(reg32) a, in(reg32) b, in(reg32) c, in(reg32) d, options(nomem, nostack))
            };
        }
    }
}

impl<const K: usize, const L: usize> Feed for (Fenced<K>, Fenced<L>) {
    #[inline(always)]
    fn keep(self) {
        self.0.keep();
        self.1.keep();
    }
}

/// Numbers of columns that D is made with, as types: the arrays that go with them.
pub struct Columns<const N: usize>;

/// A thread's registers for N columns.
pub trait Tile {
    /// D: rows `16 w + l / 4` and that + 8 of warp `w`, lane `l`, columns `8 j + 2 (l % 4)` and the next; registers `4 j` to
    /// `4 j + 3` are (row, column), (row, column + 1), (row + 8, column), (row + 8, column + 1).
    type Accumulator: Accumulator;
    /// The same elements as 16-bit fragments of A, for a product that runs over the N columns: N / 16 steps, of which a
    /// step's four words are D's registers 8 i to 8 i + 7, packed in order.
    type Fragments: Fence;
}

/// A thread's part of D: an array of N / 2.
pub trait Accumulator: Fence<Fenced = InFlight<Self>> + AsRef<[f32]> + AsMut<[f32]> + Copy + 'static {
    /// N.
    const COLUMNS: u32;
    /// Zeros.
    const ZERO: Self;

    // The instructions, one each.
    #[doc(hidden)]
    #[cfg(target_arch = "nvptx64")]
    unsafe fn bf16_ss<MA: Major, MB: Major>(&mut self, a: u64, b: u64, add: u32);
    #[doc(hidden)]
    #[cfg(target_arch = "nvptx64")]
    unsafe fn bf16_rs<MB: Major>(&mut self, a: [u32; 4], b: u64, add: u32);
    #[doc(hidden)]
    #[cfg(target_arch = "nvptx64")]
    unsafe fn f16_ss<MA: Major, MB: Major>(&mut self, a: u64, b: u64, add: u32);
    #[doc(hidden)]
    #[cfg(target_arch = "nvptx64")]
    unsafe fn f16_rs<MB: Major>(&mut self, a: [u32; 4], b: u64, add: u32);
    #[doc(hidden)]
    #[cfg(target_arch = "nvptx64")]
    unsafe fn e4m3_ss<MA: Major, MB: Major>(&mut self, a: u64, b: u64, add: u32);
    #[doc(hidden)]
    #[cfg(target_arch = "nvptx64")]
    unsafe fn e4m3_rs<MB: Major>(&mut self, a: [u32; 4], b: u64, add: u32);
}

/// Registers that a fence orders: accumulators, A's fragments, and tuples of them.
pub trait Fence: Sized {
    /// The same, where products take them.
    type Fenced;

    /// Ties the registers to this place in the program.
    #[doc(hidden)]
    fn pin(&mut self);

    #[doc(hidden)]
    fn fenced(self, state: State) -> Self::Fenced;
}

/// Accumulators that a wait gives back: one, a tuple of them, or `()`.
pub trait Wait {
    /// Their registers.
    type Waited;

    #[doc(hidden)]
    fn waited(self) -> Self::Waited;
}

impl<A: Accumulator, P: Feed> Wait for InFlight<A, P> {
    type Waited = A;

    #[inline(always)]
    #[cfg_attr(target_arch = "nvptx64", allow(unused_mut))]
    fn waited(self) -> A {
        let mut registers = self.registers;
        registers.pin();
        self.fragments.keep();
        #[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
        op::wgmma_take(self.state, registers.as_mut());
        registers
    }
}

impl<const K: usize> Fence for [[u32; 4]; K] {
    type Fenced = Fenced<K>;

    #[inline(always)]
    fn pin(&mut self) {
        #[cfg(target_arch = "nvptx64")]
        for [a, b, c, d] in self {
            // SAFETY: no instruction.
            unsafe {
                asm!(
                    "// {} {} {} {}",
                    inout(reg32) * a,
                    inout(reg32) * b,
                    inout(reg32) * c,
                    inout(reg32) * d,
                    options(nomem, nostack)
                )
            };
        }
    }

    #[inline(always)]
    fn fenced(self, state: State) -> Fenced<K> {
        Fenced { registers: self, state }
    }
}

macro_rules! tuples {
    ($(($($of:ident $name:ident),*);)*) => {$(
        impl<$($of: Fence),*> Fence for ($($of,)*) {
            type Fenced = ($($of::Fenced,)*);

            #[inline(always)]
            fn pin(&mut self) {
                let ($($name,)*) = self;
                $($name.pin();)*
            }

            #[inline(always)]
            fn fenced(self, state: State) -> Self::Fenced {
                let ($($name,)*) = self;
                ($($name.fenced(state),)*)
            }
        }

        impl<$($of: Wait),*> Wait for ($($of,)*) {
            type Waited = ($($of::Waited,)*);

            #[inline(always)]
            fn waited(self) -> Self::Waited {
                let ($($name,)*) = self;
                ($($name.waited(),)*)
            }
        }
    )*};
}

tuples! {
    (A a, B b);
    (A a, B b, C c);
    (A a, B b, C c, D d);
}

impl Wait for () {
    type Waited = ();

    #[inline(always)]
    fn waited(self) {}
}

/// `wgmma.fence.sync.aligned`: what was done to `registers` happens before products that use them.
#[inline(always)]
#[track_caller]
#[cfg_attr(not(feature = "sim"), allow(unreachable_code))] // the twin is a panic then
pub fn wgmma_fence<R: Fence>(mut registers: R) -> R::Fenced {
    registers.pin();
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: no precondition of memory; who reaches it is the caller's duty, and the simulator's check.
    unsafe {
        asm!("wgmma.fence.sync.aligned;", options(nostack));
    }
    #[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
    let state = op::wgmma_fence();
    #[cfg(not(any(feature = "sim", target_arch = "nvptx64")))]
    super::twin!(wgmma_fence());
    #[cfg(any(not(feature = "sim"), target_arch = "nvptx64"))]
    let state = ();
    registers.fenced(state)
}

/// `wgmma.commit_group.sync.aligned`: the products that this warpgroup issued since the last one are a group.
#[inline(always)]
#[track_caller]
pub fn wgmma_commit_group() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: as above.
    unsafe {
        asm!("wgmma.commit_group.sync.aligned;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    super::twin!(wgmma_commit_group());
}

/// `wgmma.wait_group.sync.aligned NEWEST`: until at most the `NEWEST` newest groups are under way. Gives the registers of
/// `accumulators` back, whose last products must be of a group that has ended.
#[inline(always)]
#[track_caller]
pub fn wgmma_wait_group<const NEWEST: u32, W: Wait>(accumulators: W) -> W::Waited {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: as above.
    unsafe {
        asm!("wgmma.wait_group.sync.aligned {};", const NEWEST, options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    super::twin!(wgmma_wait_group(NEWEST));
    accumulators.waited()
}

macro_rules! products {
    ($($text:literal: $ss:ident<$($ss_generic:ident),*> $rs:ident<$($rs_generic:ident),*> = $ss_asm:ident $rs_asm:ident, $ma:ident $mb:ident;)*) => {$(
        #[doc = concat!("`wgmma.mma_async.sync.aligned.", $text, "`, A and B from shared memory: `a b`, or with `add` `d + a b`.")]
        ///
        /// # Safety
        /// The operands are in this block's shared memory; what wrote them is visible to the asynchronous proxy and happened
        /// before this for all threads of the warpgroup; nothing writes there until one of them has waited for the group.
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $ss<A: Accumulator, P: Feed $(, $ss_generic: Major)*>(
            mut d: InFlight<A, P>,
            a: Descriptor<$ma>,
            b: Descriptor<$mb>,
            add: bool,
        ) -> InFlight<A, P> {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: the caller's promise.
            unsafe {
                d.registers.$ss_asm::<$ma, $mb>(a.bits, b.bits, add as u32);
            }
            #[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
            {
                let [a, b] = [(a.bits, $ma::TRANSPOSED == 1), (b.bits, $mb::TRANSPOSED == 1)];
                d.state = op::$ss(d.state, d.registers.as_mut(), a, b, add);
            }
            #[cfg(not(any(feature = "sim", target_arch = "nvptx64")))]
            super::twin!($ss(&mut d.registers, a.bits, b.bits, add));
            d
        }

        #[doc = concat!("`wgmma.mma_async.sync.aligned.", $text, "`, A from registers, the fragment of `step` along K: `a b`, or with `add` `d + a b`.")]
        ///
        /// # Safety
        /// As for A and B from shared memory.
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $rs<A: Accumulator, P: Fragments $(, $rs_generic: Major)*>(
            mut d: InFlight<A, P>,
            step: usize,
            b: Descriptor<$mb>,
            add: bool,
        ) -> InFlight<A, P> {
            #[cfg(target_arch = "nvptx64")]
            // SAFETY: the caller's promise.
            unsafe {
                d.registers.$rs_asm::<$mb>(d.fragments.of_step(step), b.bits, add as u32);
            }
            #[cfg(all(feature = "sim", not(target_arch = "nvptx64")))]
            {
                let b = (b.bits, $mb::TRANSPOSED == 1);
                let (state, a) = (d.fragments.state(), d.fragments.of_step(step));
                d.state = op::$rs(d.state, d.registers.as_mut(), state, a, b, add);
            }
            #[cfg(not(any(feature = "sim", target_arch = "nvptx64")))]
            super::twin!($rs(&mut d.registers, step, b.bits, add));
            d
        }
    )*};
}

products! {
    "m64nNk16.f32.bf16.bf16": wgmma_bf16_ss<MA, MB> wgmma_bf16_rs<MB> = bf16_ss bf16_rs, MA MB;
    "m64nNk16.f32.f16.f16": wgmma_f16_ss<MA, MB> wgmma_f16_rs<MB> = f16_ss f16_rs, MA MB;
    "m64nNk32.f32.e4m3.e4m3": wgmma_e4m3_ss<> wgmma_e4m3_rs<> = e4m3_ss e4m3_rs, KMajor KMajor;
}
