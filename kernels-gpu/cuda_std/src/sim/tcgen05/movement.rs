//! `tcgen05.ld`, `.st` and their waits: a warp's way between tensor memory and its registers.
use super::{Conflict, Segment, cell};
use crate::sim::Delivery;
use crate::sim::block::{Block, Checked};
use crate::sim::clock::{Access, Accessor, MAX_CLOCK};
use crate::sim::error::Kind;
use crate::sim::op::Load;
use crate::sim::warpgroup::POISON;
use std::ops::Range;

/// Cells of a warp's 32 lanes.
#[derive(Clone)]
struct Cells {
    rank: u32,
    lane: u32,
    columns: Range<u32>,
    site: u16,
    /// Lanes that nothing was written to, a bit each.
    blank: u32,
    /// `[32][columns]`: of a load once it has read, of a store until it has written.
    words: Vec<u32>,
}

/// A load that lanes have not all taken the registers of.
struct Loading {
    number: u32,
    cells: Cells,
    waited: bool,
    taken: u32,
}

/// A warp's loads and stores.
pub(super) struct Moves {
    slot: u32,
    /// Its time: one more with the first that ends after a fence has published the time before.
    time: u32,
    published: bool,
    /// By time, the lead thread's clock when the last one ended.
    ended: Vec<u32>,
    lead: u32,
    loads: Vec<Loading>,
    stores: Vec<Cells>,
    /// What lanes bring to a store.
    brought: Vec<Vec<u32>>,
    numbers: u32,
}

impl Moves {
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// The warp's slot in the clocks, and the time that a fence shows to others.
    pub fn publish(&mut self) -> (u32, u32) {
        self.published = true;
        (self.slot, self.time)
    }

    /// Thread and clock at which what was done at `time` had ended.
    pub fn ended(&self, time: u32) -> Option<(u32, u32)> {
        self.ended.get(time as usize).map(|&clock| (self.lead, clock))
    }

    /// The last time of which all has ended at a clock of the lead thread that is `seen`.
    pub fn ended_before(&self, seen: impl Fn(u32, u32) -> bool) -> u32 {
        self.ended.iter().rposition(|&clock| seen(self.lead, clock)).unwrap_or(0) as u32
    }

    /// The time of what has ended.
    pub fn time(&self) -> u32 {
        self.time
    }

    /// What was not waited for.
    pub fn outstanding(&self) -> Option<(u16, &'static str)> {
        let load = self.loads.iter().find(|load| !load.waited).map(|load| (load.cells.site, "a load"));
        load.or(self.stores.first().map(|store| (store.site, "a store")))
    }
}

