//! Control tokens: the tokens that are not plain text.

use std::collections::{BTreeMap, BTreeSet};

use tokenizers::Tokenizer;

/// The added tokens of a tokenizer that are no text, found by spelling or by id.
#[derive(Debug)]
pub(crate) struct ControlTokens {
    /// Longest spelling first, so that the first match is the longest.
    tokens: Vec<ControlToken>,
    /// Whether each is marked special.
    special: BTreeMap<u32, bool>,
}

/// A control token where it stands in a template.
#[derive(Debug, Clone)]
pub(crate) struct ControlToken {
    spelling: String,
    pub(crate) id: u32,
    /// Whether it takes the white space before it.
    pub(crate) lstrip: bool,
    /// Whether it takes the white space after it.
    pub(crate) rstrip: bool,
}

/// Whether an added token is a part of the vocabulary: white space or a word, not marked special, which texts
/// may contain, as some tokenizers add them. `named` are the tokens that a model's files give a purpose.
pub(crate) fn is_vocabulary(spelling: &str, special: bool, named: &BTreeSet<String>) -> bool {
    let is_text = |c: char| c.is_alphanumeric() || c.is_whitespace() || c == '▁';
    !special && !named.contains(spelling) && spelling.chars().all(is_text)
}

impl ControlTokens {
    /// The control tokens of a tokenizer, of which `named` are some.
    pub(crate) fn new(tokenizer: &Tokenizer, named: &BTreeSet<String>) -> Self {
        let added = tokenizer.get_added_tokens_decoder().into_iter();
        let control =
            added.filter(|(_, token)| !is_vocabulary(&token.content, token.special, named));
        let control: Vec<_> = control.collect();
        let special = control
            .iter()
            .map(|(id, token)| (*id, token.special))
            .collect();
        let spelt = control
            .into_iter()
            .filter(|(_, token)| !token.content.is_empty());
        let mut tokens: Vec<_> = spelt
            .map(|(id, token)| ControlToken {
                spelling: token.content,
                id,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
            })
            .collect();
        let by_length = |a: &ControlToken, b: &ControlToken| {
            let lengths = b.spelling.len().cmp(&a.spelling.len());
            lengths.then_with(|| a.spelling.cmp(&b.spelling))
        };
        tokens.sort_by(by_length);
        Self { tokens, special }
    }

    /// All letters of their spellings.
    pub(crate) fn letters(&self) -> BTreeSet<char> {
        self.tokens
            .iter()
            .flat_map(|token| token.spelling.chars())
            .collect()
    }

    /// Whether `id` is a control token.
    pub(crate) fn holds(&self, id: u32) -> bool {
        self.special.contains_key(&id)
    }

    /// Whether `id` is a control token that is marked special.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.get(&id).copied().unwrap_or(false)
    }

    /// The text before the first control token that `text` spells, the token, and the text after it.
    pub(crate) fn split_first<'a>(
        &self,
        text: &'a str,
    ) -> Option<(&'a str, &ControlToken, &'a str)> {
        let (at, token) = self.find(text)?;
        Some((&text[..at], token, &text[at + token.spelling.len()..]))
    }

    /// `text` cut after the first character of every control token that it spells.
    pub(crate) fn cut_apart<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((at, _)) = self.find(rest) {
            let first = rest[at..].chars().next().map_or(1, char::len_utf8);
            let (piece, after) = rest.split_at(at + first);
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        pieces
    }

    /// Where the first spelling begins, and whose it is.
    fn find(&self, text: &str) -> Option<(usize, &ControlToken)> {
        text.char_indices().find_map(|(at, _)| {
            let spelt = |token: &&ControlToken| text[at..].starts_with(token.spelling.as_str());
            Some((at, self.tokens.iter().find(spelt)?))
        })
    }
}
