//! The decoder on candle's tensors and mistral.rs's layers: any device, and the reference for `../cpu`.

mod attention;
mod decoder;
mod kv_tensors;
mod rotary;

pub(crate) use decoder::CandleDecoder;
pub(crate) use kv_tensors::KvTensors;
