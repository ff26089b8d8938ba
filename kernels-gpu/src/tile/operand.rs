//! From bytes of the cache to operands of the products: what differs between formats, and nothing else does.
//!
//! `ldmatrix` hands out 16-bit elements; a *word* is what a lane gets of one 8 × 8 matrix of them. An x4 has four words of
//! 16 keys by two neighbouring chunks: of keys 0 to 8 and 8 to 16 of the first chunk, then of the second. Formats of 8 and
//! of 4 bits have more elements in a word than an operand's register has, so the two chunks are spread over several
//! products. Which columns meet in a product is free as long as both operands agree: q is loaded to match
//! ([`crate::attention::query`]), and the columns of O are told apart at the end
//! ([`crate::layout::fragment::output_columns`]).
//!
//! With `g = lane / 4` and `t = lane % 4`, a word of a chunk of K is bytes `4 t .. 4 t + 4` of key `g` of its 8, and a
//! transposed word (V) the byte pairs `g` of keys `2 t` and `2 t + 1`.
use crate::element::{Bf16, CacheElement, Element, F16, Fp8E4M3, Fp8E5M2, NvFp4};
use crate::narrow::{e2m1x8_to_e5m2x4, e4m3x2_to_f16x2, e5m2x2_to_f16x2};
use crate::ptx::convert::prmt_b32;
use crate::ptx::math::mul_rn_f16x2;
#[cfg(not(all(target_arch = "nvptx64", any(qkv_sm = "80", qkv_sm = "90"))))]
use crate::{element::ConvertedNvFp4, narrow::e2m1_of_columns, ptx::convert::cvt_rn_f16x2_e2m1x2};

/// A operands of the words of an x4; a format uses the first [`KvElement::PRODUCTS`].
pub type Operands = [[u32; 4]; 4];

const NONE: [u32; 4] = [0; 4];

/// A format of a KV cache that a decode kernel with queries `Q` can read.
pub trait KvElement<Q: Element>: CacheElement {
    /// What the tensor cores multiply. f16 holds every number of the narrow formats exactly.
    type Product: Element;

    /// Products that the words of an x4 make.
    const PRODUCTS: u32;

    /// Whether two products of K take a word's even and odd columns; otherwise its first ones and its last.
    const EVEN_AND_ODD: bool = false;

    /// What numbers were divided by on their way to f16: it returns in the scales.
    const DIVISOR: f32 = 1.0;

    /// Operands of K; `scales` are NVFP4's block scales of each word, in both halves.
    fn key(words: [u32; 4], scales: [u32; 4]) -> Operands;

    /// Operands of V; `scales` are the block scales of each word's two keys.
    fn value(words: [u32; 4], scales: [u32; 4]) -> Operands;
}

macro_rules! same_width {
    ($($name:ident)*) => {$(
        /// The format of the queries: its elements are the products' operands as they are.
        impl KvElement<Self> for $name {
            type Product = Self;
            const PRODUCTS: u32 = 1;

            #[inline(always)]
            fn key(words: [u32; 4], _: [u32; 4]) -> Operands {
                [words, NONE, NONE, NONE]
            }

            #[inline(always)]
            fn value(words: [u32; 4], _: [u32; 4]) -> Operands {
                // Columns first: the second chunk is the operand's lower half.
                [[words[0], words[2], words[1], words[3]], NONE, NONE, NONE]
            }
        }
    )*};
}

same_width! { Bf16 F16 }

/// Bytes 0 and 2, then 1 and 3: of a transposed word, two keys of one column side by side.
const COLUMNS: u32 = 0x3120;

/// The operand of K's columns that two words of 8 keys each have twice two of.
#[inline(always)]
const fn of_keys(low: [u32; 2], high: [u32; 2]) -> [u32; 4] {
    [low[0], high[0], low[1], high[1]]
}

/// The operand of two columns of V, of which two words of 8 keys each have one pair of keys.
#[inline(always)]
const fn of_columns(low: [u32; 2], high: [u32; 2]) -> [u32; 4] {
    [low[0], low[1], high[0], high[1]]
}

/// Four e4m3 as two pairs of f16.
#[inline(always)]
#[track_caller]
fn halves_of_e4m3(word: u32) -> [u32; 2] {
    [e4m3x2_to_f16x2(word), e4m3x2_to_f16x2(word >> 16)]
}

impl<Q: Element> KvElement<Q> for Fp8E4M3 {
    type Product = F16;
    const PRODUCTS: u32 = 2;

    #[inline(always)]
    #[track_caller]
    fn key(words: [u32; 4], _: [u32; 4]) -> Operands {
        let [a, b, c, d] = words.map(halves_of_e4m3);
        [of_keys(a, b), of_keys(c, d), NONE, NONE]
    }

    #[inline(always)]
    #[track_caller]
    fn value(words: [u32; 4], _: [u32; 4]) -> Operands {
        let [a, b, c, d] = words.map(|word| halves_of_e4m3(prmt_b32(word, 0, COLUMNS)));
        [of_columns(a, b), of_columns(c, d), NONE, NONE]
    }
}

impl<Q: Element> KvElement<Q> for Fp8E5M2 {
    type Product = F16;
    const PRODUCTS: u32 = 2;

