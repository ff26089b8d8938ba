//! A view borrows its buffer.
use qkv::{Bf16, Buffer, Error, Query};

fn view(buffer: Buffer) -> Result<(), Error> {
    let query = Query::<Bf16>::new(&buffer, [1, 1, 64])?;
    drop(buffer);
    println!("{query:?}");
    Ok(())
}

fn main() {}
