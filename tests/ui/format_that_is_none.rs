//! Bytes are no element format.
use qkv::{DeviceSpan, Query};

fn main() {
    // SAFETY: never run.
    let span = unsafe { DeviceSpan::new(0, 0) };
    let _ = Query::<u8>::new(span, [0, 1, 64]);
}
