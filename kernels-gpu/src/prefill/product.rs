//! The products of a tile, as groups under way.
use super::block::Block;
use super::element::PrefillElement;
use super::pair;
use super::shape::{COLUMNS_BYTES, PATTERN_ROWS, PrefillShape};
use crate::abi::PrefillParams;
use crate::element::{Bf16, Element, F16, Fp8E4M3};
use crate::layout::descriptor::{Descriptor, KMajor, Major, MnMajor};
use crate::memory::Shared;
use crate::ptx::convert::cvt_rn_satfinite_e4m3x2;
use crate::ptx::wgmma::{
    Accumulator, Feed, Fenced, Fragments, InFlight, wgmma_bf16_rs, wgmma_bf16_ss, wgmma_commit_group, wgmma_e4m3_rs,
    wgmma_e4m3_ss, wgmma_f16_rs, wgmma_f16_ss,
};

/// Bytes of K that one instruction multiplies.
const STEP_BYTES: u32 = 32;

/// An element that a warpgroup multiplies.
pub trait Product: PrefillElement {
    /// `wgmma` of this element, both operands in shared memory, where columns run.
    ///
    /// # Safety
    /// As for [`wgmma_bf16_ss`].
    unsafe fn scores<A: Accumulator, P: Feed>(
        d: InFlight<A, P>,
        q: Descriptor<KMajor>,
        k: Descriptor<KMajor>,
        add: bool,
    ) -> InFlight<A, P>;

    /// The same, query rows in registers: those of step `step`.
    ///
    /// # Safety
    /// As for [`wgmma_bf16_rs`].
    unsafe fn held_scores<A: Accumulator, const K: usize>(
        d: InFlight<A, Fenced<K>>,
        step: usize,
        k: Descriptor<KMajor>,
        add: bool,
    ) -> InFlight<A, Fenced<K>>;

    /// `wgmma` of this element, P in registers, of step `step` of the tile of V at `v`, of `columns` columns.
    ///
    /// # Safety
    /// As for [`wgmma_bf16_rs`].
    unsafe fn output<A: Accumulator, const K: usize>(
        d: InFlight<A, Fenced<K>>,
        step: usize,
        v: Shared<u8>,
        columns: u32,
    ) -> InFlight<A, Fenced<K>>;

    /// P as fragments of A, of the keys in the order that V's tile has them.
    fn fragments<const STEPS: usize>(p: &[f32]) -> [[u32; 4]; STEPS];

    /// The loop of blocks that divide columns ([`pair`]), where the element has one.
    ///
    /// # Safety
    /// As for [`pair::multiply`].
    unsafe fn pair(params: &PrefillParams, block: &Block, warpgroup: u32, shape: &PrefillShape);
}

/// An element of 16 bits, whose operands may be either way in shared memory.
pub trait WideProduct: Product + Element {
    /// `wgmma` of this element, A and B in shared memory.
    ///
    /// # Safety
    /// As for [`wgmma_bf16_ss`].
    unsafe fn ss<A: Accumulator, P: Feed, MA: Major, MB: Major>(
        d: InFlight<A, P>,
        a: Descriptor<MA>,
        b: Descriptor<MB>,
        add: bool,
    ) -> InFlight<A, P>;

    /// `wgmma` of this element, A in registers.
    ///
    /// # Safety
    /// As for [`wgmma_bf16_rs`].
    unsafe fn rs<A: Accumulator, P: Fragments, MB: Major>(
        d: InFlight<A, P>,
        step: usize,
        b: Descriptor<MB>,
        add: bool,
    ) -> InFlight<A, P>;
}

macro_rules! products {
    ($($element:ident: $ss:ident $rs:ident;)*) => {$(
        impl WideProduct for $element {
            #[inline(always)]
            unsafe fn ss<A: Accumulator, P: Feed, MA: Major, MB: Major>(
                d: InFlight<A, P>,
                a: Descriptor<MA>,
                b: Descriptor<MB>,
                add: bool,
            ) -> InFlight<A, P> {
                // SAFETY: handed on to the caller.
                unsafe { $ss(d, a, b, add) }
            }

            #[inline(always)]
            unsafe fn rs<A: Accumulator, P: Fragments, MB: Major>(
                d: InFlight<A, P>,
                step: usize,
                b: Descriptor<MB>,
                add: bool,
            ) -> InFlight<A, P> {
                // SAFETY: handed on to the caller.
                unsafe { $rs(d, step, b, add) }
            }
        }

        impl Product for $element {
            #[inline(always)]
            unsafe fn scores<A: Accumulator, P: Feed>(
                d: InFlight<A, P>,
                q: Descriptor<KMajor>,
                k: Descriptor<KMajor>,
                add: bool,
            ) -> InFlight<A, P> {
                // SAFETY: handed on to the caller.
                unsafe { Self::ss(d, q, k, add) }
            }

            #[inline(always)]
            unsafe fn held_scores<A: Accumulator, const K: usize>(
                d: InFlight<A, Fenced<K>>,
                step: usize,
                k: Descriptor<KMajor>,
                add: bool,
            ) -> InFlight<A, Fenced<K>> {
                // SAFETY: handed on to the caller.
                unsafe { Self::rs(d, step, k, add) }
            }

            #[inline(always)]
            unsafe fn output<A: Accumulator, const K: usize>(
                d: InFlight<A, Fenced<K>>,
                step: usize,
                v: Shared<u8>,
                columns: u32,
            ) -> InFlight<A, Fenced<K>> {
                let v = Descriptor::<MnMajor>::of_grouped_columns(v, columns);
                // SAFETY: handed on to the caller.
                unsafe { Self::rs(d, step, v.grouped_step(step as u32, columns), true) }
            }

            // The accumulator's elements in their order.
            #[inline(always)]
            fn fragments<const STEPS: usize>(p: &[f32]) -> [[u32; 4]; STEPS] {
                let mut words = [[0; 4]; STEPS];
                for step in 0..STEPS {
                    for word in 0..4 {
                        words[step][word] = Self::pack(p[8 * step + 2 * word], p[8 * step + 2 * word + 1]);
                    }
                }
                words
            }

            #[inline(always)]
            unsafe fn pair(params: &PrefillParams, block: &Block, warpgroup: u32, shape: &PrefillShape) {
                // SAFETY: handed on to the caller.
                unsafe { pair::multiply::<Self>(params, block, warpgroup, shape) }
            }
        }
    )*};
}

