//! The kernels' code as it was built in, and which of it a device takes: machine code for exactly that chip before code
//! for its generation before PTX that the driver compiles.
use crate::error::Error;
use crate::select::Arch;

/// One kernel for one architecture, as `build.rs` embeds it. `ptx` and `cubin` are deflated (raw, no header).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    /// `sm_80`, `sm_90a`, ...
    pub(crate) arch: &'static str,
    /// The entry's name.
    pub(crate) entry: &'static str,
    /// Its PTX.
    pub(crate) ptx: &'static [u8],
    /// Its machine code, where ptxas was there to make it.
    pub(crate) cubin: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The kernels' code in this build of the library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltIn {
    /// What compiled and assembled it.
    pub made_by: &'static str,
    /// Its targets, such as `sm_90a`.
    pub targets: Vec<&'static str>,
    /// Whether all of it is machine code too, so that no driver need compile it.
    pub assembled: bool,
}

/// What code of the kernels this build has.
pub fn built_in() -> BuiltIn {
    let mut targets: Vec<&str> = IMAGES.iter().map(|image| image.arch).collect();
    targets.sort_unstable();
    targets.dedup();
    BuiltIn { made_by: MADE_BY, targets, assembled: IMAGES.iter().all(|image| image.cubin.is_some()) }
}

/// Every image that is built in.
pub(crate) fn images() -> &'static [Image] {
    IMAGES
}

/// Of an image, the code to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    entry: &'static str,
    deflated: &'static [u8],
    ptx: bool,
    target: Target,
}

/// An architecture's name in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    arch: Arch,
    /// The `a` of `sm_90a`: runs on that very chip alone.
    exact: bool,
}

impl Target {
    fn parse(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("sm_")?;
        let (digits, exact) = digits.strip_suffix('a').map_or((digits, false), |d| (d, true));
        let number: u32 = digits.parse().ok()?;
        Some(Self { arch: Arch { major: number / 10, minor: number % 10 }, exact })
    }

    /// Whether machine code for it runs on `device`: the same chip, or a later one of the same generation.
    fn cubin_runs_on(self, device: Arch) -> bool {
        self.arch == device || (!self.exact && self.arch.major == device.major && self.arch.minor <= device.minor)
    }

    /// Whether the driver can compile PTX for it to `device`.
    fn ptx_runs_on(self, device: Arch) -> bool {
        self.arch == device || (!self.exact && self.arch <= device)
    }
}

impl Image {
    /// The code of `entry` for `device`: the newest target's, machine code first.
    ///
    /// # Errors
    /// Where none of the images runs there.
    pub(crate) fn choose(images: &[Self], device: Arch, entry: &'static str) -> Result<Choice, Error> {
        let of_entry = || {
            let named = images.iter().filter(|image| image.entry == entry);
            named.filter_map(|image| Some((Target::parse(image.arch)?, image)))
        };
        let cubins = of_entry().filter(|(target, _)| target.cubin_runs_on(device));
        let cubin = cubins.filter_map(|(t, i)| Some((t, i.cubin?))).max_by_key(|(target, _)| *target);
        let ptx = of_entry().filter(|(target, _)| target.ptx_runs_on(device)).max_by_key(|(target, _)| *target);
        match (cubin, ptx) {
            // A target made for this very chip is worth the driver's compilation.
            (Some((c, _)), Some((p, image))) if p > c => {
                Ok(Choice { entry, deflated: image.ptx, ptx: true, target: p })
            }
            (Some((target, deflated)), _) => Ok(Choice { entry, deflated, ptx: false, target }),
            (None, Some((target, image))) => Ok(Choice { entry, deflated: image.ptx, ptx: true, target }),
            (None, None) => {
                // An entry's own: not every architecture has all.
                let built: Vec<&str> = images.iter().filter(|i| i.entry == entry).map(|image| image.arch).collect();
                let built = if built.is_empty() { "none".to_owned() } else { built.join(", ") };
                Err(Error::NoImage { entry, arch: device.to_string(), built })
            }
        }
    }
}

