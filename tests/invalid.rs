//! What the strategies call invalid is refused, with an error that names it; what they call valid is taken.
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use qkv::testing::strategies;
use qkv::{Bf16, CacheLayout, CacheShape, DType, DeviceSpan, Error, Geometry, HeadDim, KvCache, check_page_table};

fn geometry(head_dim: usize, heads: [usize; 2], page_size: usize) -> Result<Geometry, Error> {
    Geometry::new(head_dim, heads, page_size, DType::Bf16, DType::Bf16)
}

/// A cache of these strides in as many bytes as anything here needs, at an address that nothing reads.
fn cache(shape: CacheShape, strides: [usize; 3]) -> Result<(), Error> {
    // SAFETY: the span is never handed to a launch.
    let span = unsafe { DeviceSpan::new(1 << 40, 1 << 30) };
    let layout = CacheLayout::Strides { k: strides, v: strides };
    KvCache::<Bf16>::new(span, span, shape, layout).map(|_| ())
}

fn shape_and_strides() -> impl Strategy<Value = (CacheShape, [usize; 3])> {
    let head_dim = strategies::head_dim();
    let numbers = (head_dim, 1..=4usize, (1..=6u32).prop_map(|shift| 1usize << shift), 2..=5usize);
    numbers.prop_flat_map(|(d, kv_heads, page_size, pages)| {
        strategies::invalid_strides(d, kv_heads, page_size).prop_map(move |strides| {
            let head_dim = HeadDim::try_from(d).expect("the strategy's dimensions have kernels");
            (CacheShape { pages, page_size, kv_heads, head_dim }, strides)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn head_dimensions_without_kernels(head_dim in strategies::invalid_head_dim()) {
        let error = geometry(head_dim, [8, 8], 16).map_err(|e| e.to_string());
        prop_assert_eq!(error, Err(format!("head_dim is {head_dim}; allowed: 64, 128, 256, 512")));
    }

    #[test]
    fn heads_that_make_no_groups(heads in strategies::invalid_heads()) {
        let refused = matches!(geometry(64, heads, 16), Err(Error::Heads { q_heads, kv_heads }) if [q_heads, kv_heads] == heads);
        prop_assert!(refused);
    }

    #[test]
    fn page_sizes_that_are_not_allowed(page in strategies::invalid_page_size()) {
        let error = geometry(64, [8, 8], page).map_err(|e| e.to_string());
        prop_assert_eq!(error, Err(format!("page_size is {page}; allowed: powers of two from 1 to 1024")));
    }

    #[test]
    fn strides_that_overlap_or_are_misaligned((shape, strides) in shape_and_strides()) {
        let CacheShape { page_size, kv_heads, head_dim, .. } = shape;
        let good = [page_size * kv_heads * head_dim.get(), kv_heads * head_dim.get(), head_dim.get()];
        prop_assert!(cache(shape, good).is_ok());
        let refused = cache(shape, strides);
        prop_assert!(matches!(refused, Err(Error::Overlap { .. } | Error::Misaligned { .. })), "{refused:?}");
    }

    #[test]
    fn valid_numbers_are_taken(
        d in strategies::head_dim(), group in strategies::group(), page in strategies::page_size(), kv_heads in 1..=16usize
    ) {
        prop_assert!(geometry(d, [group * kv_heads, kv_heads], page).is_ok());
    }

    #[test]
    fn page_tables_in_range(table in strategies::page_table()) {
        let checked = check_page_table(&table.ids, table.max_pages, &table.lengths, table.page_size, table.pages);
        prop_assert!(checked.is_ok(), "{checked:?}");
    }

    #[test]
    fn page_tables_out_of_range(table in strategies::invalid_page_table()) {
        let (sequence, page, id) = table.first_bad.expect("spoiled");
        let expected = Error::PageId { sequence, page, id, pages: table.pages as u32 };
        let checked = check_page_table(&table.ids, table.max_pages, &table.lengths, table.page_size, table.pages);
        prop_assert_eq!(checked.map_err(|e| e.to_string()), Err(expected.to_string()));
    }
}
