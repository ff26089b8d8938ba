//! What a block has to do: its item, and the keys that are its share at the sequence's length now.
use super::mask::Edges;
use super::visible::{Seen, seen};
use crate::abi::{DecodeParams, WorkItem, quotient};
use crate::config::Tiling;
use crate::ptx::math::renewed;
use crate::ptx::memory::{ld_global_b32, ld_global_v2_b32, ld_global_v4_b32};
use crate::ptx::sync::uniform;

/// Consecutive tiles of a sequence's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// The first.
    pub first: u32,
    /// Behind the last.
    pub end: u32,
}

/// `whole * part / of`, rounded down, where `part` is at most `of`, which is not 0.
#[inline(always)]
fn fraction(whole: u32, part: u32, of: u32) -> u32 {
    let product = u64::from(whole) * u64::from(part);
    let (mut rest, mut low) = ((product >> 32) as u32, product as u32);
    if rest == 0 {
        return low / of;
    }
    // Bit by bit: a 64-bit division is a call on the device, for which the copying warps of a prefill kernel have no registers.
    // Not unrolled, and counted by a bit, as the assembler unrolls what it can count: the two of a share would be 500 instructions between
    // those of every call.
    let mut turn = renewed(1);
    while turn != 0 {
        turn <<= 1;
        let carry = rest >> 31;
        rest = rest << 1 | low >> 31;
        low <<= 1;
        if carry != 0 || rest >= of {
            rest = rest.wrapping_sub(of);
            low |= 1;
        }
    }
    low
}

impl Tiles {
    /// The share `first / of .. last / of` of `tiles` tiles. Shares that partition the fraction partition the tiles,
    /// whatever `tiles` is: both bounds are the same monotone function of their numerator.
    #[inline(always)]
    pub fn share(tiles: u32, item: &WorkItem) -> Self {
        // At the planned length, the usual case, no 64-bit division (some 100 instructions).
        if tiles == item.of {
            return Self { first: item.first, end: item.last };
        }
        let of = item.of.max(1);
        Self { first: fraction(tiles, item.first, of), end: fraction(tiles, item.last, of) }
    }

    /// The item's share of the tiles that its rows see.
    #[inline(always)]
    fn of(seen: &Seen, item: &WorkItem, tile_keys: u32) -> Self {
        if seen.any.begin >= seen.any.end {
            return Self { first: 0, end: 0 };
        }
        let first = seen.any.begin / tile_keys;
        let share = Self::share(seen.any.end.div_ceil(tile_keys) - first, item);
        Self { first: first + share.first, end: first + share.end }
    }
}

/// One item, with its keys.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// As planned.
    pub item: WorkItem,
    /// Keys of the sequence now, of those that the block table has pages for and the plan has counted.
    pub length: u32,
    /// Those that any of the rows sees.
    pub seen: Seen,
    /// Its tiles.
    pub tiles: Tiles,
    /// Which of them are copied and masked key by key.
    pub edges: Edges,
}

impl Work {
    /// Reads item `index`.
    ///
    /// # Safety
    /// As for the entry.
    #[inline(always)]
    pub unsafe fn item(params: &DecodeParams, index: u32) -> WorkItem {
        let at = params.items.at(index).cast::<u32>();
        // SAFETY: items are 48 bytes, aligned to 16 in the workspace, and the index is one of theirs.
        unsafe {
            let [sequence, kv_head, first_row, first] = ld_global_v4_b32(at).map(uniform);
            let [last, of, length_bound, partial] = ld_global_v4_b32(at.byte_offset(16)).map(uniform);
            let [q_start, q_len] = ld_global_v2_b32(at.byte_offset(32)).map(uniform);
            let reserved = [0; 2];
            WorkItem { sequence, kv_head, first_row, first, last, of, length_bound, partial, q_start, q_len, reserved }
        }
    }

    /// Reads item `index`, and the length of the first sequence, which is often its own; `None` where [`DecodeParams::counts`] say that
    /// there are fewer items.
    ///
    /// # Safety
    /// As for the entry; the workspace has room for so many items.
    #[inline(always)]
    pub unsafe fn counted(params: &DecodeParams, index: u32) -> Option<(WorkItem, u32)> {
        // SAFETY: handed on to the caller; where there is an item there is a sequence.
        unsafe {
            // All in the same trip to memory.
            let first = length(params, 0);
            let item = Self::item(params, index);
            if !params.counts.is_null() {
                let [items] = ld_global_b32(params.counts.cast());
                if index >= uniform(items) {
                    return None;
                }
            }
            Some((item, first))
        }
    }

    /// Reads the length of the sequence of `item`, unless it is the first, whose length is `first` where that is known.
    ///
    /// # Safety
    /// As for the entry; there is such a sequence.
    #[inline(always)]
    pub unsafe fn of(params: &DecodeParams, item: WorkItem, first: Option<u32>, lane: u32, tiling: &Tiling) -> Self {
        let length = match first {
            _ if params.seq_lens.is_null() => item.length_bound,
            Some(first) if item.sequence == 0 => first,
            // SAFETY: handed on to the caller.
            _ => unsafe { length(params, item.sequence) },
        };
        let length = length.saturating_sub(params.keys_before).min(item.length_bound).min(params.table_tokens);
        // SAFETY: handed on to the caller.
        let seen = unsafe { seen(params, &item, length, lane, tiling.rows) };
        let tiles = Tiles::of(&seen, &item, tiling.tile_keys);
        Self { item, length, seen, tiles, edges: Edges::new(params, &seen, tiling.tile_keys) }
    }
}

/// All keys of a sequence; 0 where no lengths are given.
///
/// # Safety
/// As for the entry; there is such a sequence.
#[inline(always)]
unsafe fn length(params: &DecodeParams, sequence: u32) -> u32 {
    if params.seq_lens.is_null() {
        return 0;
    }
    // SAFETY: the sequence is below the batch.
    let [length] = unsafe { ld_global_b32(params.seq_lens.at(sequence).cast()) };
    (uniform(length) as i32).max(0) as u32
}

/// A query row of an item: one head of one query token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryRow {
    /// Query token, counted in its sequence.
    pub token: u32,
    /// Query head, counted in its group.
    pub head: u32,
}

impl QueryRow {
    /// Row `row` of the item.
    #[inline(always)]
    pub const fn of(params: &DecodeParams, item: &WorkItem, row: u32) -> Self {
        let row = item.first_row + row;
        let token = quotient(row, params.group_reciprocal);
        Self { token, head: row - token * params.group }
    }
}

/// How many query rows the item's sequence and KV head have.
#[inline(always)]
pub const fn rows(params: &DecodeParams, item: &WorkItem) -> u32 {
    item.q_len * params.group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_those_of_a_64_bit_division() {
        let numbers = [
            1,
            2,
            3,
            7,
            96,
            1000,
            65_535,
            65_536,
            65_537,
            1 << 24,
            (1 << 24) + 7,
            u32::MAX / 3,
            u32::MAX - 1,
            u32::MAX,
        ];
        for of in numbers {
            for part in numbers.into_iter().chain([0]).filter(|&part| part <= of) {
                for whole in numbers.into_iter().chain([0]) {
                    let expected = u128::from(whole) * u128::from(part) / u128::from(of);
                    assert_eq!(u128::from(fraction(whole, part, of)), expected, "{whole} * {part} / {of}");
                }
            }
        }
    }
}
