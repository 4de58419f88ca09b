//! Loading: a directory or a GGUF file, and an adapter over either, becomes a model.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use mistralrs_core::layers::Activation;
use mistralrs_quant::ShardedVarBuilder;

use super::adapter::{Adapter, Change, is_adapter};
use super::candle::CandleDecoder;
use super::checkpoint::Checkpoint;
use super::cpu::CpuDecoder;
use super::source::{ModelFiles, Stored, directory_name};
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
        if is_adapter(path) {
            return Self::load_adapter(&Adapter::open(path)?, options);
        }
        let base = ModelFiles::open(path)?;
        let fingerprint = base.fingerprint()?;
        let tokens = base.tokens_and_file(None, &base.config)?;
        let weights = Weights {
            base: &base,
            config: &base.config,
            changes: None,
        };
        let decoder = Decoder::load(weights, options)?;
        let name = base.name();
        let config = base.config;
        Self::new(name, config, tokens, fingerprint, decoder, options)
    }

    fn load_adapter(adapter: &Adapter, options: &LoadOptions) -> Result<Self, LoadError> {
        let path = options.base.as_ref().ok_or_else(|| adapter.no_base())?;
        if is_adapter(path) {
            return Err(LoadError::Unsupported {
                path: path.clone(),
                what: "an adapter as the base of another".into(),
                remedy: "merge it into its own base first".into(),
            });
        }
        let base = ModelFiles::open(path)?;
        let fingerprint = base.fingerprint()?;
        adapter.check_fingerprint(path, &fingerprint)?;
        let config = match adapter.dir.join("config.json").is_file() {
            true => ModelConfig::load(&adapter.dir)?,
            false => base.config.clone(),
        };
        adapter.check_config(path, &base.config, &config)?;
        let weights = Weights {
            base: &base,
            config: &config,
            changes: Some(adapter.changes(path, &config)?),
        };
        let tokens = base.tokens_and_file(Some(&adapter.dir), &config)?;
        let decoder = Decoder::load(weights, options)?;
        let name = directory_name(&adapter.dir);
        let fingerprint = adapter.fingerprint(&fingerprint)?;
        Self::new(name, config, tokens, fingerprint, decoder, options)
    }

    fn new(
        name: String,
        config: ModelConfig,
        (tokens, tokenizer): (Tokens, PathBuf),
        fingerprint: String,
        decoder: Decoder,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        check_vocabulary(&tokenizer, &tokens, &config)?;
        Ok(Self {
            name,
            fingerprints: Fingerprints {
                model: fingerprint,
                tokenizer: tokens.fingerprint().to_owned(),
                template: tokens.template_fingerprint(),
            },
            config,
            tokens: Arc::new(tokens),
            decoder,
            options: options.clone(),
        })
    }
}

/// A model's weights, which an adapter may change.
struct Weights<'a> {
    base: &'a ModelFiles,
    config: &'a ModelConfig,
    changes: Option<HashMap<String, Change>>,
}

impl Weights<'_> {
    fn checkpoint(self) -> Result<Checkpoint, LoadError> {
        let stored = self.base.checkpoint(self.config)?;
        Ok(stored.with_changes(self.changes.unwrap_or_default()))
    }

    fn var_builder(self, dtype: DType, device: &Device) -> Result<ShardedVarBuilder, LoadError> {
        match &self.base.stored {
            Stored::Safetensors(dir, files) if self.changes.is_none() => {
                weights::open(dir, files, self.config, dtype, device)
            }
            _ => {
                let config = self.config;
                self.checkpoint()?.var_builder(config, dtype, device)
            }
        }
    }
}

impl Decoder {
    fn load(weights: Weights<'_>, options: &LoadOptions) -> Result<Self, LoadError> {
        let (config, path) = (weights.config, weights.base.path());
        let on_cpu = options.device.is_cpu();
        // Our own kernels know one activation, which is that of all families.
        let own = options.kernels == Kernels::Own && matches!(config.hidden_act, Activation::Silu);
        if on_cpu && own {
            let checkpoint = weights.checkpoint()?;
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
        let tensors = weights.var_builder(dtype, &options.device)?;
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
