//! What a block reports: errors of its threads, and the accesses that they conflict with.
use super::block::Block;
use super::clock::{Access, MAX_CLOCK};
use super::error::{Error, Kind};
use super::segment::Conflict;
use super::site::Site;

impl Block<'_> {
    /// An error of the current thread at its operation of the moment.
    #[cold]
    pub fn error(&self, kind: Kind, detail: String) -> Box<Error> {
        self.error_of(self.current, kind, detail)
    }

    /// An error of `thread` at its operation of the moment.
    #[cold]
    pub fn error_of(&self, thread: u32, kind: Kind, detail: String) -> Box<Error> {
        self.error_at(thread, self.threads[thread as usize].site, kind, detail)
    }

    /// An error of `thread` at `site`.
    #[cold]
    pub fn error_at(&self, thread: u32, site: u16, kind: Kind, detail: String) -> Box<Error> {
        let site = self.launch.sites.get(site);
        Box::new(Error {
            kind,
            kernel: self.launch.grid.name.to_owned(),
            block: self.block_of(thread),
            thread: thread % self.width,
            operation: site.map_or("an operation", |(operation, _)| operation.name()),
            location: site.map(|(_, location)| location),
            other: None,
            detail,
        })
    }

    /// Adds the other side.
    #[cold]
    pub fn against(&self, mut error: Box<Error>, thread: u32, site: u16) -> Box<Error> {
        let site: Option<Site> = self.launch.sites.get(site);
        let thread = thread % self.width;
        error.other = site.map(|(operation, location)| (thread, operation.name(), location));
        error
    }

    #[cold]
    pub fn conflict(&self, thread: u32, conflict: Conflict, place: &str, start: u64) -> Box<Error> {
        let (kind, earlier): (Kind, Access) = match conflict {
            // What an asynchronous operation did is its own until its completion is observed.
            Conflict::Race(earlier) if earlier.thread() as usize >= self.threads.len() => (Kind::InFlight, earlier),
            Conflict::Race(earlier) => (Kind::Race, earlier),
            Conflict::InFlight(earlier) if let Some(object) = self.mbarriers.of_init(earlier) => {
                let detail =
                    format!("{place} {start:#x} is part of an mbarrier, at {:#x}", self.shared_address(object.offset));
                return self.against(self.error_of(thread, Kind::Mbarrier, detail), earlier.thread(), earlier.site());
            }
            Conflict::InFlight(earlier) => (Kind::InFlight, earlier),
            Conflict::Hidden(earlier) => (Kind::MissingProxyFence, earlier),
            Conflict::Uninitialised(offset) => {
                let at = start.wrapping_add(offset as u64);
                let detail = format!("nothing was written to the byte at {place} {at:#x}");
                return self.error_of(thread, Kind::Uninitialised, detail);
            }
        };
        let mut detail = format!("{place} {start:#x}");
        let issuer = self.issuer(earlier);
        let other = earlier.block() * self.cluster + self.rank_of(issuer);
        if other != self.block_of(thread) {
            detail += &format!(", the other thread is of block {other}");
        }
        self.against(self.error_of(thread, kind, detail), issuer, earlier.site())
    }

    #[cold]
    pub fn out_of_clocks(&self) -> Box<Error> {
        self.error(Kind::BoundExceeded, format!("a thread took part in {MAX_CLOCK} barriers"))
    }

    #[cold]
    pub fn misaligned(&self, thread: u32, place: &str, address: u64, len: usize) -> Box<Error> {
        let detail = format!("{place} {address:#x} is not a multiple of {len}");
        self.error_of(thread, Kind::Misaligned, detail)
    }

    #[cold]
    pub fn shared_conflict(&self, thread: u32, conflict: Conflict, offset: usize) -> Box<Error> {
        let start = match conflict {
            Conflict::Uninitialised(at) => u64::from(self.shared_address(at)).wrapping_sub(at as u64),
            _ => self.shared_address(offset).into(),
        };
        self.conflict(thread, conflict, "shared", start)
    }
}
