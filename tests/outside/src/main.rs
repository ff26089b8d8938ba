use qkv::{Bf16, BlockTable, CacheLayout, CacheShape, Decode, Device, Error, HeadDim, KvCache};
use qkv::{Output, Plan, PlanOptions, Query, SeqLens, Workspace};

/// One sequence of 20 tokens in pages 2 and 0 of three pages of 16; two query heads share one KV head.
fn decode(device: &Device) -> Result<Vec<u8>, Error> {
    let stream = device.default_stream();
    let upload = |words: &[u16]| -> Result<_, Error> {
        let buffer = device.alloc(2 * words.len())?;
        buffer.write(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())?;
        Ok(buffer)
    };
    let (half, one) = (0x3F00, 0x3F80); // in bf16
    let shape = CacheShape { pages: 3, page_size: 16, kv_heads: 1, head_dim: HeadDim::D64 };
    let (k, v) = (upload(&[half; 3 * 16 * 64])?, upload(&[one; 3 * 16 * 64])?);
    let (q, out) = (upload(&[half; 2 * 64])?, upload(&[0; 2 * 64])?);
    let (table, lengths) = (upload(&[2, 0, 0, 0])?, upload(&[20, 0])?); // i32, low halves first

    let decode = Decode::<Bf16, Bf16>::new(
        Query::new(&q, [1, 2, 64])?,
        KvCache::new(&k, &v, shape, CacheLayout::Nhd)?,
        BlockTable::new(&table, 1, 2)?,
        SeqLens::new(&lengths, 1)?,
        Output::new(&out, [1, 2, 64])?,
    )?;
    let plan = Plan::new(decode.geometry(), &[20], device.properties(), &PlanOptions::default())?;
    let memory = device.alloc(plan.workspace_bytes())?;
    let mut workspace = Workspace::new(&memory);
    plan.upload(&stream, &mut workspace)?.prepare(&decode)?.launch(&stream)?;
    stream.synchronize()?;
    out.read()
}

fn main() {
    match Device::cuda(0).and_then(|device| decode(&device)) {
        Ok(out) => println!("all ones, as the values are: {}", out.chunks(2).all(|word| word == [0x80, 0x3F])),
        Err(error) => println!("no attention today: {error}"),
    }
}
