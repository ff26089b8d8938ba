//! Where things are: pure functions of indices, each proven a bijection by a test on the host.
pub mod descriptor;
pub mod fragment;
pub mod nvfp4;
pub mod paged;
pub mod place;
pub mod swizzle;
pub mod tcgen05;
pub mod tensor_map;
pub mod transposed;
