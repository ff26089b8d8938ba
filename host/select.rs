//! Which kernel a request runs on, or every reason why there is none. Read from the kernels' own list of entries, needs
//! no device, and is asked when a plan is made, never at the first launch.
mod table;

pub use table::{ARCHES, PrefillRow, Status, SupportRow, support_table};

use crate::dtype::{CacheDType, DType, HeadDim, QueryDType};
use crate::error::Error;
use crate::geometry::{MAX_GROUP, MAX_PAGE_SIZE};
use crate::query_lens::MAX_QUERY_TOKENS;
use core::fmt;
use kernels_gpu::abi::OutputKind;
use kernels_gpu::config::{RowClass, Shape, Tiling, prefills};
use kernels_gpu::kernels::{ENTRIES, EntryInfo, Role};

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

    /// The only one that the prefill kernels run on: what they are made of is in sm_90a alone, neither before nor behind it.
    pub const HOPPER: Self = Self { major: 9, minor: 0 };
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.major, self.minor)
    }
}

/// What a request asks for beyond plain attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The most query tokens of a sequence.
    pub q_len: usize,
    /// A window to the left or the right of a query token's position.
    pub window: bool,
    /// A soft cap on the logits.
    pub softcap: bool,
    /// One logit a head in the softmax's denominator.
    pub sinks: bool,
    /// ALiBi slopes.
    pub alibi: bool,
    /// Positions of the query tokens.
    pub positions: bool,
    /// Spans of keys that a query token sees besides its window.
    pub spans: bool,
    /// A tree mask among the query tokens.
    pub tree: bool,
    /// A prefix that the batch shares ([`crate::PrefixPlan`]).
    pub shared_prefix: bool,
    /// Scales of the cache a token and head.
    pub token_scales: bool,
    /// Format of the output; `None`: the queries'.
    pub output: Option<OutputKind>,
}

impl Variant {
    /// Plain attention of one query token over all keys.
    pub const PLAIN: Self = Self {
        q_len: 1,
        window: false,
        softcap: false,
        sinks: false,
        alibi: false,
        positions: false,
        spans: false,
        tree: false,
        shared_prefix: false,
        token_scales: false,
        output: None,
    };

    /// The unmet needs of these together.
    fn needs(&self) -> impl Iterator<Item = Need> {
        let (value, anywhere) = (self.q_len, self.window || self.alibi);
        let unmet = [
            (value == 0 || value > MAX_QUERY_TOKENS, Need::QueryLength { value }),
            (self.tree && self.spans, Need::TreeWithSpans),
            (self.shared_prefix && self.spans, Need::SpansWithSharedPrefix),
            (self.shared_prefix && anywhere && !self.positions, Need::PositionsWithSharedPrefix),
        ];
        unmet.into_iter().filter_map(|(unmet, need)| unmet.then_some(need))
    }

    /// Refuses what there is not together.
    pub(crate) fn check(&self) -> Result<(), Unsupported> {
        match self.needs().collect::<Vec<_>>() {
            needs if needs.is_empty() => Ok(()),
            needs => Err(Unsupported { needs }),
        }
    }
}

impl Default for Variant {
    fn default() -> Self {
        Self::PLAIN
    }
}

/// One thing that a kernel would need and that is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// A newer GPU.
    Arch {
        /// The GPU's.
        arch: Arch,
    },
    /// Another head dimension.
    HeadDim {
        /// The one asked for.
        value: usize,
    },
    /// Another GPU, for queries of this format.
    QueryArch {
        /// The GPU's.
        arch: Arch,
        /// Of queries.
        q: QueryDType,
    },
    /// Another pair of formats.
    Formats {
        /// Of queries.
        q: QueryDType,
        /// Of the cache.
        kv: CacheDType,
    },
    /// Another page size.
    PageSize {
        /// The one asked for.
        value: usize,
    },
    /// Another number of query heads a KV head.
    Group {
        /// The one asked for.
        value: usize,
    },
    /// Another combination of these: this build has none of it, though it has each.
    Combination {
        /// The head dimension.
        head_dim: usize,
        /// Format of queries.
        q: QueryDType,
        /// Format of the cache.
        kv: CacheDType,
    },
    /// Another number of query tokens a sequence.
    QueryLength {
        /// The one asked for.
        value: usize,
    },
    /// One scale of all of K and one of all of V, with queries of this format.
    TokenScales {
        /// Of queries.
        q: QueryDType,
    },
    /// A tree mask without spans, or spans without a tree mask.
    TreeWithSpans,
    /// A shared prefix without spans, or spans without a shared prefix.
    SpansWithSharedPrefix,
    /// Positions, as where a window or ALiBi is cannot be told from a sequence's end while the prefix is read.
    PositionsWithSharedPrefix,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arch { arch } => write!(f, "architecture {arch} (allowed: {} and newer)", Arch::OLDEST),
            Self::QueryArch { arch, q } => write!(f, "q {q} on architecture {arch} (allowed: {})", Arch::HOPPER),
            Self::HeadDim { value } => write!(f, "head_dim {value} (allowed: {})", HeadDim::ALLOWED),
            Self::Formats { q, kv } => {
                let read = |kv: &CacheDType| reads(*q, *kv);
                let allowed: Vec<_> = CacheDType::ALL.into_iter().filter(read).map(CacheDType::name).collect();
                write!(f, "q {q} with a {kv} cache (allowed: {})", allowed.join(", "))
            }
            Self::PageSize { value } => {
                write!(f, "page_size {value} (allowed: powers of two from 1 to {MAX_PAGE_SIZE})")
            }
            Self::Group { value } => write!(f, "{value} query heads a KV head (allowed: 1 to {MAX_GROUP})"),
            Self::Combination { head_dim, q, kv } => {
                write!(f, "head_dim {head_dim} of q {q} with a {kv} cache together")
            }
            Self::QueryLength { value } => {
                write!(f, "{value} query tokens a sequence (allowed: 1 to {MAX_QUERY_TOKENS})")
            }
            Self::TokenScales { q } => {
                write!(f, "q {q} with scales of the cache a token and head (allowed: one of K and one of V)")
            }
            Self::TreeWithSpans => f.write_str("a tree mask with spans (allowed: one of them)"),
            Self::SpansWithSharedPrefix => f.write_str("spans with a shared prefix (allowed: one of them)"),
            Self::PositionsWithSharedPrefix => {
                f.write_str("a window or ALiBi with a shared prefix and no positions (allowed: with positions)")
            }
        }
    }
}

