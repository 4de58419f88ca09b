//! The decoder on the CPU: kernels of our own over packed weights, no tensor library in between.
//!
//! candle's decoder (`../candle`) computes the same and runs everywhere; tests hold this one against it.
//! What is won: quantised products that use every row of a batch, results that do not depend on the
//! batch, and no cost per operation, which is what a small model's time goes to.

mod aligned;
mod attention;
mod decoder;
mod disjoint;
mod kernels;
mod kv_blocks;
mod layer;
mod matrix;
mod ops;
mod packing;
mod passages;
mod q4;
mod quantised;

pub(crate) use decoder::CpuDecoder;
