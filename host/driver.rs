//! The CUDA driver, loaded when it is first asked for. Nothing is linked: every call goes through [`table::Api`], so a
//! program starts, and says what is missing, on a machine without a driver.
pub(crate) mod context;
pub(crate) mod graph;
pub(crate) mod launch;
pub(crate) mod stream;
pub(crate) mod table;

use crate::error::Error;
pub(crate) use context::Context;

/// The driver of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The CUDA version that it supports, as CUDA counts: 12040 is 12.4.
    pub cuda_version: u32,
    /// Devices that it sees.
    pub devices: u32,
}

impl Driver {
    /// Loads the driver and asks it.
    ///
    /// # Errors
    /// No driver, no device, or a driver older than CUDA 11.4.
    pub fn find() -> Result<Self, Error> {
        let api = table::Api::get()?;
        Ok(Self { cuda_version: api.version()?, devices: api.device_count()? })
    }
}
