//! Every compute capability that there is and some that there are not: which families answer, in which order, within which
//! shared memory.
use qkv::{ARCHES, Arch, CacheDType, DType, Family, HeadDim, KernelId, MAX_GROUP, Need, Variant, kernels};

const fn arch([major, minor]: [u32; 2]) -> Arch {
    Arch { major, minor }
}

/// Of chips that kernels run on: their capabilities, those of the future among them.
const SUPPORTED: [[u32; 2]; 14] = [
    [8, 0],
    [8, 6],
    [8, 7],
    [8, 9],
    [9, 0],
    [10, 0],
    [10, 1],
    [10, 3],
    [11, 0],
    [12, 0],
    [12, 1],
    [12, 5],
    [13, 0],
    [15, 0],
];

fn families(kernels: &[KernelId]) -> Vec<Family> {
    kernels.iter().map(|kernel| kernel.family()).collect()
}

#[test]
fn every_chip_has_every_head_dim_and_cache_in_its_order_of_preference() {
    assert!(ARCHES.iter().all(|chip| SUPPORTED.contains(&[chip.major, chip.minor])), "{ARCHES:?}");
    for chip in SUPPORTED.map(arch) {
        for dim in HeadDim::ALL {
            for (q, kv) in DType::ALL.into_iter().flat_map(|q| CacheDType::ALL.map(|kv| (q, kv))) {
                if kv == CacheDType::F16 && q == DType::Bf16 || kv == CacheDType::Bf16 && q == DType::F16 {
                    continue;
                }
                for (group, q_len) in [(1, 1), (16, 1), (MAX_GROUP, 1), (1, 65), (8, 1000)] {
                    let variant = Variant { q_len, ..Variant::PLAIN };
                    let found = kernels(chip, dim.get(), q, kv, 16, group, variant).expect("supported");
                    let own = match [chip.major, chip.minor] {
                        [9, 0] => Some(Family::Wgmma),
                        [10, 0 | 3] => Some(Family::Tcgen05),
                        _ => None,
                    };
                    // Of Hopper's at D = 128 there is one for many keys besides.
                    let own = own.filter(|_| kv == q.into());
                    let count = if own == Some(Family::Wgmma) && dim == HeadDim::D128 { 2 } else { 1 };
                    let own = own.map_or(vec![], |own| vec![own; count]);
                    // Of 9 to 16 rows the one for 8 besides.
                    let portable = vec![Family::Portable; if group == 16 { 2 } else { 1 }];
                    let expected = if group * q_len > 64 { [own, portable] } else { [portable, own] }.concat();
                    assert_eq!(families(&found), expected, "{chip}, {dim}, {q}, {kv}, {group} x {q_len}");
                    for kernel in found {
                        let bytes = kernel.info().shared_bytes();
                        assert!(bytes <= chip.shared_per_block(), "{kernel} needs {bytes} bytes on {chip}");
                    }
                }
            }
        }
    }
}

/// Behind whatever a chip has of its own lies a kernel that fits the least shared memory of all chips.
#[test]
fn portable_kernels_fit_99_kib() {
    for kernel in KernelId::all().filter(|kernel| kernel.family() == Family::Portable) {
        assert!(kernel.info().shared_bytes() <= 99 << 10, "{kernel}");
    }
}

#[test]
fn what_is_older_than_ampere_has_none() {
    for old in [[5, 2], [7, 0], [7, 5]].map(arch) {
        for dim in HeadDim::ALL {
            let refused = kernels(old, dim.get(), DType::F16, DType::F16, 16, 8, Variant::PLAIN);
            assert_eq!(refused.expect_err("too old").needs, [Need::Arch { arch: old }]);
        }
    }
}
