//! What a linking model puts around mentions.

use super::Tokens;
use crate::error::TokensError;

/// A mark before or after a mention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A token of its own.
    Token(u32),
    /// Ordinary text, as in the published checkpoints. Never empty.
    Text(Box<[u8]>),
}

impl Mark {
    /// The bytes that are written for it, if it is text.
    pub(crate) fn text(&self) -> &[u8] {
        match self {
            Self::Token(_) => &[],
            Self::Text(bytes) => bytes,
        }
    }

    /// The most tokens that the mark takes.
    pub(crate) fn most_tokens(&self) -> usize {
        self.text().len().max(1)
    }
}

/// What a linking model puts around mentions.
#[derive(Debug)]
pub(crate) struct LinkTokens {
    pub(crate) open: Mark,
    pub(crate) close: Mark,
    /// `[LK]`, the model's query token.
    pub(crate) link: u32,
    /// `[_CONTINUE_]`, always after it.
    pub(crate) go_on: u32,
}

impl LinkTokens {
    pub(crate) fn new(open: Mark, close: Mark, link: u32, go_on: u32) -> Self {
        Self {
            open,
            close,
            link,
            go_on,
        }
    }

    /// Whether `id` is one of these tokens.
    pub(crate) fn holds(&self, id: u32) -> bool {
        let is = |mark: &Mark| *mark == Mark::Token(id);
        is(&self.open) || is(&self.close) || id == self.link || id == self.go_on
    }

    /// A character of a text mark that has no token of its own, if there is one. If every character has a
    /// token, each mark that is begun can also be finished.
    pub(super) fn unspelt(&self, tokens: &Tokens) -> Option<char> {
        let marks = [&self.open, &self.close].map(|mark| String::from_utf8_lossy(mark.text()));
        let mut characters = marks.iter().flat_map(|mark| mark.chars());
        characters.find(|character| {
            let spelling = character.to_string();
            let spells =
                |&id: &u32| tokens.is_text(id) && tokens.bytes(id) == Some(spelling.as_bytes());
            !(0..tokens.ids()).any(|id| spells(&id))
        })
    }

    /// The ids of a text as a mention of itself, up to `[LK]`.
    pub(super) fn mention_of_itself(
        &self,
        text: &str,
        tokens: &Tokens,
    ) -> Result<Vec<u32>, TokensError> {
        let spelt = |mark: &Mark| String::from_utf8_lossy(mark.text()).into_owned();
        let marked = format!("{}{text}{}", spelt(&self.open), spelt(&self.close));
        let mut ids = tokens.encode_plain(&marked)?;
        if let Mark::Token(open) = self.open {
            ids.insert(0, open);
        }
        if let Mark::Token(close) = self.close {
            ids.push(close);
        }
        ids.push(self.link);
        Ok(ids)
    }
}
