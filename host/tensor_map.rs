//! Tensor maps of a device's memory.
use crate::device::{Backend, Device};
use crate::error::Error;
use kernels_gpu::layout::tensor_map::{TensorMap, TiledLayout};

impl Device {
    /// The map of a tensor at `address`, as this device's kernels take it. (Of the simulator alone as yet.)
    ///
    /// # Errors
    /// What the hardware does not take.
    pub(crate) fn tensor_map(&self, layout: &TiledLayout, address: u64) -> Result<TensorMap, Error> {
        let _ = (layout, address);
        match self.backend() {
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => Err(Error::NoBackend),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => layout.simulated(address).map_err(|error| {
                let (field, allowed) = ("tensor map", "what the hardware takes");
                Error::Value { field, value: error.to_string(), allowed }
            }),
        }
    }
}
