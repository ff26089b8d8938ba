//! The kernels' code as it was built in, and which of it a device takes ([`Target`]): the newest that runs there.
use crate::error::Error;
use crate::select::{Arch, Code, Family, KernelId, Target};
use std::vec::IntoIter;

/// One kernel for one target, as `build.rs` embeds it. `ptx` and `cubin` are deflated (raw, no header).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    /// `sm_80`, `sm_90a`, ...
    pub(crate) target: &'static str,
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
    let mut targets: Vec<&str> = IMAGES.iter().map(|image| image.target).collect();
    targets.sort_unstable();
    targets.dedup();
    BuiltIn { made_by: MADE_BY, targets, assembled: IMAGES.iter().all(|image| image.cubin.is_some()) }
}

/// Every image that is built in.
pub(crate) fn images() -> &'static [Image] {
    IMAGES
}

/// The families of which every kernel has code for a device, whether they run there or not.
pub(crate) fn families(images: &[Image], device: Arch) -> Vec<Family> {
    let has_code = |family: &Family| {
        let mut kernels = KernelId::all().filter(|kernel| kernel.family() == *family);
        kernels.all(|kernel| Image::choices(images, device, kernel.info().name).is_ok())
    };
    Family::ALL.iter().copied().filter(has_code).collect()
}

/// Of an image, the code to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    entry: &'static str,
    deflated: &'static [u8],
    pub(crate) code: Code,
}

impl Image {
    /// The code of `entry` that a device can take, the best and what is behind it ([`Code::taken_by`]).
    ///
    /// # Errors
    /// Where none of the images runs there.
    pub(crate) fn choices(
        images: &[Self],
        device: Arch,
        entry: &'static str,
    ) -> Result<(Choice, IntoIter<Choice>), Error> {
        let of_entry = || images.iter().filter(|image| image.entry == entry);
        let choice = |code: Code| {
            let image = of_entry().find(|image| Target::parse(image.target) == Some(code.target))?;
            let deflated = if code.ptx { image.ptx } else { image.cubin? };
            Some(Choice { entry, deflated, code })
        };
        let mut choices = Code::taken_by(device).into_iter().filter_map(choice).collect::<Vec<_>>().into_iter();
        let best = choices.next().ok_or_else(|| {
            // An entry's own: not every architecture has all.
            let built: Vec<&str> = of_entry().map(|image| image.target).collect();
            let built = if built.is_empty() { "none".to_owned() } else { built.join(", ") };
            Error::NoImage { entry, arch: device.to_string(), built }
        })?;
        Ok((best, choices))
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
        if self.code.ptx {
            code.push(0);
        }
        Ok(code)
    }

    /// Whether the code joins clusters: of the passes for sm_90 and newer.
    pub(crate) fn has_clusters(&self) -> bool {
        self.may_start_early()
    }

    /// Whether the code waits for the kernel before it where needed (`griddepcontrol.wait`, sm_90 and newer).
    pub(crate) fn may_start_early(&self) -> bool {
        self.code.target.arch.major >= 9
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::ARCHES;

    const fn image(target: &'static str, cubin: Option<&'static [u8]>) -> Image {
        Image { target, entry: "e", ptx: b"p", cubin }
    }

    fn chosen(images: &[Image], major: u32, minor: u32) -> Vec<String> {
        let choices = Image::choices(images, Arch { major, minor }, "e");
        let choices = choices.into_iter().flat_map(|(best, others)| [best].into_iter().chain(others));
        choices.map(|choice| choice.code.to_string()).collect()
    }

    /// A kernel without its code would be found by a user's first request.
    #[test]
    fn every_kernel_that_selection_names_has_code_on_every_chip() {
        let later = [[12, 5], [13, 0], [15, 0]].map(|[major, minor]| Arch { major, minor });
        for arch in ARCHES.into_iter().chain(later) {
            for kernel in KernelId::all().filter(|kernel| arch.runs(kernel.family())) {
                let choice = Image::choices(IMAGES, arch, kernel.info().name).map(|(best, _)| best.code);
                assert!(choice.is_ok(), "{:?}", choice.err());
            }
            let runs: Vec<_> = Family::ALL.iter().copied().filter(|&family| arch.runs(family)).collect();
            assert_eq!(families(IMAGES, arch), runs, "{arch}");
        }
        // A build for one architecture, on another.
        let portable = |image: &&Image| image.target == "sm_80";
        let narrow: Vec<Image> = IMAGES.iter().filter(portable).copied().collect();
        assert_eq!(families(&narrow, Arch::HOPPER), [Family::Portable]);
        let other: Vec<Image> = IMAGES.iter().filter(|image| !portable(image)).copied().collect();
        assert_eq!(families(&other, Arch::OLDEST), []);
        for target in built_in().targets {
            assert!(Target::parse(target).is_some_and(|target| Target::ALL.contains(&target)), "{target}");
        }
    }

    #[test]
    fn without_machine_code_the_driver_compiles() {
        let all = [image("sm_80", None), image("sm_90a", None)];
        assert_eq!(chosen(&all, 8, 6), ["sm_80 PTX"]);
        assert_eq!(chosen(&all, 9, 0), ["sm_90a PTX", "sm_80 PTX"]);
        assert_eq!(chosen(&[image("sm_90a", None)], 8, 0), Vec::<String>::new());
    }

    #[test]
    fn an_entry_of_one_chip_says_which() {
        let other = Image { entry: "other", ..image("sm_80", None) };
        let all = [other, image("sm_90a", Some(b"c"))];
        let refused =
            |entry| Image::choices(&all, Arch { major: 10, minor: 0 }, entry).map(|_| ()).map_err(|e| e.to_string());
        assert_eq!(refused("e"), Err("this build has no code of e that runs on sm_100; it has: sm_90a".into()));
        assert!(refused("other").is_ok());
        assert_eq!(refused("none"), Err("this build has no code of none that runs on sm_100; it has: none".into()));
    }
}
