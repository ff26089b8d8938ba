//! The support table: what [`support`] answers, line by line, and how far each has been proved.
use super::{ARCHES, Arch, KernelId, Variant, kernels, support};
use crate::dtype::{CacheDType, HeadDim, QueryDType};
use crate::geometry::MAX_GROUP;
use core::fmt;

/// How far a kernel's use on an architecture has been proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its tests passed on an H100.
    RunOnH100,
    /// Its code for this architecture assembled, and its source run on the simulator; not run on the chip.
    AssembledAndSimulated,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RunOnH100 => "run on H100",
            Self::AssembledAndSimulated => "assembled and simulated, not run",
        })
    }
}

/// One line of the support table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SupportRow {
    /// The architecture.
    pub arch: Arch,
    /// The head dimension.
    pub head_dim: HeadDim,
    /// Format of queries.
    pub q: QueryDType,
    /// Format of the cache.
    pub kv: CacheDType,
    /// Kernel for up to 8 query rows: query heads a KV head times query tokens of a sequence.
    pub eight: KernelId,
    /// Kernel for 9 to 16 query rows, and at head dimensions up to 256 for 17 to 32.
    pub few: KernelId,
    /// Kernel for more.
    pub many: KernelId,
    /// How far these have been proved.
    pub status: Status,
    /// What is for more than 64 query rows instead, where there is such a kernel; of FP8 queries for any number.
    pub prefill: Option<PrefillRow>,
}

/// The prefill kernel of a line of the support table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefillRow {
    /// The kernel.
    pub kernel: KernelId,
    /// What a plan may take instead where rows see many keys ([`crate::Capture::ThisPlan`]).
    pub long: Option<KernelId>,
    /// How far these have been proved.
    pub status: Status,
}

/// Everything that is supported: one line for each of [`ARCHES`], head dimension and pair of formats.
pub fn support_table() -> Vec<SupportRow> {
    let mut rows = Vec::new();
    for arch in ARCHES {
        for head_dim in HeadDim::ALL {
            for (q, kv) in QueryDType::ALL.into_iter().flat_map(|q| CacheDType::ALL.map(|kv| (q, kv))) {
                let of = |group| support(arch, head_dim.get(), q, kv, 16, group, Variant::PLAIN);
                if let (Ok(eight), Ok(few), Ok(many)) = (of(1), of(16), of(MAX_GROUP)) {
                    let narrow = q.dtype().is_none();
                    let status = if arch == Arch::HOPPER { Status::RunOnH100 } else { Status::AssembledAndSimulated };
                    let more = Variant { q_len: 2, ..Variant::PLAIN };
                    let able = kernels(arch, head_dim.get(), q, kv, 16, MAX_GROUP, more).unwrap_or_default();
                    let prefill = able.first().filter(|&&kernel| narrow || kernel != many).map(|&kernel| {
                        let long = able[1..].iter().copied().find(|other| other.family() == kernel.family());
                        PrefillRow { kernel, long, status }
                    });
                    rows.push(SupportRow { arch, head_dim, q, kv, eight, few, many, status, prefill });
                }
            }
        }
    }
    rows
}