    #[inline(always)]
    #[track_caller]
    fn key(words: [u32; 4], _: [u32; 4]) -> Operands {
        let [a, b, c, d] = words.map(|word| [e5m2x2_to_f16x2::<0, 1>(word), e5m2x2_to_f16x2::<2, 3>(word)]);
        [of_keys(a, b), of_keys(c, d), NONE, NONE]
    }

    #[inline(always)]
    #[track_caller]
    fn value(words: [u32; 4], _: [u32; 4]) -> Operands {
        let [a, b, c, d] = words.map(|word| [e5m2x2_to_f16x2::<0, 2>(word), e5m2x2_to_f16x2::<1, 3>(word)]);
        [of_columns(a, b), of_columns(c, d), NONE, NONE]
    }
}

impl<Q: Element> KvElement<Q> for NvFp4 {
    type Product = F16;
    const PRODUCTS: u32 = 4;
    const EVEN_AND_ODD: bool = true;
    // e2m1's bits as an e5m2, the upper byte of an f16, are x / 2^14.
    const DIVISOR: f32 = 16384.0;

    // Exact: 2 bits of e2m1 times 4 of the scale, from 2^-15 * 2^-9, the least subnormal f16, in multiples of it, to 6 / 2^14 * 448.
    #[inline(always)]
    #[track_caller]
    fn key(words: [u32; 4], scales: [u32; 4]) -> Operands {
        let of = |word: usize| {
            e2m1x8_to_e5m2x4(words[word]).map(|e5m2| {
                [e5m2x2_to_f16x2::<0, 1>(e5m2), e5m2x2_to_f16x2::<2, 3>(e5m2)]
                    .map(|pair| mul_rn_f16x2(pair, scales[word]))
            })
        };
        let [a, b, c, d] = [of(0), of(1), of(2), of(3)];
        [of_keys(a[0], b[0]), of_keys(a[1], b[1]), of_keys(c[0], d[0]), of_keys(c[1], d[1])]
    }

    #[inline(always)]
    #[track_caller]
    fn value(words: [u32; 4], scales: [u32; 4]) -> Operands {
        // Byte pair g is columns 4 g .. 4 g + 4: nibbles 0 and 2 are the even ones, 1 and 3 the odd ones.
        let of = |word: usize| {
            e2m1x8_to_e5m2x4(words[word]).map(|e5m2| {
                [e5m2x2_to_f16x2::<0, 2>(e5m2), e5m2x2_to_f16x2::<1, 3>(e5m2)]
                    .map(|pair| mul_rn_f16x2(pair, scales[word]))
            })
        };
        let operands = |[even, odd]: [[u32; 2]; 2], [even_8, odd_8]: [[u32; 2]; 2]| {
            [0, 1].map(|half| of_columns([even[half], odd[half]], [even_8[half], odd_8[half]]))
        };
        let ([a, b], [c, d]) = (operands(of(0), of(1)), operands(of(2), of(3)));
        [a, b, c, d]
    }
}

/// By `cvt` from e2m1, 4 for the 8 numbers of a word: of K there is nothing else to do, of V the two keys of a column are to
/// be brought into one byte before. Without it spreading and conversion are 11 operations, of V two more.
#[cfg(not(all(target_arch = "nvptx64", any(qkv_sm = "80", qkv_sm = "90"))))]
impl<Q: Element> KvElement<Q> for ConvertedNvFp4 {
    type Product = F16;
    const PRODUCTS: u32 = 4;

    // Exact: from 2^-1 * 2^-9 to 6 * 448.
    #[inline(always)]
    #[track_caller]
    fn key(words: [u32; 4], scales: [u32; 4]) -> Operands {
        let [a, b, c, d] = [0, 1, 2, 3].map(|word| scaled_e2m1(words[word], scales[word]));
        [of_keys(a[0], b[0]), of_keys(a[1], b[1]), of_keys(c[0], d[0]), of_keys(c[1], d[1])]
    }

    #[inline(always)]
    #[track_caller]
    fn value(words: [u32; 4], scales: [u32; 4]) -> Operands {
        let [a, b, c, d] = [0, 1, 2, 3].map(|word| scaled_e2m1(e2m1_of_columns(words[word]), scales[word]));
        [of_columns(a[0], b[0]), of_columns(a[1], b[1]), of_columns(c[0], d[0]), of_columns(c[1], d[1])]
    }
}

/// Eight e2m1 times their scales, as the registers of two products.
#[cfg(not(all(target_arch = "nvptx64", any(qkv_sm = "80", qkv_sm = "90"))))]
#[inline(always)]
#[track_caller]
fn scaled_e2m1(word: u32, scale: u32) -> [[u32; 2]; 2] {
    let scaled = |pair| mul_rn_f16x2(pair, scale);
    [
        [scaled(cvt_rn_f16x2_e2m1x2::<0>(word)), scaled(cvt_rn_f16x2_e2m1x2::<1>(word))],
        [scaled(cvt_rn_f16x2_e2m1x2::<2>(word)), scaled(cvt_rn_f16x2_e2m1x2::<3>(word))],
    ]
}
