//! Families of entries: what a loop is made of, which decides the passes of the compiler that have it and the chips that it
//! runs on. The host's selection, the build and the support table read this one list.

/// The chips that a family runs on, by compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chips {
    /// This one and all later ones.
    From([u32; 2]),
    /// These alone.
    Only(&'static [[u32; 2]]),
}

impl Chips {
    /// Whether the chip of this capability, `[major, minor]`, is one.
    pub fn include(self, capability: [u32; 2]) -> bool {
        match self {
            Self::From(first) => capability >= first,
            Self::Only(chips) => chips.contains(&capability),
        }
    }
}

macro_rules! families {
    ($($(#[$doc:meta])* $family:ident = $name:literal in $pass:expr, $chips:expr;)*) => {
        /// What an entry's loop is made of, the preferred first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Family {
            $($(#[$doc])* $family,)*
        }

        impl Family {
            /// Every family, in the order in which a chip that has several prefers them.
            pub const ALL: &[Self] = &[$(Self::$family),*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$family => $name,)* }
            }

            /// The one pass of the compiler whose PTX has it (`sm_90a`); `None`: every pass.
            pub const fn pass(self) -> Option<&'static str> {
                match self { $(Self::$family => $pass,)* }
            }

            /// The chips that it runs on.
            pub const fn chips(self) -> Chips {
                match self { $(Self::$family => $chips,)* }
            }
        }
    };
}

families! {
    /// Products with tensor memory, which Blackwell's chips for data centres have: B200, GB200 and B300.
    Tcgen05 = "tcgen05" in Some(super::BLACKWELL), Chips::Only(&[[10, 0], [10, 3]]);
    /// Warpgroup products fed by tensor copies, which Hopper has and no chip before or behind it.
    Wgmma = "wgmma" in Some(super::HOPPER), Chips::Only(&[[9, 0]]);
    /// `mma.sync` and `cp.async`, and all that multiplies nothing: Ampere and whatever comes after it, in 99 KiB a block.
    Portable = "portable" in None, Chips::From([8, 0]);
}

#[cfg(test)]
mod tests {
    use super::Family;

    #[test]
    fn chips_of_a_family() {
        let runs =
            |family: Family, chips: &[[u32; 2]]| chips.iter().map(|&c| family.chips().include(c)).collect::<Vec<_>>();
        assert_eq!(runs(Family::Wgmma, &[[8, 9], [9, 0], [9, 1], [10, 0]]), [false, true, false, false]);
        assert_eq!(runs(Family::Tcgen05, &[[9, 0], [10, 0], [10, 3], [11, 0]]), [false, true, true, false]);
        assert_eq!(runs(Family::Portable, &[[7, 5], [8, 0], [8, 9], [13, 0]]), [false, true, true, true]);
    }
}
