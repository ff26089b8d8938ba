//! Warpgroups: four warps that issue `wgmma` together, the products under way, and who owns what until when.
//!
//! All 128 threads must arrive at the same operation at the same source line; that orders no memory. A product owns its
//! operands in shared memory for reading from issue until a wait of its warpgroup has seen its group end: its reads are an
//! actor's of their own, the warpgroup's tensor cores, whose time is the number of the group. So whoever wants to write
//! there must come after the wait of one of the warpgroup's threads; and what the product reads must have been written
//! before the issue for all of them. Accumulators live here while they are in flight; the registers hold [`POISON`].
use super::Delivery;
use super::block::{Block, Checked};
use super::clock::{Access, Accessor, MAX_CLOCK, MAX_THREADS};
use super::descriptor::{CHUNK, Descriptor, Major};
use super::error::{Error, Kind};
use super::op::Registers;
use super::products::{Format, ROWS, from_chunks, from_registers, multiply, place};
use super::proxy::Space;
use super::site::Operation;
use super::warp::Operands;
use std::collections::VecDeque;

/// Threads of a warpgroup.
pub(super) const THREADS: u32 = 128;
/// What registers hold while tensor cores may be writing them: a NaN.
pub(super) const POISON: u32 = 0x7FBA_D0A5;
/// Registers of the largest accumulator, a thread.
const MOST_REGISTERS: usize = 128;
/// In place of an accumulator's number: one that begins with this product.
const FRESH: u32 = u32::MAX;

/// An operand in shared memory: its chunks' offsets, or what was read from them.
enum Matrix {
    Chunks(Major, Vec<usize>),
    Numbers(Vec<f64>),
}

/// A product under way.
struct Product {
    format: Format,
    columns: usize,
    accumulator: u32,
    a: Matrix,
    b: Matrix,
    add: bool,
    group: u32,
    site: u16,
}

/// An accumulator in flight.
struct Accumulator {
    /// `[64][columns]`.
    values: Vec<f32>,
    columns: usize,
    format: Format,
    /// Group and site of its last product.
    group: u32,
    site: u16,
    /// Threads that have taken their part back.
    taken: u32,
}

/// A warpgroup's state.
#[derive(Default)]
pub(super) struct Warpgroup {
    /// Warps that have arrived, a bit each.
    arrived: u32,
    pending: VecDeque<Product>,
    /// Groups committed, and how many of them a wait has seen end.
    committed: u32,
    completed: u32,
    accumulators: Vec<Option<Accumulator>>,
    /// What threads bring that begin an accumulator, [`MOST_REGISTERS`] each.
    brought: Vec<f32>,
    /// The accumulator of the last product.
    current: u32,
}

impl Warpgroup {
    pub fn clear(&mut self) {
        (self.arrived, self.committed, self.completed) = (0, 0, 0);
        self.pending.clear();
        self.accumulators.clear();
    }
}

impl Operation {
    /// Whether four warps carry it out together.
    pub const fn is_of_warpgroup(self) -> bool {
        self as u8 >= Self::WgmmaFence as u8 && self as u8 <= Self::WgmmaWaitGroup as u8
    }
}

fn major(transposed: bool) -> Major {
    if transposed { Major::Mn } else { Major::K }
}

