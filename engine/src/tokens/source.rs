//! A tokenizer and where it comes from. `tokenizer.json` is read twice: once with its control tokens, and
//! once without.

use std::fs;
use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use crate::error::LoadError;
use crate::tokens::chat_template::TokenizerConfig;

/// A tokenizer as it was found, in a directory or in a GGUF file.
pub(crate) struct TokenizerSource {
    /// The file that errors name.
    pub(crate) path: PathBuf,
    /// The content of `tokenizer.json`; for a GGUF file, the content that it would have.
    pub(crate) json: Vec<u8>,
    /// blake3 of what the tokenizer was made from, hexadecimal.
    pub(crate) fingerprint: String,
    /// Chat template, first and last token.
    pub(crate) config: TokenizerConfig,
}

/// The content of a tokenizer's files, for programs that write them elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerText {
    /// The content of `tokenizer.json`; for a GGUF file, the content that it would have.
    pub json: Vec<u8>,
    /// The chat template, Jinja.
    pub chat_template: Option<String>,
    /// The spelling of the token that begins a text.
    pub bos_token: Option<String>,
    /// The spelling of the token that ends a turn.
    pub eos_token: Option<String>,
}

impl TokenizerSource {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(path: PathBuf, config: TokenizerConfig) -> Result<Self, LoadError> {
        let json = fs::read(&path).map_err(|source| LoadError::Read {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            fingerprint: blake3::hash(&json).to_hex().to_string(),
            path,
            json,
            config,
        })
    }
}

/// The tokenizer as it is, without the padding and truncation that training may have left on.
pub(crate) fn tokenizer(json: &[u8], path: &Path) -> Result<Tokenizer, LoadError> {
    let damaged = |reason: String| LoadError::Tokenizer {
        path: PathBuf::from(path),
        reason,
    };
    let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| damaged(error.to_string()))?;
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|error| damaged(error.to_string()))?;
    Ok(tokenizer)
}

/// The same tokenizer, but it treats its added tokens as plain text. The library's switch for this
/// covers only special tokens, so all are declared special.
pub(crate) fn plain_tokenizer(json: &[u8], path: &Path) -> Result<Tokenizer, LoadError> {
    let parse = |source| LoadError::Json {
        path: PathBuf::from(path),
        source,
    };
    let mut value: serde_json::Value = serde_json::from_slice(json).map_err(parse)?;
    if let Some(added) = value.get_mut("added_tokens").and_then(|a| a.as_array_mut()) {
        for token in added {
            token["special"] = true.into();
        }
    }
    let mut plain = tokenizer(&serde_json::to_vec(&value).map_err(parse)?, path)?;
    plain.set_encode_special_tokens(true);
    Ok(plain)
}
