//! Converts models for other programs: a base with its adapter merged is written as a Hugging Face
//! [`mod@directory`] or as a [`gguf`] file. Tensors are read and written row by row.

pub mod directory;
pub mod gguf;

mod config_json;
mod shards;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use onegen_engine::{ModelConfig, ModelFiles, OneGenConfig, Tensors, TokenizerText, Tokens};
use serde_json::{Value, json};

pub use shards::NumberType;

/// A model that is opened to be written elsewhere.
pub struct Source {
    files: ModelFiles,
    tensors: Tensors,
    tokens: Tokens,
    tokenizer: TokenizerText,
}

impl Source {
    /// Opens a base, and the adapter that will be merged into it.
    ///
    /// # Errors
    /// As for loading them: a file is missing or damaged, or the adapter is for another base.
    pub fn open(base: &Path, adapter: Option<&Path>) -> Result<Self> {
        let files = match adapter {
            Some(adapter) => ModelFiles::open_over(base, adapter)?,
            None => ModelFiles::open(base)?,
        };
        Ok(Self {
            tensors: files.tensors()?,
            tokens: files.own_tokens()?,
            tokenizer: files.tokenizer_text()?,
            files,
        })
    }

    fn config(&self) -> &ModelConfig {
        self.files.config()
    }

    /// A small file of the model as JSON.
    fn json(&self, name: &str) -> Result<Option<Value>> {
        let Some(path) = self.files.find(name) else {
            return Ok(None);
        };
        let read = || -> Result<Value> { Ok(serde_json::from_slice(&std::fs::read(&path)?)?) };
        let json = read().with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(json))
    }

    /// `onegen.json` of the merged model, without the entry for a base.
    fn onegen_json(&self) -> Result<Value> {
        let alone = OneGenConfig {
            base: None,
            ..self.tokens.onegen().clone()
        };
        Ok(serde_json::to_value(alone)?)
    }

    /// `generation_config.json` with all tokens that end a turn.
    fn generation_config_json(&self) -> Result<Value> {
        let mut json = self.json("generation_config.json")?.unwrap_or(json!({}));
        json["eos_token_id"] = self.tokens.eos_ids().collect::<Vec<_>>().into();
        Ok(json)
    }
}

/// Writes a JSON file.
fn write_json(path: &Path, json: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(json)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The name of a file or directory until it is written completely.
fn new_name(out: &Path) -> Result<PathBuf> {
    let name = out.file_name();
    let name = name.with_context(|| format!("{} ends in no name", out.display()))?;
    let mut name = name.to_owned();
    name.push(".new");
    Ok(out.with_file_name(name))
}