/// Why no kernel takes a request: every unmet need, not just the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The needs, at least one.
    pub needs: Vec<Need>,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no kernel for ")?;
        for (i, need) in self.needs.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{need}")?;
        }
        Ok(())
    }
}

impl core::error::Error for Unsupported {}

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

/// The kernel that answers such a request on such a GPU: a prefill kernel where there is one for the chip, the formats and the
/// query rows ([`Variant::q_len`] times `group`), otherwise the decode kernel, which takes any number of rows. FP8 queries are the
/// prefill kernels' alone, in any number.
///
/// # Errors
/// Every need that no kernel meets.
pub fn support(
    arch: Arch,
    head_dim: usize,
    q: impl Into<QueryDType>,
    kv: impl Into<CacheDType>,
    page_size: usize,
    group: usize,
    variant: Variant,
) -> Result<KernelId, Unsupported> {
    let (q, kv) = (q.into(), kv.into());
    let narrow = q.dtype().is_none();
    let mut needs = Vec::new();
    let mut need = |unmet: bool, what: Need| {
        if unmet {
            needs.push(what);
        }
    };
    need(arch < Arch::OLDEST, Need::Arch { arch });
    need(arch >= Arch::OLDEST && narrow && arch != Arch::HOPPER, Need::QueryArch { arch, q });
    need(HeadDim::try_from(head_dim).is_err(), Need::HeadDim { value: head_dim });
    need(!reads(q, kv), Need::Formats { q, kv });
    need(narrow && variant.token_scales, Need::TokenScales { q });
    need(!page_size.is_power_of_two() || page_size > MAX_PAGE_SIZE, Need::PageSize { value: page_size });
    need(group == 0 || group > MAX_GROUP, Need::Group { value: group });
    needs.extend(variant.needs());
    let rows = group.saturating_mul(variant.q_len).try_into().unwrap_or(u32::MAX);
    let class = RowClass::of(rows, head_dim as u32);
    let decode = || decodes().find(|(_, e)| e.head_dim == head_dim && e.q == q && e.kv == kv && e.rows == class);
    let prefill = if arch == Arch::HOPPER && (narrow || prefills(rows)) { prefill(head_dim, q, kv) } else { None };
    match prefill.or_else(|| decode().map(|(id, _)| id)) {
        Some(id) if needs.is_empty() => Ok(id),
        None if needs.is_empty() => Err(Unsupported { needs: vec![Need::Combination { head_dim, q, kv }] }),
        _ => Err(Unsupported { needs }),
    }
}

struct DecodeEntry {
    head_dim: usize,
    q: QueryDType,
    kv: CacheDType,
    rows: RowClass,
}

fn decodes() -> impl Iterator<Item = (KernelId, DecodeEntry)> {
    KernelId::all().filter_map(|id| match id.info().role {
        Role::Decode { shape, rows, q, kv } => {
            let head_dim = shape.head_dim as usize;
            Some((id, DecodeEntry { head_dim, q: DType::of(q).into(), kv: CacheDType::of(kv), rows }))
        }
        _ => None,
    })
}

/// Whether there are kernels for queries of one format and caches of another, at some head dimension.
fn reads(q: QueryDType, kv: CacheDType) -> bool {
    decodes().any(|(_, e)| e.q == q && e.kv == kv) || HeadDim::ALL.iter().any(|d| prefill(d.get(), q, kv).is_some())
}

/// The prefill kernel of a head dimension and formats.
fn prefill(head_dim: usize, q: QueryDType, kv: CacheDType) -> Option<KernelId> {
    let prefills = |id: &KernelId| match id.info().role {
        Role::Prefill { shape, q: element, kv: cache } => {
            shape.head_dim as usize == head_dim && QueryDType::of(element) == q && CacheDType::of(cache) == kv
        }
        _ => false,
    };
    KernelId::all().find(prefills)
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
