//! GGUF: a model in one file, as llama.cpp keeps it.

mod config;
mod header;
mod pre_tokenizer;
mod sentencepiece;
mod tensors;
mod tokenizer;
mod value;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use mistralrs_quant::{ShardedSafeTensors, ShardedVarBuilder};

use super::checkpoint::Checkpoint;
use super::weights;
use crate::chat_template::TokenizerConfig;
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::tokenizer_file::TokenizerSource;
use header::Header;

/// An opened GGUF file, of which the header was read.
#[derive(Debug)]
pub(crate) struct Gguf {
    header: Header,
}

/// The GGUF file that `path` stands for: itself, or the only one in a directory without safetensors.
///
/// # Errors
/// There are several.
pub(crate) fn find(path: &Path) -> Result<Option<PathBuf>, LoadError> {
    let named = |path: &Path, extension: &str| path.extension().is_some_and(|e| e == extension);
    if path.is_file() || (named(path, "gguf") && !path.is_dir()) {
        return Ok(Some(path.to_owned()));
    }
    // Whoever loads a directory says what is wrong with it.
    let Ok(entries) = fs::read_dir(path) else {
        return Ok(None);
    };
    let files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    if files.iter().any(|file| named(file, "safetensors")) {
        return Ok(None);
    }
    let mut found = files.into_iter().filter(|file| named(file, "gguf"));
    match (found.next(), found.count()) {
        (first, 0) => Ok(first),
        (_, more) => Err(LoadError::SeveralModels {
            dir: path.to_owned(),
            count: more + 1,
        }),
    }
}

impl Gguf {
    /// Reads the header.
    ///
    /// # Errors
    /// The file cannot be read, is no GGUF file, is damaged or cut short.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let header = Header::read(path)?;
        Ok(Self { header })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.header.path
    }

    /// Where the files lie that extend it.
    pub(crate) fn dir(&self) -> &Path {
        self.path().parent().unwrap_or(Path::new(""))
    }

    /// The model's shape.
    pub(crate) fn config(&self) -> Result<ModelConfig, LoadError> {
        config::config(&self.header)
    }

    /// The tokenizer: its own, or what stands in `tokenizer.json` and `tokenizer_config.json` beside it.
    pub(crate) fn tokenizer(&self) -> Result<TokenizerSource, LoadError> {
        let own = tokenizer::config(&self.header)?;
        let config = TokenizerConfig::load(self.dir())?.or(own);
        let beside = self.dir().join("tokenizer.json");
        if beside.is_file() {
            return TokenizerSource::read(beside, config);
        }
        Ok(TokenizerSource {
            path: self.path().to_owned(),
            json: tokenizer::json(&self.header)?,
            fingerprint: tokenizer::fingerprint(&self.header),
            config,
        })
    }

    /// The tensors that the configuration calls for, to be read row by row.
    pub(crate) fn checkpoint(&self, config: &ModelConfig) -> Result<Checkpoint, LoadError> {
        tensors::checkpoint(&self.header, config)
    }

    /// The same as whole tensors.
    pub(crate) fn var_builder(
        &self,
        config: &ModelConfig,
        dtype: DType,
        device: &Device,
    ) -> Result<ShardedVarBuilder, LoadError> {
        let checkpoint = self.checkpoint(config)?;
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        for name in weights::names(config) {
            let tensor = checkpoint.tensor(&name, dtype, device)?;
            tensors.insert(name, tensor);
        }
        let tensors = Box::new(tensors);
        Ok(ShardedSafeTensors::wrap(tensors, dtype, device.clone()))
    }
}
