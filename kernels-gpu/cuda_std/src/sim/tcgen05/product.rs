//! `tcgen05.mma`: operands found and checked when it is issued, D computed in the order of issue.
use super::commit::Item;
use super::operands::{Instruction, Place};
use super::{LANES, Segment, cell};
use crate::sim::Delivery;
use crate::sim::arithmetic::canonical;
use crate::sim::block::{Block, Checked, SHARED_ORIGIN};
use crate::sim::clock::{Access, Accessor};
use crate::sim::descriptor::{CHUNK, Descriptor, Major};
use crate::sim::error::Kind;
use crate::sim::products::{Format, from_chunks};
use crate::sim::proxy::Space;
use std::ops::Range;

/// Columns of A in tensor memory: K is 32 bytes.
const A_COLUMNS: u32 = 8;

/// What a thread issues.
pub(in crate::sim) struct Request {
    /// `kind::f16`, else `kind::f8f6f4`.
    pub wide: bool,
    pub group: u32,
    pub d: u32,
    /// A descriptor, or an address in tensor memory.
    pub a: Result<u64, u32>,
    pub b: u64,
    pub instruction: u32,
    pub add: bool,
}

/// Where a block's part of an operand is.
enum Matrix {
    /// Offsets in shared memory.
    Chunks(Vec<usize>),
    /// The first column of tensor memory.
    Lanes(u32),
}

/// A product under way.
pub(super) struct Product {
    instruction: Instruction,
    ranks: Range<u32>,
    lane: u32,
    column: u32,
    /// By rank.
    a: Vec<Matrix>,
    b: Vec<Matrix>,
    add: bool,
}

