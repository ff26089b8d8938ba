//! Descriptors of `tcgen05`: their bits, against the ISA's tables and against what Triton, an independent reader of them, gives the
//! same products (`triton/descriptors.txt`).
use kernels_gpu::layout::descriptor::{KMajor, Major, MnMajor, Swizzle};
use kernels_gpu::layout::tcgen05::{Format8, Format16, InstructionDescriptor, SmemDescriptor};
use kernels_gpu::memory::{Shared, TensorMemory};

#[test]
fn fields_are_where_the_isa_has_them() {
    let bits = |swizzle| SmemDescriptor::<KMajor>::new(Shared::new(0x3_8410), 0x1230, 0x2_0400, swizzle).bits;
    assert_eq!(bits(Swizzle::None), 0x0000_6040_0123_3841);
    assert_eq!(bits(Swizzle::Bytes128) >> 61, 2);
    assert_eq!(bits(Swizzle::Bytes64) >> 61, 4);
    assert_eq!(bits(Swizzle::Bytes32) >> 61, 6);
    let shape = InstructionDescriptor::f16::<2, MnMajor, MnMajor>(256, 224, Format16::Bf16, Format16::F16).bits;
    assert_eq!(shape, 16 << 24 | 28 << 17 | 1 << 16 | 1 << 15 | 1 << 7 | 1 << 4);
    assert_eq!(TensorMemory::from_bits(5).at_lane(32).at_column(40).bits(), 32 << 16 | 45);
}

#[test]
fn steps_of_grouped_tiles_are_whole_groups() {
    let tile = Shared::new(2048);
    let moved = |operand: SmemDescriptor<MnMajor>| (operand.bits & 0x3FFF) * 16 - 2048;
    for parts in [1, 2, 4] {
        let operand = SmemDescriptor::of_grouped_columns(tile, parts);
        assert_eq!(operand.bits >> 32 & 0x3FFF, u64::from(parts) * 1024 / 16);
        assert_eq!(operand.bits >> 16 & 0x3FFF, 1024 / 16);
        // 16 rows are two groups of eight, each of `parts` KiB; 32 are four.
        assert_eq!(moved(operand.grouped_step(3, parts)), u64::from(parts) * 6 * 1024);
        assert_eq!(moved(operand.grouped_step_of_8_bits(3, parts)), u64::from(parts) * 12 * 1024);
        let rows = SmemDescriptor::of_grouped_rows(tile, parts);
        assert_eq!(rows.bits >> 32 & 0x3FFF, u64::from(parts) * 1024 / 16);
        assert_eq!((rows.step(5, 8).bits & 0x3FFF) * 16 - 2048, 1024 + 32);
    }
}

#[test]
#[should_panic(expected = "M is 64 or 128 of one block, 128 or 256 of two")]
fn no_other_m() {
    InstructionDescriptor::f8f6f4::<1, KMajor, KMajor>(256, 64, Format8::E4m3, Format8::E4m3);
}

#[test]
#[should_panic(expected = "N is a multiple of 8 (M = 64), 16 (128 of one block) or 32 (two blocks)")]
fn no_other_n() {
    InstructionDescriptor::f16::<2, KMajor, KMajor>(256, 48, Format16::F16, Format16::F16);
}

fn shape<B: Major>(format: &str, m: u32, n: u32) -> u32 {
    let of_16 = |format| InstructionDescriptor::f16::<1, KMajor, B>(m, n, format, format).bits;
    let of_8 = |format| InstructionDescriptor::f8f6f4::<1, KMajor, B>(m, n, format, format).bits;
    match format {
        "bf16" => of_16(Format16::Bf16),
        "f16" => of_16(Format16::F16),
        "e4m3" => of_8(Format8::E4m3),
        "e5m2" => of_8(Format8::E5m2),
        _ => panic!("{format} is no format of the file"),
    }
}

/// The bits of the K-major operand of `rows` rows of `k_bytes` bytes at `start`, at a step.
fn rows_at(start: Shared<u8>, rows: u32, k_bytes: u32, step: u32) -> u64 {
    match k_bytes {
        64 => SmemDescriptor::<KMajor>::new(start, 0, 8 * 64, Swizzle::Bytes64).byte_offset(32 * step).bits,
        _ => SmemDescriptor::of_rows(start).step(step, rows).bits,
    }
}

#[test]
fn triton_gives_the_same() {
    let lines = include_str!("triton/descriptors.txt").lines().filter(|line| !line.starts_with('#'));
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let mut compared = 0;
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let [m, n, k]: [u32; 3] = std::array::from_fn(|i| words[1 + i].parse().unwrap());
        let (format, mn_major) = (words[0], words[4] == "mn");
        let instruction = if mn_major { shape::<MnMajor>(format, m, n) } else { shape::<KMajor>(format, m, n) };
        assert_eq!(u64::from(instruction), hex(words[5]), "{line}");
        let bytes = if format.ends_with("16") { 2 } else { 1 };
        let steps: Vec<u64> = words[6..].iter().copied().map(hex).collect();
        assert_eq!(steps.len() as u32, 2 * k * bytes / 32, "{line}");
        let [a_start, b_start] = [steps[0], steps[1]].map(|bits| Shared::<u8>::new((bits & 0x3FFF) as u32 * 16));
        for (step, operands) in (0..).zip(steps.chunks_exact(2)) {
            assert_eq!(rows_at(a_start, m, k * bytes, step), operands[0], "{line}: A of step {step}");
            let b = if mn_major {
                let operand = SmemDescriptor::of_columns(b_start, k).rows_on(32 / bytes * step, 1).bits;
                // One part has no next one to be a leading offset from.
                if n * bytes > 128 { operand } else { operand & !(0x3FFF << 16) }
            } else {
                rows_at(b_start, n, k * bytes, step)
            };
            assert_eq!(b, operands[1], "{line}: B of step {step}");
            compared += 1;
        }
    }
    assert_eq!(compared, 36);
}
