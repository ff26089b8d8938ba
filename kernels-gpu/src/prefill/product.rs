//! The products of a tile, as groups under way.
use super::shape::PATTERN_ROWS;
use crate::element::{Bf16, Element, F16};
use crate::layout::descriptor::{Descriptor, KMajor, Major, MnMajor};
use crate::memory::Shared;
use crate::ptx::wgmma::{
    Accumulator, Feed, Fenced, Fragments, InFlight, wgmma_bf16_rs, wgmma_bf16_ss, wgmma_commit_group, wgmma_f16_rs,
    wgmma_f16_ss,
};
use crate::tile::operand::KvElement;

/// An element that a warpgroup multiplies.
pub trait Product: Element + KvElement<Self> {
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
        impl Product for $element {
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
    )*};
}

products! {
    Bf16: wgmma_bf16_ss wgmma_bf16_rs;
    F16: wgmma_f16_ss wgmma_f16_rs;
}

/// S = Q K^T over `D` columns, a group of its own; `q` is of a tile with `q_rows` rows.
///
/// # Safety
/// Both tiles are there, visible to the asynchronous proxy, and stay until a wait.
#[inline(always)]
pub unsafe fn scores<const D: u32, Q: Product, S: Accumulator>(
    mut s: InFlight<S>,
    [q, k]: [Shared<u8>; 2],
    q_rows: u32,
) -> InFlight<S> {
    let (q, k) = (Descriptor::<KMajor>::of_rows(q), Descriptor::<KMajor>::of_grouped_rows(k, D));
    for step in 0..D / 16 {
        // SAFETY: handed on to the caller.
        s = unsafe { Q::ss(s, q.step(step, q_rows), k.step(step, PATTERN_ROWS), step > 0) };
    }
    wgmma_commit_group();
    s
}

/// O += P V over `STEPS` times 16 keys, a group of its own.
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
    let v = Descriptor::<MnMajor>::of_grouped_columns(v, D);
    for step in 0..STEPS {
        // SAFETY: handed on to the caller.
        o = unsafe { Q::rs(o, step, v.grouped_step(step as u32, D), true) };
    }
    wgmma_commit_group();
    o
}

/// P as fragments of A: the accumulator's elements in their order.
#[inline(always)]
pub fn fragments<const STEPS: usize, Q: Product>(p: &[f32]) -> [[u32; 4]; STEPS] {
    let mut words = [[0; 4]; STEPS];
    for step in 0..STEPS {
        for word in 0..4 {
            words[step][word] = Q::pack(p[8 * step + 2 * word], p[8 * step + 2 * word + 1]);
        }
    }
    words
}
