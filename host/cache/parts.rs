//! A typed cache as the parameters of a kernel, and as the memory that it is: for every kind of launch the same.
use super::KvCache;
use super::scales::SideScaling;
use super::side::SideView;
use crate::overlap::Region;
use kernels_gpu::abi::{CacheFlags, CacheSide};
use kernels_gpu::memory::Global;

/// What kernels' parameters have of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheParts {
    pub(crate) k: CacheSide,
    pub(crate) v: CacheSide,
    pub(crate) k_scales: CacheSide,
    pub(crate) v_scales: CacheSide,
    /// One factor of all of K that is read at launch; NULL: none.
    pub(crate) k_scale_at: Global<f32>,
    /// One factor of all of V likewise.
    pub(crate) v_scale_at: Global<f32>,
    /// What of K's scale the host knows.
    pub(crate) k_scale: f32,
    /// What of V's scale the host knows.
    pub(crate) v_scale: f32,
    /// [`CacheFlags`].
    pub(crate) flags: u32,
}

impl<K> KvCache<'_, K> {
    /// For a kernel's parameters.
    pub(crate) fn parts(&self) -> CacheParts {
        let (k, v) = (&self.scaling.k, &self.scaling.v);
        let scales = |side: &SideScaling| side.view.map_or(CacheSide::NONE, SideView::to_abi);
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        CacheParts {
            k: self.k.to_abi(),
            v: self.v.to_abi(),
            k_scales: scales(k),
            v_scales: scales(v),
            k_scale_at: Global::new(k.factor.address),
            v_scale_at: Global::new(v.factor.address),
            k_scale: k.factor.host,
            v_scale: v.factor.host,
            flags: flag(self.scaling.v_interleaved, CacheFlags::V_INTERLEAVED)
                | flag(k.factor.divides, CacheFlags::K_DIVIDES)
                | flag(v.factor.divides, CacheFlags::V_DIVIDES),
        }
    }

    /// Whether elements have scales a token and head beside, or instead of, those of all.
    pub(crate) const fn token_scales(&self) -> bool {
        self.scaling.k.view.is_some() || self.scaling.v.view.is_some()
    }

    /// The memory that it is: both sides, their scales a token and head, and the two factors that the device reads.
    ///
    /// Where K and V lie in one buffer, or scales in the cache's pages, these overlap by their first and last bytes.
    pub(crate) fn regions(&self) -> [Region; 6] {
        let side = |field, side: &SideView| Region { field, address: side.address, bytes: side.bytes };
        let scales = |field, scaling: &SideScaling| {
            scaling.view.map_or(Region { field, address: 0, bytes: 0 }, |view| side(field, &view))
        };
        let factor = |field, scaling: &SideScaling| {
            let address = scaling.factor.address;
            Region { field, address, bytes: if address == 0 { 0 } else { size_of::<f32>() } }
        };
        let (k, v) = (&self.scaling.k, &self.scaling.v);
        [
            side("k cache", &self.k),
            side("v cache", &self.v),
            scales("k scales", k),
            scales("v scales", v),
            factor("k scale", k),
            factor("v scale", v),
        ]
    }
}

#[cfg(test)]
mod tests {
    use crate::*;
    use kernels_gpu::abi::{CacheFlags, CacheSide};
    use kernels_gpu::memory::Global;

    const BASE: u64 = 1 << 20;