impl Block<'_> {
    /// The current thread's warpgroup.
    fn own_warpgroup(&self) -> Checked<usize> {
        let (threads, all) = (self.launch.grid.threads, self.threads.len() as u32);
        let whole = self.current % threads / THREADS < threads / THREADS;
        if whole
            && (threads.is_multiple_of(THREADS) || self.launch.grid.cluster == 1)
            && all + all / THREADS <= MAX_THREADS
        {
            return Ok((self.current / THREADS) as usize);
        }
        let detail =
            format!("thread {} of {threads} is of no whole warpgroup that is simulated", self.current % threads);
        Err(self.error(Kind::BadOperand, detail))
    }

    /// The current thread brings the registers of its part of D to a product: in `state`, and poisoned from here on.
    /// Gives the accumulator's number.
    pub fn bring(&mut self, state: Registers, registers: &mut [f32]) -> Checked<u32> {
        let warpgroup = self.own_warpgroup()?;
        let thread = (self.current % THREADS) as usize;
        match state {
            Registers::Touched => {
                Err(self.error(Kind::MissingWgmmaFence, "the accumulator's registers are not fenced".to_owned()))
            }
            Registers::Fenced => {
                let brought = &mut self.warpgroups[warpgroup].brought;
                brought.resize(MOST_REGISTERS * THREADS as usize, 0.0);
                brought[thread * MOST_REGISTERS..][..registers.len()].copy_from_slice(registers);
                registers.fill(f32::from_bits(POISON));
                Ok(FRESH)
            }
            Registers::InFlight(number) => {
                self.check_poisoned(warpgroup, number, registers)?;
                Ok(number)
            }
        }
    }

    fn check_poisoned(&self, warpgroup: usize, number: u32, registers: &[f32]) -> Checked<&Accumulator> {
        let accumulators = &self.warpgroups[warpgroup].accumulators;
        let Some(Some(accumulator)) = accumulators.get(number as usize) else {
            return Err(self.error(Kind::BadOperand, "an accumulator that this warpgroup does not have".to_owned()));
        };
        if accumulator.columns != 2 * registers.len() {
            let detail = format!("{} registers of an accumulator of 64 × {}", registers.len(), accumulator.columns);
            return Err(self.error(Kind::BadOperand, detail));
        }
        if let Some(register) = registers.iter().position(|value| value.to_bits() != POISON) {
            let detail = format!("register {register} of the accumulator was written before the wait");
            let error = self.error(Kind::InFlight, detail);
            return Err(self.against(error, warpgroup as u32 * THREADS, accumulator.site));
        }
        Ok(accumulator)
    }

    /// After a wait: the current thread takes its part of D back.
    pub fn take(&mut self, state: Registers, registers: &mut [f32]) -> Checked<()> {
        let Registers::InFlight(number) = state else { return Ok(()) };
        let warpgroup = self.own_warpgroup()?;
        let accumulator = self.check_poisoned(warpgroup, number, registers)?;
        if accumulator.group >= self.warpgroups[warpgroup].completed {
            let detail = "the wait leaves the accumulator's last product under way".to_owned();
            let error = self.error(Kind::InFlight, detail);
            return Err(self.against(error, warpgroup as u32 * THREADS, accumulator.site));
        }
        let thread = (self.current % THREADS) as usize;
        for (register, value) in registers.iter_mut().enumerate() {
            let (row, column) = place(thread, register);
            *value = accumulator.values[row * accumulator.columns + column];
        }
        let slot = &mut self.warpgroups[warpgroup].accumulators[number as usize];
        if let Some(accumulator) = slot {
            accumulator.taken += 1;
            if accumulator.taken == THREADS {
                *slot = None;
            }
        }
        Ok(())
    }

    /// The accumulator of the current thread's last product.
    pub fn accumulator(&self) -> u32 {
        self.warpgroups[(self.current / THREADS) as usize].current
    }

    /// A whole warp arrives at an operation of its warpgroup. True: it was the last of the four.
    pub fn arrive_at_warpgroup(&mut self, operation: Operation, warp: u32) -> Checked<bool> {
        let index = self.own_warpgroup()?;
        let (first, site) = (warp / 4 * 4, self.threads[warp as usize * 32].site);
        let arrived = self.warpgroups[index].arrived;
        if arrived != 0 {
            let waiting = (first + arrived.trailing_zeros()) * 32;
            let other = self.threads[waiting as usize].site;
            if other != site {
                let detail = "warps of one warpgroup are at different operations".to_owned();
                return Err(self.against(self.error(Kind::BarrierMismatch, detail), waiting, other));
            }
        }
        self.warpgroups[index].arrived |= 1 << (warp % 4);
        if self.warpgroups[index].arrived != 0b1111 {
            return Ok(false);
        }
        self.warpgroups[index].arrived = 0;
        let lead = self.warps[first as usize].operands[0];
        match operation {
            Operation::WgmmaCommitGroup => {
                self.warpgroups[index].committed += 1;
                if self.warpgroups[index].committed >= MAX_CLOCK {
                    return Err(self.error(Kind::BoundExceeded, format!("a warpgroup committed {MAX_CLOCK} groups")));
                }
            }
            Operation::WgmmaWaitGroup => self.wait_products(index, lead[0])?,
            Operation::WgmmaBf16Ss | Operation::WgmmaBf16Rs => self.issue(index, Format::Bf16, operation, &lead)?,
            Operation::WgmmaF16Ss | Operation::WgmmaF16Rs => self.issue(index, Format::F16, operation, &lead)?,
            Operation::WgmmaE4m3Ss | Operation::WgmmaE4m3Rs => self.issue(index, Format::E4m3, operation, &lead)?,
            _ => {}
        }
        (first..first + 4).for_each(|warp| self.release(warp));
        Ok(true)
    }

    /// All four warps have brought a product's operands; `lead` are those of the first thread.
    fn issue(&mut self, index: usize, format: Format, operation: Operation, lead: &Operands) -> Checked<()> {
        let first = index as u32 * THREADS;
        let of_registers = matches!(operation, Operation::WgmmaBf16Rs | Operation::WgmmaF16Rs | Operation::WgmmaE4m3Rs);
        let alike = if of_registers { 4 } else { 6 };
        for thread in first..first + THREADS {
            let operands = &self.warps[thread as usize / 32].operands[thread as usize % 32];
            if operands[..alike] != lead[..alike] {
                let detail = "descriptors, accumulators or scale-d that are not the same in the warpgroup".to_owned();
                let error = self.error_of(thread, Kind::BadOperand, detail);
                return Err(self.against(error, first, self.threads[first as usize].site));
            }
        }
        let (columns, flags) = ((lead[0] & 0xFFFF) as usize, lead[0] >> 16);
        let transposed = |bit: u32| flags >> bit & 1 != 0;
        if format == Format::E4m3 && (transposed(1) || transposed(2)) {
            let detail = "e4m3 operands are K-major".to_owned();
            return Err(self.error_of(first, Kind::BadOperand, detail));
        }
        let site = self.threads[first as usize].site;
        let bits = |low: usize| u64::from(lead[low]) | u64::from(lead[low + 1]) << 32;
        let b = self.own_chunks(index, site, bits(1), major(transposed(2)), columns)?;
        let a = if of_registers {
            let lanes = self.warps[first as usize / 32..][..4].iter().flat_map(|warp| &warp.operands);
            Matrix::Numbers(from_registers(format, lanes.map(|words| [words[4], words[5], words[6], words[7]])))
        } else {
            self.own_chunks(index, site, bits(4), major(transposed(1)), ROWS)?
        };
        let group = self.warpgroups[index].committed;
        let accumulator = self.begin_or_continue(index, lead[3], format, columns, group, site)?;
        let mut product = Product { format, columns, accumulator, a, b, add: transposed(0), group, site };
        if self.launch.options.delivery == Delivery::Earliest {
            self.compute(index, &mut product);
        }
        self.warpgroups[index].current = accumulator;
        self.warpgroups[index].pending.push_back(product);
        Ok(())
    }

    /// The accumulator that a product adds to.
    fn begin_or_continue(
        &mut self,
        index: usize,
        number: u32,
        format: Format,
        columns: usize,
        group: u32,
        site: u16,
    ) -> Checked<u32> {
        if number == FRESH {
            let warpgroup = &mut self.warpgroups[index];
            let mut values = vec![0.0; ROWS * columns];
            for (thread, registers) in warpgroup.brought.chunks_exact(MOST_REGISTERS).enumerate() {
                for (register, &value) in registers[..columns / 2].iter().enumerate() {
                    let (row, column) = place(thread, register);
                    values[row * columns + column] = value;
                }
            }
            let fresh = Some(Accumulator { values, columns, format, group, site, taken: 0 });
            let free = warpgroup.accumulators.iter().position(Option::is_none);
            let slot = free.unwrap_or_else(|| {
                warpgroup.accumulators.push(None);
                warpgroup.accumulators.len() - 1
            });
            warpgroup.accumulators[slot] = fresh;
            return Ok(slot as u32);
        }
        let before = self.warpgroups[index].accumulators[number as usize].as_mut();
        if let Some(accumulator) = before {
            let same_shape = accumulator.format.depth() == format.depth();
            let other = accumulator.site;
            (accumulator.format, accumulator.group, accumulator.site) = (format, group, site);
            if !same_shape {
                let detail = "the accumulator is another shape's, and not fenced since".to_owned();
                let first = index as u32 * THREADS;
                return Err(self.against(self.error_of(first, Kind::MissingWgmmaFence, detail), first, other));
            }
        }
        Ok(number)
    }

    /// The offsets of an operand's chunks in shared memory, which the tensor cores read from now on.
    fn own_chunks(&mut self, index: usize, site: u16, bits: u64, major: Major, rows: usize) -> Checked<Matrix> {
        let (first, threads) = (index as u32 * THREADS, self.threads.len() as u32);
        let chunks = Descriptor::decode(bits).and_then(|descriptor| descriptor.chunks(major, rows as u32, 8));
        let mut chunks = match chunks {
            Ok(addresses) => addresses.iter().map(|&address| address as usize).collect::<Vec<_>>(),
            Err((kind, detail)) => return Err(self.error_of(first, kind, detail)),
        };
        let seen = self.clocks.seen_by_all(first..first + THREADS);
        let clock = self.warpgroups[index].committed + 1;
        let who = Accessor::new(Access::new(self.index, threads + index as u32, clock, site), &seen);
        for chunk in &mut chunks {
            *chunk = self.shared_range(first, *chunk as u32, CHUNK as usize)?;
            let shown = |write| self.proxies.shows(Space::Shared, &who, write, threads);
            let read = self.shared.read(&who, *chunk, CHUNK as usize);
            let visible = read.and_then(|()| self.shared.check_shown(*chunk, CHUNK as usize, shown));
            if let Err(conflict) = visible {
                return Err(self.shared_conflict(first, conflict, *chunk));
            }
        }
        Ok(Matrix::Chunks(major, chunks))
    }

    /// `wgmma.wait_group`: completes all but the `newest` groups.
    fn wait_products(&mut self, index: usize, newest: u32) -> Checked<()> {
        let warpgroup = &self.warpgroups[index];
        let completed = warpgroup.completed.max(warpgroup.committed.saturating_sub(newest));
        while let Some(mut product) = self.warpgroups[index].pending.pop_front_if(|product| product.group < completed) {
            if self.launch.options.delivery == Delivery::Latest {
                self.compute(index, &mut product);
            }
        }
        self.warpgroups[index].completed = completed;
        let (first, threads) = (index as u32 * THREADS, self.threads.len() as u32);
        self.clocks.observe(first..first + THREADS, threads + index as u32, completed);
        Ok(())
    }

    fn compute(&mut self, index: usize, product: &mut Product) {
        let (format, columns) = (product.format, product.columns);
        let depth = format.depth();
        let shared = &self.shared;
        let numbers = |matrix: &mut Matrix, rows: usize, at: &dyn Fn(usize, usize) -> usize| match matrix {
            Matrix::Numbers(numbers) => std::mem::take(numbers),
            Matrix::Chunks(major, chunks) => {
                let bytes = chunks.iter().map(|&offset| shared.bytes(offset, CHUNK as usize));
                let mut matrix = vec![0.0; rows * depth];
                from_chunks(format, *major, rows, bytes, &mut matrix, at);
                matrix
            }
        };
        let a = numbers(&mut product.a, ROWS, &|row, k| row * depth + k);
        let b = numbers(&mut product.b, columns, &|column, k| k * columns + column);
        if let Some(accumulator) = &mut self.warpgroups[index].accumulators[product.accumulator as usize] {
            multiply(&mut accumulator.values, product.add, &a, &b, columns);
        }
    }

    /// The current thread exits: what its warpgroup leaves behind, or who waits for it.
    pub fn warpgroup_left(&mut self) -> Option<Box<Error>> {
        let index = (self.current / THREADS) as usize;
        let warpgroup = self.warpgroups.get(index)?;
        let first = index as u32 * THREADS;
        if warpgroup.arrived != 0 {
            let waiting = first + 32 * warpgroup.arrived.trailing_zeros();
            let detail = format!("thread {} exits without it", self.current);
            return Some(self.error_of(waiting, Kind::BarrierMismatch, detail));
        }
        let (product, count) = (warpgroup.pending.front()?, warpgroup.pending.len());
        let site = product.site;
        self.threads[self.current as usize].site = site;
        let detail = format!("{count} products not waited for, the oldest named here");
        Some(self.error(Kind::Leak, detail))
    }

    /// Nobody can run, and a warpgroup waits for one of its warps.
    pub fn warpgroup_stalled(&self) -> Option<Box<Error>> {
        let index = self.warpgroups.iter().position(|warpgroup| warpgroup.arrived != 0)? as u32;
        let arrived = self.warpgroups[index as usize].arrived;
        let (there, missing) = (arrived.trailing_zeros(), arrived.trailing_ones());
        let missing = index * THREADS + 32 * if there == 0 { missing } else { 0 };
        let waiting = index * THREADS + 32 * there;
        let detail =
            format!("it waits for threads {missing} to {} of its warpgroup, which are elsewhere", missing + 31);
        let error = self.error_of(waiting, Kind::BarrierMismatch, detail);
        Some(self.against(error, missing, self.threads[missing as usize].site))
    }
}
