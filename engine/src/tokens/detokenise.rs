//! Ids to text while the ids still come.

use std::sync::Arc;

use crate::error::TokensError;
use crate::tokens::Tokens;

/// Turns ids into text one by one. What it has given out never changes: an id that ends in the
/// middle of a character is kept until the rest comes.
#[derive(Debug)]
pub struct Detokeniser {
    tokens: Arc<Tokens>,
    /// Ids whose text is out, kept because decoders treat a text's start differently, then ids
    /// whose text is not out yet.
    window: Vec<u32>,
    /// How many of them belong to the first kind.
    shown: usize,
    /// Their text's length in bytes.
    shown_bytes: usize,
}

impl Detokeniser {
    /// Starts a text.
    pub fn new(tokens: Arc<Tokens>) -> Self {
        Self {
            tokens,
            window: Vec::new(),
            shown: 0,
            shown_bytes: 0,
        }
    }

    /// The text that `id` completes; empty when it completes none.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn push(&mut self, id: u32) -> Result<String, TokensError> {
        self.window.push(id);
        let text = self.tokens.decode(&self.window)?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let new = text.get(self.shown_bytes..).unwrap_or_default().to_owned();
        self.window.drain(..self.shown);
        self.shown = self.window.len();
        self.shown_bytes = self.tokens.decode(&self.window)?.len();
        Ok(new)
    }

    /// The rest at the text's end. A character that stayed incomplete becomes a replacement character.
    ///
    /// # Errors
    /// The tokenizer failed.
    pub fn finish(&mut self) -> Result<String, TokensError> {
        let text = self.tokens.decode(&self.window)?;
        let rest = text.get(self.shown_bytes..).unwrap_or_default().to_owned();
        (self.shown, self.shown_bytes) = (self.window.len(), text.len());
        Ok(rest)
    }
}
