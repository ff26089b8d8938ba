//! Happens-before: vector clocks of a block's threads, and accesses as packed epochs (FastTrack's scheme).
//!
//! A thread's clock advances at each barrier it takes part in. All participants of a barrier share one vector, what they
//! have seen of every thread; only a thread's own component is kept aside, so a barrier costs one vector, not one a
//! thread. Threads of different blocks are never ordered within a launch.
use std::rc::Rc;

const CLOCK_BITS: u32 = 20;
const THREAD_BITS: u32 = 12;
const SITE_BITS: u32 = 10;
const BLOCK_BITS: u32 = 21;

/// Blocks that an [`Access`] can name.
pub(super) const MAX_BLOCKS: u32 = (1 << BLOCK_BITS) - 1;
/// Sites that an [`Access`] can name; the last one stands for all that came later.
pub(super) const MAX_SITES: u16 = 1 << SITE_BITS;
/// Threads that an [`Access`] can name, and asynchronous ones besides (module `mbarrier`).
pub(super) const MAX_THREADS: u32 = 1 << THREAD_BITS;
/// Barriers and releases that one thread can take part in.
pub(super) const MAX_CLOCK: u32 = (1 << CLOCK_BITS) - 1;

/// Who touched a byte, when and where: block, site, thread and clock in 63 bits, and whether it is still under way.
/// Zero is nobody: clocks begin at 1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Access(u64);

impl Access {
    /// Nobody.
    pub const NONE: Self = Self(0);
    const MARK: u64 = 1 << 63;

    /// An access by `thread` of `block` at its time `clock`, made at `site`.
    #[inline(always)]
    pub fn new(block: u32, thread: u32, clock: u32, site: u16) -> Self {
        let (block, site, thread) = (u64::from(block), u64::from(site), u64::from(thread));
        Self(((block << SITE_BITS | site) << THREAD_BITS | thread) << CLOCK_BITS | u64::from(clock))
    }

    #[inline(always)]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    pub fn block(self) -> u32 {
        (self.0 >> (CLOCK_BITS + THREAD_BITS + SITE_BITS)) as u32 & MAX_BLOCKS
    }

    #[inline(always)]
    pub fn thread(self) -> u32 {
        (self.0 >> CLOCK_BITS) as u32 & ((1 << THREAD_BITS) - 1)
    }

    #[inline(always)]
    pub fn clock(self) -> u32 {
        self.0 as u32 & MAX_CLOCK
    }

    #[inline(always)]
    pub fn site(self) -> u16 {
        (self.0 >> (CLOCK_BITS + THREAD_BITS)) as u16 & (MAX_SITES - 1)
    }

    /// The same access, owning its bytes until it is waited for.
    #[inline(always)]
    pub fn under_way(self) -> Self {
        Self(self.0 | Self::MARK)
    }

    #[inline(always)]
    pub fn is_under_way(self) -> bool {
        self.0 & Self::MARK != 0
    }

    /// In place of one access, the index of a list of several.
    #[inline(always)]
    pub fn list(index: usize) -> Self {
        Self(Self::MARK | index as u64)
    }

    #[inline(always)]
    pub fn as_list(self) -> Option<usize> {
        (self.0 & Self::MARK != 0).then_some((self.0 & !Self::MARK) as usize)
    }
}

/// An access about to be made, with what its thread has seen.
#[derive(Clone, Copy)]
pub(super) struct Accessor<'a> {
    pub access: Access,
    seen: &'a [u32],
    /// Seen too, of shared memory alone, and of mbarriers' initialisations alone.
    of_shared: &'a [u32],
    of_inits: &'a [u32],
}

impl Accessor<'static> {
    /// An access by a thread that has seen nothing.
    pub fn unaware(access: Access) -> Self {
        Self { access, seen: &[], of_shared: &[], of_inits: &[] }
    }
}

impl<'a> Accessor<'a> {
    /// An access that follows what is in `seen`.
    pub fn new(access: Access, seen: &'a [u32]) -> Self {
        Self { access, seen, of_shared: &[], of_inits: &[] }
    }

    /// Whether `earlier` happened before this access.
    #[inline(always)]
    pub fn follows(&self, earlier: Access) -> bool {
        earlier.block() == self.access.block() && self.has_seen(earlier.thread(), earlier.clock())
    }

