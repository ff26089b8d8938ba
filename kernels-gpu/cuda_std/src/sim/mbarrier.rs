//! mbarrier objects: arrivals, bytes expected and completed, phases, and who has observed which.
//!
//! An object has `expected` arrivals a phase. A phase completes when no arrival is pending and no byte is due; the next one
//! begins at once. What happened before the arrivals of a phase happened before whoever observes its completion. The
//! asynchronous operations that complete on an object count as one more thread in the clocks, `slot`, whose time is the
//! number of phases: so a thread that has observed one phase, and no other, may touch what that phase brought.
//!
//! A wait names a phase by its parity alone, so it must not come a whole phase late: a phase that completes while a wait for
//! the one before is not ordered before it is an error, whether or not this run came that close.
use super::block::{Block, Checked};
use super::clock::{Access, MAX_THREADS};
use super::error::Kind;
use super::proxy::Space;
use std::collections::HashMap;

/// The largest arrival count, and number of bytes due.
const MAX_COUNT: u32 = (1 << 20) - 1;
/// Bytes of an object.
pub(super) const BYTES: usize = 8;

/// What a thread last did to an object.
#[derive(Clone, Copy, Default)]
struct Use {
    /// 0: nothing.
    clock: u32,
    site: u16,
}

/// One object.
pub(super) struct Mbarrier {
    /// Offset in shared memory.
    pub offset: usize,
    /// Its thread in the clocks.
    pub slot: u32,
    /// The asynchronous operation that was given it last: thread and site.
    pub issuer: (u32, u16),
    init: Access,
    valid: bool,
    expected: u32,
    pending: u32,
    /// Bytes expected less bytes completed.
    due: i64,
    /// Phases completed.
    phase: u32,
    /// The last phase, counted from 1, that asynchronous bytes or a commit arrived in.
    brought: u32,
    /// If that was a commit, its thread in the clocks and its time.
    commit: Option<(u32, u32)>,
    /// Clocks of all arrivals; of those of completed phases.
    released: Vec<u32>,
    completed: Vec<u32>,
    /// Threads that wait for the current phase.
    waiters: Vec<u32>,
    /// By thread: its last operation, and its last look at the phase before the current one.
    uses: Vec<Use>,
    looks: Vec<Use>,
}

/// A block's (a cluster's) objects.
#[derive(Default)]
pub(super) struct Mbarriers {
    /// In the order of their initialisation.
    pub all: Vec<Mbarrier>,
    valid: HashMap<usize, usize>,
}

impl Mbarriers {
    pub fn clear(&mut self) {
        self.all.clear();
        self.valid.clear();
    }

    /// The object that owns bytes by `access`, which its initialisation left there.
    pub fn of_init(&self, access: Access) -> Option<&Mbarrier> {
        self.all.iter().find(|object| object.valid && object.init.under_way() == access)
    }
}

fn note(uses: &mut Vec<Use>, thread: u32, clock: u32, site: u16) {
    if uses.len() <= thread as usize {
        uses.resize(thread as usize + 1, Use::default());
    }
    uses[thread as usize] = Use { clock, site };
}