impl Block<'_> {
    /// `tcgen05.mma` of the current thread.
    pub fn tensor_multiply(&mut self, site: u16, request: &Request) -> Checked<()> {
        let Request { group, d, add, .. } = *request;
        self.tensor_group(group)?;
        let instruction = Instruction::decode(request.instruction, request.wide, group)
            .map_err(|(kind, detail)| self.error(kind, detail))?;
        let ranks = self.tensor_ranks(group);
        let (lane, column) = (d >> 16, d & 0xFFFF);
        if !instruction.begins_in(lane) {
            let detail = format!("D begins in lane {lane}; allowed is 0, and 16 for M = 64 of one block");
            return Err(self.error(Kind::BadOperand, detail));
        }
        let (thread, time) = (self.current, self.issue_time()?);
        let access = Access::new(self.index, self.issuer_slot(thread)?, time, site);
        let (seen, view) = (self.clocks.seen_with_own(thread), self.issue_view(thread)?);
        let (memory, shared) = (Accessor::new(access, &view), Accessor::new(access, &seen));
        let [a_rows, b_rows] = instruction.rows();
        let mut product =
            Product { instruction, ranks: ranks.clone(), lane, column, a: Vec::new(), b: Vec::new(), add };
        for rank in ranks {
            product.a.push(match request.a {
                Ok(bits) => self.smem_operand(&shared, rank, bits, instruction.a, instruction.a_major, a_rows)?,
                Err(at) => self.tmem_operand(&memory, rank, at, d, &instruction)?,
            });
            product.b.push(self.smem_operand(&shared, rank, request.b, instruction.b, instruction.b_major, b_rows)?);
            self.claim_result(&memory, rank, &product)?;
        }
        if self.launch.options.delivery == Delivery::Earliest {
            self.compute_tensor(&product);
            return self.issued(site, None);
        }
        self.issued(site, Some(Item::Product(product)))
    }

    /// What the tensor cores know of tensor memory when `thread` issues: its view, and its own warp's loads and stores.
    pub(super) fn issue_view(&mut self, thread: u32) -> Checked<Vec<u32>> {
        let mut view = self.tensor_view(thread).to_vec();
        if let Some(moves) = self.tensor.moves.get(&(thread / 32)) {
            let (slot, time) = (moves.slot() as usize, moves.time());
            view.resize(view.len().max(slot + 1), 0);
            view[slot] = time;
        }
        Ok(view)
    }

    /// An operand in the shared memory of the block of that rank, which the tensor cores read from now on.
    fn smem_operand(
        &mut self,
        who: &Accessor<'_>,
        rank: u32,
        bits: u64,
        format: Format,
        major: Major,
        rows: u32,
    ) -> Checked<Matrix> {
        let chunks = Descriptor::decode_tcgen05(bits)
            .and_then(|descriptor| descriptor.chunks(major, rows, format.per_chunk() as u32));
        let addresses = chunks.map_err(|(kind, detail)| self.error(kind, detail))?;
        self.smem_chunks(who, rank, &addresses).map(Matrix::Chunks)
    }

    /// The offsets of chunks at addresses in the block of that rank, which the tensor cores may read, and do from now on.
    pub(super) fn smem_chunks(&mut self, who: &Accessor<'_>, rank: u32, addresses: &[u32]) -> Checked<Vec<usize>> {
        let (thread, threads, len) = (self.current, self.threads.len() as u32, CHUNK as usize);
        let base = rank as usize * super::shared_stride(self.launch.grid);
        let mut offsets = Vec::with_capacity(addresses.len());
        for &address in addresses {
            let at = address.wrapping_sub(SHARED_ORIGIN) as usize;
            if at + len > self.shared_bytes {
                let all = self.shared_bytes;
                let detail = format!("{len} bytes of an operand at shared {address:#x}, outside of the block's {all}");
                return Err(self.error(Kind::OutOfBounds, detail));
            }
            let offset = base + at;
            let shown = |write| self.proxies.shows(Space::Shared, who, write, threads);
            let read = self.shared.read(who, offset, len);
            if let Err(conflict) = read.and_then(|()| self.shared.check_shown(offset, len, shown)) {
                return Err(self.shared_conflict(thread, conflict, offset));
            }
            offsets.push(offset);
        }
        Ok(offsets)
    }

    /// A in the tensor memory of the block of that rank.
    fn tmem_operand(
        &mut self,
        who: &Accessor<'_>,
        rank: u32,
        at: u32,
        d: u32,
        instruction: &Instruction,
    ) -> Checked<Matrix> {
        let (lane, column) = (at >> 16, at & 0xFFFF);
        if lane != d >> 16 || instruction.a_major != Major::K {
            let detail = "A in tensor memory is K-major, and in the lanes of D".to_owned();
            return Err(self.error(Kind::BadOperand, detail));
        }
        let columns = column..column + A_COLUMNS;
        let result = d & 0xFFFF;
        if columns.start < result + instruction.width() && result < columns.end {
            return Err(self.error(Kind::BadOperand, "A and D in the same columns of tensor memory".to_owned()));
        }
        self.check_allocated(rank, &columns)?;
        for Place { lane, .. } in instruction.places(lane) {
            let at = cell(lane, column);
            if let Err(conflict) = self.tensor.memory[rank as usize].read(who, at, A_COLUMNS as usize * 4) {
                return Err(self.tensor_conflict(self.current, conflict, rank, at));
            }
        }
        Ok(Matrix::Lanes(column))
    }

    /// D in the block of that rank: what it adds to is read, and written from now on.
    fn claim_result(&mut self, who: &Accessor<'_>, rank: u32, product: &Product) -> Checked<()> {
        let Product { instruction, lane, column, add, .. } = *product;
        let (columns, len) = (column..column + instruction.width(), instruction.width() as usize * 4);
        self.check_allocated(rank, &columns)?;
        self.check_no_load(rank, 0..LANES, &columns)?;
        for Place { lane, .. } in instruction.places(lane) {
            let at = cell(lane, column);
            let memory = &mut self.tensor.memory[rank as usize];
            let read = if add { memory.check_read(who, at, len) } else { Ok(()) };
            if let Err(conflict) = read.and_then(|()| memory.write(who, at, len)) {
                return Err(self.tensor_conflict(self.current, conflict, rank, at));
            }
            memory.mark_written(at, len);
        }
        Ok(())
    }

    /// D of a product, now.
    pub(super) fn compute_tensor(&mut self, product: &Product) {
        let Product { instruction, ref ranks, lane, column, add, .. } = *product;
        let (depth, n, width) = (instruction.depth(), instruction.n as usize, instruction.width() as usize);
        let [a_rows, b_rows] = instruction.rows();
        let chunks = |offsets: &[usize]| -> Vec<&[u8]> {
            offsets.iter().map(|&offset| self.shared.bytes(offset, CHUNK as usize)).collect()
        };
        let mut b = vec![0.0; depth * n];
        for (part, matrix) in product.b.iter().enumerate() {
            if let Matrix::Chunks(offsets) = matrix {
                let at = |column: usize, k: usize| k * n + part * b_rows as usize + column;
                let chunks = chunks(offsets).into_iter();
                from_chunks(instruction.b, instruction.b_major, b_rows as usize, chunks, &mut b, at);
            }
        }
        let mut lines: Vec<(u32, usize, Vec<u8>)> = Vec::new();
        for (rank, matrix) in ranks.clone().zip(&product.a) {
            let memory = &self.tensor.memory[rank as usize];
            let mut a = vec![0.0; a_rows as usize * depth];
            if let Matrix::Chunks(offsets) = matrix {
                let at = |row: usize, k: usize| row * depth + k;
                let chunks = chunks(offsets).into_iter();
                from_chunks(instruction.a, instruction.a_major, a_rows as usize, chunks, &mut a, at);
            }
            for Place { lane, row, first } in instruction.places(lane) {
                let row = &mut a[row as usize * depth..][..depth];
                if let Matrix::Lanes(column) = *matrix {
                    let bytes = memory.bytes(cell(lane, column), A_COLUMNS as usize * 4);
                    instruction.a.numbers(bytes, |k, number| row[k] = number);
                }
                let at = cell(lane, column);
                let d = line(memory, at, width, add, row, &b[first as usize..], n);
                lines.push((rank, at, d));
            }
        }
        for (rank, at, line) in lines {
            self.tensor.memory[rank as usize].store(at, &line);
        }
    }
}

/// A lane's D: `width` sums over K of `a` and the columns of `b`, which are `stride` apart along K, rounded once.
fn line(memory: &Segment, at: usize, width: usize, add: bool, a: &[f64], b: &[f64], stride: usize) -> Vec<u8> {
    let mut sums = [0.0f64; 256];
    let sums = &mut sums[..width];
    for (factor, b) in a.iter().zip(b.chunks(stride)) {
        sums.iter_mut().zip(b).for_each(|(sum, value)| *sum += factor * value);
    }
    let before = memory.bytes(at, width * 4).chunks_exact(4);
    let round = |(sum, word): (&f64, &[u8])| {
        let before = f32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        canonical((sum + if add { f64::from(before) } else { 0.0 }) as f32).to_le_bytes()
    };
    sums.iter().zip(before).flat_map(round).collect()
}
