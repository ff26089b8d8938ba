//! The 16-bit formats on the CPU: what rounding to one does to a number, and the bytes that hold it.
//!
//! References work on f32 numbers that are exact in their format, so that decoding happens once.
use crate::DType;
use half::{bf16, f16};

/// `value` rounded to nearest even in `format`.
pub fn round(format: DType, value: f32) -> f32 {
    decode(format, encode(format, value))
}

/// The bits of `value` rounded to nearest even in `format`.
pub fn encode(format: DType, value: f32) -> u16 {
    match format {
        DType::Bf16 => bf16::from_f32(value).to_bits(),
        DType::F16 => f16::from_f32(value).to_bits(),
    }
}

/// The number that `bits` are in `format`.
pub fn decode(format: DType, bits: u16) -> f32 {
    match format {
        DType::Bf16 => bf16::from_bits(bits).to_f32(),
        DType::F16 => f16::from_bits(bits).to_f32(),
    }
}

/// The numbers in `bytes`, little-endian; an odd last byte is ignored.
pub fn decode_bytes(format: DType, bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|b| decode(format, u16::from_le_bytes([b[0], b[1]]))).collect()
}

/// The little-endian bytes of `values` rounded to `format`.
pub fn encode_bytes(format: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 * values.len());
    for &value in values {
        bytes.extend_from_slice(&encode(format, value).to_le_bytes());
    }
    bytes
}

/// Half the distance from 1 to the next number: the largest relative error of one rounding.
pub fn unit_roundoff(format: DType) -> f64 {
    match format {
        DType::Bf16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
    }
}
