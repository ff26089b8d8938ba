//! Tensor-core products and the loads that feed them. Warp-wide: all 32 lanes arrive together.
#[cfg(not(target_arch = "nvptx64"))]
use super::twin;
use crate::memory::Shared;
#[cfg(target_arch = "nvptx64")]
use core::arch::asm;

macro_rules! mma {
    ($($name:ident = $text:literal;)*) => {$(
        #[doc = concat!("`", $text, "`: d + a * b, f32 accumulation (PTX ISA, `mma.m16n8k16` with floating point type).")]
        #[inline(always)]
        #[track_caller]
        pub fn $name(d: [f32; 4], a: [u32; 4], b: [u32; 2]) -> [f32; 4] {
            #[cfg(target_arch = "nvptx64")]
            {
                let [mut d0, mut d1, mut d2, mut d3] = d;
                // SAFETY: registers only; the warp is converged, as its callers' loops are uniform.
                unsafe {
                    asm!(
                        concat!($text, " {{{0}, {1}, {2}, {3}}}, {{{4}, {5}, {6}, {7}}}, {{{8}, {9}}}, {{{0}, {1}, {2}, {3}}};"),
                        inout(reg32) d0, inout(reg32) d1, inout(reg32) d2, inout(reg32) d3,
                        in(reg32) a[0], in(reg32) a[1], in(reg32) a[2], in(reg32) a[3],
                        in(reg32) b[0], in(reg32) b[1],
                        options(pure, nomem, nostack)
                    );
                }
                [d0, d1, d2, d3]
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name(d, a, b))
        }
    )*};
}

mma! {
    mma_m16n8k16_bf16 = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
    mma_m16n8k16_f16 = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32";
}

macro_rules! ldmatrix {
    ($($name:ident = $text:literal;)*) => {$(
        #[doc = concat!("`", $text, "`: four 8 × 8 tiles of 16-bit elements; lane `8 i + r` names row r of tile i, 16 bytes, aligned.")]
        ///
        /// # Safety
        /// Every lane's 16 bytes are in this block's shared memory and written before, in an order this warp has observed.
        #[inline(always)]
        #[track_caller]
        pub unsafe fn $name(row: Shared<u8>) -> [u32; 4] {
            #[cfg(target_arch = "nvptx64")]
            {
                let (r0, r1, r2, r3): (u32, u32, u32, u32);
                // SAFETY: the caller's promise.
                unsafe {
                    asm!(
                        concat!($text, " {{{}, {}, {}, {}}}, [{}];"),
                        out(reg32) r0, out(reg32) r1, out(reg32) r2, out(reg32) r3, in(reg32) row.address,
                        options(nostack, readonly)
                    );
                }
                [r0, r1, r2, r3]
            }
            #[cfg(not(target_arch = "nvptx64"))]
            twin!($name(row.address))
        }
    )*};
}

ldmatrix! {
    ldmatrix_x4 = "ldmatrix.sync.aligned.m8n8.x4.shared.b16";
    ldmatrix_x4_trans = "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16";
}

/// `stmatrix.sync.aligned.m8n8.x4.shared.b16` (sm_90 and later): what [`ldmatrix_x4`] loads, stored; lane `4 g + t` has elements
/// `(g, 2 t)` and `(g, 2 t + 1)` of each of the four tiles, lane `8 i + r` names row r of tile i.
///
/// # Safety
/// Every lane's 16 bytes are in this block's shared memory, and nothing else touches them meanwhile.
#[cfg(not(all(target_arch = "nvptx64", qkv_sm = "80")))]
#[inline(always)]
#[track_caller]
pub unsafe fn stmatrix_x4(row: Shared<u8>, values: [u32; 4]) {
    #[cfg(target_arch = "nvptx64")]
    {
        let [a, b, c, d] = values;
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "stmatrix.sync.aligned.m8n8.x4.shared.b16 [{}], {{{}, {}, {}, {}}};",
                in(reg32) row.address, in(reg32) a, in(reg32) b, in(reg32) c, in(reg32) d, options(nostack)
            );
        }
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(stmatrix_x4(row.address, values))
}

/// `movmatrix.sync.aligned.m8n8.trans.b16`: an 8 × 8 matrix of 16-bit elements, of which lane `4 g + t` has `(g, 2 t)` and
/// `(g, 2 t + 1)`, transposed.
#[inline(always)]
#[track_caller]
pub fn movmatrix_trans(pair: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let transposed: u32;
        // SAFETY: registers only; the warp is converged, as its callers' loops are uniform.
        unsafe {
            asm!("movmatrix.sync.aligned.m8n8.trans.b16 {}, {};", out(reg32) transposed, in(reg32) pair, options(pure, nomem, nostack))
        };
        transposed
    }
    #[cfg(not(target_arch = "nvptx64"))]
    twin!(movmatrix_trans(pair))
}
