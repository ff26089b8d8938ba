//! An output in e4m3 says what a number is divided by.
use qkv::{Buffer, Error, Fp8E4M3, Output};

fn output(buffer: &Buffer) -> Result<Output<'_, Fp8E4M3>, Error> {
    Output::<Fp8E4M3>::new(buffer, [1, 1, 64])
}

fn main() {}
