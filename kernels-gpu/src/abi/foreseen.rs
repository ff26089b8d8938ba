//! What a plan says of its items beforehand.
use super::WorkItem;

/// What each block of a plan has to do, where one number says it: one query token of one sequence, whose keys are cut into as many equal parts
/// for every KV head, a power of two of them. A guess: a captured launch may have another plan by now, and the sequence another
/// length. Blocks ask for the pages' ids and for q together with their items, and once more where it was wrong.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreseen(u32);

impl Foreseen {
    /// Nothing.
    pub const NOTHING: Self = Self(0);

    /// `tiles` tiles, for each of `kv_heads` KV heads in `parts` parts, a block each; [`Foreseen::NOTHING`] where `parts` is no power of two,
    /// or any of them is too large.
    pub const fn new(tiles: u32, kv_heads: u32, parts: u32) -> Self {
        if !parts.is_power_of_two() || parts >= 1 << 16 || kv_heads >= 1 << 12 || tiles >= 1 << 16 {
            return Self::NOTHING;
        }
        Self(tiles << 16 | kv_heads << 4 | parts.trailing_zeros())
    }

    /// Block `block`'s rows, and the first tile of its keys; `None` where nothing is foreseen, or there are fewer blocks.
    #[inline(always)]
    pub const fn item(self, block: u32) -> Option<WorkItem> {
        let (tiles, kv_heads, shift) = (self.0 >> 16, self.0 >> 4 & 0xFFF, self.0 & 0xF);
        let (kv_head, part) = (block >> shift, block & ((1 << shift) - 1));
        if kv_head >= kv_heads {
            return None;
        }
        Some(WorkItem { kv_head, first: (part * tiles) >> shift, q_len: 1, ..WorkItem::NOTHING })
    }
}
