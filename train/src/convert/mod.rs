//! A model as other programs read it: a base with its adapter merged, or what was learnt whole, written as a
//! Hugging Face [`mod@directory`] or as a [`gguf`] file. Tensors are read and written row by row.

pub mod directory;
pub mod gguf;

mod config_json;
mod shards;

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::quantized::GgmlDType;
use onegen_engine::{
    ModelConfig, ModelFiles, OneGenConfig, TensorRows, Tensors, TokenizerText, Tokens,
};
use serde_json::{Value, json};

use crate::fit::parameters::{Parameter, Parameters};

pub use shards::NumberType;

/// A model that is opened to be written elsewhere.
pub struct Source<'a> {
    files: ModelFiles,
    tensors: Tensors,
    tokens: Tokens,
    tokenizer: TokenizerText,
    learnt: Option<&'a Parameters>,
}

impl<'a> Source<'a> {
    /// A base, and the adapter that is to be merged into it.
    ///
    /// # Errors
    /// As for loading them: a file is missing or damaged, or the adapter is for another base.
    pub fn open(base: &Path, adapter: Option<&Path>) -> Result<Self> {
        let files = match adapter {
            Some(adapter) => ModelFiles::open_over(base, adapter)?,
            None => ModelFiles::open(base)?,
        };
        Self::of(files, None)
    }

    /// A base whose weights `parameters` replace, with the small files that are in `model`.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub fn learnt(base: &Path, model: &Path, parameters: &'a Parameters) -> Result<Self> {
        let files = ModelFiles::open(base)?.with_files_of(model);
        Self::of(files, Some(parameters))
    }

    fn of(files: ModelFiles, learnt: Option<&'a Parameters>) -> Result<Self> {
        Ok(Self {
            tensors: files.tensors()?,
            tokens: files.own_tokens()?,
            tokenizer: files.tokenizer_text()?,
            files,
            learnt,
        })
    }

    fn config(&self) -> &ModelConfig {
        self.files.config()
    }

    /// The name and shape of every tensor.
    fn list(&self) -> Result<Vec<(String, Vec<usize>)>> {
        Ok(self.tensors.list()?)
    }

    /// How a tensor is stored, where what is stored is what it holds.
    fn stored_as(&self, name: &str) -> Option<GgmlDType> {
        match self.parameter(name) {
            Some(_) => None,
            None => self.tensors.stored_as(name),
        }
    }

    /// The rows of a tensor, in order.
    fn rows(&self, name: &str) -> Result<NumberRows<'_>> {
        match self.parameter(name) {
            Some(parameter) => {
                let width = parameter.shape.1.max(1);
                Ok(NumberRows::Learnt(parameter.values.chunks_exact(width)))
            }
            None => Ok(NumberRows::Stored(self.tensors.rows(name)?)),
        }
    }

    fn parameter(&self, name: &str) -> Option<&Parameter> {
        let mut learnt = self.learnt?.iter();
        // A tied embedding may be stored, and so be learnt, as the head alone.
        let stored = match name {
            "model.embed_tokens.weight" => self.tensors.embedding_name(),
            other => other,
        };
        learnt.find(|parameter| parameter.name == stored)
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

    /// `onegen.json` of the model by itself: it needs no base any more.
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

/// A tensor's rows as numbers.
enum NumberRows<'a> {
    Stored(TensorRows<'a>),
    Learnt(std::slice::ChunksExact<'a, f32>),
}

impl NumberRows<'_> {
    /// The next row; `None` behind the last one.
    fn next_row(&mut self) -> Result<Option<&[f32]>> {
        match self {
            Self::Stored(rows) => Ok(rows.next_row()?),
            Self::Learnt(rows) => Ok(rows.next()),
        }
    }
}

/// Writes a JSON file.
fn write_json(path: &Path, json: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(json)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
