//! Loads the decoder that runs on candle's tensors.

use candle_core::DType;

use super::CandleDecoder;
use super::weights;
use crate::error::LoadError;
use crate::model::device::DeviceName;
use crate::model::source::ModelFiles;
use crate::model::{LoadOptions, WeightType};

/// Loads a model's weights onto the device that the options name.
///
/// # Errors
/// A tensor is missing or damaged, or the options ask for a type that candle's layers do not
/// support.
pub(crate) fn load(files: &ModelFiles, options: &LoadOptions) -> Result<CandleDecoder, LoadError> {
    let path = files.path();
    let dtype = match options.weights {
        Some(WeightType::F32) => DType::F32,
        None if options.device == DeviceName::Cpu => DType::F32,
        Some(WeightType::F16) => DType::F16,
        Some(WeightType::Bf16) | None => DType::BF16,
        Some(
            quantised @ (WeightType::Q8_0 | WeightType::Q4_1 | WeightType::Q4_K | WeightType::Q4_0),
        ) => {
            return Err(LoadError::Unsupported {
                path: path.to_owned(),
                what: format!("{} without our own kernels", quantised.as_str()),
                remedy: "take f32, f16 or bf16".into(),
            });
        }
    };
    let tensors = weights::open(files, dtype, &options.device.open()?)?;
    CandleDecoder::new(&files.config, tensors).map_err(|source| LoadError::Weights {
        dir: path.to_owned(),
        source,
    })
}
