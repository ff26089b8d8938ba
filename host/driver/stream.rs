//! Streams by their raw handles: 0, 1 and 2 (the default streams) are handles like any other.
use crate::driver::context::Context;
use crate::driver::table::Handle;
use crate::error::Error;
use core::ffi::c_int;

impl Context {
    /// A stream that is ordered with the legacy default stream, so with synchronous copies too.
    pub(crate) fn stream_create(&self) -> Result<Handle, Error> {
        let _entered = self.enter()?;
        let mut stream = core::ptr::null_mut();
        // SAFETY: writes one handle.
        self.api.check("cuStreamCreate", unsafe { (self.api.stream_create)(&raw mut stream, 0) })?;
        Ok(stream)
    }

    /// Destroys what `stream_create` gave; its work still finishes.
    pub(crate) fn stream_destroy(&self, stream: Handle) {
        if let Ok(_entered) = self.enter() {
            // SAFETY: destroyed once, by its owner.
            let _ = unsafe { (self.api.stream_destroy)(stream) };
        }
    }

    /// Waits for all of the stream's work, and tells its errors.
    pub(crate) fn synchronize(&self, stream: Handle) -> Result<(), Error> {
        let _entered = self.enter()?;
        // SAFETY: a stream of this context.
        self.api.check("cuStreamSynchronize", unsafe { (self.api.stream_synchronize)(stream) })
    }

    /// Whether the stream is being captured into a graph.
    pub(crate) fn capturing(&self, stream: Handle) -> Result<bool, Error> {
        let _entered = self.enter()?;
        let mut status: c_int = 0;
        // SAFETY: writes one integer; a stream of this context.
        let answer = unsafe { (self.api.stream_is_capturing)(stream, &raw mut status) };
        self.api.check("cuStreamIsCapturing", answer)?;
        Ok(status != 0)
    }
}
