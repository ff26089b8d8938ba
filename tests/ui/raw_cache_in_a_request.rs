//! Bytes in a request: there is no attention without a format.
use qkv::{Bf16, BlockTable, Decode, Error, Output, Query, RawCache, SeqLens};

fn request<'a>(
    query: Query<'a, Bf16>,
    cache: RawCache<'a>,
    table: BlockTable<'a>,
    lengths: SeqLens<'a>,
    output: Output<'a, Bf16>,
) -> Result<(), Error> {
    Decode::<Bf16, Bf16>::new(query, cache, table, lengths, output).map(|_| ())
}

fn main() {}
