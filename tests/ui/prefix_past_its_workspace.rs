//! A request prepared against a plan of a shared prefix lives no longer than the plan's workspace.
use qkv::{Bf16, Decode, Error, PrefixPlan, PreparedPrefix, Stream, Workspace};

fn prepare<'a>(
    plan: &PrefixPlan,
    stream: &Stream,
    mut workspace: Workspace<'a>,
    decode: &Decode<'a, Bf16, Bf16>,
) -> Result<PreparedPrefix<'a>, Error> {
    plan.upload(stream, &mut workspace)?.prepare(decode)
}

fn main() {}
