//! What the probes of `tcgen05` must give, by the tables of the ISA: data path layouts D and F, canonical layouts, swizzles.
use super::product_rules::{Stored, e4m3, narrowly_summed};
use super::{Unwritten, summed};
use kernels_gpu::probe::tensor::{COLUMNS, D, HEAD};

/// A block's product, against the sum of what its elements' products are.
pub fn check(name: &str, x: &[u32], y: &[u32], unwritten: Unwritten) -> Result<(), String> {
    let (wide, from_lanes) = (name.contains("f16"), name.ends_with("ts"));
    let size = if wide { 2 } else { 1 };
    let field = |low: u32, width: u32| x[8] >> low & ((1 << width) - 1);
    let (format, n, m) = (field(7, 3), 8 * field(17, 6), 16 * field(24, 5));
    let value = |bits: u32| match (wide, format) {
        (true, 0) => half::f16::from_bits(bits as u16).to_f64(),
        (true, _) => f64::from(f32::from_bits(bits << 16)),
        (false, 0) => e4m3(bits),
        (false, _) => half::f16::from_bits((bits << 8) as u16).to_f64(),
    };
    let image = &x[(D + 128 * COLUMNS) as usize..];
    let stored =
        |first: usize, bit: u32| Stored { place: &x[first..first + 4], transposed: field(bit, 1) == 1, image, size };
    let (in_a, in_b) = (stored(0, 15), stored(4, 16));
    for lane in 0..128 {
        let row = match m {
            128 => Some(lane),
            _ => (lane % 32 < 16).then_some(lane / 32 * 16 + lane % 16),
        };
        let a: Vec<f64> = (0..32 / size)
            .map(|k| match (row, from_lanes) {
                (None, _) => 0.0,
                (Some(row), false) => value(in_a.bits(row, k)),
                (Some(_), true) => {
                    let word = x[(HEAD + 8 * lane + k * size / 4) as usize];
                    value(word >> (8 * (k * size % 4)) & if wide { 0xFFFF } else { 0xFF })
                }
            })
            .collect();
        for column in 0..COLUMNS {
            let result = y[(COLUMNS * lane + column) as usize];
            let at = || format!("lane {lane}, column {column} is {result:#010x}");
            if column >= n || row.is_none() {
                let expected = if column >= n { unwritten } else { 0 };
                if result != expected {
                    return Err(format!("{}, not {expected:#010x}", at()));
                }
                continue;
            }
            let before =
                if x[9] == 0 { 0.0 } else { f64::from(f32::from_bits(x[(D + COLUMNS * lane + column) as usize])) };
            let products = a.iter().zip(0..).map(|(a, k)| a * value(in_b.bits(column, k)));
            let terms: Vec<f64> = products.chain([before]).collect();
            let result = f32::from_bits(result);
            if !(if wide { summed(&terms, result) } else { narrowly_summed(&terms, result) }) {
                return Err(format!("{} of {terms:?}", at()));
            }
        }
    }
    Ok(())
}
