//! Which kernel a request runs on, or every reason why there is none. Read from the kernels' own list of entries, needs
//! no device, and is asked when a plan is made, never at the first launch.
//!
//! [`select`] is the one table: what answers a request on some chip, in order of preference, less what the chip cannot run.
//! Which chip has which family is the families' list ([`Family`]), which code of a kernel it takes [`Code::taken_by`].
mod arch;
mod need;
mod table;
mod target;
mod variant;

pub(crate) use arch::CLUSTERS;
pub use arch::{ARCHES, Arch};
pub use need::{Need, Unsupported};
pub use table::{PrefillRow, Status, SupportRow, support_table};
pub use target::{Code, Reach, Target};
pub use variant::{KernelChoice, Variant};

use crate::device::Properties;
use crate::dtype::{CacheDType, DType, HeadDim, QueryDType};
use crate::error::Error;
use crate::geometry::{MAX_GROUP, MAX_PAGE_SIZE};
use core::fmt;
use kernels_gpu::config::{RowClass, Shape, Tiling, prefills};
pub use kernels_gpu::kernels::Family;
use kernels_gpu::kernels::{ENTRIES, EntryInfo, Role};

/// One of the kernels' entries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelId(u16);

impl KernelId {
    /// Every entry, decode kernels first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..ENTRIES.len() as u16).map(Self)
    }

    /// The entry of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|id| id.info().name == name)
    }

    /// Its line in the kernels' list.
    pub fn info(self) -> &'static EntryInfo {
        &ENTRIES[self.index()]
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// What its loop is made of.
    pub fn family(self) -> Family {
        self.info().family()
    }

    /// The formats of queries and cache that it is for; `None` for a kernel that is no attention.
    pub fn formats(self) -> Option<(QueryDType, CacheDType)> {
        match self.info().role {
            Role::Decode { q, kv, .. } => Some((DType::of(q).into(), CacheDType::of(kv))),
            Role::Prefill { q, kv, .. } => Some((QueryDType::of(q), CacheDType::of(kv))),
            Role::Combine | Role::Append { .. } | Role::CheckPages => None,
        }
    }

    /// What its items are; `None` for a kernel that has none.
    pub fn tiling(self) -> Option<Tiling> {
        self.info().tiling()
    }

    /// The shape of a decode kernel; `None` for the others.
    pub fn shape(self) -> Option<Shape> {
        match self.info().role {
            Role::Decode { shape, .. } => Some(shape),
            _ => None,
        }
    }
}

impl fmt::Display for KernelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().name)
    }
}

impl fmt::Debug for KernelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KernelId({self})")
    }
}

/// What selection must know of a GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chip<'a> {
    arch: Arch,
    shared_per_block: u32,
    families: &'a [Family],
}

impl Chip<'static> {
    /// One of this capability, for a program that has all kernels.
    const fn of(arch: Arch) -> Self {
        Self { arch, shared_per_block: arch.shared_per_block(), families: Family::ALL }
    }
}

impl<'a> From<&'a Properties> for Chip<'a> {
    fn from(properties: &'a Properties) -> Self {
        let Properties { arch, shared_per_block, families, .. } = properties;
        Self { arch: *arch, shared_per_block: *shared_per_block, families }
    }
}

impl Chip<'_> {
    /// What keeps a kernel of a family that it runs from running.
    fn lacks(&self, kernel: KernelId) -> impl Iterator<Item = Need> {
        let (family, bytes) = (kernel.family(), kernel.info().shared_bytes());
        let code = (!self.families.contains(&family)).then_some(Need::Code { family, arch: self.arch });
        let most = self.shared_per_block;
        code.into_iter().chain((bytes > most).then_some(Need::SharedMemory { kernel, bytes, most }))
    }
}

/// What a request asks of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) head_dim: usize,
    pub(crate) q: QueryDType,
    pub(crate) kv: CacheDType,
    pub(crate) page_size: usize,
    pub(crate) group: usize,
    pub(crate) variant: Variant,
}

impl Asked {
    /// Query rows, the most of a sequence and KV head.
    fn rows(&self) -> u32 {
        self.group.saturating_mul(self.variant.q_len).try_into().unwrap_or(u32::MAX)
    }

