//! Llama 2's kind of tokenizer: pieces with scores, which are merged as in sentencepiece.

use std::cmp::Reverse;
use std::collections::HashSet;

use serde_json::{Value, json};

use super::header::Header;
use super::tokenizer::{Kind, Token};
use crate::error::LoadError;

/// The character that replaces a space.
const SPACE: &str = "▁";
/// The most characters of a piece; sentencepiece's own limit is 16. The time for a piece grows with the
/// square of its length.
const LONGEST_PIECE: usize = 512;

/// Writes everything except the vocabulary and the added tokens.
///
/// # Errors
/// The value of a key has the wrong type.
pub(super) fn tokenizer(header: &Header, tokens: &[Token<'_>]) -> Result<Value, LoadError> {
    let prefixed = header
        .bool("tokenizer.ggml.add_space_prefix")?
        .unwrap_or(true);
    let unknown = tokens.iter().find(|token| token.kind == Kind::Unknown);
    let mut normalizers = vec![json!({
        "type": "Replace", "pattern": { "String": " " }, "content": SPACE,
    })];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefixed {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(json!({
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE",
            "unk_token": unknown.map(|token| token.spelling),
            "fuse_unk": true,
            "byte_fallback": true,
            "merges": merges(tokens),
        },
    }))
}

/// Every way to make a piece from two others, the likeliest piece first. sentencepiece merges the two
/// neighbours that make the piece of the highest score.
fn merges<'a>(tokens: &[Token<'a>]) -> Vec<(&'a str, &'a str)> {
    let pieces = || tokens.iter().filter(|token| token.kind == Kind::Normal);
    let known: HashSet<_> = pieces().map(|token| token.spelling).collect();
    let mut scored = Vec::new();
    for piece in pieces() {
        let whole = piece.spelling;
        let cuts = whole.char_indices().skip(1).take(LONGEST_PIECE);
        for (at, _) in cuts {
            let (left, right) = whole.split_at(at);
            if known.contains(left) && known.contains(right) {
                scored.push((piece.score, left, right));
            }
        }
    }
    let order = |a: f64, b: f64| b.total_cmp(&a);
    scored.sort_by(|(a, left, _), (b, other, _)| {
        order(*a, *b).then(Reverse(left.len()).cmp(&Reverse(other.len())))
    });
    scored
        .into_iter()
        .map(|(_, left, right)| (left, right))
        .collect()
}
