//! What the test binaries share: the oracle, and answers judged by it.
#![allow(dead_code)] // each test binary uses its part

pub mod append;
pub mod judge;
pub mod reference;
