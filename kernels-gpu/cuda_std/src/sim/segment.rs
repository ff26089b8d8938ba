//! Bytes with their history: contents, whether each was ever written, and who touched it last.
//!
//! A block's shared memory is one segment, a chunk of global memory another. The history is exact to the byte: it is
//! kept in cells of 4 bytes until an access is to a part of one, and from then on in cells of a byte. (Most memory is
//! never accessed by the byte, and a quarter of the cells is a quarter of the work.) The bytes of one cell differ at most
//! in whether the host ever wrote them, which is a bit a byte.
//! A cell holds the last write and the reads since: one, or a list of those that no barrier orders among themselves.
use super::clock::{Access, Accessor};

/// log2 of the bytes of a cell, as long as no access is narrower.
const WIDE: u32 = 2;

#[derive(Clone, Copy)]
struct Cell {
    /// The last write.
    write: Access,
    /// The read since, or a list of [`Segment::lists`].
    reads: Access,
}

const UNTOUCHED: Cell = Cell { write: Access::NONE, reads: Access::NONE };

/// Why an access is not allowed.
#[derive(Clone, Copy)]
pub(super) enum Conflict {
    /// Another access that is not ordered with this one.
    Race(Access),
    /// An asynchronous operation owns the bytes.
    InFlight(Access),
    /// A generic write that the asynchronous proxy does not see.
    Hidden(Access),
    /// The byte at this offset was never written.
    Uninitialised(usize),
}

/// Contents and history of a range of bytes.
pub(super) struct Segment {
    bytes: Vec<u8>,
    written: Vec<u64>,
    cells: Vec<Cell>,
    /// log2 of the bytes of a cell: [`WIDE`] or 0.
    shift: u32,
    lists: Vec<Vec<Access>>,
    free_lists: Vec<usize>,
}

impl Segment {
    /// `len` bytes that nothing was written to. Without history: [`Self::begin`] comes before the first access.
    pub fn new(len: usize) -> Self {
        Self {
            bytes: vec![0xA5; len],
            written: vec![0; len.div_ceil(64)],
            cells: Vec::new(),
            shift: WIDE,
            lists: Vec::new(),
            free_lists: Vec::new(),
        }
    }

    /// Forgets who touched the bytes: a launch or a block begins.
    pub fn begin(&mut self) {
        self.cells.clear();
        self.shift = WIDE;
        self.cells.resize(self.bytes.len().div_ceil(1 << WIDE), UNTOUCHED);
        self.free_lists.clear();
        self.free_lists.extend(0..self.lists.len());
    }

    /// Forgets what was written, too.
    pub fn clear(&mut self) {
        self.begin();
        self.written.fill(0);
    }

