//! Rendezvous: operations that a whole warp carries out together, and barriers of several warps.
//!
//! All 32 lanes must arrive at the same operation at the same source line; the last one carries it out for all. Barriers
//! of a block are `.aligned`: each warp arrives as one. Barriers order memory among their participants; shuffles,
//! `ldmatrix` and `mma` do not.
use super::arithmetic::{MmaOperands, mma_m16n8k16};
use super::block::{Block, Checked, Thread};
use super::error::Kind;
use super::site::Operation;
use half::{bf16, f16};

/// What a lane brings.
pub(super) type Operands = MmaOperands;

/// A warp's rendezvous under way.
#[derive(Default)]
pub(super) struct Warp {
    /// Lanes that have arrived, a bit each.
    arrived: u32,
    exited: u32,
    pub operands: [Operands; 32],
    pub results: [[u32; 4]; 32],
}

impl Warp {
    pub fn clear(&mut self) {
        (self.arrived, self.exited) = (0, 0);
    }
}

/// One of a block's 16 barriers.
#[derive(Default)]
pub(super) struct Barrier {
    /// Threads that it waits for, once a warp has arrived.
    threads: u32,
    /// Warps that wait.
    warps: Vec<u32>,
    /// Warps that arrived and went on (`bar.arrive`), and their clocks.
    passed: Vec<u32>,
    released: Vec<u32>,
}

impl Barrier {
    pub fn clear(&mut self) {
        self.warps.clear();
        self.passed.clear();
        self.released.clear();
    }
}

