//! A thread's registers of D, for each number of columns, and the instructions that name them one by one.
use super::{Accumulator, Columns, Fence, InFlight, State, Tile};
#[cfg(target_arch = "nvptx64")]
use crate::layout::descriptor::Major;
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;

/// One `wgmma`: D's registers are operands 0 to N / 2 - 1, A is `$a` in the text, and `$end` what follows the scales.
#[cfg(target_arch = "nvptx64")]
macro_rules! product {
    ($d:ident [$first:literal $($i:literal)*] $columns:literal, $shape:literal, $a:literal, $b:ident, $add:ident, $end:literal; $($operands:tt)*) => {
        asm!(
            concat!(
                "{{ .reg .pred p; setp.ne.b32 p, {add}, 0; wgmma.mma_async.sync.aligned.m64n", $columns, $shape, " {{{", $first, "}",
                $(", {", $i, "}",)* "}}, ", $a, ", {b}, p, 1, 1", $end, "; }}"
            ),
            inout(reg32) $d[$first], $(inout(reg32) $d[$i],)*
            b = in(reg64) $b, add = in(reg32) $add, $($operands)*
            options(nostack)
        )
    };
}

macro_rules! instructions {
    ($list:tt $columns:literal: $($ss:ident $rs:ident $shape:literal $($trans:ident)?;)*) => {$(
        #[inline(always)]
        #[cfg(target_arch = "nvptx64")]
        unsafe fn $ss<MA: Major, MB: Major>(&mut self, a: u64, b: u64, add: u32) {
            let d = self;
            // SAFETY: the caller's promise.
            unsafe { instructions!(@ss $($trans)? d $list $columns $shape a b add) };
        }

        #[inline(always)]
        #[cfg(target_arch = "nvptx64")]
        unsafe fn $rs<MB: Major>(&mut self, a: [u32; 4], b: u64, add: u32) {
            let d = self;
            // SAFETY: the caller's promise.
            unsafe { instructions!(@rs $($trans)? d $list $columns $shape a b add) };
        }
    )*};
    (@ss trans $d:ident $list:tt $columns:literal $shape:literal $a:ident $b:ident $add:ident) => {
        product!($d $list $columns, $shape, "{a}", $b, $add, ", {ta}, {tb}";
            a = in(reg64) $a, ta = const MA::TRANSPOSED, tb = const MB::TRANSPOSED,)
    };
    (@ss $d:ident $list:tt $columns:literal $shape:literal $a:ident $b:ident $add:ident) => {
        product!($d $list $columns, $shape, "{a}", $b, $add, ""; a = in(reg64) $a,)
    };
    (@rs trans $d:ident $list:tt $columns:literal $shape:literal $a:ident $b:ident $add:ident) => {
        product!($d $list $columns, $shape, "{{{a0}, {a1}, {a2}, {a3}}}", $b, $add, ", {tb}";
            a0 = in(reg32) $a[0], a1 = in(reg32) $a[1], a2 = in(reg32) $a[2], a3 = in(reg32) $a[3],
            tb = const MB::TRANSPOSED,)
    };
    (@rs $d:ident $list:tt $columns:literal $shape:literal $a:ident $b:ident $add:ident) => {
        product!($d $list $columns, $shape, "{{{a0}, {a1}, {a2}, {a3}}}", $b, $add, "";
            a0 = in(reg32) $a[0], a1 = in(reg32) $a[1], a2 = in(reg32) $a[2], a3 = in(reg32) $a[3],)
    };
}

macro_rules! accumulators {
    ($($columns:literal: [f32; $n:literal], [[u32; 4]; $steps:literal], [$($i:literal)*];)*) => {$(
        impl Tile for Columns<$columns> {
            type Accumulator = [f32; $n];
            type Fragments = [[u32; 4]; $steps];
        }

        impl Fence for [f32; $n] {
            type Fenced = InFlight<Self>;

            #[inline(always)]
            fn pin(&mut self) {
                #[cfg(target_arch = "nvptx64")]
                {
                    let d = self;
                    // SAFETY: no instruction.
                    unsafe { asm!(concat!("//", $(" {", $i, "}",)*), $(inout(reg32) d[$i],)* options(nomem, nostack)) };
                }
            }

            #[inline(always)]
            fn fenced(self, state: State) -> InFlight<Self> {
                InFlight { registers: self, fragments: (), state }
            }
        }

        impl Accumulator for [f32; $n] {
            const COLUMNS: u32 = $columns;
            const ZERO: Self = [0.0; $n];

            instructions! {
                [$($i)*] $columns:
                bf16_ss bf16_rs "k16.f32.bf16.bf16" trans;
                f16_ss f16_rs "k16.f32.f16.f16" trans;
                e4m3_ss e4m3_rs "k32.f32.e4m3.e4m3";
            }
        }
    )*};
}

#[rustfmt::skip]
accumulators! {
    32: [f32; 16], [[u32; 4]; 2], [
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15
    ];
    64: [f32; 32], [[u32; 4]; 4], [
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    ];
    80: [f32; 40], [[u32; 4]; 5], [
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39
    ];
    96: [f32; 48], [[u32; 4]; 6], [
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39
        40 41 42 43 44 45 46 47
    ];
    128: [f32; 64], [[u32; 4]; 8], [
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39
        40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63
    ];
    176: [f32; 88], [[u32; 4]; 11], [
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40
        41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77
        78 79 80 81 82 83 84 85 86 87
    ];
    256: [f32; 128], [[u32; 4]; 16], [
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39
        40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76
        77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109
        110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127
    ];
}
