//! Captured launches, and the time that work takes: small wrappers for programs without a CUDA library of their own.
use crate::device::{Backend, Device, Stream};
use crate::error::Error;
use core::ffi::c_void;

/// Launches captured from a stream, to be replayed. What they read and write must stay as it was at capture.
pub struct Graph {
    device: Device,
    executable: *mut c_void,
}

// SAFETY: the handle is only handed to the driver; `launch` takes `&mut self`, so two threads never launch at once.
unsafe impl Send for Graph {}

impl Graph {
    /// Captures what `body` launches on `stream` (not the default one, which cannot be captured).
    ///
    /// # Errors
    /// The body's, the driver's, or [`Error::NotSimulated`].
    pub fn capture(stream: &Stream, body: impl FnOnce() -> Result<(), Error>) -> Result<Self, Error> {
        let executable = match *stream.device().backend() {
            Backend::Cuda(ref context) => context.capture(stream.raw(), body)?,
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => return Err(Error::NotSimulated { what: "graphs" }),
        };
        Ok(Self { device: stream.device().clone(), executable })
    }

    /// Replays it once on `stream`.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// All that the captured launches read and write is still live, and used by nothing else that is not ordered with
    /// the stream.
    pub unsafe fn launch(&mut self, stream: &Stream) -> Result<(), Error> {
        stream.expect_device(&self.device)?;
        match *self.device.backend() {
            Backend::Cuda(ref context) => context.graph_launch(self.executable, stream.raw()),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => Err(Error::NotSimulated { what: "graphs" }),
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        match *self.device.backend() {
            Backend::Cuda(ref context) => context.graph_destroy(self.executable),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => {}
        }
    }
}

/// A point in a stream's work.
pub struct Event {
    device: Device,
    raw: *mut c_void,
}

// SAFETY: the handle is only handed to the driver, which takes it from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event, not recorded yet.
    ///
    /// # Errors
    /// The driver's, or [`Error::NotSimulated`].
    pub fn new(device: &Device) -> Result<Self, Error> {
        let raw = match *device.backend() {
            Backend::Cuda(ref context) => context.event_create()?,
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => return Err(Error::NotSimulated { what: "events" }),
        };
        Ok(Self { device: device.clone(), raw })
    }

    /// Places it behind the stream's work so far.
    ///
    /// # Errors
    /// The driver's.
    pub fn record(&self, stream: &Stream) -> Result<(), Error> {
        stream.expect_device(&self.device)?;
        match *self.device.backend() {
            Backend::Cuda(ref context) => context.event_record(self.raw, stream.raw()),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => Err(Error::NotSimulated { what: "events" }),
        }
    }

    /// Milliseconds from this event to a later one, which it waits for.
    ///
    /// # Errors
    /// The driver's, such as an event that was never recorded.
    pub fn milliseconds_to(&self, later: &Self) -> Result<f32, Error> {
        match *self.device.backend() {
            Backend::Cuda(ref context) => context.elapsed_ms(self.raw, later.raw),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => Err(Error::NotSimulated { what: "events" }),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        match *self.device.backend() {
            Backend::Cuda(ref context) => context.event_destroy(self.raw),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => {}
        }
    }
}
