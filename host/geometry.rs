//! What of a model's attention stays the same from step to step: the part of a request that a plan is made for.
use crate::dtype::{CacheDType, HeadDim, QueryDType};
use crate::error::Error;

/// Most query heads that may share one KV head.
pub const MAX_GROUP: usize = 64;

/// Most tokens a page.
pub const MAX_PAGE_SIZE: usize = 1024;

/// Head counts, dimensions and formats of one attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    head_dim: HeadDim,
    q: QueryDType,
    kv: CacheDType,
    q_heads: u32,
    kv_heads: u32,
    page_size: u32,
}

impl Geometry {
    /// Checks and keeps: `heads` are `[q_heads, kv_heads]`, `page_size` is in tokens, `q` is the format of queries,
    /// `kv` of the cache.
    ///
    /// # Errors
    /// A head dimension other than 64, 128, 256 or 512; a group `q_heads / kv_heads` that is not an integer from 1 to
    /// 64; a page size that is not a power of two from 1 to 1024.
    pub fn new(
        head_dim: usize,
        heads: [usize; 2],
        page_size: usize,
        q: impl Into<QueryDType>,
        kv: impl Into<CacheDType>,
    ) -> Result<Self, Error> {
        let [q_heads, kv_heads] = heads;
        check_page_size(page_size)?;
        if kv_heads == 0 || q_heads == 0 || !q_heads.is_multiple_of(kv_heads) || q_heads / kv_heads > MAX_GROUP {
            return Err(Error::Heads { q_heads, kv_heads });
        }
        Ok(Self {
            head_dim: HeadDim::try_from(head_dim)?,
            q: q.into(),
            kv: kv.into(),
            q_heads: u32_field("q_heads", q_heads)?,
            kv_heads: u32_field("kv_heads", kv_heads)?,
            page_size: u32_field("page_size", page_size)?,
        })
    }

    /// The head dimension.
    pub const fn head_dim(&self) -> HeadDim {
        self.head_dim
    }

    /// Format of queries, and of outputs that are given no other.
    pub const fn q(&self) -> QueryDType {
        self.q
    }

    /// Format of the cache.
    pub const fn kv(&self) -> CacheDType {
        self.kv
    }

    /// Query heads.
    pub const fn q_heads(&self) -> u32 {
        self.q_heads
    }

    /// KV heads.
    pub const fn kv_heads(&self) -> u32 {
        self.kv_heads
    }

    /// Query heads a KV head, 1 to 64.
    pub const fn group(&self) -> u32 {
        self.q_heads / self.kv_heads
    }

    /// Tokens a page, a power of two.
    pub const fn page_size(&self) -> u32 {
        self.page_size
    }
}

pub(crate) fn check_page_size(page_size: usize) -> Result<(), Error> {
    if page_size.is_power_of_two() && page_size <= MAX_PAGE_SIZE {
        return Ok(());
    }
    Err(Error::Value { field: "page_size", value: page_size.to_string(), allowed: "powers of two from 1 to 1024" })
}

/// `value` as the 31-bit number that kernels index with.
pub(crate) fn u32_field(field: &'static str, value: usize) -> Result<u32, Error> {
    match u32::try_from(value) {
        Ok(small) if small <= i32::MAX as u32 => Ok(small),
        _ => Err(Error::Value { field, value: value.to_string(), allowed: "at most 2147483647" }),
    }
}