impl Block<'_> {
    /// The slot in the clocks of a warp's loads and stores.
    pub(super) fn moves_of(&mut self, warp: u32) -> Checked<u32> {
        if let Some(moves) = self.tensor.moves.get(&warp) {
            return Ok(moves.slot);
        }
        let slot = self.tensor_slot(warp * 32)?;
        let moves = Moves {
            slot,
            time: 1,
            published: false,
            ended: vec![0; 2],
            lead: warp * 32,
            loads: Vec::new(),
            stores: Vec::new(),
            brought: vec![Vec::new(); 32],
            numbers: 0,
        };
        self.tensor.moves.insert(warp, moves);
        Ok(slot)
    }

    fn moves(&mut self, warp: u32) -> Checked<&mut Moves> {
        let slot = self.moves_of(warp)?;
        match self.tensor.moves.get_mut(&warp) {
            Some(moves) => Ok(moves),
            None => unreachable!("slot {slot} was just made"),
        }
    }

    /// The current thread's values for a store that its warp is about to arrive at.
    pub fn tensor_bring(&mut self, values: &[u32]) -> Checked<()> {
        let lane = (self.current % 32) as usize;
        self.moves(self.current / 32)?.brought[lane] = values.to_vec();
        Ok(())
    }

    /// The cells that a whole warp names.
    fn warp_cells(&mut self, warp: u32) -> Checked<Cells> {
        let [at, count] = self.alike(warp)?;
        let thread = warp * 32;
        let rank = self.rank_of(thread);
        let (lane, columns) = (at >> 16, (at & 0xFFFF)..(at & 0xFFFF) + count);
        let own = self.index_of(thread) / 32 % 4 * 32;
        if lane != own {
            let detail =
                format!("lane {lane}; warp {} reaches lanes {own} to {}", self.index_of(thread) / 32, own + 31);
            return Err(self.error(Kind::BadOperand, detail));
        }
        self.check_allocated(rank, &columns)?;
        Ok(Cells { rank, lane, columns, site: self.threads[thread as usize].site, blank: 0, words: Vec::new() })
    }

    /// Checks that an allocation of the block of that rank holds the columns.
    pub(super) fn check_allocated(&self, rank: u32, columns: &Range<u32>) -> Checked<()> {
        if self.tensor.allocations.get(rank as usize).is_some_and(|own| own.holds(columns)) {
            return Ok(());
        }
        let detail = format!("columns {} to {} of tensor memory, in no allocation", columns.start, columns.end - 1);
        Err(self.error(Kind::OutOfBounds, detail))
    }

    /// Checks that no warp's load of the columns is under way, in `lanes`.
    pub(super) fn check_no_load(&self, rank: u32, lanes: Range<u32>, columns: &Range<u32>) -> Checked<()> {
        let meets = |load: &&Loading| {
            let cells = &load.cells;
            let apart = cells.columns.end <= columns.start || columns.end <= cells.columns.start;
            !load.waited && cells.rank == rank && lanes.contains(&cells.lane) && !apart
        };
        let found = self.tensor.moves.iter().find_map(|(&warp, moves)| Some((warp, moves.loads.iter().find(meets)?)));
        let Some((warp, load)) = found else { return Ok(()) };
        let detail = format!("columns {} to {} of tensor memory are being loaded", columns.start, columns.end - 1);
        Err(self.against(self.error(Kind::InFlight, detail), warp * 32, load.cells.site))
    }

    /// Each lane's access to its cells, with what its thread knows.
    fn each_lane(
        &mut self,
        warp: u32,
        cells: &Cells,
        time: u32,
        mut act: impl FnMut(&mut Segment, &Accessor<'_>, usize, usize) -> Result<(), Conflict>,
    ) -> Checked<()> {
        let slot = self.moves_of(warp)?;
        let access = Access::new(self.index, slot, time, cells.site);
        for lane in 0..32 {
            let thread = warp * 32 + lane;
            let view = self.tensor_view(thread);
            let who = Accessor::new(access, &view);
            let (at, len) = (cell(cells.lane + lane, cells.columns.start), cells.columns.len() * 4);
            if let Err(conflict) = act(&mut self.tensor.memory[cells.rank as usize], &who, at, len) {
                return Err(self.tensor_conflict(thread, conflict, cells.rank, at));
            }
        }
        Ok(())
    }

    /// What is in the cells; of blank lanes a NaN.
    fn read_words(&self, cells: &mut Cells) {
        let memory = &self.tensor.memory[cells.rank as usize];
        let rows = (cells.lane..cells.lane + 32)
            .flat_map(|lane| memory.bytes(cell(lane, cells.columns.start), cells.columns.len() * 4).chunks_exact(4));
        cells.words = rows.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
        for (lane, words) in cells.words.chunks_exact_mut(cells.columns.len()).enumerate() {
            if cells.blank >> lane & 1 != 0 {
                words.fill(POISON);
            }
        }
    }

    fn write_words(&mut self, cells: &Cells) {
        let memory = &mut self.tensor.memory[cells.rank as usize];
        for (lane, words) in (cells.lane..).zip(cells.words.chunks_exact(cells.columns.len())) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            memory.store(cell(lane, cells.columns.start), &bytes);
        }
    }

    /// `tcgen05.ld.32x32b` of a whole warp. Each lane's result is the load's number.
    pub fn load_cells(&mut self, warp: u32) -> Checked<()> {
        let mut cells = self.warp_cells(warp)?;
        // A product of M = 64 leaves one half of a warp's lanes alone, and a load cannot.
        let (mut lane, mut blank) = (0, 0u32);
        self.each_lane(warp, &cells, 1, |memory, who, at, len| {
            lane += 1;
            match memory.check_read(who, at, len) {
                Err(Conflict::Uninitialised(_)) => blank |= 1 << (lane - 1),
                checked => checked?,
            }
            Ok(())
        })?;
        if !matches!(blank, 0 | 0xFFFF | 0xFFFF_0000) {
            self.each_lane(warp, &cells, 1, |memory, who, at, len| memory.check_read(who, at, len))?;
        }
        cells.blank = blank;
        if self.launch.options.delivery == Delivery::Earliest {
            self.read_words(&mut cells);
        }
        let moves = self.moves(warp)?;
        let number = moves.numbers;
        moves.numbers += 1;
        moves.loads.push(Loading { number, cells, waited: false, taken: 0 });
        self.warps[warp as usize].results.iter_mut().for_each(|lane| lane[0] = number);
        Ok(())
    }

    /// The time of a warp's loads or stores that end now.
    fn end_moves(&mut self, warp: u32) -> Checked<u32> {
        let clock = self.clocks.accessor(self.index, warp * 32, 0).access.clock();
        let moves = self.moves(warp)?;
        if moves.published {
            moves.published = false;
            moves.time += 1;
            moves.ended.push(0);
        }
        let time = moves.time;
        moves.ended[time as usize] = clock;
        if time >= MAX_CLOCK {
            return Err(self.error(Kind::BoundExceeded, format!("a warp published {MAX_CLOCK} times")));
        }
        Ok(time)
    }

    /// `tcgen05.wait::ld` of a whole warp.
    pub fn tensor_wait_loads(&mut self, warp: u32) -> Checked<()> {
        let mut loads = std::mem::take(&mut self.moves(warp)?.loads);
        if loads.iter().any(|load| !load.waited) {
            let time = self.end_moves(warp)?;
            for load in loads.iter_mut().filter(|load| !load.waited) {
                load.waited = true;
                self.each_lane(warp, &load.cells, time, |memory, who, at, len| match memory.read(who, at, len) {
                    Err(Conflict::Uninitialised(_)) => Ok(()), // of a blank lane
                    read => read,
                })?;
                if self.launch.options.delivery == Delivery::Latest {
                    self.read_words(&mut load.cells);
                }
            }
        }
        self.moves(warp)?.loads = loads;
        Ok(())
    }

    /// After a wait: the current thread takes its registers of a load.
    pub fn tensor_take(&mut self, load: Load, registers: &mut [u32]) -> Checked<()> {
        let (lane, warp) = (self.current % 32, self.current / 32);
        let moves = self.moves(warp)?;
        let Some(index) = moves.loads.iter().position(|other| other.number == load.0 && other.waited) else {
            return Err(self.error(Kind::InFlight, "registers of a load that its warp has not waited for".to_owned()));
        };
        let loading = &mut moves.loads[index];
        let site = loading.cells.site;
        let width = loading.cells.columns.len();
        let written = registers.iter().position(|&value| value != POISON);
        registers.copy_from_slice(&loading.cells.words[lane as usize * width..][..width]);
        loading.taken += 1;
        if loading.taken == 32 {
            moves.loads.remove(index);
        }
        if let Some(register) = written {
            let detail = format!("register {register} of the load was written before the wait");
            return Err(self.against(self.error(Kind::InFlight, detail), warp * 32, site));
        }
        Ok(())
    }

    /// `tcgen05.st.32x32b` of a whole warp.
    pub fn store_cells(&mut self, warp: u32) -> Checked<()> {
        let mut cells = self.warp_cells(warp)?;
        self.check_no_load(cells.rank, cells.lane..cells.lane + 1, &cells.columns)?;
        let time = self.moves(warp)?.time;
        self.each_lane(warp, &cells, time, |memory, who, at, len| memory.claim(who, at, len))?;
        cells.words = self.moves(warp)?.brought.iter_mut().flat_map(std::mem::take).collect();
        if self.launch.options.delivery == Delivery::Earliest {
            self.write_words(&cells);
        }
        self.moves(warp)?.stores.push(cells);
        Ok(())
    }

    /// `tcgen05.wait::st` of a whole warp.
    pub fn tensor_wait_stores(&mut self, warp: u32) -> Checked<()> {
        let stores = std::mem::take(&mut self.moves(warp)?.stores);
        if stores.is_empty() {
            return Ok(());
        }
        let time = self.end_moves(warp)?;
        for cells in stores {
            if self.launch.options.delivery == Delivery::Latest {
                self.write_words(&cells);
            }
            self.each_lane(warp, &cells, time, |memory, who, at, len| {
                memory.settle(who, at, len);
                Ok(())
            })?;
        }
        Ok(())
    }
}
