//! Loading: a directory or a GGUF file becomes a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use mistralrs_core::layers::Activation;
use mistralrs_quant::ShardedVarBuilder;

use super::candle::CandleDecoder;
use super::checkpoint::Checkpoint;
use super::cpu::CpuDecoder;
use super::gguf::{self, Gguf};
use super::{Decoder, Fingerprints, Kernels, LoadOptions, Model, WeightType, weights};
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::tokens::Tokens;

impl Model {
    /// Loads a Hugging Face style directory: `config.json`, `*.safetensors`, `tokenizer.json`, and
    /// `tokenizer_config.json`, `generation_config.json`, `onegen.json` where they are there.
    ///
    /// Or loads a GGUF file: the one named, or the only one in a directory without `*.safetensors`.
    /// It holds its own configuration and tokenizer; all of those files but `config.json` may stand beside
    /// it, and then go before what it says itself.
    ///
    /// # Errors
    /// A file is missing or damaged, or asks for what is not supported. The error names the file.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self, LoadError> {
        let path = path.as_ref();
        match gguf::find(path)? {
            Some(file) => Self::load_gguf(&file, options),
            None => Self::load_directory(path, options),
        }
    }

    fn load_directory(dir: &Path, options: &LoadOptions) -> Result<Self, LoadError> {
        let config = ModelConfig::load(dir)?;
        let tokens = Tokens::load(dir, &config)?;
        let files = weights::files(dir)?;
        let decoder = Decoder::load(&Weights::Safetensors(dir, &files), &config, options)?;
        let config_file = dir.join("config.json");
        let fingerprinted = std::iter::once(&config_file).chain(&files);
        let fingerprint = weights::fingerprint(fingerprinted.map(PathBuf::as_path))?;
        check_vocabulary(&dir.join("tokenizer.json"), &tokens, &config)?;
        let name = directory_name(dir);
        Ok(Self::new(
            name,
            config,
            tokens,
            fingerprint,
            decoder,
            options,
        ))
    }

    fn load_gguf(file: &Path, options: &LoadOptions) -> Result<Self, LoadError> {
        let gguf = Gguf::open(file)?;
        let config = gguf.config()?;
        let tokens = Tokens::of(gguf.tokenizer()?, gguf.dir(), &config)?;
        let decoder = Decoder::load(&Weights::Gguf(&gguf), &config, options)?;
        let fingerprint = weights::fingerprint([file])?;
        check_vocabulary(file, &tokens, &config)?;
        let name = file.file_stem().unwrap_or(file.as_os_str());
        let name = name.to_string_lossy().into_owned();
        Ok(Self::new(
            name,
            config,
            tokens,
            fingerprint,
            decoder,
            options,
        ))
    }

    fn new(
        name: String,
        config: ModelConfig,
        tokens: Tokens,
        fingerprint: String,
        decoder: Decoder,
        options: &LoadOptions,
    ) -> Self {
        Self {
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
        }
    }
}

/// Where weights lie.
enum Weights<'a> {
    /// A directory and its weight files.
    Safetensors(&'a Path, &'a [PathBuf]),
    Gguf(&'a Gguf),
}

impl Weights<'_> {
    fn path(&self) -> &Path {
        match self {
            Weights::Safetensors(dir, _) => dir,
            Weights::Gguf(gguf) => gguf.path(),
        }
    }

    fn checkpoint(&self, config: &ModelConfig) -> Result<Checkpoint, LoadError> {
        match self {
            Weights::Safetensors(dir, files) => Checkpoint::open(dir, files),
            Weights::Gguf(gguf) => gguf.checkpoint(config),
        }
    }

    fn var_builder(
        &self,
        config: &ModelConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<ShardedVarBuilder, LoadError> {
        match self {
            Weights::Safetensors(dir, files) => weights::open(dir, files, config, dtype, device),
            Weights::Gguf(gguf) => gguf.var_builder(config, dtype, device),
        }
    }
}

impl Decoder {
    fn load(
        weights: &Weights<'_>,
        config: &ModelConfig,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        let on_cpu = options.device.is_cpu();
        // Our own kernels know one activation, which is that of all families.
        let own = options.kernels == Kernels::Own && matches!(config.hidden_act, Activation::Silu);
        if on_cpu && own {
            let checkpoint = weights.checkpoint(config)?;
            let decoder = CpuDecoder::load(config, &checkpoint, options.weights)?;
            return Ok(Self::Cpu(Box::new(decoder)));
        }
        let dtype = match options.weights {
            Some(WeightType::F32) => DType::F32,
            None if on_cpu => DType::F32,
            Some(WeightType::F16) => DType::F16,
            Some(WeightType::Bf16) | None => DType::BF16,
            Some(quantised @ (WeightType::Q8_0 | WeightType::Q4_K)) => {
                return Err(LoadError::Unsupported {
                    path: weights.path().to_owned(),
                    what: format!("{} without our own kernels", quantised.as_str()),
                    remedy: "take f32, f16 or bf16".into(),
                });
            }
        };
        let tensors = weights.var_builder(config, dtype, &options.device)?;
        let decoder = CandleDecoder::new(config, tensors).map_err(|source| LoadError::Weights {
            dir: weights.path().to_owned(),
            source,
        })?;
        Ok(Self::Candle(Box::new(decoder)))
    }
}

fn directory_name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    whole
        .file_name()
        .unwrap_or(whole.as_os_str())
        .to_string_lossy()
        .into_owned()
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