    fn at(address: u64, bytes: usize) -> DeviceSpan<'static> {
        // SAFETY: no work is launched with it.
        unsafe { DeviceSpan::new(address, bytes) }
    }

    fn address<T>(of: Global<T>) -> i64 {
        of.address as i64
    }

    fn numbers(side: CacheSide) -> [i64; 4] {
        [address(side.base), side.page_stride, side.token_stride, side.head_stride]
    }

    /// vLLM's page: `[K elements, K scales, V elements, V scales]`.
    #[test]
    fn block_scales_follow_each_sides_elements() -> Result<(), Error> {
        let shape = CacheShape { pages: 3, page_size: 16, kv_heads: 2, head_dim: HeadDim::D128 };
        let scales = || Ok::<_, Error>((GlobalScale::multiplies(0.5)?, GlobalScale::divides(4.0)?));
        let (side, elements) = (16 * 2 * 72, 16 * 2 * 64);
        let page = 2 * side;
        let span = at(BASE, 3 * page as usize);
        let base = BASE as i64;

        let (k, v) = scales()?;
        let in_pages = NvFp4Scales::<Interleaved>::in_pages(k, v);
        let hnd =
            KvCache::<NvFp4<Interleaved>>::packed_with_scales(span, shape, PackedLayout::PairHnd, in_pages)?.parts();
        assert_eq!(numbers(hnd.k), [base, page, 64, 16 * 64]);
        assert_eq!(numbers(hnd.k_scales), [base + elements, page, 8, 16 * 8]);
        assert_eq!(numbers(hnd.v), [base + side, page, 64, 16 * 64]);
        assert_eq!(numbers(hnd.v_scales), [base + side + elements, page, 8, 16 * 8]);
        assert_eq!((hnd.k_scale, hnd.v_scale, hnd.flags), (0.5, 0.25, CacheFlags::V_INTERLEAVED));

        let (k, v) = (GlobalScale::divides_on_device(at(64, 4))?, GlobalScale::multiplies_on_device(at(68, 4))?);
        let in_pages = NvFp4Scales::<Linear>::in_pages(k, v);
        let cache = KvCache::<NvFp4>::packed_with_scales(span, shape, PackedLayout::PairNhd, in_pages)?;
        let nhd = cache.parts();
        assert_eq!(numbers(nhd.k), [base, page, 2 * 64, 64]);
        assert_eq!(numbers(nhd.v_scales), [base + side + elements, page, 2 * 8, 8]);
        assert_eq!((nhd.k_scale, nhd.v_scale, nhd.flags), (1.0, 1.0, CacheFlags::K_DIVIDES));
        assert_eq!((address(nhd.k_scale_at), address(nhd.v_scale_at)), (64, 68));
        let regions = cache.regions().map(|region| (region.field, region.address, region.bytes));
        let whole = 2 * page as usize;
        assert_eq!(regions[0], ("k cache", BASE, whole + elements as usize));
        assert_eq!(regions[3], ("v scales", BASE + (side + elements) as u64, whole + 16 * 2 * 8));
        assert_eq!((regions[4], regions[5]), (("k scale", 64, 4), ("v scale", 68, 4)));
        Ok(())
    }

    #[test]
    fn scales_of_a_token_and_head_are_sides_and_those_of_a_tensor_numbers() -> Result<(), Error> {
        let shape = CacheShape { pages: 3, page_size: 16, kv_heads: 2, head_dim: HeadDim::D64 };
        let span = at(BASE, 3 * 16 * 2 * 64);
        let cache = |scales| KvCache::<Fp8E5M2>::with_scales(span, span, shape, CacheLayout::Nhd, scales);
        let token = TokenScales::new(at(2 * BASE, 3 * 16 * 2 * 4));
        let parts = cache(Fp8Scales::per_token_head(token, token))?.parts();
        assert_eq!(numbers(parts.v_scales), [2 * BASE as i64, 16 * 2 * 4, 2 * 4, 4]);
        assert_eq!((parts.k_scale, parts.flags), (1.0, 0));
        let scales = Fp8Scales::per_tensor(TensorScale::value(3.0)?, TensorScale::on_device(at(64, 4))?);
        let parts = cache(scales)?.parts();
        assert_eq!(numbers(parts.k_scales), [0; 4]);
        assert_eq!((parts.k_scale, parts.v_scale, address(parts.v_scale_at)), (3.0, 1.0, 64));
        Ok(())
    }
}
