//! A request is launched through a plan, or not at all.
use qkv::{Bf16, Decode, Error, Stream};

fn launch(request: Decode<'_, Bf16, Bf16>, stream: &Stream) -> Result<(), Error> {
    request.launch(stream)
}

fn main() {}
