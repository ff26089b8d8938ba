//! Which parts of a request may share memory: what a launch reads may overlap; what it writes, nothing may.
//!
//! Compared by the bytes that a view reaches over, first to last: views that are interleaved element by element count as
//! overlapping.
use crate::error::Error;

/// Device memory that a launch touches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) field: &'static str,
    pub(crate) address: u64,
    pub(crate) bytes: usize,
}

impl Region {
    fn meets(&self, other: &Self) -> bool {
        let end = |region: &Self| region.address.saturating_add(region.bytes as u64);
        self.bytes > 0 && other.bytes > 0 && self.address < end(other) && other.address < end(self)
    }
}

/// Refuses a written region that overlaps another or one that is read.
pub(crate) fn check<const W: usize, const R: usize>(written: [Region; W], read: [Region; R]) -> Result<(), Error> {
    for (index, region) in written.iter().enumerate() {
        let others = written.iter().take(index).chain(&read);
        if let Some(other) = others.into_iter().find(|other| region.meets(other)) {
            return Err(Error::SharedMemory { field: region.field, other: other.field });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn region(field: &'static str, address: u64, bytes: usize) -> Region {
        Region { field, address, bytes }
    }

    fn pair(written: Region, read: Region) -> bool {
        check([written], [read]).is_ok()
    }

    #[test]
    fn neighbours_do_not_overlap_and_a_shared_byte_does() {
        assert!(pair(region("output", 256, 64), region("query", 320, 64)));
        assert!(pair(region("output", 320, 64), region("query", 256, 64)));
        assert!(!pair(region("output", 256, 65), region("query", 320, 64)));
        assert!(!pair(region("output", 330, 1), region("query", 320, 64)));
        assert!(pair(region("output", 330, 0), region("query", 320, 64)), "nothing is nowhere");
    }

    #[test]
    fn written_regions_are_compared_with_each_other_too() {
        let error = check([region("output", 0, 10), region("lse", 9, 4)], [region("query", 100, 1)]);
        assert!(matches!(error, Err(Error::SharedMemory { field: "lse", other: "output" })));
    }
}
