//! GGUF: llama.cpp's format of a model in one file.

mod config;
mod header;
mod pre_tokenizer;
mod sentencepiece;
mod tensors;
mod tokenizer;
mod value;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::tokens::chat_template::TokenizerConfig;
use crate::tokens::source::TokenizerSource;
use header::Header;

pub use pre_tokenizer::{GgufPreTokenizer, gguf_pre_tokenizers};

/// An opened GGUF file, whose header was read.
#[derive(Debug)]
pub(crate) struct Gguf {
    header: Header,
}

/// One metadata entry of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufEntry {
    /// Its key.
    pub key: String,
    /// The bytes of its type and its value in the file.
    pub bytes: Vec<u8>,
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
    // Errors of the directory are reported where it is loaded.
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

    /// The directory with the files that extend the GGUF file.
    pub(crate) fn dir(&self) -> &Path {
        self.path().parent().unwrap_or(Path::new(""))
    }

    /// The model's shape.
    pub(crate) fn config(&self) -> Result<ModelConfig, LoadError> {
        config::config(&self.header)
    }

    /// Chat template, first and last token.
    pub(crate) fn tokenizer_config(&self) -> Result<TokenizerConfig, LoadError> {
        tokenizer::config(&self.header)
    }

    /// The tokenizer, with the chat template and tokens of `config`.
    pub(crate) fn tokenizer(&self, config: TokenizerConfig) -> Result<TokenizerSource, LoadError> {
        Ok(TokenizerSource {
            path: self.path().to_owned(),
            json: tokenizer::json(&self.header)?,
            fingerprint: tokenizer::fingerprint(&self.header),
            config,
        })
    }

    /// All metadata, by key.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn metadata(&self) -> Result<Vec<GgufEntry>, LoadError> {
        let read = || {
            let mut file = File::open(self.path())?;
            let entries = self.header.metadata.iter().map(|(key, entry)| {
                let mut bytes = vec![0; (entry.span.end - entry.span.start) as usize];
                file.seek(SeekFrom::Start(entry.span.start))?;
                file.read_exact(&mut bytes)?;
                let key = key.clone();
                Ok(GgufEntry { key, bytes })
            });
            entries.collect::<Result<_, std::io::Error>>()
        };
        read().map_err(|source| LoadError::Read {
            path: self.path().to_owned(),
            source,
        })
    }

    /// The tensors that the configuration calls for, to be read row by row.
    pub(crate) fn checkpoint(&self, config: &ModelConfig) -> Result<Checkpoint, LoadError> {
        tensors::checkpoint(&self.header, config)
    }
}
