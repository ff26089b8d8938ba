//! What the test binaries share: the oracle, and cases judged by it.
#![allow(dead_code)] // each test binary uses its part

pub mod reference;