    /// Whether what `thread` of the same block did at its time `clock` happened before this access.
    #[inline(always)]
    pub fn has_seen(&self, thread: u32, clock: u32) -> bool {
        let in_order = |seen: &[u32]| seen.get(thread as usize).is_some_and(|&seen| clock <= seen);
        thread == self.access.thread() || in_order(self.seen) || in_order(self.of_shared) || in_order(self.of_inits)
    }
}

/// Adds to what `thread` of `threads` has seen, by thread and empty until any has.
fn see(by_thread: &mut Vec<Vec<u32>>, threads: usize, thread: u32, released: &[u32]) {
    if by_thread.is_empty() && !released.is_empty() {
        by_thread.resize(threads, Vec::new());
    }
    if let Some(seen) = by_thread.get_mut(thread as usize) {
        seen.resize(seen.len().max(released.len()), 0);
        seen.iter_mut().zip(released).for_each(|(most, &other)| *most = (*most).max(other));
    }
}

/// The clocks of a block's threads. What is asynchronous has a number behind theirs, and a time of its own that threads
/// observe.
pub(super) struct Clocks {
    own: Vec<u32>,
    seen: Vec<Rc<[u32]>>,
    /// What each thread has seen besides, of shared memory alone; empty where there are no such fences. Later barriers do not hand it on:
    /// what relies on that is refused.
    of_shared: Vec<Vec<u32>>,
    /// The same of mbarriers' initialisations.
    of_inits: Vec<Vec<u32>>,
}

impl Clocks {
    pub fn new(threads: u32) -> Self {
        let nothing: Rc<[u32]> = vec![0; threads as usize].into();
        Self {
            own: vec![1; threads as usize],
            seen: vec![nothing; threads as usize],
            of_shared: Vec::new(),
            of_inits: Vec::new(),
        }
    }

    /// Back to the beginning of a block.
    pub fn reset(&mut self) {
        *self = Self::new(self.own.len() as u32);
    }

    /// What all of `threads` have seen.
    pub fn seen_by_all(&self, threads: std::ops::Range<u32>) -> Rc<[u32]> {
        let mut common = self.seen[threads.start as usize].clone();
        for thread in threads {
            let seen = &self.seen[thread as usize];
            if !Rc::ptr_eq(seen, &common) {
                common = common.iter().zip(seen.iter()).map(|(&one, &other)| one.min(other)).collect();
            }
        }
        common
    }

    /// What `thread` has seen of others, and of itself up to its last barrier.
    pub fn seen(&self, thread: u32) -> Rc<[u32]> {
        self.seen[thread as usize].clone()
    }

    /// What `thread` has seen of others, and all that it did itself.
    pub fn seen_with_own(&self, thread: u32) -> Vec<u32> {
        let mut seen = self.seen[thread as usize].to_vec();
        seen[thread as usize] = self.own[thread as usize];
        seen
    }

    /// All of `threads` have waited until `actor` came to `clock`.
    pub fn observe(&mut self, threads: std::ops::Range<u32>, actor: u32, clock: u32) {
        // Threads mostly share a vector, before and after.
        let mut last: Option<[Rc<[u32]>; 2]> = None;
        for thread in threads {
            let seen = &mut self.seen[thread as usize];
            let after = match &last {
                Some([before, after]) if Rc::ptr_eq(before, seen) => after.clone(),
                _ => {
                    let mut after = seen.to_vec();
                    after.resize(after.len().max(actor as usize + 1), 0);
                    after[actor as usize] = after[actor as usize].max(clock);
                    let after: Rc<[u32]> = after.into();
                    last = Some([seen.clone(), after.clone()]);
                    after
                }
            };
            *seen = after;
        }
    }