impl Block<'_> {
    /// The current thread arrives with its operands. True: it must wait until another lane or warp has completed the
    /// operation; false: this arrival completed it.
    pub fn arrive(&mut self, operation: Operation, operands: &[u32]) -> Checked<bool> {
        if self.failure.is_some() {
            // A destructor, run as its thread unwinds: nobody will come.
            return Ok(false);
        }
        let (thread, warp) = (self.current, (self.current / 32) as usize);
        let lane = thread % 32;
        let state = &mut self.warps[warp];
        if state.exited != 0 {
            let exited = thread - lane + state.exited.trailing_zeros();
            let detail = format!("thread {} of its warp has exited", self.index_of(exited));
            return Err(self.error(Kind::BarrierMismatch, detail));
        }
        if state.arrived != 0 {
            let first = thread - lane + state.arrived.trailing_zeros();
            let site = self.threads[first as usize].site;
            if site != self.threads[thread as usize].site {
                let detail = "lanes of one warp are at different operations".to_owned();
                return Err(self.against(self.error(Kind::BarrierMismatch, detail), first, site));
            }
        }
        state.operands[lane as usize][..operands.len()].copy_from_slice(operands);
        state.arrived |= 1 << lane;
        if state.arrived != u32::MAX || !self.carry_out(operation, warp as u32)? {
            self.threads[thread as usize].waiting = true;
            return Ok(true);
        }
        Ok(false)
    }

    /// All lanes are there. False: the warp waits for others at a barrier.
    fn carry_out(&mut self, operation: Operation, warp: u32) -> Checked<bool> {
        let first = warp * 32;
        let state = &mut self.warps[warp as usize];
        let operands = &state.operands;
        match operation {
            Operation::SyncThreads | Operation::BarSync => return self.arrive_at_barrier(warp, true),
            Operation::BarArrive => drop(self.arrive_at_barrier(warp, false)?),
            Operation::ElectSync => (0..32).for_each(|lane| state.results[lane][0] = u32::from(lane == 0)),
            Operation::SetmaxnregInc | Operation::SetmaxnregDec => {
                let wanted = operands[0][0];
                if let Some(lane) = (0..32).find(|&lane| operands[lane][0] != wanted) {
                    let detail = format!("lanes of one warp name {wanted} and {} registers", operands[lane][0]);
                    return Err(self.error(Kind::BarrierMismatch, detail));
                }
                if !self.set_registers(operation, warp, wanted)? {
                    return Ok(false);
                }
            }
            Operation::ClusterArrive => self.arrive_at_cluster(warp, true)?,
            Operation::ClusterArriveRelaxed => self.arrive_at_cluster(warp, false)?,
            Operation::ClusterWait => {
                let passed = self.wait_for_cluster(warp)?;
                if !passed {
                    return Ok(false);
                }
            }
            Operation::BarWarpSync => self.order(first..first + 32)?,
            Operation::ShflBfly => {
                for lane in 0..32 {
                    let source = lane ^ (operands[lane][1] as usize % 32);
                    state.results[lane][0] = operands[source][0];
                }
            }
            Operation::ShflIdx => {
                for lane in 0..32 {
                    state.results[lane][0] = operands[operands[lane][1] as usize % 32][0];
                }
            }
            Operation::VoteAny => {
                let any = operands.iter().any(|lane| lane[0] != 0);
                state.results.iter_mut().for_each(|lane| lane[0] = u32::from(any));
            }
            Operation::Movmatrix => {
                // Row lane / 4, columns 2 (lane % 4) and the next; element (i, j) of the result is (j, i).
                let element =
                    |row: usize, column: usize| operands[4 * row + column / 2][0] >> (16 * (column % 2)) & 0xFFFF;
                for lane in 0..32 {
                    let (row, column) = (lane / 4, lane % 4 * 2);
                    state.results[lane][0] = element(column, row) | element(column + 1, row) << 16;
                }
            }
            Operation::MmaBf16 => state.results = mma_m16n8k16::<bf16>(operands),
            Operation::MmaF16 => state.results = mma_m16n8k16::<f16>(operands),
            Operation::LdmatrixX4 => self.load_matrices(warp, false)?,
            Operation::LdmatrixX4Trans => self.load_matrices(warp, true)?,
            Operation::StmatrixX4 => self.store_matrices(warp)?,
            Operation::Tcgen05Alloc | Operation::Tcgen05Dealloc | Operation::Tcgen05RelinquishAllocPermit => {
                return self.tensor_columns(operation, warp);
            }
            Operation::Tcgen05Ld => self.load_cells(warp)?,
            Operation::Tcgen05WaitLd => self.tensor_wait_loads(warp)?,
            Operation::Tcgen05St => self.store_cells(warp)?,
            Operation::Tcgen05WaitSt => self.tensor_wait_stores(warp)?,
            operation if operation.is_of_warpgroup() => return self.arrive_at_warpgroup(operation, warp),
            _ => {}
        }
        self.release(warp);
        Ok(true)
    }

    /// `ldmatrix .x4`: lane 8 i + r names row r of matrix i; lane l gets elements (l / 4, l % 4 * 2 and the next) of
    /// each, or with `transposed` the elements at those places of its transpose.
    fn load_matrices(&mut self, warp: u32, transposed: bool) -> Checked<()> {
        let mut rows = [[0u16; 8]; 32];
        for (lane, row) in (0..).zip(&mut rows) {
            let address = self.warps[warp as usize].operands[lane as usize][0];
            let thread = warp * 32 + lane;
            let bytes: [u8; 16] = self.load_shared_for(thread, self.threads[thread as usize].site, address)?;
            for (element, pair) in row.iter_mut().zip(bytes.chunks_exact(2)) {
                *element = u16::from_le_bytes([pair[0], pair[1]]);
            }
        }
        for (lane, result) in self.warps[warp as usize].results.iter_mut().enumerate() {
            let (row, column) = (lane / 4, lane % 4 * 2);
            for (matrix, register) in result.iter_mut().enumerate() {
                let element = |row: usize, column: usize| u32::from(rows[matrix * 8 + row][column]);
                *register = if transposed {
                    element(column, row) | element(column + 1, row) << 16
                } else {
                    element(row, column) | element(row, column + 1) << 16
                };
            }
        }
        Ok(())
    }

    /// `stmatrix .x4`: lane 8 i + r names row r of matrix i, and is who writes it; lane l has elements (l / 4, l % 4 * 2 and the
    /// next) of each.
    fn store_matrices(&mut self, warp: u32) -> Checked<()> {
        for lane in 0..32 {
            let operands = &self.warps[warp as usize].operands;
            let (matrix, row) = (lane / 8, lane % 8);
            let mut bytes = [0; 16];
            for (of_row, word) in bytes.chunks_exact_mut(4).enumerate() {
                word.copy_from_slice(&operands[4 * row + of_row][1 + matrix].to_le_bytes());
            }
            let (address, thread) = (operands[lane][0], warp * 32 + lane as u32);
            self.store_shared_for(thread, self.threads[thread as usize].site, address, &bytes)?;
        }
        Ok(())
    }

    /// A whole warp arrives at a barrier of the block, and `waits` there or goes on. True: it was the last one.
    fn arrive_at_barrier(&mut self, warp: u32, waits: bool) -> Checked<bool> {
        let block_threads = self.width;
        let rank = self.rank_of(warp * 32);
        let lanes = &self.warps[warp as usize].operands;
        let [index, threads] = [lanes[0][0], lanes[0][1]];
        if let Some(lane) = (0..32).find(|&lane| lanes[lane][..2] != [index, threads]) {
            let [other_index, other_threads] = [lanes[lane][0], lanes[lane][1]];
            let detail = format!(
                "lanes of one warp name barrier {index} of {threads} threads and barrier {other_index} of {other_threads}"
            );
            return Err(self.error(Kind::BarrierMismatch, detail));
        }
        if index >= 16 || threads == 0 || !threads.is_multiple_of(32) || threads > block_threads {
            let detail = format!(
                "barrier {index} of {threads} threads; allowed are barriers 0 to 15 and multiples of 32 up to {block_threads}"
            );
            return Err(self.error(Kind::BadOperand, detail));
        }
        if threads == block_threads
            && let Some(exited) = self.first_missing(rank, index)
        {
            let detail = format!("it waits for all threads of the block, and thread {exited} has exited");
            return Err(self.error(Kind::BarrierMismatch, detail));
        }
        let number = (rank * 16 + index) as usize;
        let barrier = &mut self.barriers[number];
        match barrier.warps.first().or(barrier.passed.first()) {
            None => barrier.threads = threads,
            Some(&first) if barrier.threads != threads => {
                let detail = format!("barrier {index} waits for {} threads there, {threads} here", barrier.threads);
                let site = self.threads[first as usize * 32].site;
                return Err(self.against(self.error(Kind::BarrierMismatch, detail), first * 32, site));
            }
            Some(_) => {}
        }
        if waits {
            barrier.warps.push(warp);
        } else {
            if barrier.passed.contains(&warp) {
                let detail = format!("the warp has arrived at barrier {index} before, which is not complete");
                return Err(self.error(Kind::BarrierMismatch, detail));
            }
            barrier.passed.push(warp);
            for thread in warp * 32..warp * 32 + 32 {
                if !self.clocks.release(thread, &mut self.barriers[number].released) {
                    return Err(self.out_of_clocks());
                }
            }
        }
        let barrier = &mut self.barriers[number];
        if ((barrier.warps.len() + barrier.passed.len()) as u32) * 32 < threads {
            return Ok(false);
        }
        let warps = std::mem::take(&mut barrier.warps);
        self.order(warps.iter().flat_map(|warp| warp * 32..warp * 32 + 32))?;
        if !self.barriers[number].passed.is_empty() {
            let Barrier { released, .. } = std::mem::take(&mut self.barriers[number]);
            let waited = warps.iter().flat_map(|warp| warp * 32..warp * 32 + 32);
            waited.for_each(|thread| self.clocks.acquire(thread, &released));
        }
        warps.iter().for_each(|&warp| self.release(warp));
        self.barriers[number].warps = warps;
        self.barriers[number].warps.clear();
        Ok(true)
    }

    /// A thread of the block of that rank that has exited, without having arrived at the barrier first.
    fn first_missing(&self, rank: u32, index: u32) -> Option<usize> {
        let first = rank * self.width / 32;
        let passed = &self.barriers[(rank * 16 + index) as usize].passed;
        let exited = self.block_threads(rank).enumerate().filter(|(_, thread)| thread.exited);
        exited.map(|(thread, _)| thread).find(|&thread| !passed.contains(&(first + thread as u32 / 32)))
    }

    /// What any of `threads` did happens before what all of them do next.
    fn order(&mut self, threads: impl Iterator<Item = u32> + Clone) -> Checked<()> {
        if self.launch.grid.early && threads.clone().any(|thread| self.threads[thread as usize].grid_waited) {
            threads.clone().for_each(|thread| self.threads[thread as usize].grid_waited = true);
        }
        if self.clocks.join(threads) {
            return Ok(());
        }
        Err(self.out_of_clocks())
    }

    /// The warp's lanes go on.
    pub fn release(&mut self, warp: u32) {
        self.warps[warp as usize].arrived = 0;
        for thread in warp * 32..warp * 32 + 32 {
            let state = &mut self.threads[thread as usize];
            if state.waiting {
                state.waiting = false;
                self.runnable.push_back(thread);
            }
        }
    }

    /// The current thread's body has returned.
    pub fn exit(&mut self) {
        let (thread, warp) = (self.current, (self.current / 32) as usize);
        self.threads[thread as usize].exited = true;
        self.warps[warp].exited |= 1 << (thread % 32);
        if self.failure.is_some() {
            return;
        }
        let Thread { copies, stores, .. } = &self.threads[thread as usize];
        if let Some((site, count)) = copies.outstanding().or_else(|| stores.as_ref()?.outstanding()) {
            self.threads[thread as usize].site = site;
            let detail = format!("{count} asynchronous copies not waited for, the oldest named here");
            self.failure = Some(self.error(Kind::Leak, detail));
            return;
        }
        if let Some(error) = self.warpgroup_left().or_else(|| self.tensor_left(false)) {
            self.failure = Some(error);
            return;
        }
        let written = self.finish_stores();
        if let Err(error) = written.and_then(|()| self.check_block_exit()) {
            self.failure = Some(error);
            return;
        }
        // Whoever waits for this thread waits for ever.
        let lanes = self.warps[warp].arrived;
        let lane = (lanes != 0).then(|| warp as u32 * 32 + lanes.trailing_zeros());
        let (all, rank) = (self.width, self.rank_of(thread) as usize);
        let lacks_it = |barrier: &&Barrier| {
            !barrier.warps.is_empty() && barrier.threads == all && !barrier.passed.contains(&(warp as u32))
        };
        let whole_block = self.barriers[16 * rank..16 * rank + 16].iter().find(lacks_it);
        if let Some(waiting) = lane.or(whole_block.map(|barrier| barrier.warps[0] * 32)) {
            let detail = format!("thread {} exits without it", self.index_of(thread));
            self.failure = Some(self.error_of(waiting, Kind::BarrierMismatch, detail));
        }
    }

    /// No thread can run: if not all have exited, that is an error.
    pub fn check_stalled(&mut self) {
        if self.failure.is_some() {
            return;
        }
        if let Some(error) = self.warpgroup_stalled() {
            self.failure = Some(error);
            return;
        }
        // Of each warp, the first thread at each site.
        let mut waiting: Vec<u32> = Vec::new();
        for thread in (0..self.threads.len() as u32).filter(|&thread| !self.threads[thread as usize].exited) {
            let place = |thread: u32| (thread / 32, self.threads[thread as usize].site);
            if waiting.iter().rev().take(32).all(|&other| place(other) != place(thread)) {
                waiting.push(thread);
            }
        }
        let Some((&first, others)) = waiting.split_first() else { return };
        let others: Vec<String> = others.iter().map(|&thread| self.describe_stalled(thread)).collect();
        let some_exited = self.threads.iter().any(|thread| thread.exited);
        let phase = self.describe_need(first);
        let kind = if some_exited && phase.is_none() { Kind::BarrierMismatch } else { Kind::Deadlock };
        let mut detail = "it waits for ever".to_owned();
        if let Some(phase) = phase {
            detail += &format!(": {phase}");
        }
        if !others.is_empty() {
            detail += &format!(", as do {}", others.join(", "));
        }
        if some_exited {
            detail += "; other threads have exited";
        }
        self.failure = Some(self.error_of(first, kind, detail));
    }

    /// What a thread that waits lacks, if that is not other threads.
    fn describe_need(&self, thread: u32) -> Option<String> {
        let need = self.describe_wait(thread).or_else(|| self.describe_registers(thread));
        need.or_else(|| self.describe_columns(thread))
    }

    fn describe_stalled(&self, thread: u32) -> String {
        let mut text = format!("thread {}", thread % self.width);
        if self.cluster > 1 {
            text += &format!(" of block {}", self.block_of(thread));
        }
        if let Some((operation, location)) = self.launch.sites.get(self.threads[thread as usize].site) {
            text += &format!(" at {} ({location})", operation.name());
        }
        if let Some(phase) = self.describe_need(thread) {
            text += &format!(", where {phase}");
        }
        text
    }
}
