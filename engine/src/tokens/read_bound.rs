//! Which texts are too long to be tokenised at all.

use tokenizers::{ModelWrapper, Tokenizer};

use crate::error::TokensError;

/// A normaliser can make a text shorter: NFC joins three letters of Hangul, nine bytes, to one of three.
const MOST_BYTES_NORMALISED_TO_ONE: usize = 3;

/// How many bytes fit a context. Tokenising a text takes some two hundred times its size in memory, so what
/// cannot fit is refused before.
#[derive(Debug)]
pub(super) struct ReadBound {
    /// Tokens that the model's context holds.
    context: usize,
    /// Bytes that a token may stand for, at most; `None` where a token can stand for a text of any length, as
    /// an unknown word's can.
    longest: Option<usize>,
}

impl ReadBound {
    pub(super) fn new(tokenizer: &Tokenizer, context: usize) -> Self {
        let longest = match tokenizer.get_model() {
            ModelWrapper::BPE(bpe) if bpe.unk_token.is_none() => {
                // A byte is spelled with at least one byte.
                let bytes = tokenizer.get_vocab(true).into_keys().map(|t| t.len());
                bytes.max()
            }
            _ => None,
        };
        Self { context, longest }
    }

    /// Refuses a text that cannot fit behind `before` tokens.
    ///
    /// # Errors
    /// [`TokensError::TooLong`], with a lower bound of the tokens that are needed.
    pub(super) fn check(&self, before: usize, text: &str) -> Result<(), TokensError> {
        let Some(longest) = self.longest else {
            return Ok(());
        };
        let fewest = text.len() / (longest * MOST_BYTES_NORMALISED_TO_ONE).max(1);
        let needed = before.saturating_add(fewest);
        if needed <= self.context {
            return Ok(());
        }
        Err(TokensError::TooLong {
            needed,
            available: self.context,
        })
    }
}
