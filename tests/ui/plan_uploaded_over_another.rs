//! A workspace holds one plan at a time: the next upload ends the last one's life.
use qkv::{Bf16, Decode, Error, Plan, Stream, Workspace};

fn upload(
    (first, second): (&Plan, &Plan),
    request: &Decode<'_, Bf16, Bf16>,
    stream: &Stream,
    workspace: &mut Workspace<'_>,
) -> Result<(), Error> {
    let planned = first.upload(stream, workspace)?;
    second.upload(stream, workspace)?;
    planned.prepare(request)?.launch(stream)
}

fn main() {}
