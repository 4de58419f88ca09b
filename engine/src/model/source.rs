//! A model's files, opened to read what they say: for loading, training and conversion.

use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use super::gguf::{self, Gguf};
use super::{rope, weights};
use crate::chat_template::TokenizerConfig;
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::files::first_with;
use crate::tokenizer_file::TokenizerSource;
use crate::tokens::Tokens;

/// The files of a model that is one by itself: a Hugging Face directory or a GGUF file.
#[derive(Debug)]
pub struct ModelFiles {
    pub(super) config: ModelConfig,
    pub(super) stored: Stored,
}

/// Where a model's weights lie.
#[derive(Debug)]
pub(super) enum Stored {
    /// A directory and its weight files.
    Safetensors(PathBuf, Vec<PathBuf>),
    Gguf(Gguf),
}

impl ModelFiles {
    /// Reads the headers of the files that `path` stands for, as [`crate::Model::load`] finds them.
    ///
    /// # Errors
    /// A file is missing or damaged, or asks for what is not supported. The error names the file.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let Some(file) = gguf::find(path)? else {
            return Ok(Self {
                config: ModelConfig::load(path)?,
                stored: Stored::Safetensors(path.to_owned(), weights::files(path)?),
            });
        };
        let gguf = Gguf::open(&file)?;
        Ok(Self {
            config: gguf.config()?,
            stored: Stored::Gguf(gguf),
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The directory, or the GGUF file.
    pub(super) fn path(&self) -> &Path {
        match &self.stored {
            Stored::Safetensors(dir, _) => dir,
            Stored::Gguf(gguf) => gguf.path(),
        }
    }

    /// What the model is called.
    pub(super) fn name(&self) -> String {
        match &self.stored {
            Stored::Safetensors(dir, _) => directory_name(dir),
            Stored::Gguf(gguf) => {
                let file = gguf.path();
                let name = file.file_stem().unwrap_or(file.as_os_str());
                name.to_string_lossy().into_owned()
            }
        }
    }

    /// blake3 of the GGUF file, or of `config.json` and the weight files, hexadecimal.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn fingerprint(&self) -> Result<String, LoadError> {
        match &self.stored {
            Stored::Safetensors(dir, files) => {
                let config = dir.join("config.json");
                let all = std::iter::once(&config).chain(files);
                weights::fingerprint(all.map(PathBuf::as_path))
            }
            Stored::Gguf(gguf) => weights::fingerprint([gguf.path()]),
        }
    }

    /// The tokenizer with its templates, and the file that it is in. What stands in the directory `before`
    /// goes before the model's own.
    pub(super) fn tokens_and_file(
        &self,
        before: Option<&Path>,
        config: &ModelConfig,
    ) -> Result<(Tokens, PathBuf), LoadError> {
        let (own, gguf) = match &self.stored {
            Stored::Safetensors(dir, _) => (dir.as_path(), None),
            Stored::Gguf(gguf) => (gguf.dir(), Some(gguf)),
        };
        let dirs: Vec<_> = before.into_iter().chain([own]).collect();
        let mut tokenizer_config = TokenizerConfig::default();
        for dir in &dirs {
            tokenizer_config = tokenizer_config.or(TokenizerConfig::load(dir)?);
        }
        if let Some(gguf) = gguf {
            tokenizer_config = tokenizer_config.or(gguf.tokenizer_config()?);
        }
        let file = first_with(&dirs, "tokenizer.json").join("tokenizer.json");
        let source = match gguf {
            Some(gguf) if !file.is_file() => gguf.tokenizer(tokenizer_config)?,
            _ => TokenizerSource::read(file, tokenizer_config)?,
        };
        let path = source.path.clone();
        Ok((Tokens::of(source, &dirs, config)?, path))
    }

    /// The tokenizer with the control tokens and templates that the files in `before` name, and the model's
    /// own behind them.
    ///
    /// # Errors
    /// A file is damaged, or the tokenizer lacks a control token that the others name.
    pub fn tokens(&self, before: &Path) -> Result<Tokens, LoadError> {
        Ok(self.tokens_and_file(Some(before), &self.config)?.0)
    }

    /// The tensors, to be read by name.
    ///
    /// # Errors
    /// A file is damaged or cut short.
    pub(super) fn checkpoint(&self, config: &ModelConfig) -> Result<Checkpoint, LoadError> {
        match &self.stored {
            Stored::Safetensors(dir, files) => Checkpoint::open(dir, files),
            Stored::Gguf(gguf) => gguf.checkpoint(config),
        }
    }

    /// The tensors, to be read as numbers.
    ///
    /// # Errors
    /// A file is damaged or cut short.
    pub fn tensors(&self) -> Result<Tensors, LoadError> {
        Ok(Tensors(self.checkpoint(&self.config)?))
    }
}

/// A model's tensors as f32, under the names that transformers gives them.
#[derive(Debug)]
pub struct Tensors(Checkpoint);

impl Tensors {
    /// A vector of `len` numbers.
    ///
    /// # Errors
    /// There is none of that name and length, or its file cannot be read.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        self.0.vector(name, len)
    }

    /// A matrix of `rows` times `columns` numbers, row by row.
    ///
    /// # Errors
    /// There is none of that name and shape, or its file cannot be read.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>, LoadError> {
        let mut numbers = vec![0.0; rows * columns];
        let mut stored = self.0.matrix(name, rows, columns)?;
        for row in numbers.chunks_exact_mut(columns.max(1)) {
            stored.next_row(row)?;
        }
        Ok(numbers)
    }

    /// The name of the embedding: a tied one may be stored as the head alone.
    pub fn embedding_name(&self) -> &'static str {
        self.0.embedding_name()
    }
}

impl ModelConfig {
    /// The angle per position of each pair of a head's dimensions, `head_dim / 2` numbers, as
    /// transformers computes it (Su et al. 2021, with the scalings of later families).
    pub fn rotary_frequencies(&self) -> Vec<f32> {
        rope::frequencies(self)
    }
}

/// The name of a directory, wherever the path to it starts.
pub(super) fn directory_name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    whole
        .file_name()
        .unwrap_or(whole.as_os_str())
        .to_string_lossy()
        .into_owned()
}
