//! What code is compiled for, and which of it a GPU takes.
use super::arch::{Arch, arch};
use core::cmp::Reverse;
use core::fmt;

/// What code is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The chip, for `a` and plain targets; the first of its family for `f` targets.
    pub arch: Arch,
    /// For which others than that.
    pub reach: Reach,
}

/// How far a target's code reaches. Of two targets of one chip the one that reaches less far is the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Later chips: as machine code of the same generation, as PTX of any.
    Plain,
    /// Later chips of the same family: the `f` of `sm_100f`.
    Family,
    /// That very chip alone: the `a` of `sm_90a`.
    Chip,
}

impl Target {
    /// Every target that code is compiled for: of each pass of the compiler the plain one, and the one of the chip or family
    /// for entries that need it.
    pub const ALL: [Self; 5] = [
        Self { arch: Arch::OLDEST, reach: Reach::Plain },
        Self { arch: Arch::HOPPER, reach: Reach::Plain },
        Self { arch: Arch::HOPPER, reach: Reach::Chip },
        Self { arch: arch(10, 0), reach: Reach::Plain },
        Self { arch: arch(10, 0), reach: Reach::Family },
    ];

    /// Reads `sm_80`, `sm_90a`, `sm_100f`.
    pub fn parse(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("sm_")?;
        let (digits, reach) = match digits.as_bytes().last()? {
            b'a' => (&digits[..digits.len() - 1], Reach::Chip),
            b'f' => (&digits[..digits.len() - 1], Reach::Family),
            _ => (digits, Reach::Plain),
        };
        let number: u32 = digits.parse().ok()?;
        Some(Self { arch: arch(number / 10, number % 10), reach })
    }

    /// Whether its machine code runs on `device`.
    pub fn machine_code_runs_on(self, device: Arch) -> bool {
        let later = self.arch.major == device.major
            && self.arch.minor <= device.minor
            && self.arch.on_chip() == device.on_chip();
        self.arch == device || (later && self.reach != Reach::Chip)
    }

    /// Whether a driver compiles its PTX for `device`.
    pub fn ptx_compiles_for(self, device: Arch) -> bool {
        match self.reach {
            Reach::Plain => self.arch <= device,
            Reach::Family => self.machine_code_runs_on(device),
            Reach::Chip => self.arch == device,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self.reach {
            Reach::Plain => "",
            Reach::Family => "f",
            Reach::Chip => "a",
        };
        write!(f, "{}{suffix}", self.arch)
    }
}

/// One form of a kernel's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// What it is compiled for.
    pub target: Target,
    /// Whether it is PTX, which the driver compiles; else machine code.
    pub ptx: bool,
}

impl Code {
    /// What a GPU can take, the best first: of the newest target, and of that what reaches least far; of each target machine
    /// code, then PTX, for drivers older than the machine code's assembler. The last is PTX for sm_80, which every GPU takes
    /// that kernels run on.
    pub fn taken_by(device: Arch) -> Vec<Self> {
        let mut codes: Vec<Self> =
            Target::ALL.into_iter().flat_map(|target| [false, true].map(|ptx| Self { target, ptx })).collect();
        codes.retain(|code| match code.ptx {
            true => code.target.ptx_compiles_for(device),
            false => code.target.machine_code_runs_on(device),
        });
        codes.sort_by_key(|code| (Reverse(code.target), code.ptx));
        codes
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.target, if self.ptx { "PTX" } else { "machine code" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::ARCHES;

    fn target(name: &str) -> Target {
        Target::parse(name).expect("a target of the test")
    }

    #[test]
    fn names_of_targets() {
        for name in ["sm_80", "sm_90", "sm_90a", "sm_100", "sm_100f", "sm_121a"] {
            assert_eq!(target(name).to_string(), name);
        }
        for name in ["", "sm_", "sm_a", "80", "sm_9x", "sm_90aa", "compute_90"] {
            assert_eq!(Target::parse(name), None, "{name}");
        }
        assert!(target("sm_90") < target("sm_90a") && target("sm_90a") < target("sm_100"));
        assert!(target("sm_100") < target("sm_100f"));
    }

    /// The rules of "Binary Compatibility" and of PTX's `.target`, for every chip that there is and three that are not.
    #[test]
    fn where_code_runs() {
        let later = [arch(12, 5), arch(13, 0), arch(15, 0)];
        let chips = || [arch(7, 5)].into_iter().chain(ARCHES).chain(later);
        let runs = |name: &str| chips().filter(|&chip| target(name).machine_code_runs_on(chip)).collect::<Vec<_>>();
        let compiles = |name: &str| chips().filter(|&chip| target(name).ptx_compiles_for(chip)).collect::<Vec<_>>();
        assert_eq!(runs("sm_80"), [arch(8, 0), arch(8, 6), arch(8, 9)]);
        assert_eq!(compiles("sm_80"), chips().skip(1).collect::<Vec<_>>());
        assert_eq!(runs("sm_90"), [arch(9, 0)]);
        assert_eq!(compiles("sm_90"), chips().filter(|&chip| chip >= arch(9, 0)).collect::<Vec<_>>());
        assert_eq!((runs("sm_90a"), compiles("sm_90a")), (vec![arch(9, 0)], vec![arch(9, 0)]));
        assert_eq!(runs("sm_100"), [arch(10, 0), arch(10, 3)]);
        let family = vec![arch(10, 0), arch(10, 3)];
        assert_eq!((runs("sm_100f"), compiles("sm_100f")), (family.clone(), family));
        assert_eq!(compiles("sm_100"), chips().filter(|&chip| chip >= arch(10, 0)).collect::<Vec<_>>());
        assert_eq!(runs("sm_120f"), [arch(12, 0), arch(12, 1), arch(12, 5)]);
    }

    #[test]
    fn the_newest_code_comes_first_and_ptx_of_sm_80_last() {
        let taken = |major, minor| {
            Code::taken_by(arch(major, minor)).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        for [major, minor] in [[8, 0], [8, 6], [8, 9]] {
            assert_eq!(taken(major, minor), "sm_80 machine code, sm_80 PTX");
        }
        // Orin: machine code of discrete GPUs is not for it.
        assert_eq!(taken(8, 7), "sm_80 PTX");
        let hopper = "sm_90a machine code, sm_90a PTX, sm_90 machine code, sm_90 PTX, sm_80 PTX";
        assert_eq!(taken(9, 0), hopper);
        let blackwell = "sm_100f machine code, sm_100f PTX, sm_100 machine code, sm_100 PTX, sm_90 PTX, sm_80 PTX";
        assert_eq!((taken(10, 0).as_str(), taken(10, 3).as_str()), (blackwell, blackwell));
        for [major, minor] in [[10, 1], [11, 0], [12, 0], [12, 1], [12, 5], [13, 0], [15, 0]] {
            assert_eq!(taken(major, minor), "sm_100 PTX, sm_90 PTX, sm_80 PTX", "sm_{major}{minor}");
        }
        assert_eq!(taken(7, 5), "");
    }
}
