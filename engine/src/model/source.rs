//! A model's files, opened to read its numbers: for training and conversion, not for serving.

use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use super::gguf::{self, Gguf};
use super::{rope, weights};
use crate::chat_template::TokenizerConfig;
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::tokenizer_file::TokenizerSource;
use crate::tokens::Tokens;

/// The files of a model: a Hugging Face directory or a GGUF file.
#[derive(Debug)]
pub struct ModelFiles {
    config: ModelConfig,
    checkpoint: Checkpoint,
    kind: Kind,
    fingerprint: String,
}

#[derive(Debug)]
enum Kind {
    Directory(PathBuf),
    Gguf(Gguf),
}

impl ModelFiles {
    /// Reads the headers of the files that `path` stands for, as [`crate::Model::load`] finds them.
    ///
    /// # Errors
    /// A file is missing or damaged, or asks for what is not supported. The error names the file.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        if let Some(file) = gguf::find(path)? {
            let gguf = Gguf::open(&file)?;
            let config = gguf.config()?;
            return Ok(Self {
                checkpoint: gguf.checkpoint(&config)?,
                config,
                fingerprint: weights::fingerprint([file.as_path()])?,
                kind: Kind::Gguf(gguf),
            });
        }
        let files = weights::files(path)?;
        Ok(Self {
            config: ModelConfig::load(path)?,
            checkpoint: Checkpoint::open(path, &files)?,
            fingerprint: weights::fingerprint(files.iter().map(PathBuf::as_path))?,
            kind: Kind::Directory(path.to_owned()),
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// blake3 of the weight files, hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The model's tokenizer with the control tokens and templates that the files in `dir` name.
    ///
    /// # Errors
    /// A file is damaged, or the tokenizer lacks a control token that the others name.
    pub fn tokens(&self, dir: &Path) -> Result<Tokens, LoadError> {
        let source = match &self.kind {
            Kind::Directory(base) => {
                let config = TokenizerConfig::load(base)?;
                TokenizerSource::read(base.join("tokenizer.json"), config)?
            }
            Kind::Gguf(gguf) => gguf.tokenizer()?,
        };
        Tokens::of(source, dir, &self.config)
    }

    /// A vector of `len` numbers, under the name that transformers gives it.
    ///
    /// # Errors
    /// There is none of that name and length, or its file cannot be read.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        self.checkpoint.vector(name, len)
    }

    /// A matrix of `rows` times `columns` numbers, row by row, under the name that transformers gives it.
    ///
    /// # Errors
    /// There is none of that name and shape, or its file cannot be read.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>, LoadError> {
        let mut numbers = vec![0.0; rows * columns];
        let mut stored = self.checkpoint.matrix(name, rows, columns)?;
        for row in numbers.chunks_exact_mut(columns.max(1)) {
            stored.next_row(row)?;
        }
        Ok(numbers)
    }

    /// The name of the embedding: a tied one may be stored as the head alone.
    pub fn embedding_name(&self) -> &'static str {
        self.checkpoint.embedding_name()
    }
}

impl ModelConfig {
    /// The angle per position of each pair of a head's dimensions, `head_dim / 2` numbers, as
    /// transformers computes it (Su et al. 2021, with the scalings of later families).
    pub fn rotary_frequencies(&self) -> Vec<f32> {
        rope::frequencies(self)
    }
}
