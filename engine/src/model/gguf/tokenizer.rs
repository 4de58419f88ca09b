//! Writes a GGUF file's tokenizer as the `tokenizer.json` that it was made from.

use serde_json::{Map, Value, json};

use super::header::Header;
use super::pre_tokenizer::PreTokenizer;
use super::sentencepiece;
use crate::error::LoadError;
use crate::model::stored::damaged;
use crate::tokens::chat_template::TokenizerConfig;

const PREFIX: &str = "tokenizer.ggml.";
const TOKENS: &str = "tokenizer.ggml.tokens";
/// Tokens that frame a text. They count as control tokens whatever type a converter gave them.
const FRAMING: [&str; 3] = [
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
];

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    /// Replaces text that the vocabulary cannot spell.
    Unknown,
    /// Enters by id only.
    Control,
    /// Added to the vocabulary by the model's maker, but not special.
    UserDefined,
    /// A row of the embedding that no text leads to.
    Unused,
    /// A byte that no other token spells.
    Byte,
}

/// A token and, if the tokenizer has scores, how likely it is.
pub(super) struct Token<'a> {
    pub(super) spelling: &'a str,
    pub(super) kind: Kind,
    pub(super) score: f64,
}

/// blake3 of all metadata that determine how text becomes ids.
pub(super) fn fingerprint(header: &Header) -> String {
    let mut hasher = blake3::Hasher::new();
    let entries = header.metadata.iter();
    for (key, entry) in entries.filter(|(key, _)| key.starts_with(PREFIX)) {
        hasher.update(key.as_bytes());
        hasher.update(entry.digest.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// The chat template and the tokens that it may name.
pub(super) fn config(header: &Header) -> Result<TokenizerConfig, LoadError> {
    let tokens = header.texts(TOKENS)?.unwrap_or_default();
    let spelling = |key: &str| -> Result<Option<String>, LoadError> {
        let Some(id) = header.count(key)? else {
            return Ok(None);
        };
        match tokens.get(id) {
            Some(token) => Ok(Some((*token).to_owned())),
            // The vocabulary may be in a tokenizer.json instead.
            None if tokens.is_empty() => Ok(None),
            None => {
                let reason = format!("{key} is {id}, but there are {} tokens", tokens.len());
                Err(damaged(&header.path, reason))
            }
        }
    };
    let template = header.text("tokenizer.chat_template")?;
    Ok(TokenizerConfig::new(
        &header.path,
        template.map(str::to_owned),
        spelling(FRAMING[0])?,
        spelling(FRAMING[1])?,
    ))
}

/// The tokenizer in the format of `tokenizer.json`.
///
/// # Errors
/// The tokenizer is of an unknown kind, or its lists contradict one another.
pub(super) fn json(header: &Header) -> Result<Vec<u8>, LoadError> {
    let key = "tokenizer.ggml.model";
    let tokens = tokens(header)?;
    let mut tokenizer = match header.required(key, header.text(key)?)? {
        "llama" => sentencepiece::tokenizer(header, &tokens)?,
        "gpt2" => byte_level(header)?,
        other => {
            return Err(LoadError::Unsupported {
                path: header.path.to_path_buf(),
                what: format!("a tokenizer of the kind {other:?}"),
                remedy: "put the model's tokenizer.json beside the file".into(),
            });
        }
    };
    tokenizer["version"] = "1.0".into();
    tokenizer["added_tokens"] = added(&tokens);
    tokenizer["model"]["vocab"] = vocabulary(&tokens);
    serde_json::to_vec(&tokenizer).map_err(|error| damaged(&header.path, error))
}

/// The tokens, with the types and scores from the other lists.
fn tokens(header: &Header) -> Result<Vec<Token<'_>>, LoadError> {
    let spellings = header.required(TOKENS, header.texts(TOKENS)?)?;
    let types = header.integers("tokenizer.ggml.token_type")?;
    let scores = header.numbers("tokenizer.ggml.scores")?;
    let lengths = [types.as_ref().map(Vec::len), scores.as_ref().map(Vec::len)];
    if let Some(other) = lengths
        .into_iter()
        .flatten()
        .find(|len| *len != spellings.len())
    {
        let reason = format!(
            "it lists {} tokens, but {other} types or scores of them",
            spellings.len()
        );
        return Err(damaged(&header.path, reason));
    }
    let kind = |at: usize| match types.as_ref().map(|types| types[at]) {
        Some(2) => Kind::Unknown,
        Some(3) => Kind::Control,
        Some(4) => Kind::UserDefined,
        Some(5) => Kind::Unused,
        Some(6) => Kind::Byte,
        _ => Kind::Normal,
    };
    let score = |at: usize| scores.as_ref().map_or(0.0, |scores| scores[at]);
    let mut tokens: Vec<_> = spellings
        .into_iter()
        .enumerate()
        .map(|(at, spelling)| Token {
            spelling,
            kind: kind(at),
            score: score(at),
        })
        .collect();
    for token in &mut tokens {
        if token.kind == Kind::Normal && looks_like_control(token.spelling) {
            token.kind = Kind::Control;
        }
    }
    for id in header.ids(FRAMING)? {
        if let Some(token) = tokens.get_mut(id as usize) {
            token.kind = Kind::Control;
        }
    }
    Ok(tokens)
}

/// Whether a token that a converter took for a word is a control token. llama.cpp corrects them, too.
fn looks_like_control(spelling: &str) -> bool {
    let inner = spelling
        .strip_prefix("<|")
        .and_then(|rest| rest.strip_suffix("|>"));
    let is_name =
        |inner: &str| inner.chars().any(char::is_alphanumeric) && !inner.contains(['<', '>']);
    inner.is_some_and(is_name) || ["<end_of_turn>", "<start_of_turn>"].contains(&spelling)
}

/// Spellings and ids. Unused tokens are left out, so they are never sampled either.
fn vocabulary(tokens: &[Token<'_>]) -> Value {
    let used = tokens.iter().enumerate();
    let used = used.filter(|(_, token)| token.kind != Kind::Unused);
    let vocabulary: Map<_, _> = used
        .map(|(id, token)| (token.spelling.to_owned(), id.into()))
        .collect();
    vocabulary.into()
}

fn added(tokens: &[Token<'_>]) -> Value {
    let added = tokens.iter().enumerate().filter_map(|(id, token)| {
        let special = match token.kind {
            Kind::Control | Kind::Unknown => true,
            Kind::UserDefined => false,
            Kind::Normal | Kind::Unused | Kind::Byte => return None,
        };
        Some(json!({
            "id": id, "content": token.spelling, "special": special,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        }))
    });
    added.collect()
}

/// GPT-2's kind: merges of bytes, each of which is spelled as a printable character.
fn byte_level(header: &Header) -> Result<Value, LoadError> {
    let pre = PreTokenizer::from_header(header)?;
    let key = "tokenizer.ggml.merges";
    let mut merges = Vec::new();
    for merge in header.required(key, header.texts(key)?)? {
        let Some(pair) = merge.split_once(' ') else {
            let reason = format!("{key} holds {merge:?}, which are no two tokens");
            return Err(damaged(&header.path, reason));
        };
        merges.push(pair);
    }
    Ok(json!({
        "normalizer": pre.normalizer(),
        "pre_tokenizer": pre.json(),
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        },
        "model": {
            "type": "BPE",
            "ignore_merges": pre.whole_words,
            "merges": merges,
        },
    }))
}
