//! A plan's way to the device: written to pinned memory, copied in the stream's order, outside any capture.
//!
//! Two pinned buffers take turns, so that the next plan can be written while the last one is still being copied; an
//! upload waits only for the copy before the last.
use crate::device::{Backend, Device, Stream};
#[cfg(feature = "cuda")]
use crate::driver::context::Pinned;
use crate::error::Error;
use crate::launch::Planned;
use crate::plan::layout::Layout;
use crate::plan::{Capture, Plan};
use crate::select;
use crate::tensor::{COPY_BYTES, DeviceSpan};
use kernels_gpu::abi::{MergeItem, WorkItem};

/// Device memory for a plan and for partial results, with the pinned memory that plans are sent from. It serves one
/// stream at a time.
#[derive(Debug)]
pub struct Workspace<'w> {
    span: DeviceSpan<'w>,
    staging: Option<Staging>,
}

impl<'w> Workspace<'w> {
    /// A workspace in these bytes: [`Plan::workspace_bytes`] of the largest plan to be uploaded, at a multiple of 16.
    /// Size and alignment are checked by [`Plan::upload`].
    pub fn new(span: impl Into<DeviceSpan<'w>>) -> Self {
        Self { span: span.into(), staging: None }
    }

    /// Refuses what a plan of `needed` bytes cannot be copied to.
    pub(crate) fn check(&self, stream: &Stream, needed: usize) -> Result<(), Error> {
        if needed > self.span.bytes() {
            return Err(Error::WorkspaceTooSmall { bytes: self.span.bytes(), needed });
        }
        self.span.check("workspace", COPY_BYTES, needed)?;
        if stream.capturing()? {
            return Err(Error::Capturing { what: "a plan is copied from pinned memory that the next plan overwrites" });
        }
        Ok(())
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> u64 {
        self.span.address()
    }
}

impl Plan {
    /// Copies the plan into a workspace, in the stream's order, and loads the kernels that it needs.
    ///
    /// Launches captured from an earlier plan in this workspace see the new one, where [`Plan::replays`] says so.
    ///
    /// # Errors
    /// A workspace too small or not aligned to 16 bytes; a stream in capture (the copy would be replayed from pinned
    /// memory that has other contents by then); no code for this device; the driver's.
    pub fn upload<'w>(&self, stream: &Stream, workspace: &'w mut Workspace<'_>) -> Result<Planned<'w>, Error> {
        workspace.check(stream, self.layout().bytes)?;
        self.upload_at(stream, workspace, 0)
    }

    /// Copies the plan to byte `at` of a workspace that was checked.
    pub(crate) fn upload_at<'w>(
        &self,
        stream: &Stream,
        workspace: &mut Workspace<'_>,
        at: usize,
    ) -> Result<Planned<'w>, Error> {
        let (device, layout) = (stream.device(), self.layout());
        let address = workspace.span.address() + at as u64;
        device.load(self.kernel())?;
        let combine = select::combine()?;
        device.load(combine)?;
        let used = match self.options().capture {
            // Blocks of a captured launch read an item before they know that they have none.
            Capture::AnyPlan => layout.partial_o_at,
            Capture::ThisPlan => layout.items_at + size_of_val(self.items()),
        };
        let reused = workspace.staging.take().filter(|s| s.device.same(device));
        let staging = workspace.staging.insert(reused.unwrap_or_else(|| Staging::new(device)));
        staging.send(stream, address, used, |bytes| self.write_to(bytes, layout))?;
        Ok(Planned::new(self, stream, address, combine))
    }

    /// Writes counts, merges, bounds and items at their places.
    fn write_to(&self, bytes: &mut [u8], layout: &Layout) {
        let counts = [self.items().len() as u32, self.merges().len() as u32];
        write_words(bytes, layout.counts_at, counts.into_iter());
        let merges = self.merges().iter().flat_map(|merge| {
            let MergeItem { q_start, first_head, first_row, rows, first_partial, partials } = *merge;
            [q_start, first_head, first_row, rows, first_partial, partials]
        });
        write_words(bytes, layout.merges_at, merges);
        // Of whole sequences: the check of the page ids is.
        let bounds = self.lengths().iter().map(|length| length + self.keys_before());
        write_words(bytes, layout.length_bounds_at, bounds);
        let items = self.items().iter().flat_map(|item| {
            let WorkItem { sequence, kv_head, first_row, first, last, of, length_bound, partial, .. } = *item;
            let WorkItem { q_start, q_len, reserved: [r0, r1], .. } = *item;
            [sequence, kv_head, first_row, first, last, of, length_bound, partial, q_start, q_len, r0, r1]
        });
        write_words(bytes, layout.items_at, items);
        bytes.get_mut(layout.items_at + size_of_val(self.items())..).unwrap_or_default().fill(0);
    }
}

/// Writes 32-bit words from byte `at` on.
fn write_words(bytes: &mut [u8], at: usize, words: impl Iterator<Item = u32>) {
    let places = bytes.get_mut(at..).unwrap_or_default().chunks_exact_mut(4);
    for (place, word) in places.zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

/// Host memory that plans are sent from.
struct Staging {
    device: Device,
    #[cfg(feature = "cuda")]
    pinned: [Option<Pinned>; 2],
}

impl core::fmt::Debug for Staging {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Staging").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Staging {
    fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            pinned: [None, None],
        }
    }

    /// Sends the `count` bytes that `fill` writes to `address`.
    fn send(&mut self, stream: &Stream, address: u64, count: usize, fill: impl FnOnce(&mut [u8])) -> Result<(), Error> {
        match *self.device.backend() {
            #[cfg(feature = "cuda")]
            Backend::Cuda(ref context) => {
                self.pinned.swap(0, 1);
                let [slot, _] = &mut self.pinned;
                if slot.as_ref().is_none_or(|p| p.capacity() < count) {
                    if let Some(mut small) = slot.take() {
                        small.free(context);
                    }
                    // Room for a batch half as large again, as batches grow by a sequence at a time.
                    *slot = Some(Pinned::new(context, count.saturating_add(count / 2))?);
                }
                let Some(pinned) = slot else { return Ok(()) };
                let bytes = pinned.bytes(context)?;
                fill(bytes.get_mut(..count).unwrap_or_default());
                pinned.send(context, stream.raw(), address, count)
            }
            #[cfg(feature = "sim")]
            Backend::Simulator(ref simulator) => {
                let _ = stream;
                let mut bytes = vec![0; count];
                fill(&mut bytes);
                simulator.write(address, &bytes)
            }
        }
    }
}

#[cfg(feature = "cuda")]
impl Drop for Staging {
    fn drop(&mut self) {
        #[cfg_attr(not(feature = "sim"), expect(irrefutable_let_patterns, reason = "one kind of device"))]
        if let Backend::Cuda(context) = self.device.backend() {
            for pinned in self.pinned.iter_mut().flatten() {
                pinned.free(context);
            }
        }
    }
}
