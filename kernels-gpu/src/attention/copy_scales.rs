//! The scales that come to shared memory with pieces of K and V: a format's block scales beside each piece, or one a key.
use super::copies::OwnKey;
use crate::abi::{CacheSide, DecodeParams};
use crate::config::Shape;
use crate::layout::nvfp4::INTERLEAVED_TOKENS;
use crate::layout::place::Place;
use crate::memory::Shared;
use crate::ptx::copy::cp_async_4;
use crate::ptx::memory::{ld_global_b32, st_shared_b32};
use crate::ptx::sync::shfl_idx;

/// The copy of the block scales of some panels: of one slice and all lanes' keys, or of some slices and a panel's keys.
pub struct BlockScaleCopy<'a> {
    /// K's or V's.
    pub side: &'a CacheSide,
    /// Whether those of [`INTERLEAVED_TOKENS`] tokens lie together.
    pub interleaved: bool,
    /// The first slice.
    pub slice: u32,
    /// How many slices, a panel each.
    pub panels: u32,
    /// The lane's key.
    pub own: OwnKey,
    /// The first panel.
    pub to: Shared<u8>,
}

impl BlockScaleCopy<'_> {
    /// Copies them by words, a key a lane; those of keys that no row sees as zeros, unless all are `WHOLE`.
    ///
    /// # Safety
    /// The page is one of the cache's, and the panels are free.
    #[inline(always)]
    pub unsafe fn copy<const WHOLE: bool>(&self, params: &DecodeParams, place: &Place, shape: &Shape) {
        let OwnKey { key, page, seen, lanes, .. } = self.own;
        let slice = self.slice * shape.scale_bytes;
        // Interleaved, four tokens have four times the bytes together, and a lane copies a quarter of them.
        let (first, within) = if self.interleaved {
            let of_four = key % INTERLEAVED_TOKENS;
            (key - of_four, slice * INTERLEAVED_TOKENS + of_four * shape.scale_bytes)
        } else {
            (key, slice)
        };
        let tokens = if self.interleaved { INTERLEAVED_TOKENS } else { 1 };
        let exists = WHOLE || first < seen.end && first + tokens > seen.begin;
        // A lane whose own key is not there has no page of its own, and may have a part of four tokens' scales: the page is
        // that of the last of them that is.
        let page = if self.interleaved && !WHOLE {
            let last = (seen.end.max(first + 1) - first).min(tokens) - 1;
            shfl_idx(page as u32, place.lane - place.lane % tokens + last) as i32
        } else {
            page
        };
        let from = self.own.row_of(self.side, page, first, params.page_shift).byte_offset(within as i64);
        let (panel, of_panel) = (place.lane % lanes / shape.panel_keys, place.lane % shape.panel_keys);
        let to = self.to.byte_offset(panel * shape.panel_stride() + shape.panel_bytes() + of_panel * shape.scale_bytes);
        let cut = !WHOLE && self.interleaved && exists && (seen.end - first < INTERLEAVED_TOKENS || seen.begin > first);
        // Where lanes repeat keys, they have other words of theirs.
        let (own_word, at_once, of_panel) = (place.lane / lanes, 32 / lanes, shape.scale_bytes / 4);
        for turn in 0..self.panels * of_panel / at_once {
            let word = turn * at_once;
            let to = to.byte_offset(word / of_panel * shape.panel_stride() + 4 * (word % of_panel + own_word));
            let from = from.byte_offset(4 * (word + own_word) as i64);
            // SAFETY: the page is one of the cache's, the scales are those of its tokens; the place is free.
            unsafe {
                if cut {
                    // Tokens that no row sees may have a NaN there, and 0 x NaN is NaN.
                    let [word] = ld_global_b32(from.cast());
                    let (skipped, kept) = (seen.begin.saturating_sub(first), seen.end - first);
                    let behind = if kept < INTERLEAVED_TOKENS { u32::MAX << (8 * kept) } else { 0 };
                    st_shared_b32(to.cast(), [word & (u32::MAX << (8 * skipped)) & !behind]);
                } else {
                    cp_async_4(to, from, if exists { 4 } else { 0 });
                }
            }
        }
    }
}

/// Where the scales of a warp's keys of one tile are, where each key has one: K's, then V's.
pub struct KeyScales {
    base: Shared<u8>,
}

impl KeyScales {
    /// At `base`, with room for those of [`Shape::panel_scale_bytes`].
    #[inline(always)]
    pub const fn at(base: Shared<u8>) -> Self {
        Self { base }
    }

    /// Whether the format's keys may have any.
    #[inline(always)]
    const fn may_be(shape: &Shape) -> bool {
        shape.scale_bytes > 0 && !shape.block_scales()
    }

    /// Where K's and V's are, where there are any.
    #[inline(always)]
    pub fn places(&self, params: &DecodeParams, shape: &Shape) -> [Option<Shared<u8>>; 2] {
        if !Self::may_be(shape) {
            return [None; 2];
        }
        let place = |side: &CacheSide, offset| (!side.base.is_null()).then(|| self.base.byte_offset(offset));
        [place(&params.k_scales, 0), place(&params.v_scales, 4 * shape.panel_keys)]
    }

    /// Copies those there are, a key a lane; those of keys that no row sees as zeros.
    ///
    /// # Safety
    /// The page is one of the cache's, and the place is free.
    #[inline(always)]
    pub unsafe fn copy(&self, params: &DecodeParams, own: &OwnKey, place: &Place, shape: &Shape) {
        if !Self::may_be(shape) {
            return;
        }
        let [key, value] = self.places(params, shape);
        // SAFETY: handed on to the caller.
        unsafe {
            own.copy_scale(&params.k_scales, key, params.page_shift, place);
            own.copy_scale(&params.v_scales, value, params.page_shift, place);
        }
    }
}

impl OwnKey {
    /// Copies its scale of one side, where it has one.
    ///
    /// # Safety
    /// As for [`KeyScales::copy`].
    #[inline(always)]
    unsafe fn copy_scale(&self, side: &CacheSide, to: Option<Shared<u8>>, page_shift: u32, place: &Place) {
        let Some(to) = to else { return };
        if place.lane < self.lanes {
            let (to, from) = (to.byte_offset(4 * place.lane), self.row(side, page_shift));
            // SAFETY: handed on to the caller.
            unsafe { cp_async_4(to, from, if self.seen.has(self.key) { 4 } else { 0 }) };
        }
    }
}