    /// The access that `thread` of `block` makes now at `site`.
    #[inline(always)]
    pub fn accessor(&self, block: u32, thread: u32, site: u16) -> Accessor<'_> {
        Accessor {
            access: Access::new(block, thread, self.own[thread as usize], site),
            seen: &self.seen[thread as usize],
            of_shared: &[],
            of_inits: &[],
        }
    }

    /// The access to shared memory that `thread` of `block` makes now at `site`.
    #[inline(always)]
    pub fn accessor_of_shared(&self, block: u32, thread: u32, site: u16) -> Accessor<'_> {
        let of_shared = self.of_shared.get(thread as usize).map_or(&[][..], Vec::as_slice);
        Accessor { of_shared, ..self.accessor(block, thread, site) }
    }

    /// The operation on an mbarrier that `thread` of `block` makes now at `site`.
    pub fn accessor_of_mbarrier(&self, block: u32, thread: u32, site: u16) -> Accessor<'_> {
        let of_inits = self.of_inits.get(thread as usize).map_or(&[][..], Vec::as_slice);
        Accessor { of_inits, ..self.accessor_of_shared(block, thread, site) }
    }

    /// The clock of `thread`, which goes on to the next. `None`: it has run out.
    pub fn advance(&mut self, thread: u32) -> Option<u32> {
        let own = &mut self.own[thread as usize];
        let clock = *own;
        *own += 1;
        (clock < MAX_CLOCK).then_some(clock)
    }

    /// What `thread` did so far, added to `released`. False: its clock has run out.
    pub fn release(&mut self, thread: u32, released: &mut Vec<u32>) -> bool {
        let seen = &self.seen[thread as usize];
        if released.len() < seen.len() {
            released.resize(seen.len(), 0);
        }
        released.iter_mut().zip(seen.iter()).for_each(|(most, &other)| *most = (*most).max(other));
        let Some(clock) = self.advance(thread) else { return false };
        released[thread as usize] = clock;
        true
    }

    /// `thread` has seen what was `released`.
    pub fn acquire(&mut self, thread: u32, released: &[u32]) {
        let seen = &mut self.seen[thread as usize];
        let shorter = released.len().min(seen.len());
        let new = released.len() > seen.len() || released.iter().zip(seen.iter()).any(|(other, own)| other > own);
        if new {
            let longer = if released.len() > seen.len() { released } else { &seen[..] };
            let most = |i: usize| if i < shorter { released[i].max(seen[i]) } else { longer[i] };
            *seen = (0..longer.len()).map(most).collect();
        }
    }

    /// `thread` has seen what was `released`, of shared memory alone.
    pub fn acquire_of_shared(&mut self, thread: u32, released: &[u32]) {
        see(&mut self.of_shared, self.own.len(), thread, released);
    }

    /// `thread` has seen what was `released`, of mbarriers' initialisations alone.
    pub fn acquire_of_inits(&mut self, thread: u32, released: &[u32]) {
        see(&mut self.of_inits, self.own.len(), thread, released);
    }

    /// A barrier of `threads`: what any of them did before, all of them have seen after. False: a clock has run out.
    pub fn join(&mut self, threads: impl Iterator<Item = u32> + Clone) -> bool {
        let mut joined: Option<Rc<[u32]>> = None;
        let mut last: *const [u32] = &[];
        for thread in threads.clone() {
            let seen = &self.seen[thread as usize];
            // Participants mostly share the vector of their last barrier: consecutive equal ones are merged once.
            if std::ptr::eq(Rc::as_ptr(seen), last) {
                continue;
            }
            last = Rc::as_ptr(seen);
            match &mut joined {
                None => joined = Some(Rc::from(&seen[..])),
                Some(joined) => {
                    if joined.len() < seen.len() {
                        let more = std::iter::repeat_n(&0, seen.len() - joined.len());
                        *joined = joined.iter().chain(more).copied().collect();
                    }
                    let joined = Rc::make_mut(joined);
                    for (most, &other) in joined.iter_mut().zip(seen.iter()) {
                        *most = (*most).max(other);
                    }
                }
            }
        }
        let Some(mut joined) = joined else { return true };
        let mut in_range = true;
        let vector = Rc::make_mut(&mut joined);
        for thread in threads.clone() {
            let own = &mut self.own[thread as usize];
            vector[thread as usize] = *own;
            in_range &= *own < MAX_CLOCK;
            *own += u32::from(*own < MAX_CLOCK);
        }
        for thread in threads {
            self.seen[thread as usize] = joined.clone();
        }
        in_range
    }
}
