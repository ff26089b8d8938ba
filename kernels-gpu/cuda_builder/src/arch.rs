//! The architectures that kernels are compiled for: each a pass of the compiler, a `cfg` of the source, and two targets, a plain
//! one and one with the instructions of a chip or family, of which an entry gets what its instructions need
//! ([`crate::target`]).
use crate::Error;
use std::{fmt, str::FromStr};

/// An architecture that kernels are compiled for.
///
/// Named by the target that its entries may have at most: `a` is of that chip alone, `f` of its family. [`Arch::Sm80`] has
/// nothing that a later chip lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// Ampere and everything after it.
    Sm80,
    /// Hopper.
    Sm90a,
    /// Blackwell of data centres (B200, GB200, and the B300 of 10.3).
    Sm100f,
}

impl Arch {
    /// Every architecture, oldest first.
    pub const ALL: &[Self] = &[Self::Sm80, Self::Sm90a, Self::Sm100f];

    /// Its name and that of its folder, which is the target of entries with instructions of that chip or family: `sm_90a`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sm80 => "sm_80",
            Self::Sm90a => "sm_90a",
            Self::Sm100f => "sm_100f",
        }
    }

    /// The target of entries that do without: code for it runs on later chips too.
    pub const fn plain(self) -> &'static str {
        match self {
            Self::Sm80 => "sm_80",
            Self::Sm90a => "sm_90",
            Self::Sm100f => "sm_100",
        }
    }

    /// `-Ctarget-cpu`. LLVM wants PTX ISA 8.8 for `f` targets, which would be in the text of all entries.
    pub(crate) const fn cpu(self) -> &'static str {
        match self {
            Self::Sm80 => "sm_80",
            Self::Sm90a => "sm_90a",
            Self::Sm100f => "sm_100a",
        }
    }

    /// The value of `cfg(qkv_sm = "…")` in the kernels: `90`.
    pub const fn cfg(self) -> &'static str {
        match self {
            Self::Sm80 => "80",
            Self::Sm90a => "90",
            Self::Sm100f => "100",
        }
    }

    /// The PTX ISA that the kernels are written in, as a target feature: what the oldest driver that can run them
    /// understands, so 8.0 (CUDA 12.0) for `sm_80` (LLVM's own choice, 7.0, lacks the copies' L2 prefetch); of `sm_90a`, whose
    /// drivers get machine code alone, 8.6, the first with fences of shared memory alone (`.sync_restrict`).
    pub(crate) const fn isa(self) -> &'static str {
        match self {
            Self::Sm80 => "ptx80",
            Self::Sm90a => "ptx86",
            Self::Sm100f => "ptx86",
        }
    }

    /// A comma-separated list of names, as in `QKV_ARCH`; order and repeats do not matter.
    ///
    /// # Errors
    /// [`Error::UnknownArch`] for a name that is none, and for a list that names none.
    pub fn parse_list(list: &str) -> Result<Vec<Self>, Error> {
        let mut archs: Vec<Self> = list.split(',').map(str::trim).map(str::parse).collect::<Result<_, _>>()?;
        archs.sort();
        archs.dedup();
        Ok(archs)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .iter()
            .copied()
            .find(|arch| arch.name() == name)
            .ok_or_else(|| Error::UnknownArch { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::Arch;

    #[test]
    fn lists_are_sorted_and_unique() {
        assert_eq!(Arch::parse_list("sm_90a, sm_80,sm_90a").unwrap(), [Arch::Sm80, Arch::Sm90a]);
    }

    #[test]
    fn unknown_names_are_refused_with_the_allowed_ones() {
        let message = Arch::parse_list("sm_90").unwrap_err().to_string();
        assert!(message.contains("\"sm_90\"") && message.contains("sm_80, sm_90a, sm_100f"), "{message}");
        assert!(Arch::parse_list("").is_err());
    }
}
