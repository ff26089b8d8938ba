//! The twins of `wgmma`: a warpgroup's products. The kernels' `ptx::wgmma` has the types that keep registers in flight out of
//! reach; here their state is a value, [`Registers`], that goes with them.
use super::op::{meet, perform};
use super::schedule::{suspend, with_block};
use super::site::Operation;
use super::warp::Operands;
use crate::sim::Kind;

/// What the simulator knows of registers that `wgmma` is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Registers {
    /// Read or written by other instructions since the last [`wgmma_fence`].
    #[default]
    Touched,
    /// Not touched since.
    Fenced,
    /// Part of an accumulator that products are under way to.
    InFlight(u32),
}

/// `wgmma.fence.sync.aligned`; gives the state of registers that are not touched from here on.
#[track_caller]
pub fn wgmma_fence() -> Registers {
    meet(Operation::WgmmaFence, &[]);
    Registers::Fenced
}

/// `wgmma.commit_group.sync.aligned`.
#[track_caller]
pub fn wgmma_commit_group() {
    meet(Operation::WgmmaCommitGroup, &[]);
}

/// `wgmma.wait_group.sync.aligned newest`. What comes back is for [`wgmma_take`].
#[track_caller]
pub fn wgmma_wait_group(newest: u32) {
    meet(Operation::WgmmaWaitGroup, &[newest]);
}

/// No instruction: `registers`, in `state`, as the last wait left them.
pub fn wgmma_take(state: Registers, registers: &mut [f32]) {
    with_block(|block| block.take(state, registers));
}

/// What is multiplied, apart from the accumulator; alike in all threads but for A's registers.
struct Request {
    /// A descriptor and whether it is M-major, or registers.
    a: Result<(u64, bool), [u32; 4]>,
    b: (u64, bool),
    add: bool,
}

impl Request {
    /// Packed for the rendezvous.
    fn operands(&self, columns: u32, accumulator: u32) -> Operands {
        let words = |bits: u64| [bits as u32, (bits >> 32) as u32];
        let a_transposed = self.a.is_ok_and(|(_, transposed)| transposed);
        let a = self.a.map_or_else(|registers| registers, |(bits, _)| [words(bits)[0], words(bits)[1], 0, 0]);
        let flags = u32::from(self.add) | u32::from(a_transposed) << 1 | u32::from(self.b.1) << 2;
        let b = words(self.b.0);
        [columns | flags << 16, b[0], b[1], accumulator, a[0], a[1], a[2], a[3], 0, 0]
    }
}

/// Meets the warpgroup at a product.
#[track_caller]
fn product(operation: Operation, state: Registers, d: &mut [f32], request: &Request) -> Registers {
    let waits = perform(operation, |block, _| {
        let number = block.bring(state, d)?;
        block.arrive(operation, &request.operands(2 * d.len() as u32, number))
    });
    if waits {
        suspend();
    }
    with_block(|block| Ok(Registers::InFlight(block.accumulator())))
}

macro_rules! products {
    ($($ss:ident = $ss_operation:ident, $rs:ident = $rs_operation:ident, $text:literal;)*) => {$(
        #[doc = concat!("`wgmma.mma_async.", $text, "`: `d` (of `2 d.len()` columns, in `state`) becomes `a b`, or with `add` `d + a b`.")]
        /// A and B are descriptors, and whether they are M- or N-major.
        #[track_caller]
        pub fn $ss(state: Registers, d: &mut [f32], a: (u64, bool), b: (u64, bool), add: bool) -> Registers {
            product(Operation::$ss_operation, state, d, &Request { a: Ok(a), b, add })
        }

        #[doc = concat!("`wgmma.mma_async.", $text, "` with A from registers, in `a_state`.")]
        #[track_caller]
        pub fn $rs(
            state: Registers,
            d: &mut [f32],
            a_state: Registers,
            a: [u32; 4],
            b: (u64, bool),
            add: bool,
        ) -> Registers {
            if a_state != Registers::Fenced {
                perform(Operation::$rs_operation, |block, _| {
                    Err(block.error(Kind::MissingWgmmaFence, "A's registers are not fenced".to_owned()))
                })
            }
            product(Operation::$rs_operation, state, d, &Request { a: Err(a), b, add })
        }
    )*};
}

products! {
    wgmma_bf16_ss = WgmmaBf16Ss, wgmma_bf16_rs = WgmmaBf16Rs, "m64nNk16.f32.bf16.bf16";
    wgmma_f16_ss = WgmmaF16Ss, wgmma_f16_rs = WgmmaF16Rs, "m64nNk16.f32.f16.f16";
    wgmma_e4m3_ss = WgmmaE4m3Ss, wgmma_e4m3_rs = WgmmaE4m3Rs, "m64nNk32.f32.e4m3.e4m3";
}
