//! The decoder on the CPU: our own kernels over packed weights, without a tensor library.
//!
//! candle's decoder (`../candle`) computes the same and runs on every device; tests compare the two. The
//! advantages of this one are quantised products that use every row of a batch, results that do not
//! depend on the batch, and no overhead per operation, which dominates the time of a small model.

mod aligned;
mod attention;
mod crew;
mod decoder;
mod disjoint;
mod kernels;
mod kv_blocks;
mod kv_head;
mod kv_number;
mod layer;
mod matrix;
mod ops;
mod packing;
mod passages;
mod q4;
mod quantised;
mod single_thread;
mod wide;

pub(crate) use decoder::CpuDecoder;
pub use single_thread::Q8Matrix;
