//! What a client sees of a turn: text up to a stop string, without leading white space unless a
//! grammar wants it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::decoding::logprobs::{TokenLogprob, cut_end};
use crate::error::TokensError;
use crate::tokens::Tokens;
use crate::tokens::detokenise::Detokeniser;

/// Some of a turn's text, in whole tokens but where a stop string cuts one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Text {
    /// Never half a character, no control tokens and no passage text. Empty only at the end of a turn whose last tokens
    /// make no text, where their logprobs are wanted.
    pub text: String,
    /// One for each token of the text, where [`crate::SamplingParams::logprobs`] asks for them.
    /// Their bytes put together are the text, but for three things: the white space that is taken off
    /// a turn's start is still in them, so is half a character at a turn's end, and bytes that are no UTF-8
    /// are replacement characters in the text.
    pub logprobs: Vec<TokenLogprob>,
}

/// A turn's text as it grows. Text that may yet turn out to begin a stop string is held back, the
/// whole of the token that it begins in.
#[derive(Debug)]
pub(crate) struct VisibleText {
    detokeniser: Detokeniser,
    stop: Vec<String>,
    /// Whether white space at the start is taken off.
    trims: bool,
    held: String,
    /// What the held text was made of, in order.
    pieces: VecDeque<Piece>,
    /// The logprobs of tokens that have become no visible text yet: half a character, or leading white space.
    unseen: Vec<TokenLogprob>,
    /// Characters given out so far.
    chars: usize,
}

/// The text of one token, or of several that share a character.
#[derive(Debug)]
struct Piece {
    bytes: usize,
    /// Empty unless they were asked for.
    logprobs: Vec<TokenLogprob>,
}

/// What one more token made visible.
#[derive(Debug, PartialEq)]
pub(crate) enum Shown {
    /// The turn goes on; the text may be empty.
    More(Text),
    /// A stop string came; this is the text before it.
    Stopped(Text),
}

impl VisibleText {
    pub(crate) fn new(tokens: Arc<Tokens>, stop: Vec<String>, trims: bool) -> Self {
        Self {
            detokeniser: Detokeniser::new(tokens),
            stop,
            trims,
            held: String::new(),
            pieces: VecDeque::new(),
            unseen: Vec::new(),
            chars: 0,
        }
    }

    /// Takes white space off the start from now on.
    pub(crate) fn trim_start(&mut self) {
        self.trims = true;
    }

    /// Characters so far, held ones included.
    pub(crate) fn chars(&self) -> usize {
        self.chars + self.held.chars().count()
    }

    /// Takes one more token, and its logprob when that is wanted.
    pub(crate) fn push(
        &mut self,
        id: u32,
        logprob: Option<TokenLogprob>,
    ) -> Result<Shown, TokensError> {
        self.unseen.extend(logprob);
        let text = self.detokeniser.push(id)?;
        self.hold(&text);
        if let Some(at) = self
            .stop
            .iter()
            .filter_map(|s| self.held.find(s.as_str()))
            .min()
        {
            return Ok(Shown::Stopped(self.cut(at)));
        }
        let sure = self.held.len() - self.possible_stop();
        Ok(Shown::More(self.give_out(sure)))
    }

    /// The rest, at the end of a turn that no stop string ended. A turn that was cut off inside a character ends
    /// before it.
    pub(crate) fn finish(&mut self) -> Result<Text, TokensError> {
        let text = self.detokeniser.finish()?;
        self.hold(text.trim_end_matches(char::REPLACEMENT_CHARACTER));
        let mut rest = self.give_out(self.held.len());
        rest.logprobs.append(&mut self.unseen);
        Ok(rest)
    }

    fn hold(&mut self, text: &str) {
        let trims = self.trims && self.chars == 0 && self.held.is_empty();
        let text = if trims { text.trim_start() } else { text };
        if text.is_empty() {
            return;
        }
        self.held.push_str(text);
        self.pieces.push_back(Piece {
            bytes: text.len(),
            logprobs: std::mem::take(&mut self.unseen),
        });
    }

    /// Gives out the pieces that end within the first `sure` bytes.
    fn give_out(&mut self, sure: usize) -> Text {
        let mut bytes = 0;
        let mut logprobs = Vec::new();
        while self.pieces.front().is_some_and(|p| bytes + p.bytes <= sure)
            && let Some(piece) = self.pieces.pop_front()
        {
            bytes += piece.bytes;
            logprobs.extend(piece.logprobs);
        }
        let rest = self.held.split_off(bytes);
        let text = std::mem::replace(&mut self.held, rest);
        self.chars += text.chars().count();
        Text { text, logprobs }
    }

    /// Gives out the first `len` bytes, of the last piece as much as belongs to them.
    fn cut(&mut self, len: usize) -> Text {
        let mut start = 0;
        for piece in &mut self.pieces {
            let end = start + piece.bytes;
            if start < len && len < end {
                cut_end(&mut piece.logprobs, end - len);
                piece.bytes = len - start;
            }
            start = end;
        }
        self.give_out(len)
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
