//! Turns ids into text while more ids arrive.

use std::sync::Arc;

use crate::error::TokensError;
use crate::tokens::Tokens;

/// Turns ids into text one by one. Text that was returned never changes: an id that ends in the
/// middle of a character is held back until the rest arrives.
#[derive(Debug)]
pub struct Detokeniser {
    tokens: Arc<Tokens>,
    /// First ids whose text was returned (they are kept because decoders treat the start of a text
    /// differently), then ids whose text was not returned yet.
    window: Vec<u32>,
    /// How many of them belong to the first kind.
    shown: usize,
    /// The length in bytes of the text of the first kind.
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

    /// The rest of the text, at its end. An incomplete character becomes a replacement character.
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
