//! GPUs by their compute capability.
use core::fmt;
use kernels_gpu::config::CLUSTER_BLOCKS;
use kernels_gpu::kernels::Family;

/// Sizes of clusters, in blocks, of chips that have them.
pub(crate) const CLUSTERS: [u32; 4] = [2, 4, 8, CLUSTER_BLOCKS];

/// A GPU's compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch {
    /// 9 for Hopper.
    pub major: u32,
    /// 0 for Hopper.
    pub minor: u32,
}

impl Arch {
    /// The oldest that kernels run on: Ampere, for its asynchronous copies and bf16 products.
    pub const OLDEST: Self = Self { major: 8, minor: 0 };

    /// The only one with `wgmma`: what it is made of is in sm_90a alone, neither before nor behind it.
    pub const HOPPER: Self = Self { major: 9, minor: 0 };

    /// Bytes of shared memory that a block may have (CUDA C++ Programming Guide, "Technical Specifications per Compute
    /// Capability"); of capabilities that are not known here the least of those from [`Arch::OLDEST`] on.
    pub const fn shared_per_block(self) -> u32 {
        let kib = match (self.major, self.minor) {
            (7, 5) => 64,
            (8, 0 | 7) => 163,
            (9, 0) | (10, 0 | 1 | 3) | (11, 0) => 227,
            _ => 99,
        };
        kib << 10
    }

    /// Whether it is of systems on a chip (Orin, Thor), for which machine code of discrete GPUs is not made, whatever its
    /// number is (the same guide, "Binary Compatibility").
    pub(super) const fn on_chip(self) -> bool {
        matches!((self.major, self.minor), (8, 7) | (10, 1) | (11, 0))
    }

    /// Whether kernels are launched in clusters there: the passes for chips with kernels of their own join them.
    pub(crate) fn has_clusters(self) -> bool {
        Family::ALL.iter().any(|&family| family != Family::Portable && self.runs(family))
    }

    /// Whether kernels of a family run on it.
    pub fn runs(self, family: Family) -> bool {
        family.chips().include([self.major, self.minor])
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.major, self.minor)
    }
}

pub(super) const fn arch(major: u32, minor: u32) -> Arch {
    Arch { major, minor }
}

/// The GPUs that there are and that kernels run on: the lines of the support table. Later ones are given what runs on every
/// later chip.
pub const ARCHES: [Arch; 11] = [
    Arch::OLDEST,
    arch(8, 6),
    arch(8, 7),
    arch(8, 9),
    Arch::HOPPER,
    arch(10, 0),
    arch(10, 1),
    arch(10, 3),
    arch(11, 0),
    arch(12, 0),
    arch(12, 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_names_shared_memory_and_families() {
        let names: Vec<_> = ARCHES.iter().map(ToString::to_string).collect();
        let expected = "sm_80 sm_86 sm_87 sm_89 sm_90 sm_100 sm_101 sm_103 sm_110 sm_120 sm_121";
        assert_eq!(names.join(" "), expected);
        let kib: Vec<_> = ARCHES.iter().map(|arch| arch.shared_per_block() >> 10).collect();
        assert_eq!(kib, [163, 99, 163, 99, 227, 227, 227, 227, 227, 99, 99]);
        assert_eq!(arch(15, 0).shared_per_block(), 99 << 10, "no more than every chip so far has");
        for chip in ARCHES {
            assert!(chip.runs(Family::Portable));
            assert_eq!(chip.runs(Family::Wgmma), chip == Arch::HOPPER);
        }
        assert!(!arch(7, 5).runs(Family::Portable) && arch(15, 0).runs(Family::Portable));
    }
}
