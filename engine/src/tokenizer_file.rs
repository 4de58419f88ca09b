//! `tokenizer.json`, read twice: once with its control tokens, once blind to them.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use crate::error::LoadError;

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

/// The same tokenizer, but blind to its added tokens: the library's switch for that covers special
/// ones only, so all are declared special.
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
