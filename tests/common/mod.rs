//! What the test binaries share: the oracle, answers judged by it, and cases made of others.
#![allow(dead_code)] // each test binary uses its part

pub mod append;
pub mod drafts;
pub mod judge;
pub mod merge;
pub mod pieces;
pub mod prefix;
pub mod reference;
pub mod variants;
