//! Captured launches, and the time that work takes: small wrappers for programs without a CUDA library of their own. On
//! the simulator a graph is a list of launches, and an event the host's clock.
use crate::device::{Backend, Device, Stream};
use crate::error::Error;
#[cfg(feature = "sim")]
use crate::simulator::Recorded;
#[cfg(feature = "cuda")]
use core::ffi::c_void;
#[cfg(feature = "sim")]
use std::{sync::Mutex, time::Instant};

/// Launches captured from a stream, to be replayed.
pub struct Graph {
    device: Device,
    captured: Captured,
}

enum Captured {
    #[cfg(feature = "cuda")]
    Cuda(*mut c_void),
    #[cfg(feature = "sim")]
    Simulator(Vec<Recorded>),
}

// SAFETY: the handle is only handed to the driver; `launch` takes `&mut self`, so two threads never launch at once.
unsafe impl Send for Graph {}

impl Graph {
    /// Captures what `body` launches on `stream` (not a default one, which the driver does not capture).
    ///
    /// While a stream of [`crate::Device::new_stream`] is captured, the driver refuses work on the legacy default stream
    /// of the same context, other threads' too: [`crate::Buffer::read`] and [`crate::Buffer::write`] among it.
    ///
    /// # Errors
    /// The body's, or the driver's.
    pub fn capture(stream: &Stream, body: impl FnOnce() -> Result<(), Error>) -> Result<Self, Error> {
        let captured = match *stream.device().backend() {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => Captured::Cuda(context.capture(stream.raw(), body)?),
            #[cfg(feature = "sim")]
            Backend::Simulator(ref simulator) => Captured::Simulator(simulator.capture(body)?),
        };
        Ok(Self { device: stream.device().clone(), captured })
    }

    /// Replays it once on `stream`.
    ///
    /// # Errors
    /// The driver's; on the simulator the first fault that a kernel committed.
    ///
    /// # Safety
    /// All that the captured launches read and write is still live, and used by nothing else that is not ordered with
    /// the stream. (The simulator reports it where that is not so.)
    pub unsafe fn launch(&mut self, stream: &Stream) -> Result<(), Error> {
        stream.expect_device(&self.device)?;
        match (self.device.backend(), &self.captured) {
            #[cfg(feature = "cuda")]
            (Backend::Cuda(context), &Captured::Cuda(executable)) => context.graph_launch(executable, stream.raw()),
            #[cfg(feature = "sim")]
            (Backend::Simulator(simulator), Captured::Simulator(launches)) => simulator.replay(launches),
            #[cfg(all(feature = "cuda", feature = "sim"))]
            // Both are of one device, made in `capture`.
            _ => Ok(()),
        }
    }
}

#[cfg(feature = "cuda")]
impl Drop for Graph {
    fn drop(&mut self) {
        match (self.device.backend(), &self.captured) {
            (Backend::Cuda(context), &Captured::Cuda(executable)) => context.graph_destroy(executable),
            #[cfg(feature = "sim")]
            _ => {}
        }
    }
}

/// A point in a stream's work.
pub struct Event {
    device: Device,
    #[cfg(feature = "cuda")]
    raw: *mut c_void,
    #[cfg(feature = "sim")]
    host_time: Mutex<Option<Instant>>,
}

// SAFETY: the handle is only handed to the driver, which takes it from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event, not recorded yet.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(device: &Device) -> Result<Self, Error> {
        Ok(Self {
            #[cfg(feature = "cuda")]
            raw: match *device.backend() {
                Backend::Cuda(ref context) => context.event_create()?,
                #[cfg(feature = "sim")]
                Backend::Simulator(_) => core::ptr::null_mut(),
            },
            #[cfg(feature = "sim")]
            host_time: Mutex::default(),
            device: device.clone(),
        })
    }

    /// Places it behind the stream's work so far.
    ///
    /// # Errors
    /// A stream of another device; the driver's.
    pub fn record(&self, stream: &Stream) -> Result<(), Error> {
        stream.expect_device(&self.device)?;
        match *self.device.backend() {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => context.event_record(self.raw, stream.raw()),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => {
                *self.host_time.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
                Ok(())
            }
        }
    }

    /// Milliseconds from this event to a later one, which it waits for.
    ///
    /// # Errors
    /// The driver's; an event that was never recorded.
    pub fn milliseconds_to(&self, later: &Self) -> Result<f32, Error> {
        match *self.device.backend() {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => context.elapsed_ms(self.raw, later.raw),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => {
                let time = |event: &Self| *event.host_time.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let (Some(from), Some(to)) = (time(self), time(later)) else {
                    let (field, value) = ("event", "not recorded".to_owned());
                    return Err(Error::Value { field, value, allowed: "recorded events" });
                };
                Ok(to.saturating_duration_since(from).as_secs_f32() * 1e3)
            }
        }
    }
}

#[cfg(feature = "cuda")]
impl Drop for Event {
    fn drop(&mut self) {
        match *self.device.backend() {
            Backend::Cuda(ref context) => context.event_destroy(self.raw),
            #[cfg(feature = "sim")]
            Backend::Simulator(_) => {}
        }
    }
}