impl Image {
    /// What to load where the driver refuses `refused`: the same target's PTX in place of machine code, which an older
    /// driver may not take (its ptxas is newer than the driver's own).
    pub(crate) fn in_place_of(images: &[Self], refused: &Choice, entry: &'static str) -> Option<Choice> {
        let same = |image: &&Self| image.entry == entry && Target::parse(image.arch) == Some(refused.target);
        let image = images.iter().find(same).filter(|_| !refused.ptx)?;
        Some(Choice { entry, deflated: image.ptx, ptx: true, target: refused.target })
    }
}

impl Choice {
    /// The code, inflated; PTX ends with NUL. (With the feature `probe`, what replaces it.)
    pub(crate) fn code(&self) -> Result<Vec<u8>, Error> {
        #[cfg(feature = "probe")]
        if let Some(code) = crate::probe::replacement(self.entry)? {
            return Ok(code);
        }
        let inflated = miniz_oxide::inflate::decompress_to_vec(self.deflated);
        let mut code = inflated.map_err(|e| Error::DamagedImage { reason: e.to_string() })?;
        if self.ptx {
            code.push(0);
        }
        Ok(code)
    }

    /// Whether the code waits for the kernel before it where needed (`griddepcontrol.wait`, sm_90 and newer).
    pub(crate) fn may_start_early(&self) -> bool {
        self.target.arch.major >= 9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn image(arch: &'static str, cubin: Option<&'static [u8]>) -> Image {
        Image { arch, entry: "e", ptx: b"p", cubin }
    }

    fn chosen(images: &[Image], major: u32, minor: u32) -> Option<(Target, bool)> {
        Image::choose(images, Arch { major, minor }, "e").ok().map(|c| (c.target, c.ptx))
    }

    fn target(name: &str) -> Target {
        Target::parse(name).expect("a name of the test")
    }

    #[test]
    fn the_chip_s_own_code_comes_first() {
        let all = [image("sm_80", Some(b"c")), image("sm_90a", Some(b"c")), image("sm_100a", Some(b"c"))];
        assert_eq!(chosen(&all, 8, 0), Some((target("sm_80"), false)));
        assert_eq!(chosen(&all, 8, 9), Some((target("sm_80"), false)));
        assert_eq!(chosen(&all, 9, 0), Some((target("sm_90a"), false)));
        assert_eq!(chosen(&all, 10, 0), Some((target("sm_100a"), false)));
        // sm_100a code runs on no 10.3 and sm_90a PTX compiles for 9.0 alone: what is left is PTX for sm_80.
        assert_eq!(chosen(&all, 10, 3), Some((target("sm_80"), true)));
        assert_eq!(chosen(&all, 12, 0), Some((target("sm_80"), true)));
        assert_eq!(chosen(&all, 7, 5), None);
    }

    #[test]
    fn without_machine_code_the_driver_compiles() {
        let all = [image("sm_80", None), image("sm_90a", None)];
        assert_eq!(chosen(&all, 8, 6), Some((target("sm_80"), true)));
        assert_eq!(chosen(&all, 9, 0), Some((target("sm_90a"), true)));
        assert_eq!(chosen(&[image("sm_90a", None)], 8, 0), None);
    }

    #[test]
    fn an_entry_of_one_chip_says_which() {
        let other = Image { entry: "other", ..image("sm_80", None) };
        let all = [other, image("sm_90a", Some(b"c"))];
        assert_eq!(chosen(&all, 9, 0), Some((target("sm_90a"), false)));
        let refused = |entry| Image::choose(&all, Arch { major: 10, minor: 0 }, entry).map_err(|e| e.to_string());
        assert_eq!(refused("e"), Err("this build has no code of e that runs on sm_100; it has: sm_90a".into()));
        assert!(refused("other").is_ok());
        assert_eq!(refused("none"), Err("this build has no code of none that runs on sm_100; it has: none".into()));
    }
}
