//! The crate `cust`, version 0.3.2, beside this library: its contexts, streams and buffers as ours, and (in
//! [`forwards`]) the driver's functions that it would else be linked to, so that a program with `cust` starts on a machine
//! without a driver too.
mod forwards;

use crate::device::{Device, Stream};
use crate::error::Error;
use crate::tensor::DeviceSpan;
use cust::memory::{DeviceBuffer, DeviceCopy};

impl Device {
    /// The device of a `cust` context. The primary context is retained once more, so the device may outlive `context`.
    ///
    /// # Errors
    /// A device older than sm_80, or the driver's.
    pub fn from_cust(context: &cust::context::Context) -> Result<Self, Error> {
        // SAFETY: borrowed, so live; it is a primary context, which is retained before the borrow ends.
        unsafe { Self::from_primary_context(context.as_raw().cast()) }
    }

    /// A `cust` stream of this device's context.
    ///
    /// # Safety
    /// The stream was created in this device's context, and is dropped after the last use of the answer and its clones.
    pub unsafe fn cust_stream(&self, stream: &cust::stream::Stream) -> Stream {
        // SAFETY: handed on to the caller.
        unsafe { self.stream(stream.as_inner().cast()) }
    }
}

impl<'a, T: DeviceCopy> From<&'a DeviceBuffer<T>> for DeviceSpan<'a> {
    fn from(buffer: &'a DeviceBuffer<T>) -> Self {
        let bytes = size_of::<T>().saturating_mul(buffer.len());
        // SAFETY: borrowed for 'a, and freeing it (`cuMemFree`) waits for the device.
        unsafe { Self::new(buffer.as_device_ptr().as_raw(), bytes) }
    }
}