impl Block<'_> {
    /// The thread in the clocks of the first mbarrier, or of the first thing in tensor memory: those before are of threads and
    /// of warpgroups' tensor cores.
    fn first_slot(&self) -> usize {
        self.threads.len() + self.warpgroups.len()
    }

    /// The thread in the clocks of the next mbarrier, or of the next thing in tensor memory.
    pub fn next_slot(&self) -> u32 {
        (self.first_slot() + self.mbarriers.all.len() + self.tensor.slots()) as u32
    }

    /// The thread that made an access, or that issued the asynchronous operation which made it.
    pub fn issuer(&self, access: Access) -> u32 {
        let slot = access.thread();
        let object = self.mbarriers.all.iter().find(|object| object.slot == slot);
        match object.map(|object| object.issuer.0).or_else(|| self.tensor.issuer(slot)) {
            Some(issuer) if access.block() == self.index => issuer,
            _ => slot.checked_sub(self.threads.len() as u32).map_or(slot, |warpgroup| 128 * warpgroup),
        }
    }

    /// `mbarrier.init`.
    pub fn mbarrier_init(&mut self, site: u16, address: u32, count: u32) -> Checked<()> {
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(self.error(Kind::BadOperand, format!("{count} arrivals; 1 to {MAX_COUNT} are allowed")));
        }
        let thread = self.current;
        let offset = self.shared_range(thread, address, BYTES)?;
        let slot = self.next_slot();
        if slot >= MAX_THREADS {
            let most = MAX_THREADS as usize - self.first_slot();
            return Err(self.error(Kind::BoundExceeded, format!("the block initialised {most} mbarriers")));
        }
        let init = self.clocks.accessor_of_shared(self.index, thread, site).access;
        self.claim_shared(thread, site, offset, BYTES, init)?;
        self.mbarriers.valid.insert(offset, self.mbarriers.all.len());
        self.mbarriers.all.push(Mbarrier {
            offset,
            slot,
            issuer: (thread, site),
            init,
            valid: true,
            expected: count,
            pending: count,
            due: 0,
            phase: 0,
            brought: 0,
            commit: None,
            released: Vec::new(),
            completed: Vec::new(),
            waiters: Vec::new(),
            uses: Vec::new(),
            looks: Vec::new(),
        });
        Ok(())
    }

    /// The valid object at an offset, which `thread` operates on at `site`.
    fn mbarrier(&mut self, site: u16, offset: usize) -> Checked<usize> {
        let Some(&index) = self.mbarriers.valid.get(&offset) else {
            let detail = format!("no mbarrier was initialised at shared {:#x}", self.shared_address(offset));
            return Err(self.error(Kind::Mbarrier, detail));
        };
        let who = self.clocks.accessor_of_mbarrier(self.index, self.current, site);
        let object = &mut self.mbarriers.all[index];
        if who.follows(object.init) {
            note(&mut object.uses, self.current, who.access.clock(), site);
            return Ok(index);
        }
        let init = object.init;
        let detail = "nothing orders the mbarrier's initialisation before it".to_owned();
        Err(self.against(self.error(Kind::Race, detail), init.thread(), init.site()))
    }

    /// The object at an offset that an asynchronous operation of the current thread completes on.
    pub fn mbarrier_for_async(&mut self, site: u16, offset: usize) -> Checked<usize> {
        let index = self.mbarrier(site, offset)?;
        let init = self.mbarriers.all[index].init;
        let who = self.clocks.accessor_of_mbarrier(self.index, self.current, site);
        if self.proxies.shows(Space::Mbarrier, &who, init, self.threads.len() as u32) {
            self.mbarriers.all[index].issuer = (self.current, site);
            return Ok(index);
        }
        let detail =
            "fence.mbarrier_init or fence.proxy.async is missing after the mbarrier's initialisation".to_owned();
        Err(self.against(self.error(Kind::MissingProxyFence, detail), init.thread(), init.site()))
    }

    /// `mbarrier.arrive`, with `expect_tx` before it where `bytes` are given.
    pub fn mbarrier_arrive(&mut self, site: u16, offset: usize, bytes: Option<u32>) -> Checked<()> {
        let index = self.mbarrier(site, offset)?;
        if let Some(bytes) = bytes {
            self.expect(index, bytes)?;
        }
        self.check_pending(index)?;
        let object = &mut self.mbarriers.all[index];
        object.pending -= 1;
        if !self.clocks.release(self.current, &mut object.released) {
            return Err(self.out_of_clocks());
        }
        self.turn(index)
    }

    /// What the current thread did before happens before who observes the current phase of the object at an offset.
    pub fn release_to(&mut self, site: u16, offset: usize) -> Checked<()> {
        let index = self.mbarrier(site, offset)?;
        if self.clocks.release(self.current, &mut self.mbarriers.all[index].released) {
            Ok(())
        } else {
            Err(self.out_of_clocks())
        }
    }

    /// `mbarrier.expect_tx`.
    pub fn mbarrier_expect(&mut self, site: u16, offset: usize, bytes: u32) -> Checked<()> {
        let index = self.mbarrier(site, offset)?;
        self.expect(index, bytes)?;
        self.turn(index)
    }

    fn expect(&mut self, index: usize, bytes: u32) -> Checked<()> {
        let due = self.mbarriers.all[index].due + i64::from(bytes);
        if bytes > MAX_COUNT || due > i64::from(MAX_COUNT) {
            let detail = format!("{bytes} bytes, with them {due} are due; at most {MAX_COUNT} are allowed");
            return Err(self.error(Kind::BadOperand, detail));
        }
        self.mbarriers.all[index].due = due;
        Ok(())
    }

    /// The thread in the clocks, and its time, of asynchronous bytes that arrive in the current phase.
    pub fn arrival(&self, index: usize) -> (u32, u32) {
        let object = &self.mbarriers.all[index];
        (object.slot, object.phase + 1)
    }

    /// An asynchronous operation of the current thread completes `bytes` at an object.
    pub fn complete_bytes(&mut self, index: usize, bytes: u32) -> Checked<()> {
        let object = &mut self.mbarriers.all[index];
        object.due -= i64::from(bytes);
        object.brought = object.phase + 1;
        object.commit = None;
        let (slot, time) = (object.slot as usize, object.brought);
        if object.released.len() <= slot {
            object.released.resize(slot + 1, 0);
        }
        object.released[slot] = time;
        if object.due < -i64::from(MAX_COUNT) {
            let detail = format!("{} bytes more than expected; at most {MAX_COUNT} are allowed", -object.due);
            return Err(self.error(Kind::Mbarrier, detail));
        }
        self.turn(index)
    }

    /// The object at an offset that a commit of the current thread will arrive at: for the phase that is current for it now.
    pub fn mbarrier_for_commit(&mut self, site: u16, offset: usize) -> Checked<usize> {
        let index = self.mbarrier_for_async(site, offset)?;
        // Its own look at the phase before comes before this arrival, and so before the phase completes.
        if let Some(look) = self.mbarriers.all[index].looks.get_mut(self.current as usize) {
            *look = Use::default();
        }
        Ok(index)
    }

    /// An arrival by the thread `slot` of the clocks, at its `time`, which follows what is in `seen`.
    pub fn mbarrier_arrive_as(&mut self, index: usize, slot: u32, time: u32, seen: &[u32]) -> Checked<()> {
        self.check_pending(index)?;
        let object = &mut self.mbarriers.all[index];
        object.pending -= 1;
        (object.brought, object.commit) = (object.phase + 1, Some((slot, time)));
        let len = object.released.len().max(seen.len()).max(slot.max(object.slot) as usize + 1);
        object.released.resize(len, 0);
        object.released.iter_mut().zip(seen).for_each(|(most, &other)| *most = (*most).max(other));
        object.released[slot as usize] = time;
        object.released[object.slot as usize] = object.brought;
        self.turn(index)
    }

    /// Checks that the current phase has an arrival pending.
    fn check_pending(&self, index: usize) -> Checked<()> {
        let Mbarrier { expected, phase, due, pending, .. } = self.mbarriers.all[index];
        if pending > 0 {
            return Ok(());
        }
        let detail = format!("phase {phase} has all of its {expected} arrivals; {due} bytes are due");
        Err(self.error(Kind::Mbarrier, detail))
    }

    /// Completes the current phase if nothing is pending.
    fn turn(&mut self, index: usize) -> Checked<()> {
        let object = &mut self.mbarriers.all[index];
        if object.pending > 0 || object.due > 0 {
            return Ok(());
        }
        let (phase, due) = (object.phase, object.due);
        if due < 0 {
            let detail = format!("phase {phase} has all arrivals, and {} bytes more than were expected", -due);
            return Err(self.error(Kind::Mbarrier, detail));
        }
        let released = &object.released;
        let unordered = object
            .looks
            .iter()
            .enumerate()
            .find(|&(thread, look)| look.clock > released.get(thread).copied().unwrap_or(0));
        if let Some((thread, &look)) = unordered {
            let detail = format!(
                "phase {phase} completes, and nothing orders before it that wait for the phase before: a phase later, the same parity means another"
            );
            return Err(self.against(self.error(Kind::Mbarrier, detail), thread as u32, look.site));
        }
        object.looks.clear();
        object.phase += 1;
        object.pending = object.expected;
        object.completed.clone_from(&object.released);
        for thread in std::mem::take(&mut object.waiters) {
            let site = self.threads[thread as usize].site;
            self.observe(index, thread, site)?;
            self.threads[thread as usize].waiting = false;
            self.runnable.push_back(thread);
        }
        Ok(())
    }

    /// `thread` observes that the phase before the current one is complete.
    fn observe(&mut self, index: usize, thread: u32, site: u16) -> Checked<()> {
        let object = &mut self.mbarriers.all[index];
        self.clocks.acquire(thread, &object.completed);
        let clock = self.clocks.accessor_of_shared(self.index, thread, site).access.clock();
        note(&mut object.looks, thread, clock, site);
        note(&mut object.uses, thread, clock, site);
        self.threads[thread as usize].tried = None;
        Ok(())
    }

    /// `mbarrier.try_wait.parity`. `None`: the thread must wait until another has made it runnable, and has observed the
    /// phase then. The first try at a phase that is not complete gives up, as the chip's may at any time; the next waits.
    pub fn mbarrier_try_wait(&mut self, site: u16, address: u32, parity: u32) -> Checked<Option<bool>> {
        if parity > 1 {
            return Err(self.error(Kind::BadOperand, format!("parity {parity}; 0 and 1 are allowed")));
        }
        let thread = self.current;
        let offset = self.shared_range(thread, address, BYTES)?;
        let index = self.mbarrier(site, offset)?;
        let phase = self.mbarriers.all[index].phase;
        if phase & 1 != parity {
            self.observe(index, thread, site)?;
            return Ok(Some(true));
        }
        let tried = &mut self.threads[thread as usize].tried;
        if *tried != Some((index as u32, phase)) {
            *tried = Some((index as u32, phase));
            return Ok(Some(false));
        }
        self.mbarriers.all[index].waiters.push(thread);
        self.threads[thread as usize].waiting = true;
        Ok(None)
    }

    /// `mbarrier.inval`.
    pub fn mbarrier_inval(&mut self, site: u16, address: u32) -> Checked<()> {
        let offset = self.shared_range(self.current, address, BYTES)?;
        let index = self.mbarrier(site, offset)?;
        let who = self.clocks.accessor_of_mbarrier(self.index, self.current, site);
        let object = &self.mbarriers.all[index];
        let unordered =
            |&(thread, earlier): &(usize, &Use)| earlier.clock > 0 && !who.has_seen(thread as u32, earlier.clock);
        if let Some((thread, earlier)) = object.uses.iter().enumerate().find(unordered) {
            let detail = "nothing orders that operation on the mbarrier before it".to_owned();
            return Err(self.against(self.error(Kind::Race, detail), thread as u32, earlier.site));
        }
        if object.due != 0 || self.bulk.completes_on(index) || self.commits_to(index) {
            let detail = format!("asynchronous operations are under way on the mbarrier, {} bytes are due", object.due);
            let (thread, site) = object.issuer;
            return Err(self.against(self.error(Kind::Mbarrier, detail), thread, site));
        }
        self.mbarriers.valid.remove(&offset);
        self.mbarriers.all[index].valid = false;
        let who = self.clocks.accessor_of_shared(self.index, self.current, site);
        self.shared.settle(&who, offset, BYTES);
        Ok(())
    }

    /// What the phase that a thread waits for is waiting for.
    pub fn describe_wait(&self, thread: u32) -> Option<String> {
        let (index, phase) = self.threads[thread as usize].tried?;
        let object = &self.mbarriers.all[index as usize];
        let Mbarrier { offset, expected, pending, due, .. } = *object;
        let address = self.shared_address(offset);
        Some(format!(
            "phase {phase} of the mbarrier at shared {address:#x} lacks {pending} of {expected} arrivals and {due} bytes"
        ))
    }

    /// An object of a block all of whose threads have exited, at which something arrived that none of them has observed.
    pub fn unobserved(&self, rank: u32) -> Option<&Mbarrier> {
        let threads = self.width;
        let own = rank * threads..(rank + 1) * threads;
        let seen = |slot: u32, time: u32| {
            own.clone().any(|thread| self.clocks.accessor_of_shared(self.index, thread, 0).has_seen(slot, time))
        };
        // Of a thread of this block, a later commit says so too: they are in order. Another block's may outlive this one.
        let later = |&(slot, time): &(u32, u32)| {
            self.tensor.issuer(slot).is_some_and(|thread| own.contains(&thread)) && seen(slot, time + 1)
        };
        let observed =
            |object: &Mbarrier| seen(object.slot, object.brought) || object.commit.as_ref().is_some_and(later);
        let of_rank = |object: &&Mbarrier| self.rank_of_offset(object.offset) == rank && object.brought > 0;
        self.mbarriers.all.iter().filter(of_rank).find(|object| !observed(object))
    }
}
