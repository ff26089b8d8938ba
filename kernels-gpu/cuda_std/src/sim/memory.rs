//! Global memory: allocations that the host makes and launches share.
//!
//! Each allocation has 64 GiB of addresses to itself, so a stray address meets no other allocation, and begins 256 bytes
//! into them, so it is aligned to 256 and no more. Its bytes are chunks of 1 KiB, each a [`Segment`] behind a lock, since
//! blocks may run on several OS threads. A chunk forgets its history when the next launch first touches it, except for
//! what the launch just before wrote and read: that is what an early grid must wait for.
use super::error::{Error, Kind};
use super::segment::Segment;
use std::panic::Location;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

/// Bytes of a chunk.
pub(super) const CHUNK: usize = 1024;
const SLOT_BITS: u32 = 36;
pub(super) const ORIGIN: u64 = 256;

/// Part of an allocation.
pub(super) struct Chunk {
    /// `None` until a byte is written.
    segment: Option<Box<Segment>>,
    launch: u64,
    /// Bytes that the launch before [`Self::launch`] wrote, and read; a bit each.
    written_before: [u64; CHUNK / 64],
    read_before: [u64; CHUNK / 64],
}

impl Chunk {
    fn new() -> Self {
        Self { segment: None, launch: 0, written_before: [0; CHUNK / 64], read_before: [0; CHUNK / 64] }
    }

    fn segment(&mut self) -> &mut Segment {
        self.segment.get_or_insert_with(|| Box::new(Segment::new(CHUNK)))
    }

    /// The bytes with their history in `launch`.
    #[inline(always)]
    pub fn enter(&mut self, launch: u64) -> &mut Segment {
        if self.launch != launch {
            self.turn(launch);
        }
        self.segment()
    }

    #[cold]
    fn turn(&mut self, launch: u64) {
        let follows = self.launch + 1 == launch;
        self.launch = launch;
        (self.written_before, self.read_before) = Default::default();
        if follows && let Some(segment) = &self.segment {
            for (byte, (written, read)) in segment.touched().enumerate() {
                self.written_before[byte / 64] |= u64::from(written) << (byte % 64);
                self.read_before[byte / 64] |= u64::from(read) << (byte % 64);
            }
        }
        self.segment().begin();
    }

    /// Whether the launch before the one that [`Self::enter`] named has touched the range in a way that an access
    /// must wait for: written it, or read it where the access is a write.
    pub fn touched_before(&self, offset: usize, len: usize, write: bool) -> bool {
        (offset..offset + len).any(|byte| {
            let read = if write { self.read_before[byte / 64] } else { 0 };
            (self.written_before[byte / 64] | read) >> (byte % 64) & 1 != 0
        })
    }

    /// A write by the host: it follows all launches so far, and all later ones follow it.
    fn host_write(&mut self, offset: usize, bytes: &[u8]) {
        let segment = self.segment();
        segment.store(offset, bytes);
        segment.forget(offset, bytes.len());
        for byte in offset..offset + bytes.len() {
            self.written_before[byte / 64] &= !(1 << (byte % 64));
            self.read_before[byte / 64] &= !(1 << (byte % 64));
        }
    }
}

/// Bytes that the host allocated.
pub(super) struct Allocation {
    bytes: usize,
    chunks: Box<[Mutex<Chunk>]>,
}

impl Allocation {
    #[inline(always)]
    pub fn lock(&self, chunk: usize) -> MutexGuard<'_, Chunk> {
        self.chunks[chunk].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every allocation ever made; `Err` holds the size of one that was freed.
pub(super) type Slots = Vec<Result<Allocation, usize>>;

/// Finds `len` bytes at `address`: their allocation and the offset in it.
#[inline(always)]
pub(super) fn locate(slots: &Slots, address: u64, len: usize) -> Result<(&Allocation, usize), String> {
    if let Some(Ok(allocation)) = slots.get((address >> SLOT_BITS) as usize) {
        let offset = (address & ((1 << SLOT_BITS) - 1)).wrapping_sub(ORIGIN);
        if offset <= allocation.bytes as u64 && len as u64 <= allocation.bytes as u64 - offset {
            return Ok((allocation, offset as usize));
        }
    }
    Err(describe_miss(slots, address, len))
}

#[cold]
fn describe_miss(slots: &Slots, address: u64, len: usize) -> String {
    let slot = address >> SLOT_BITS;
    let start = (slot << SLOT_BITS) + ORIGIN;
    match slots.get(slot as usize) {
        Some(Ok(allocation)) => format!(
            "{len} bytes at global {address:#x}, byte {} of an allocation of {} bytes at {start:#x}",
            address.wrapping_sub(start) as i64,
            allocation.bytes
        ),
        Some(Err(bytes)) if slot != 0 => {
            format!("{len} bytes at global {address:#x}, in a freed allocation of {bytes} bytes at {start:#x}")
        }
        _ => format!("{len} bytes at global {address:#x}, in no allocation"),
    }
}

/// Simulated global memory.
pub struct Memory {
    slots: RwLock<Slots>,
    launches: Mutex<u64>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// Memory without allocations.
    pub fn new() -> Self {
        // Slot 0 stays empty: address 0 is no allocation's.
        Self { slots: RwLock::new(vec![Err(0)]), launches: Mutex::new(0) }
    }