    #[inline(always)]
    pub fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        &self.bytes[offset..offset + len]
    }

    /// Stores `bytes`, without a check.
    #[inline(always)]
    pub fn store(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.mark_written(offset, bytes.len());
    }

    /// The first byte of the range that nothing was written to.
    #[inline(always)]
    pub fn first_uninitialised(&self, offset: usize, len: usize) -> Option<usize> {
        let (word, bit) = (offset / 64, offset % 64);
        if bit + len <= 64 && len < 64 {
            let mask = (1 << len) - 1;
            let missing = !(self.written[word] >> bit) & mask;
            return (missing != 0).then(|| offset + missing.trailing_zeros() as usize);
        }
        let (whole, rest) = if bit == 0 { (len / 64, len % 64) } else { (0, len) };
        let missing = self.written[word..word + whole].iter().position(|&word| word != u64::MAX);
        missing.map(|missing| offset + 64 * missing + self.written[word + missing].trailing_ones() as usize).or_else(
            || {
                let start = offset + len - rest;
                (start..start + rest).find(|&i| self.written[i / 64] >> (i % 64) & 1 == 0)
            },
        )
    }

    #[inline(always)]
    pub fn mark_written(&mut self, offset: usize, len: usize) {
        let (word, bit) = (offset / 64, offset % 64);
        if bit + len <= 64 && len < 64 {
            self.written[word] |= ((1 << len) - 1) << bit;
            return;
        }
        for i in offset..offset + len {
            self.written[i / 64] |= 1 << (i % 64);
        }
    }

    /// The cells of a range, which are of a byte from now on if it ends within one.
    #[inline(always)]
    fn range(&mut self, offset: usize, len: usize) -> std::ops::Range<usize> {
        if (offset | len) & ((1 << self.shift) - 1) != 0 {
            self.split();
        }
        offset >> self.shift..(offset + len) >> self.shift
    }

    /// Gives each byte a cell of its own.
    #[cold]
    fn split(&mut self) {
        let wide = std::mem::take(&mut self.cells);
        self.cells.reserve(self.bytes.len());
        for cell in wide {
            self.cells.push(cell);
            for _ in 1..1 << WIDE {
                // A list belongs to one cell.
                let reads = match cell.reads.as_list() {
                    None => cell.reads,
                    Some(list) => {
                        self.lists.push(self.lists[list].clone());
                        Access::list(self.lists.len() - 1)
                    }
                };
                self.cells.push(Cell { reads, ..cell });
            }
        }
        self.shift = 0;
    }

    /// Whether every write of the range happened before `who`.
    #[inline(always)]
    pub fn check_ordered(&mut self, who: &Accessor<'_>, offset: usize, len: usize) -> Result<(), Conflict> {
        let range = self.range(offset, len);
        self.cells[range].iter().try_for_each(|cell| check_write_before(cell, who))
    }

    /// Whether `who` may read the range.
    #[inline(always)]
    pub fn check_read(&mut self, who: &Accessor<'_>, offset: usize, len: usize) -> Result<(), Conflict> {
        self.check_ordered(who, offset, len)?;
        self.first_uninitialised(offset, len).map_or(Ok(()), |i| Err(Conflict::Uninitialised(i)))
    }

    /// Whether every write of the range is one that `shown` says of that it is seen.
    pub fn check_shown(&mut self, offset: usize, len: usize, shown: impl Fn(Access) -> bool) -> Result<(), Conflict> {
        let range = self.range(offset, len);
        let hidden = self.cells[range].iter().find(|cell| !shown(cell.write));
        hidden.map_or(Ok(()), |cell| Err(Conflict::Hidden(cell.write)))
    }

    /// A read by `who`: checks and notes it.
    #[inline(always)]
    pub fn read(&mut self, who: &Accessor<'_>, offset: usize, len: usize) -> Result<(), Conflict> {
        self.check_read(who, offset, len)?;
        self.note_read(who, offset, len);
        Ok(())
    }

    /// A read that `issuer` may make and that counts as `access`, an asynchronous operation's. It follows nothing but
    /// earlier ones of its like: its thread goes on meanwhile.
    pub fn read_as(
        &mut self,
        issuer: &Accessor<'_>,
        access: Access,
        offset: usize,
        len: usize,
    ) -> Result<(), Conflict> {
        self.check_read(issuer, offset, len)?;
        self.note_read(&Accessor::unaware(access), offset, len);
        Ok(())
    }

    #[inline(always)]
    fn note_read(&mut self, who: &Accessor<'_>, offset: usize, len: usize) {
        for i in self.range(offset, len) {
            let earlier = self.cells[i].reads;
            if earlier.is_none() || (earlier.as_list().is_none() && who.follows(earlier)) {
                self.cells[i].reads = who.access;
            } else {
                self.add_reader(i, who);
            }
        }
    }

    /// A write by `who`: checks and notes it. The contents are the caller's to store.
    #[inline(always)]
    pub fn write(&mut self, who: &Accessor<'_>, offset: usize, len: usize) -> Result<(), Conflict> {
        for i in self.range(offset, len) {
            let cell = &self.cells[i];
            check_write_before(cell, who)?;
            if let Some(list) = cell.reads.as_list() {
                if let Some(&earlier) = self.lists[list].iter().find(|&&earlier| !who.follows(earlier)) {
                    return Err(Conflict::Race(earlier));
                }
                self.free_lists.push(list);
            } else if !cell.reads.is_none() && !who.follows(cell.reads) {
                return Err(Conflict::Race(cell.reads));
            }
            self.cells[i] = Cell { write: who.access, reads: Access::NONE };
        }
        Ok(())
    }

    /// A write by `who` that begins now and owns the range until [`Self::settle`].
    #[inline(always)]
    pub fn claim(&mut self, who: &Accessor<'_>, offset: usize, len: usize) -> Result<(), Conflict> {
        self.claim_as(who, who.access, offset, len)
    }

    /// As [`Self::claim`], in the name of `owner`.
    #[inline(always)]
    pub fn claim_as(&mut self, who: &Accessor<'_>, owner: Access, offset: usize, len: usize) -> Result<(), Conflict> {
        self.write(who, offset, len)?;
        self.settle_as(owner.under_way(), offset, len);
        Ok(())
    }

    /// The write that claimed the range counts as done by `who`, now.
    #[inline(always)]
    pub fn settle(&mut self, who: &Accessor<'_>, offset: usize, len: usize) {
        self.settle_as(who.access, offset, len);
    }

    /// The write that claimed the range counts as `access`.
    #[inline(always)]
    pub fn settle_as(&mut self, access: Access, offset: usize, len: usize) {
        let range = self.range(offset, len);
        for cell in &mut self.cells[range] {
            cell.write = access;
        }
    }

    /// Nobody touched the range.
    pub fn forget(&mut self, offset: usize, len: usize) {
        if self.cells.is_empty() {
            return;
        }
        let range = self.range(offset, len);
        self.cells[range].fill(UNTOUCHED);
    }

    /// Nothing was written to the range, of whole words of the record: multiples of 64 bytes.
    pub fn forget_contents(&mut self, offset: usize, len: usize) {
        self.written[offset / 64..(offset + len) / 64].fill(0);
    }

    /// Whether a byte was written and read since [`Self::begin`], byte by byte.
    pub fn touched(&self) -> impl Iterator<Item = (bool, bool)> {
        let touched = self.cells.iter().map(|cell| (!cell.write.is_none(), !cell.reads.is_none()));
        touched.flat_map(|cell| std::iter::repeat_n(cell, 1 << self.shift))
    }

    /// Adds a reader that does not follow the one noted: keeps those that no other follows. Two of different blocks
    /// are enough, since no write follows both.
    #[cold]
    fn add_reader(&mut self, cell: usize, who: &Accessor<'_>) {
        let first = self.cells[cell].reads;
        let list = first.as_list().unwrap_or_else(|| {
            let list = self.free_lists.pop().unwrap_or_else(|| {
                self.lists.push(Vec::new());
                self.lists.len() - 1
            });
            self.lists[list].clear();
            self.lists[list].push(first);
            self.cells[cell].reads = Access::list(list);
            list
        });
        let list = &mut self.lists[list];
        // A reader of another block is always the last one.
        if list[0].block() != list[list.len() - 1].block() {
            return;
        }
        list.retain(|&earlier| !who.follows(earlier));
        list.push(who.access);
    }
}

#[inline(always)]
fn check_write_before(cell: &Cell, who: &Accessor<'_>) -> Result<(), Conflict> {
    if cell.write.is_none() {
        return Ok(());
    }
    if cell.write.is_under_way() {
        return Err(Conflict::InFlight(cell.write));
    }
    if who.follows(cell.write) { Ok(()) } else { Err(Conflict::Race(cell.write)) }
}
