//! What the test binaries share: the oracle, answers judged by it, and cases made of others.
#![allow(dead_code)] // each test binary uses its part

pub mod append;
pub mod judge;
pub mod pieces;
pub mod reference;
pub mod variants;
