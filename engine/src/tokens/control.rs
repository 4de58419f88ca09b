//! Control tokens: the tokens that are not plain text.

use std::collections::BTreeMap;

use tokenizers::Tokenizer;

/// Every token added to the tokenizer's own vocabulary, found by spelling or by id.
#[derive(Debug)]
pub(crate) struct ControlTokens {
    /// Spelling and id, longest first, so that the first match is the longest.
    spellings: Vec<(String, u32)>,
    /// Whether each is marked special.
    special: BTreeMap<u32, bool>,
}

impl ControlTokens {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.iter().map(|(&id, t)| (id, t.special)).collect();
        let mut spellings: Vec<_> = added
            .into_iter()
            .filter(|(_, token)| !token.content.is_empty())
            .map(|(id, token)| (token.content, id))
            .collect();
        spellings.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.0.cmp(&b.0)));
        Self { spellings, special }
    }

    /// Whether `id` is a control token.
    pub(crate) fn holds(&self, id: u32) -> bool {
        self.special.contains_key(&id)
    }

    /// Whether `id` is a control token that is marked special.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.get(&id).copied().unwrap_or(false)
    }

    /// The text before the first control token that `text` spells, its id, and the text after it.
    pub(crate) fn split_first<'a>(&self, text: &'a str) -> Option<(&'a str, u32, &'a str)> {
        let (at, len, id) = self.find(text)?;
        Some((&text[..at], id, &text[at + len..]))
    }

    /// `text` cut after the first character of every control token that it spells.
    pub(crate) fn cut_apart<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((at, _, _)) = self.find(rest) {
            let first = rest[at..].chars().next().map_or(1, char::len_utf8);
            let (piece, after) = rest.split_at(at + first);
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        pieces
    }

    /// Where the first spelling begins, its length and its id.
    fn find(&self, text: &str) -> Option<(usize, usize, u32)> {
        text.char_indices().find_map(|(at, _)| {
            let (spelling, id) = self
                .spellings
                .iter()
                .find(|(spelling, _)| text[at..].starts_with(spelling.as_str()))?;
            Some((at, spelling.len(), *id))
        })
    }
}