    /// Whether it is of the head dimension and the formats of `kernel`.
    fn suits(&self, kernel: KernelId) -> bool {
        kernel.formats() == Some((self.q, self.kv))
            && kernel.tiling().is_some_and(|tiling| tiling.head_dim as usize == self.head_dim)
    }

    /// The kernels that answer it on some chip, the preferred first: those of families made for a chip before the portable
    /// one, but up to 64 rows behind it ([`prefills`]); of the decode kernels the one for its rows, and of 9 to 16 rows behind it the one for 8.
    fn answered_by(&self) -> Vec<KernelId> {
        let class = RowClass::of(self.rows(), self.head_dim as u32);
        let halved = (class == RowClass::Few && self.rows() <= 16).then_some(RowClass::Eight);
        let other_rows = |kernel: &KernelId| match kernel.info().role {
            Role::Decode { rows, .. } => (rows != class).then_some(rows),
            _ => None,
        };
        let for_rows = |kernel: &KernelId| other_rows(kernel).is_none_or(|rows| Some(rows) == halved);
        let mut kernels: Vec<_> = KernelId::all().filter(|&kernel| self.suits(kernel)).filter(for_rows).collect();
        let many = prefills(self.rows());
        kernels.sort_by_key(|kernel| {
            (!many && kernel.family() != Family::Portable, kernel.family(), other_rows(kernel).is_some())
        });
        kernels
    }

    /// What no kernel on the chip meets, whichever is to answer.
    fn needs(&self, chip: &Chip<'_>) -> Vec<Need> {
        let Self { head_dim, q, kv, page_size, group, variant } = *self;
        let (arch, narrow) = (chip.arch, q.dtype().is_none());
        let old = arch < Arch::OLDEST;
        let unmet = [
            (old, Need::Arch { arch }),
            (!old && !families_of(q).into_iter().any(|family| chip.arch.runs(family)), Need::QueryArch { arch, q }),
            (HeadDim::try_from(head_dim).is_err(), Need::HeadDim { value: head_dim }),
            (!reads(q, kv), Need::Formats { q, kv }),
            (narrow && variant.token_scales, Need::TokenScales { q }),
            (!page_size.is_power_of_two() || page_size > MAX_PAGE_SIZE, Need::PageSize { value: page_size }),
            (group == 0 || group > MAX_GROUP, Need::Group { value: group }),
        ];
        unmet.into_iter().filter_map(|(unmet, need)| unmet.then_some(need)).chain(variant.needs()).collect()
    }

    /// What keeps the chosen family or kernel from answering on the chip, whatever else does.
    fn forced_needs(&self, chip: &Chip<'_>) -> Vec<Need> {
        let Self { head_dim, q, kv, .. } = *self;
        let (mut needs, arch) = (Vec::new(), chip.arch);
        let (family, kernel) = match self.variant.kernel {
            KernelChoice::Auto => return needs,
            KernelChoice::Family(family) => {
                let kernel = self.answered_by().into_iter().find(|kernel| kernel.family() == family);
                if kernel.is_none() {
                    needs.push(Need::ForcedFamily { family, head_dim, q, kv });
                }
                (family, kernel)
            }
            KernelChoice::Kernel(kernel) => {
                match (kernel.tiling(), kernel.formats()) {
                    (Some(tiling), Some(formats)) => {
                        if tiling.head_dim as usize != head_dim {
                            needs.push(Need::ForcedHeadDim { kernel, head_dim });
                        }
                        if formats != (q, kv) {
                            needs.push(Need::ForcedFormats { kernel, q, kv });
                        }
                    }
                    _ => needs.push(Need::ForcedRole { kernel }),
                }
                (kernel.family(), Some(kernel))
            }
        };
        // Where it is too old for any kernel, that has been said.
        if arch >= Arch::OLDEST && !chip.arch.runs(family) {
            needs.push(Need::ForcedArch { family, arch });
        }
        needs.extend(kernel.into_iter().flat_map(|kernel| chip.lacks(kernel)));
        needs
    }
}

