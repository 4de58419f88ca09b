//! What a client sees of a turn: text without leading white space, up to a stop string.

use std::sync::Arc;

use crate::detokenise::Detokeniser;
use crate::error::TokensError;
use crate::tokens::Tokens;

/// A turn's text as it grows. Text that may yet turn out to begin a stop string is held back.
#[derive(Debug)]
pub(crate) struct VisibleText {
    detokeniser: Detokeniser,
    stop: Vec<String>,
    held: String,
    /// Characters given out so far.
    chars: usize,
}

/// What one more token made visible.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The turn goes on; the text may be empty.
    More(String),
    /// A stop string came; this is the text before it.
    Stopped(String),
}

impl VisibleText {
    pub(crate) fn new(tokens: Arc<Tokens>, stop: Vec<String>) -> Self {
        Self {
            detokeniser: Detokeniser::new(tokens),
            stop,
            held: String::new(),
            chars: 0,
        }
    }

    /// Characters so far, held ones included.
    pub(crate) fn chars(&self) -> usize {
        self.chars + self.held.chars().count()
    }

    pub(crate) fn push(&mut self, id: u32) -> Result<Shown, TokensError> {
        let text = self.detokeniser.push(id)?;
        self.hold(&text);
        if let Some(at) = self
            .stop
            .iter()
            .filter_map(|s| self.held.find(s.as_str()))
            .min()
        {
            return Ok(Shown::Stopped(self.give_out(at)));
        }
        let sure = self.held.len() - self.possible_stop();
        Ok(Shown::More(self.give_out(sure)))
    }

    /// The rest, at the end of a turn that no stop string ended.
    pub(crate) fn finish(&mut self) -> Result<String, TokensError> {
        let text = self.detokeniser.finish()?;
        self.hold(&text);
        Ok(self.give_out(self.held.len()))
    }

    fn hold(&mut self, text: &str) {
        let at_start = self.chars == 0 && self.held.is_empty();
        self.held
            .push_str(if at_start { text.trim_start() } else { text });
    }

    fn give_out(&mut self, bytes: usize) -> String {
        let rest = self.held.split_off(bytes);
        let out = std::mem::replace(&mut self.held, rest);
        self.chars += out.chars().count();
        out
    }

    /// Length in bytes of the longest end of the held text that begins a stop string.
    fn possible_stop(&self) -> usize {
        self.held
            .char_indices()
            .map(|(at, _)| &self.held[at..])
            .find(|end| self.stop.iter().any(|stop| stop.starts_with(end)))
            .map_or(0, str::len)
    }
}
