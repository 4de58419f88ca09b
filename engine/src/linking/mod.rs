//! Linking: a text is copied, and mentions of entities in it are marked.
//!
//! A linking model writes the text once more, with `<MENTION>` and `</MENTION>` around each mention and
//! `[LK]` behind it, whose hidden state is the mention's embedding. Nothing else can come out: what may
//! follow is decided byte by byte from the text itself ([`MarkedCopy`]), so a mention's offsets are exact and
//! the text is what it was.

mod choice;
mod copy;
mod words;

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::error::TokensError;
use crate::tokens::Tokens;

pub(crate) use copy::MarkedCopy;
use words::Words;

/// A mention that was marked, as soon as its embedding is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Mention {
    /// The byte of the text where it starts, at a character's border.
    pub start: usize,
    /// The byte after its last one. No white space stands at either end.
    pub end: usize,
    /// The state at its `[LK]`: `hidden_size` numbers, of length 1, to be compared with those of
    /// [`crate::Model::embed_passages`].
    pub embedding: Vec<f32>,
}

/// A text to be linked, for the tokens of one model.
#[derive(Clone)]
pub struct Linking {
    pub(crate) copy: MarkedCopy,
}

impl Linking {
    /// Prepares a text. Its outer white space is no part of any mention. May take a millisecond.
    ///
    /// # Errors
    /// The model links nothing, or its tokenizer failed.
    pub fn new(text: &str, tokens: &Arc<Tokens>) -> Result<Self, TokensError> {
        let copy = MarkedCopy::new(text, tokens.clone())?;
        Ok(Self { copy })
    }
}

impl fmt::Debug for Linking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linking").finish_non_exhaustive()
    }
}

/// What is put before or after a mention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A token of its own.
    Token(u32),
    /// Ordinary text, as in the published checkpoints. Never empty.
    Text(Box<[u8]>),
}

impl Mark {
    /// The bytes that are written for it, if it is text.
    fn text(&self) -> &[u8] {
        match self {
            Self::Token(_) => &[],
            Self::Text(bytes) => bytes,
        }
    }

    /// Tokens that it takes at most.
    fn most_tokens(&self) -> usize {
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
    /// Ids that texts are written with, ordered by their bytes. Made when first asked for.
    by_bytes: OnceLock<Vec<u32>>,
}

impl LinkTokens {
    pub(crate) fn new(open: Mark, close: Mark, link: u32, go_on: u32) -> Self {
        Self {
            open,
            close,
            link,
            go_on,
            by_bytes: OnceLock::new(),
        }
    }

    /// Whether `id` is one of these tokens.
    pub(crate) fn holds(&self, id: u32) -> bool {
        let is = |mark: &Mark| *mark == Mark::Token(id);
        is(&self.open) || is(&self.close) || id == self.link || id == self.go_on
    }

    /// A character of a mark that is text for which there is no token. With one for each, any mark that is
    /// begun can be ended.
    pub(crate) fn unspelt(&self, tokens: &Tokens) -> Option<char> {
        let marks = [&self.open, &self.close].map(|mark| String::from_utf8_lossy(mark.text()));
        let mut characters = marks.iter().flat_map(|mark| mark.chars());
        characters.find(|character| {
            let spelling = character.to_string();
            let word = spelling
                .bytes()
                .fold(self.words(tokens), |word, byte| word.then(byte));
            word.whole().is_empty()
        })
    }

    /// The ids of a text as a mention of itself, up to `[LK]`.
    pub(crate) fn mention_of_itself(
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

    /// All tokens that texts are written with.
    fn words<'a>(&'a self, tokens: &'a Tokens) -> Words<'a> {
        let ids = self.by_bytes.get_or_init(|| {
            let ids = 0..tokens.ids();
            let mut ids: Vec<u32> = ids.filter(|&id| tokens.is_text(id)).collect();
            ids.sort_by_key(|&id| tokens.bytes(id));
            ids
        });
        Words::new(tokens, ids)
    }
}
