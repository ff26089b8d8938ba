//! From bytes of the cache to operands of the products: what differs between formats, and nothing else does.
//!
//! `ldmatrix` hands out 16-bit elements; a *word* is what a lane gets of one 8 × 8 matrix of them. Formats of 8 and of 4
//! bits have more elements in a word than an operand's register has, so a chunk of 16 bytes is spread over several
//! products. Which columns meet in a product is free as long as both operands agree: q is loaded to match
//! ([`KvElement::query`]), and the columns of O are told apart at the end ([`crate::layout::fragment::output_columns`]).
//!
//! With `g = lane / 4` and `t = lane % 4`, a word of a chunk of key `g` (K) is bytes `4 t .. 4 t + 4`, and a transposed
//! word (V) the byte pairs `g` of keys `2 t` and `2 t + 1`.
use crate::element::{Bf16, CacheElement, Element, F16, Fp8E4M3, Fp8E5M2, NvFp4};
use crate::narrow::{e2m1x8_to_e4m3x4, e4m3x2_to_f16x2};
use crate::ptx::convert::prmt_b32;
use crate::ptx::math::mul_rn_f16x2;

/// B operands of a pair of words; a format uses the first [`KvElement::PRODUCTS`].
pub type Operands = [[u32; 2]; 4];

/// A format of a KV cache that a decode kernel with queries `Q` can read.
pub trait KvElement<Q: Element>: CacheElement {
    /// What the tensor cores multiply. f16 holds every number of the narrow formats exactly.
    type Product: Element;

    /// Products that a pair of words makes: of two neighbouring chunks of K, or of 8 and 8 keys of a chunk of V.
    const PRODUCTS: u32;

    /// What numbers were divided by on their way to f16: it returns in the scales.
    const DIVISOR: f32 = 1.0;

    /// Operands of two neighbouring chunks of K; `scales` are NVFP4's block scales of each, in both halves.
    fn key(words: [u32; 2], scales: [u32; 2]) -> Operands;

    /// Operands of 16 keys of a chunk of V, 8 a word; `scales` are the keys' block scales.
    fn value(words: [u32; 2], scales: [u32; 2]) -> Operands;
}

macro_rules! same_width {
    ($($name:ident)*) => {$(
        /// The format of the queries: its elements are the products' operands as they are.
        impl KvElement<Self> for $name {
            type Product = Self;
            const PRODUCTS: u32 = 1;

            #[inline(always)]
            fn key(words: [u32; 2], _: [u32; 2]) -> Operands {
                [words, [0; 2], [0; 2], [0; 2]]
            }

            #[inline(always)]
            fn value(words: [u32; 2], _: [u32; 2]) -> Operands {
                [words, [0; 2], [0; 2], [0; 2]]
            }
        }
    )*};
}

same_width! { Bf16 F16 }

/// Bytes 0 and 2, then 1 and 3: of a transposed word, two keys of one column side by side.
const COLUMNS: u32 = 0x3120;

impl<Q: Element> KvElement<Q> for Fp8E4M3 {
    type Product = F16;
    const PRODUCTS: u32 = 2;

    #[inline(always)]
    #[track_caller]
    fn key([left, right]: [u32; 2], _: [u32; 2]) -> Operands {
        [halves_of_e4m3(left), halves_of_e4m3(right), [0; 2], [0; 2]]
    }

    #[inline(always)]
    #[track_caller]
    fn value(words: [u32; 2], _: [u32; 2]) -> Operands {
        let [low, high] = words.map(|word| halves_of_e4m3(prmt_b32(word, 0, COLUMNS)));
        [[low[0], high[0]], [low[1], high[1]], [0; 2], [0; 2]]
    }
}

/// Four e4m3 as two pairs of f16.
#[inline(always)]
#[track_caller]
fn halves_of_e4m3(word: u32) -> [u32; 2] {
    [e4m3x2_to_f16x2(word), e4m3x2_to_f16x2(word >> 16)]
}

impl<Q: Element> KvElement<Q> for Fp8E5M2 {
    type Product = F16;
    const PRODUCTS: u32 = 2;

    // An e5m2 is its f16's upper byte: each selector puts zeros (byte 4) below two bytes of the word.
    #[inline(always)]
    #[track_caller]
    fn key(words: [u32; 2], _: [u32; 2]) -> Operands {
        let [left, right] = words.map(|word| [prmt_b32(word, 0, 0x1404), prmt_b32(word, 0, 0x3424)]);
        [left, right, [0; 2], [0; 2]]
    }

    #[inline(always)]
    #[track_caller]
    fn value(words: [u32; 2], _: [u32; 2]) -> Operands {
        [words.map(|word| prmt_b32(word, 0, 0x2404)), words.map(|word| prmt_b32(word, 0, 0x3414)), [0; 2], [0; 2]]
    }
}

impl<Q: Element> KvElement<Q> for NvFp4 {
    type Product = F16;
    const PRODUCTS: u32 = 4;
    // e2m1's bits as an e4m3 are x / 64.
    const DIVISOR: f32 = 64.0;

    // Exact: 2 bits of e2m1 times 4 of the scale, from 2^-7 * 2^-9, a subnormal f16, to 6 / 64 * 448.
    #[inline(always)]
    #[track_caller]
    fn key(words: [u32; 2], scales: [u32; 2]) -> Operands {
        let of = |side: usize| {
            e2m1x8_to_e4m3x4(words[side]).map(|e4m3| halves_of_e4m3(e4m3).map(|pair| mul_rn_f16x2(pair, scales[side])))
        };
        let ([left_even, left_odd], [right_even, right_odd]) = (of(0), of(1));
        [left_even, left_odd, right_even, right_odd]
    }

    #[inline(always)]
    #[track_caller]
    fn value(words: [u32; 2], scales: [u32; 2]) -> Operands {
        let of = |keys: usize| {
            e2m1x8_to_e4m3x4(words[keys])
                .map(|e4m3| halves_of_e4m3(prmt_b32(e4m3, 0, COLUMNS)).map(|pair| mul_rn_f16x2(pair, scales[keys])))
        };
        // Byte pair g is columns 4 g .. 4 g + 4: nibbles 0 and 2 are even ones, 1 and 3 odd ones.
        let ([low_even, low_odd], [high_even, high_odd]) = (of(0), of(1));
        [[low_even[0], high_even[0]], [low_odd[0], high_odd[0]], [low_even[1], high_even[1]], [low_odd[1], high_odd[1]]]
    }
}
