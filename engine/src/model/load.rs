//! Loading: a directory or a GGUF file, and an adapter over either, becomes a model.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use mistralrs_core::layers::Activation;
use mistralrs_quant::ShardedVarBuilder;

use super::adapter::{Adapter, is_adapter};
use super::candle::CandleDecoder;
use super::cpu::CpuDecoder;
use super::source::{ModelFiles, Stored};
use super::{Decoder, Fingerprints, Kernels, LoadOptions, Model, WeightType, weights};
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::tokens::Tokens;

impl Model {
    /// Loads a Hugging Face style directory: `config.json`, `*.safetensors`, `tokenizer.json`, and
    /// `tokenizer_config.json`, `chat_template.jinja`, `generation_config.json`, `onegen.json` where they
    /// are there.
    ///
    /// Or loads a GGUF file: the one named, or the only one in a directory without `*.safetensors`.
    /// It holds its own configuration and tokenizer; all of those files but `config.json` may stand beside
    /// it, and then go before what it says itself.
    ///
    /// Or loads an adapter, a directory with peft's `adapter_config.json` and `adapter_model.safetensors`,
    /// over [`LoadOptions::base`], which is either of those. Any of those files may stand in its directory,
    /// and then goes before the base's. It is merged as the base's rows are read,
    /// `W + lora_alpha / r * B * A` in f32, before they are kept in the type asked for.
    ///
    /// # Errors
    /// A file is missing or damaged, or asks for what is not supported. The error names the file. An adapter
    /// has no base, or is for another one.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self, LoadError> {
        let path = path.as_ref();
        if !is_adapter(path) {
            return Self::of(ModelFiles::open(path)?, options);
        }
        match &options.base {
            Some(base) => Self::of(ModelFiles::open_over(base, path)?, options),
            None => Err(Adapter::open(path)?.no_base()),
        }
    }

    fn of(files: ModelFiles, options: &LoadOptions) -> Result<Self, LoadError> {
        let fingerprint = files.fingerprint()?;
        let (tokens, tokenizer) = files.tokens_and_file(None)?;
        let decoder = Decoder::load(&files, options)?;
        check_vocabulary(&tokenizer, &tokens, &files.config)?;
        Ok(Self {
            name: files.name(),
            fingerprints: Fingerprints {
                model: fingerprint,
                tokenizer: tokens.fingerprint().to_owned(),
                template: tokens.template_fingerprint(),
            },
            config: files.config,
            tokens: Arc::new(tokens),
            decoder,
            options: options.clone(),
        })
    }
}

impl ModelFiles {
    fn var_builder(&self, dtype: DType, device: &Device) -> Result<ShardedVarBuilder, LoadError> {
        match &self.stored {
            Stored::Safetensors(dir, files) if self.adapted.is_none() => {
                weights::open(dir, files, &self.config, dtype, device)
            }
            _ => self.checkpoint()?.var_builder(&self.config, dtype, device),
        }
    }
}

impl Decoder {
    fn load(files: &ModelFiles, options: &LoadOptions) -> Result<Self, LoadError> {
        let (config, path) = (&files.config, files.path());
        let on_cpu = options.device.is_cpu();
        // Our own kernels know one activation, which is that of all families.
        let own = options.kernels == Kernels::Own && matches!(config.hidden_act, Activation::Silu);
        if on_cpu && own {
            let checkpoint = files.checkpoint()?;
            let decoder = CpuDecoder::load(config, &checkpoint, options.weights)?;
            return Ok(Self::Cpu(Box::new(decoder)));
        }
        let dtype = match options.weights {
            Some(WeightType::F32) => DType::F32,
            None if on_cpu => DType::F32,
            Some(WeightType::F16) => DType::F16,
            Some(WeightType::Bf16) | None => DType::BF16,
            Some(
                quantised @ (WeightType::Q8_0
                | WeightType::Q4_1
                | WeightType::Q4_K
                | WeightType::Q4_0),
            ) => {
                return Err(LoadError::Unsupported {
                    path: path.to_owned(),
                    what: format!("{} without our own kernels", quantised.as_str()),
                    remedy: "take f32, f16 or bf16".into(),
                });
            }
        };
        let tensors = files.var_builder(dtype, &options.device)?;
        let decoder = CandleDecoder::new(config, tensors).map_err(|source| LoadError::Weights {
            dir: path.to_owned(),
            source,
        })?;
        Ok(Self::Candle(Box::new(decoder)))
    }
}

/// Every id of the tokenizer must have a row in the embedding.
fn check_vocabulary(path: &Path, tokens: &Tokens, config: &ModelConfig) -> Result<(), LoadError> {
    match tokens.highest_id() {
        Some(id) if id as usize >= config.vocab_size => Err(LoadError::Inconsistent {
            path: path.to_owned(),
            reason: format!(
                "its tokenizer holds the id {id}, but the model's vocabulary has the size {}",
                config.vocab_size
            ),
        }),
        _ => Ok(()),
    }
}