/// The kernels that can answer on a chip, the preferred first.
pub(crate) fn select(chip: &Chip<'_>, asked: &Asked) -> Result<Vec<KernelId>, Unsupported> {
    let mut needs = asked.needs(chip);
    needs.extend(asked.forced_needs(chip));
    if !needs.is_empty() {
        return Err(Unsupported { needs });
    }
    let candidates: Vec<KernelId> = match asked.variant.kernel {
        KernelChoice::Kernel(kernel) => vec![kernel],
        choice => {
            let allowed = |family| matches!(choice, KernelChoice::Auto) || choice == KernelChoice::Family(family);
            let runs = |kernel: &KernelId| allowed(kernel.family()) && chip.arch.runs(kernel.family());
            asked.answered_by().into_iter().filter(runs).collect()
        }
    };
    let able: Vec<_> = candidates.iter().copied().filter(|&kernel| chip.lacks(kernel).next().is_none()).collect();
    if !able.is_empty() {
        return Ok(able);
    }
    let lacks: Vec<Need> = candidates.into_iter().flat_map(|kernel| chip.lacks(kernel)).collect();
    let Asked { head_dim, q, kv, .. } = *asked;
    Err(Unsupported { needs: if lacks.is_empty() { vec![Need::Combination { head_dim, q, kv }] } else { lacks } })
}

/// The kernels that can answer such a request on such a GPU, the preferred first, at least one: those made for the chip before
/// the portable one, which reads the cache once for up to 64 query rows ([`Variant::q_len`] times `group`) and is preferred for
/// these. FP8 queries are the prefill kernels' alone, in any number. [`Variant::kernel`] narrows the answer.
///
/// # Errors
/// Every need that no kernel meets, or the chosen one does not.
pub fn kernels(
    arch: Arch,
    head_dim: usize,
    q: impl Into<QueryDType>,
    kv: impl Into<CacheDType>,
    page_size: usize,
    group: usize,
    variant: Variant,
) -> Result<Vec<KernelId>, Unsupported> {
    select(&Chip::of(arch), &Asked { head_dim, q: q.into(), kv: kv.into(), page_size, group, variant })
}

/// The first of [`kernels`]: what a plan for such a GPU takes.
///
/// # Errors
/// As there.
pub fn support(
    arch: Arch,
    head_dim: usize,
    q: impl Into<QueryDType>,
    kv: impl Into<CacheDType>,
    page_size: usize,
    group: usize,
    variant: Variant,
) -> Result<KernelId, Unsupported> {
    kernels(arch, head_dim, q, kv, page_size, group, variant).map(|kernels| kernels[0])
}

/// Whether there are kernels for queries of one format and caches of another, at some head dimension.
fn reads(q: QueryDType, kv: CacheDType) -> bool {
    KernelId::all().any(|kernel| kernel.formats() == Some((q, kv)))
}

/// The families with kernels for queries of a format.
fn families_of(q: QueryDType) -> Vec<Family> {
    let has = |family: &Family| {
        let reads = |kernel: KernelId| kernel.formats().is_some_and(|(own, _)| own == q);
        KernelId::all().any(|kernel| kernel.family() == *family && reads(kernel))
    };
    Family::ALL.iter().copied().filter(has).collect()
}

/// The kernel that merges the partial results of split sequences, or states.
pub(crate) fn combine() -> Result<KernelId, Error> {
    let merges = |id: &KernelId| matches!(id.info().role, Role::Combine);
    KernelId::all().find(merges).ok_or(Error::NoKernel { role: "combine" })
}

/// The kernel that appends tokens of format `src` to a cache of format `cache`.
pub(crate) fn append(src: DType, cache: CacheDType) -> Result<KernelId, Error> {
    let appends = |id: &KernelId| match id.info().role {
        Role::Append { src: s, kv } => DType::of(s) == src && CacheDType::of(kv) == cache,
        _ => false,
    };
    KernelId::all().find(appends).ok_or(Error::NoKernel { role: "append" })
}

/// The kernel that checks page ids.
pub(crate) fn check_pages() -> Result<KernelId, Error> {
    let checks = |id: &KernelId| matches!(id.info().role, Role::CheckPages);
    KernelId::all().find(checks).ok_or(Error::NoKernel { role: "check_pages" })
}
