//! Why no kernel takes a request: every unmet need by name, with what would do.
use super::{Arch, Family, KernelId};
use crate::dtype::{CacheDType, HeadDim, QueryDType};
use crate::geometry::{MAX_GROUP, MAX_PAGE_SIZE};
use crate::query_lens::MAX_QUERY_TOKENS;
use core::fmt;
use kernels_gpu::kernels::Chips;

/// The chips of a family, in words.
fn chips(family: Family) -> String {
    let arch = |[major, minor]: [u32; 2]| Arch { major, minor }.to_string();
    match family.chips() {
        Chips::From(first) => format!("{} and newer", arch(first)),
        Chips::Only(only) => only.iter().copied().map(arch).collect::<Vec<_>>().join(", "),
    }
}

/// The head dimensions and formats that a family has kernels of, in words.
fn offered(family: Family) -> String {
    let mut offered: Vec<String> = Vec::new();
    for kernel in KernelId::all().filter(|kernel| kernel.info().family() == family) {
        if let (Some(tiling), Some((q, kv))) = (kernel.tiling(), kernel.formats()) {
            let text = format!("{} of {q} with {kv}", tiling.head_dim);
            if !offered.contains(&text) {
                offered.push(text);
            }
        }
    }
    offered.join(", ")
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
    /// An attention kernel in place of the one that must answer ([`super::KernelChoice::Kernel`]).
    ForcedRole {
        /// The one asked for.
        kernel: KernelId,
    },
    /// Another kernel than the one that must answer, for this head dimension.
    ForcedHeadDim {
        /// The one asked for.
        kernel: KernelId,
        /// The head dimension.
        head_dim: usize,
    },
    /// Another kernel than the one that must answer, for this pair of formats.
    ForcedFormats {
        /// The one asked for.
        kernel: KernelId,
        /// Format of queries.
        q: QueryDType,
        /// Format of the cache.
        kv: CacheDType,
    },
    /// Another family than the one that must answer ([`super::KernelChoice::Family`]), for this combination.
    ForcedFamily {
        /// The one asked for.
        family: Family,
        /// The head dimension.
        head_dim: usize,
        /// Format of queries.
        q: QueryDType,
        /// Format of the cache.
        kv: CacheDType,
    },
    /// Another GPU, for the family that must answer or is that of the kernel that must.
    ForcedArch {
        /// The family.
        family: Family,
        /// The GPU's.
        arch: Arch,
    },
    /// More shared memory a block than the GPU has.
    SharedMemory {
        /// The kernel.
        kernel: KernelId,
        /// What it needs, in bytes.
        bytes: u32,
        /// What a block may have.
        most: u32,
    },
    /// A build with code of this family for this GPU.
    Code {
        /// The family.
        family: Family,
        /// The GPU's.
        arch: Arch,
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
            Self::QueryArch { arch, q } => {
                let allowed: Vec<_> = super::families_of(*q).into_iter().map(chips).collect();
                write!(f, "q {q} on architecture {arch} (allowed: {})", allowed.join(", "))
            }
            Self::HeadDim { value } => write!(f, "head_dim {value} (allowed: {})", HeadDim::ALLOWED),
            Self::Formats { q, kv } => {
                let read = |kv: &CacheDType| super::reads(*q, *kv);
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
            Self::ForcedRole { kernel } => {
                write!(f, "the choice of {kernel}, which is no attention (allowed: decode and prefill kernels)")
            }
            Self::ForcedHeadDim { kernel, head_dim } => {
                let own = kernel.tiling().map_or(0, |tiling| tiling.head_dim);
                write!(f, "the choice of {kernel} at head_dim {head_dim} (allowed: {own})")
            }
            Self::ForcedFormats { kernel, q, kv } => {
                write!(f, "the choice of {kernel} for q {q} with a {kv} cache")?;
                let own = kernel.formats().map(|(q, kv)| format!(" (allowed: q {q} with a {kv} cache)"));
                f.write_str(&own.unwrap_or_default())
            }
            Self::ForcedFamily { family, head_dim, q, kv } => {
                let (name, offered) = (family.name(), offered(*family));
                write!(f, "the choice of {name} at head_dim {head_dim} of q {q} with a {kv} cache (allowed: {offered})")
            }
            Self::ForcedArch { family, arch } => {
                write!(f, "the choice of {} on architecture {arch} (allowed: {})", family.name(), chips(*family))
            }
            Self::SharedMemory { kernel, bytes, most } => {
                write!(f, "{most} bytes of shared memory a block ({kernel} has {bytes})")
            }
            Self::Code { family, arch } => {
                write!(f, "{arch} in family {}, whose code this build has not (see QKV_ARCH)", family.name())
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
