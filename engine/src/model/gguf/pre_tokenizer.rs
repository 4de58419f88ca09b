//! Pre-tokenizers: how text is cut into pieces before its bytes are merged.

use serde_json::{Value, json};

use super::header::Header;
use crate::error::LoadError;

const KEY: &str = "tokenizer.ggml.pre";

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The rules of one family of tokenizers.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// Each pattern cuts the pieces that the one before it produced.
    patterns: &'static [&'static str],
    /// Whether characters are composed (Unicode NFC) first.
    composed: bool,
    /// Whether a piece that is a token as a whole is taken without merging.
    pub(super) whole_words: bool,
}

/// How a tokenizer of bytes cuts text, as `tokenizer.json` says it.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufPreTokenizer {
    /// The name that llama.cpp knows it by.
    pub name: &'static str,
    /// The normalizer.
    pub normalizer: Value,
    /// The pre-tokenizer.
    pub pre_tokenizer: Value,
    /// The model's `ignore_merges`.
    pub ignore_merges: bool,
}

/// All pre-tokenizers that are known here by llama.cpp's name.
pub fn gguf_pre_tokenizers() -> Vec<GgufPreTokenizer> {
    let names = ["llama-bpe", "qwen2", "tekken", "smollm", "gpt-2", "default"];
    let known = names.into_iter().filter_map(|name| {
        let rules = PreTokenizer::named(name)?;
        Some(GgufPreTokenizer {
            name,
            normalizer: rules.normalizer(),
            pre_tokenizer: rules.json(),
            ignore_merges: rules.whole_words,
        })
    });
    known.collect()
}

impl PreTokenizer {
    /// The rules that the file names.
    ///
    /// # Errors
    /// The file names none, or an unknown one. The ids would differ from those that the model was
    /// trained on.
    pub(super) fn from_header(header: &Header) -> Result<Self, LoadError> {
        let name = header.text(KEY)?;
        name.and_then(Self::named)
            .ok_or_else(|| LoadError::Unsupported {
                path: header.path.to_path_buf(),
                what: match name {
                    Some(name) => format!("{KEY} {name:?}"),
                    None => format!("a vocabulary of bytes without {KEY}"),
                },
                remedy: "put the model's tokenizer.json beside the file".into(),
            })
    }

    fn named(name: &str) -> Option<Self> {
        let (patterns, composed, whole_words): (&[_], _, _) = match name {
            "llama-bpe" | "llama3" | "llama-v3" => (&[LLAMA3], false, true),
            "qwen2" => (&[QWEN2], true, false),
            "tekken" => (&[TEKKEN], false, true),
            "gpt-2" => (&[GPT2], false, false),
            "smollm" => (&[r"\p{N}", GPT2], false, false),
            "default" => (
                &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
                false,
                false,
            ),
            _ => return None,
        };
        Some(Self {
            patterns,
            composed,
            whole_words,
        })
    }

    pub(super) fn normalizer(&self) -> Value {
        if self.composed {
            json!({ "type": "NFC" })
        } else {
            Value::Null
        }
    }

    pub(super) fn json(&self) -> Value {
        let split = |pattern: &&str| {
            json!({
                "type": "Split", "pattern": { "Regex": pattern },
                "behavior": "Isolated", "invert": false,
            })
        };
        let mut all: Vec<_> = self.patterns.iter().map(split).collect();
        all.push(json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
        }));
        json!({ "type": "Sequence", "pretokenizers": all })
    }
}