    /// Allocates `bytes` uninitialised bytes; the address is a multiple of 256.
    pub fn alloc(&self, bytes: usize) -> u64 {
        let chunks = (0..bytes.div_ceil(CHUNK)).map(|_| Mutex::new(Chunk::new())).collect();
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.push(Ok(Allocation { bytes, chunks }));
        ((slots.len() as u64 - 1) << SLOT_BITS) + ORIGIN
    }

    /// Frees what [`Self::alloc`] returned.
    #[track_caller]
    pub fn free(&self, address: u64) -> Result<(), Error> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if address & ((1 << SLOT_BITS) - 1) == ORIGIN
            && let Some(slot) = slots.get_mut((address >> SLOT_BITS) as usize)
            && let Ok(allocation) = slot
        {
            *slot = Err(allocation.bytes);
            return Ok(());
        }
        let detail = format!("{address:#x} is not the address of a live allocation");
        Err(host_error(Kind::OutOfBounds, "free", Location::caller(), detail))
    }

    /// Stores `bytes` at `address`.
    #[track_caller]
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let location = Location::caller();
        let (allocation, offset) = locate(&slots, address, bytes.len())
            .map_err(|detail| host_error(Kind::OutOfBounds, "write", location, detail))?;
        for (chunk, offset, range) in pieces(offset, bytes.len()) {
            allocation.lock(chunk).host_write(offset, &bytes[range]);
        }
        Ok(())
    }

    /// Loads `out.len()` bytes from `address`; one that nothing was written to is an error.
    #[track_caller]
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Error> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let location = Location::caller();
        let (allocation, offset) = locate(&slots, address, out.len())
            .map_err(|detail| host_error(Kind::OutOfBounds, "read", location, detail))?;
        for (chunk, offset, range) in pieces(offset, out.len()) {
            let mut chunk = allocation.lock(chunk);
            let segment = chunk.segment();
            if let Some(missing) = segment.first_uninitialised(offset, range.len()) {
                let at = address + (range.start + missing - offset) as u64;
                let detail = format!("nothing was written to the byte at global {at:#x}");
                return Err(host_error(Kind::Uninitialised, "read", location, detail));
            }
            out[range.clone()].copy_from_slice(segment.bytes(offset, range.len()));
        }
        Ok(())
    }

    /// Allocations not freed.
    pub fn live_allocations(&self) -> usize {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).iter().filter(|slot| slot.is_ok()).count()
    }

    /// Runs `launch` with the allocations and its number; launches follow one another, and allocations wait for them.
    pub(super) fn with_launch<R>(&self, launch: impl FnOnce(&Slots, u64) -> R) -> R {
        let mut launches = self.launches.lock().unwrap_or_else(PoisonError::into_inner);
        *launches += 1;
        launch(&self.slots.read().unwrap_or_else(PoisonError::into_inner), *launches)
    }
}

/// The chunks that `len` bytes at `offset` fall into: chunk, offset in it, range of the `len` bytes.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (chunk, at) = ((offset + done) / CHUNK, (offset + done) % CHUNK);
        let piece = (CHUNK - at).min(len - done);
        let range = done..done + piece;
        done += piece;
        (piece > 0).then_some((chunk, at, range))
    })
}

fn host_error(kind: Kind, operation: &'static str, location: &'static Location<'static>, detail: String) -> Error {
    let kernel = "host".to_owned();
    Error { kind, kernel, block: 0, thread: 0, operation, location: Some(location), other: None, detail }
}
