//! Builds PTX.
