//! Loads a model from a directory or a GGUF file, and from an adapter over either.

use std::path::Path;
use std::sync::Arc;

use super::adapter::{Adapter, is_adapter};
use super::cpu::CpuDecoder;
use super::decoder::Decoder;
use super::device::DeviceName;
use super::source::ModelFiles;
use super::{Fingerprints, Kernels, LoadOptions, Model};
use crate::config::{Activation, ModelConfig};
use crate::error::LoadError;
use crate::tokens::Tokens;

impl Model {
    /// Loads a Hugging Face style directory: `config.json`, `*.safetensors`, `tokenizer.json`, and
    /// `tokenizer_config.json`, `chat_template.jinja`, `generation_config.json`, `onegen.json` where they
    /// are there.
    ///
    /// Or loads a GGUF file: the one named, or the only one in a directory without `*.safetensors`. It
    /// contains its own configuration and tokenizer. All of the files above except `config.json` may be
    /// beside it, and then have priority over its own content.
    ///
    /// Or loads an adapter, a directory with peft's `adapter_config.json` and `adapter_model.safetensors`,
    /// over [`LoadOptions::base`], which is either of those. Any of the files above may be in the adapter's
    /// directory, and then has priority over the base's. It is merged as the base's rows are read, `W +
    /// lora_alpha / r * B * A` in f32, before they are kept in the type asked for.
    ///
    /// # Errors
    /// A file is missing or damaged, or asks for something that is not supported; the error names the file.
    /// Or an adapter has no base, or is for another one. Or the program was built without support for the device.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self, LoadError> {
        let path = path.as_ref();
        options.device.check_built_in()?;
        if !is_adapter(path) {
            return Self::from_files(ModelFiles::open(path)?, options);
        }
        match &options.base {
            Some(base) => Self::from_files(ModelFiles::open_over(base, path)?, options),
            None => Err(Adapter::open(path)?.no_base()),
        }
    }

    fn from_files(files: ModelFiles, options: &LoadOptions) -> Result<Self, LoadError> {
        let fingerprint = files.fingerprint()?;
        let (tokens, tokenizer) = files.tokens_and_file(None)?;
        let decoder = load_decoder(&files, options)?;
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

/// The CPU uses our own kernels. Every other device uses candle's, and so do activations that our kernels
/// do not support.
fn load_decoder(files: &ModelFiles, options: &LoadOptions) -> Result<Box<dyn Decoder>, LoadError> {
    let knows = files.config.hidden_act == Activation::Silu;
    let on_cpu = options.device == DeviceName::Cpu;
    if on_cpu && options.kernels == Kernels::Own && knows {
        let checkpoint = files.checkpoint()?;
        let decoder = CpuDecoder::load(&files.config, &checkpoint, options.weights, options.kv)?;
        return Ok(Box::new(decoder));
    }
    load_in_candle(files, options)
}

#[cfg(feature = "mistralrs")]
fn load_in_candle(
    files: &ModelFiles,
    options: &LoadOptions,
) -> Result<Box<dyn Decoder>, LoadError> {
    Ok(Box::new(super::candle::load(files, options)?))
}

#[cfg(not(feature = "mistralrs"))]
fn load_in_candle(
    files: &ModelFiles,
    _options: &LoadOptions,
) -> Result<Box<dyn Decoder>, LoadError> {
    let what = match &files.config.hidden_act {
        Activation::Other(name) => format!("the activation {name}"),
        Activation::Silu => "a model on candle's kernels".to_owned(),
    };
    Err(LoadError::Unsupported {
        path: files.path().to_owned(),
        what,
        remedy: "a program that was built with --features mistralrs may load it".into(),
    })
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
