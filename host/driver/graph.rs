//! Graphs and events: what captures launches once and replays them, and what times them.
use crate::driver::context::Context;
use crate::driver::table::Handle;
use crate::error::Error;

/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`: other threads may allocate meanwhile.
const THREAD_LOCAL: i32 = 1;

impl Context {
    /// Captures what `body` does on the stream, as a graph ready to launch.
    pub(crate) fn capture(&self, stream: Handle, body: impl FnOnce() -> Result<(), Error>) -> Result<Handle, Error> {
        let (api, _entered) = (self.api, self.enter()?);
        // SAFETY: a stream of this context.
        api.check("cuStreamBeginCapture", unsafe { (api.stream_begin_capture)(stream, THREAD_LOCAL) })?;
        let done = body();
        let (mut graph, mut executable) = (core::ptr::null_mut(), core::ptr::null_mut());
        // SAFETY: ends what was begun, also where the body failed; writes one handle.
        let ended = api.check("cuStreamEndCapture", unsafe { (api.stream_end_capture)(stream, &raw mut graph) });
        let made = done.and(ended).and_then(|()| {
            // SAFETY: a graph just captured; writes one handle.
            let answer = unsafe { (api.graph_instantiate)(&raw mut executable, graph, 0) };
            api.check("cuGraphInstantiateWithFlags", answer)
        });
        if !graph.is_null() {
            // SAFETY: the executable is a copy; the graph is used no more.
            let _ = unsafe { (api.graph_destroy)(graph) };
        }
        made.map(|()| executable)
    }

    /// Launches a graph that `capture` gave.
    pub(crate) fn graph_launch(&self, executable: Handle, stream: Handle) -> Result<(), Error> {
        let _entered = self.enter()?;
        // SAFETY: both live, of this context.
        self.api.check("cuGraphLaunch", unsafe { (self.api.graph_launch)(executable, stream) })
    }

    /// Destroys what `capture` gave.
    pub(crate) fn graph_destroy(&self, executable: Handle) {
        if let Ok(_entered) = self.enter() {
            // SAFETY: destroyed once, by its owner.
            let _ = unsafe { (self.api.graph_exec_destroy)(executable) };
        }
    }

    /// An event that takes the time.
    pub(crate) fn event_create(&self) -> Result<Handle, Error> {
        let _entered = self.enter()?;
        let mut event = core::ptr::null_mut();
        // SAFETY: writes one handle.
        self.api.check("cuEventCreate", unsafe { (self.api.event_create)(&raw mut event, 0) })?;
        Ok(event)
    }

    /// Destroys what `event_create` gave.
    pub(crate) fn event_destroy(&self, event: Handle) {
        if let Ok(_entered) = self.enter() {
            // SAFETY: destroyed once, by its owner.
            let _ = unsafe { (self.api.event_destroy)(event) };
        }
    }

    /// Records the event behind the stream's work so far.
    pub(crate) fn event_record(&self, event: Handle, stream: Handle) -> Result<(), Error> {
        let _entered = self.enter()?;
        // SAFETY: both live, of this context.
        self.api.check("cuEventRecord", unsafe { (self.api.event_record)(event, stream) })
    }

    /// Milliseconds between two recorded events, after waiting for the second.
    pub(crate) fn elapsed_ms(&self, from: Handle, to: Handle) -> Result<f32, Error> {
        let (api, _entered) = (self.api, self.enter()?);
        // SAFETY: a live event.
        api.check("cuEventSynchronize", unsafe { (api.event_synchronize)(to) })?;
        let mut ms = 0.0;
        // SAFETY: writes one float; both events live.
        api.check("cuEventElapsedTime", unsafe { (api.event_elapsed_time)(&raw mut ms, from, to) })?;
        Ok(ms)
    }
}