products! {
    Bf16: wgmma_bf16_ss wgmma_bf16_rs;
    F16: wgmma_f16_ss wgmma_f16_rs;
}

/// V is transposed (`transpose`), as the instruction takes operands along K alone.
impl Product for Fp8E4M3 {
    #[inline(always)]
    unsafe fn scores<A: Accumulator, P: Feed>(
        d: InFlight<A, P>,
        q: Descriptor<KMajor>,
        k: Descriptor<KMajor>,
        add: bool,
    ) -> InFlight<A, P> {
        // SAFETY: handed on to the caller.
        unsafe { wgmma_e4m3_ss(d, q, k, add) }
    }

    #[inline(always)]
    unsafe fn held_scores<A: Accumulator, const K: usize>(
        d: InFlight<A, Fenced<K>>,
        step: usize,
        k: Descriptor<KMajor>,
        add: bool,
    ) -> InFlight<A, Fenced<K>> {
        // SAFETY: handed on to the caller.
        unsafe { wgmma_e4m3_rs(d, step, k, add) }
    }

    #[inline(always)]
    unsafe fn output<A: Accumulator, const K: usize>(
        d: InFlight<A, Fenced<K>>,
        step: usize,
        v: Shared<u8>,
        columns: u32,
    ) -> InFlight<A, Fenced<K>> {
        let v = Descriptor::<KMajor>::of_rows(v);
        // SAFETY: handed on to the caller.
        unsafe { wgmma_e4m3_rs(d, step, v.step(step as u32, columns), true) }
    }

    // A fragment has four keys in a row of 16, the accumulator two of each 8: those of two eights are side by side.
    #[inline(always)]
    fn fragments<const STEPS: usize>(p: &[f32]) -> [[u32; 4]; STEPS] {
        let mut words = [[0; 4]; STEPS];
        for step in 0..STEPS {
            for word in 0..4 {
                let first = 16 * step + 8 * (word / 2) + 2 * (word % 2);
                let low = cvt_rn_satfinite_e4m3x2(p[first + 1], p[first]);
                words[step][word] = low | cvt_rn_satfinite_e4m3x2(p[first + 5], p[first + 4]) << 16;
            }
        }
        words
    }

    #[inline(always)]
    unsafe fn pair(_: &PrefillParams, _: &Block, _: u32, _: &PrefillShape) {}
}

/// S = Q K^T over `D` columns, a group of its own; query rows are `held`, all of their steps, or of none those at `q`, a tile with
/// `q_rows` rows.
///
/// # Safety
/// The tiles are there, visible to the asynchronous proxy, and stay until a wait.
#[inline(always)]
pub unsafe fn scores<const D: u32, const HELD: usize, Q: Product, S: Accumulator>(
    s: InFlight<S>,
    held: Fenced<HELD>,
    [q, k]: [Shared<u8>; 2],
    q_rows: u32,
) -> InFlight<S, Fenced<HELD>> {
    // At D = 64 of 8 bits a row is half of one part: two steps, and the zeros behind are not read.
    let parts = (D * Q::BYTES).div_ceil(COLUMNS_BYTES);
    let (q, k) = (Descriptor::<KMajor>::of_rows(q), Descriptor::<KMajor>::of_grouped_rows(k, 64 * parts));
    let mut s = s.fed_by(held);
    for step in 0..D * Q::BYTES / STEP_BYTES {
        let (k, add) = (k.step(step, PATTERN_ROWS), step > 0);
        // SAFETY: handed on to the caller.
        s = unsafe {
            if HELD > 0 { Q::held_scores(s, step as usize, k, add) } else { Q::scores(s, q.step(step, q_rows), k, add) }
        };
    }
    wgmma_commit_group();
    s
}

/// O += P V over `STEPS` times 32 bytes of keys, a group of its own.
///
/// # Safety
/// As for [`scores`].
#[inline(always)]
pub unsafe fn output<const D: u32, const STEPS: usize, Q: Product, O: Accumulator>(
    o: InFlight<O>,
    p: Fenced<STEPS>,
    v: Shared<u8>,
) -> InFlight<O, Fenced<STEPS>> {
    let mut o = o.fed_by(p);
    for step in 0..STEPS {
        // SAFETY: handed on to the caller.
        o = unsafe { Q::output(o, step, v, D) };
    }
    wgmma_commit_group();
    o
}
