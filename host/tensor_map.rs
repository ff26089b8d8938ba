//! Tensor maps of either kind of device: the driver's 128 opaque bytes, or the simulator's.
use crate::device::{Backend, Device};
#[cfg(feature = "cuda")]
use crate::driver::Context;
use crate::error::Error;
use kernels_gpu::layout::tensor_map::{TensorMap, TiledLayout};

impl Device {
    /// The map of a tensor at `address` of this device, for the kernels that take one by value. Nothing is read there: the
    /// memory may be written, but not moved, after.
    ///
    /// # Errors
    /// What the hardware does not take ([`Error::TensorMap`]); a driver older than CUDA 12.0; the driver's.
    pub(crate) fn tensor_map(&self, layout: &TiledLayout, address: u64) -> Result<TensorMap, Error> {
        // A build without a kind of device has none.
        let _ = (layout, address);
        match *self.backend() {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => encoded(context, layout, address),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => Ok(layout.simulated(address)?),
        }
    }
}

/// `CU_TENSOR_MAP_L2_PROMOTION_L2_256B`: what a miss brings into the L2. Rows of a cache are at least as long.
#[cfg(feature = "cuda")]
const L2_256_BYTES: core::ffi::c_int = 3;

/// The driver's map.
#[cfg(feature = "cuda")]
fn encoded(context: &Context, layout: &TiledLayout, address: u64) -> Result<TensorMap, Error> {
    /// The driver writes to multiples of 64 alone.
    #[repr(align(64))]
    struct Encoded(TensorMap);

    layout.check(address)?;
    let too_old = Error::DriverTooOld { function: "cuTensorMapEncodeTiled", since: "12.0" };
    let call = context.api.tensor_map_encode_tiled.ok_or(too_old)?;
    let mut map = Encoded(TensorMap::NONE);
    // CU_TENSOR_MAP_DATA_TYPE_UINT8 and UINT16: bytes are moved as they are.
    let element = i32::from(layout.element_bytes == 2);
    let swizzle = layout.swizzle.code().cast_signed();
    let _entered = context.enter()?;
    // SAFETY: the arrays have at least as many elements as dimensions, of which the layout's check has found 2 to 5; the
    // address is not read. No interleaving, and zeros for what is outside (0, 0).
    let answer = unsafe {
        call(
            (&raw mut map.0).cast(),
            element,
            layout.rank,
            address,
            layout.sizes.as_ptr(),
            layout.strides.as_ptr(),
            layout.box_sizes.as_ptr(),
            [1; 5].as_ptr(),
            0,
            swizzle,
            L2_256_BYTES,
            0,
        )
    };
    context.api.check("cuTensorMapEncodeTiled", answer).map(|()| map.0)
}
