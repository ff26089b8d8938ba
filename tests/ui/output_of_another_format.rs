//! An output of f16 for queries of bf16.
use qkv::{Bf16, BlockTable, Decode, Error, F16, KvCache, Output, Query, SeqLens};

fn request<'a>(
    query: Query<'a, Bf16>,
    cache: KvCache<'a, Bf16>,
    table: BlockTable<'a>,
    lengths: SeqLens<'a>,
    output: Output<'a, F16>,
) -> Result<(), Error> {
    Decode::new(query, cache, table, lengths, output).map(|_| ())
}

fn main() {}
