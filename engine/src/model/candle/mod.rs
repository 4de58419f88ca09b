//! The decoder on candle's tensors and mistral.rs's layers: any device, and the reference for `../cpu`.
//!
//! It is built with the feature `mistralrs`, and nothing outside of this directory names mistral.rs.

mod attention;
mod decoder;
mod kv_tensors;
mod load;
mod rotary;
mod weights;

use decoder::CandleDecoder;
pub(super) use load::load;
