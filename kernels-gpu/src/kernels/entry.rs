//! What an entry is.
use crate::abi::{AppendParams, CheckPagesParams, CombineParams, DecodeParams, PrefillParams};
use crate::attention;
use crate::config::{CLUSTER_BLOCKS, RowClass, Shape, Tiling};
use crate::element::{CacheKind, ElementKind, QueryKind};
use crate::kernels::Family;
use crate::prefill::shape::{PrefillShape, Unit};

/// The pass of the entries that are for Hopper alone.
pub const HOPPER: &str = "sm_90a";

/// The pass of those that are for Blackwell's data centre chips alone.
pub const BLACKWELL: &str = "sm_100f";

/// What an entry computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Attention of a step's query tokens over a paged cache.
    Decode {
        /// Its shape, D and row class included.
        shape: Shape,
        /// Groups that it takes.
        rows: RowClass,
        /// Element of q and of the output.
        q: ElementKind,
        /// Format of the cache.
        kv: CacheKind,
    },
    /// The same of many query tokens a sequence, on the chips of its unit alone.
    Prefill {
        /// Its shape, D included.
        shape: PrefillShape,
        /// Element of q.
        q: QueryKind,
        /// Format of the cache.
        kv: CacheKind,
    },
    /// Merge of partial results: of split sequences, or of disjoint keys from elsewhere.
    Combine,
    /// New tokens' K and V into the pages of a cache.
    Append {
        /// Element of the new tokens.
        src: ElementKind,
        /// Format of the cache.
        kv: CacheKind,
    },
    /// Range check of the page ids.
    CheckPages,
}

/// One entry of the PTX.
#[derive(Clone, Copy, Debug)]
pub struct EntryInfo {
    /// Its name there.
    pub name: &'static str,
    /// What it computes.
    pub role: Role,
    /// Threads of a block: `.maxntid`.
    pub threads: u32,
    /// `.minnctapersm`.
    pub min_blocks: u32,
    /// Bytes of its parameter struct.
    pub param_bytes: usize,
}

impl EntryInfo {
    /// Dynamic shared memory of a block of a launch in clusters of so many blocks, in bytes.
    pub const fn shared_bytes_of(&self, cluster: u32) -> u32 {
        match self.role {
            Role::Decode { shape, .. } => shape.shared_bytes_of(cluster),
            _ => self.shared_bytes(),
        }
    }

    /// The most of them, on a chip with or without clusters.
    pub fn most_shared_bytes(&self, clusters: bool) -> u32 {
        let of_clusters = [2, 4, 8, CLUSTER_BLOCKS].map(|blocks| self.shared_bytes_of(blocks));
        if clusters { of_clusters.into_iter().fold(self.shared_bytes(), u32::max) } else { self.shared_bytes() }
    }

    /// Dynamic shared memory a block, in bytes, of a launch without clusters or in the only ones that there are.
    pub const fn shared_bytes(&self) -> u32 {
        match self.role {
            Role::Decode { shape, .. } => shape.shared_bytes(),
            Role::Prefill { shape, .. } => shape.shared_bytes(),
            Role::Combine => attention::combine::SHARED_BYTES,
            Role::Append { .. } => 0,
            Role::CheckPages => attention::check::SHARED_BYTES,
        }
    }
}

impl EntryInfo {
    /// Blocks of a cluster.
    pub const fn cluster(&self) -> u32 {
        match self.role {
            Role::Prefill { shape, .. } => shape.cluster,
            _ => 1,
        }
    }

    /// What its loop is made of.
    pub const fn family(&self) -> Family {
        match self.role {
            Role::Prefill { shape, .. } => match shape.unit {
                Unit::Wgmma => Family::Wgmma,
                Unit::Tcgen05 => Family::Tcgen05,
            },
            Role::Decode { .. } | Role::Combine | Role::Append { .. } | Role::CheckPages => Family::Portable,
        }
    }

    /// Whether it is for Hopper ([`HOPPER`]) alone.
    pub const fn hopper(&self) -> bool {
        matches!(self.family(), Family::Wgmma)
    }

    /// Whether it is a prefill kernel: of some chips alone, and of more shared memory than others have.
    pub const fn prefills(&self) -> bool {
        matches!(self.role, Role::Prefill { .. })
    }

    /// Whether the pass of this name (`sm_80`, `sm_90a`, ...) has it.
    pub fn is_for(&self, pass: &str) -> bool {
        self.family().pass().is_none_or(|only| only == pass)
    }

    /// The items of an entry that has some.
    pub const fn tiling(&self) -> Option<Tiling> {
        match self.role {
            Role::Decode { shape, .. } => Some(shape.tiling()),
            Role::Prefill { shape, .. } => Some(shape.tiling()),
            _ => None,
        }
    }
}

/// The parameters of any entry, by value.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a launch, passed by reference")]
pub enum Params {
    /// For [`Role::Decode`].
    Decode(DecodeParams),
    /// For [`Role::Prefill`].
    Prefill(PrefillParams),
    /// For [`Role::Combine`].
    Combine(CombineParams),
    /// For [`Role::Append`].
    Append(AppendParams),
    /// For [`Role::CheckPages`].
    CheckPages(CheckPagesParams),
}

impl Params {
    /// The struct that the entry takes, for a driver's list of argument addresses.
    pub const fn address(&self) -> *const core::ffi::c_void {
        match self {
            Self::Decode(p) => core::ptr::from_ref(p).cast(),
            Self::Prefill(p) => core::ptr::from_ref(p).cast(),
            Self::Combine(p) => core::ptr::from_ref(p).cast(),
            Self::Append(p) => core::ptr::from_ref(p).cast(),
            Self::CheckPages(p) => core::ptr::from_ref(p).cast(),
        }
    }
}
