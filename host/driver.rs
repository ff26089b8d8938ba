//! The CUDA driver, loaded when it is first asked for. Nothing is linked: every call goes through [`table::Api`], so a
//! program starts, and says what is missing, on a machine without a driver.
pub(crate) mod context;
pub(crate) mod graph;
pub(crate) mod stream;
pub(crate) mod table;

pub(crate) use context::Context;
pub(crate) use table::Api;
