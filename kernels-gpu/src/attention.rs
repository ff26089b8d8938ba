//! The stages, in the order of the data.
pub mod check;
pub mod combine;
pub mod copies;
pub mod copy_scales;
pub mod decode;
pub mod epilogue;
pub mod exchange;
pub mod join;
pub mod load;
pub mod mask;
pub mod output;
pub mod query;
pub mod scale;
pub mod softmax;
pub mod visible;
pub mod weights;
pub mod work;
