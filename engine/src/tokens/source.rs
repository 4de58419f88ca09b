//! A tokenizer and where it comes from. `tokenizer.json` is read twice: once with its control tokens, and
//! once without.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::error::LoadError;
use crate::tokens::chat_template::TokenizerConfig;
use crate::tokens::control::is_vocabulary;

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
    // The library panics at some files, for example where a prefix of continued words is longer than a merge.
    let read = catch_unwind(|| Tokenizer::from_bytes(json));
    let read = read.map_err(|_| damaged("its parts do not fit together".to_owned()))?;
    let mut tokenizer = read.map_err(|error| damaged(error.to_string()))?;
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|error| damaged(error.to_string()))?;
    Ok(tokenizer)
}

/// The same tokenizer, but it treats its control tokens as plain text.
#[derive(Debug)]
pub(crate) struct PlainTokenizer {
    /// For a text that begins.
    first: Tokenizer,
    /// For a text behind a control token, where that is another: some tokenizers put a space before a text only
    /// where it begins.
    behind_control: Option<Tokenizer>,
    /// For a text that goes on within another, where that is another.
    within: Option<Tokenizer>,
}

/// Where a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextPosition {
    First,
    BehindControl,
    Within,
}

impl PlainTokenizer {
    /// The library's switch for this covers only special tokens, so all control tokens are declared special.
    /// `named` are the tokens that a model's files give a purpose.
    ///
    /// # Errors
    /// The tokenizer is damaged.
    pub(crate) fn new(
        json: &[u8],
        path: &Path,
        named: &BTreeSet<String>,
    ) -> Result<Self, LoadError> {
        let parse = |source| LoadError::Json {
            path: PathBuf::from(path),
            source,
        };
        let mut value: Value = serde_json::from_slice(json).map_err(parse)?;
        if let Some(added) = value.get_mut("added_tokens").and_then(|a| a.as_array_mut()) {
            for token in added {
                let spelling = token["content"].as_str().unwrap_or_default();
                let special = token["special"].as_bool().unwrap_or(false);
                token["special"] = (!is_vocabulary(spelling, special, named)).into();
            }
        }
        let plain = |value: &Value| -> Result<Tokenizer, LoadError> {
            let mut plain = tokenizer(&serde_json::to_vec(value).map_err(parse)?, path)?;
            plain.set_encode_special_tokens(true);
            Ok(plain)
        };
        let other = |changed: Value| (changed != value).then(|| plain(&changed)).transpose();
        let mut behind_control = value.clone();
        put_no_space(&mut behind_control["pre_tokenizer"], &["first"]);
        let mut within = value.clone();
        put_no_space(&mut within["pre_tokenizer"], &["first", "always"]);
        put_no_space(&mut within["normalizer"], &[]);
        Ok(Self {
            first: plain(&value)?,
            behind_control: other(behind_control)?,
            within: other(within)?,
        })
    }

    /// The tokenizer for a text at this position.
    pub(crate) fn at(&self, position: TextPosition) -> &Tokenizer {
        let other = match position {
            TextPosition::First => None,
            TextPosition::BehindControl => self.behind_control.as_ref(),
            TextPosition::Within => self.within.as_ref(),
        };
        other.unwrap_or(&self.first)
    }
}

/// Takes from a pre-tokenizer or normaliser that it puts a space before texts: sentencepiece's of these schemes,
/// and, if that is not only the first, the byte-level one's, too.
fn put_no_space(part: &mut Value, schemes: &[&str]) {
    match part["type"].as_str() {
        Some("Metaspace")
            if schemes
                .iter()
                .any(|&scheme| part["prepend_scheme"] == scheme) =>
        {
            part["prepend_scheme"] = "never".into();
        }
        Some("ByteLevel") if schemes.contains(&"always") => part["add_prefix_space"] = false.into(),
        Some("Prepend") => *part = json!({"type": "Sequence", "normalizers": []}),
        Some("Sequence") => {
            for each in ["pretokenizers", "normalizers"] {
                let parts = part.get_mut(each).and_then(Value::as_array_mut);
                for one in parts.into_iter().flatten() {
                    put_no_space(one, schemes);
                }
            }
        }
        _ => {}
    }
}
