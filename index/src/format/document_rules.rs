//! How documents become passages and vectors. The manifest records these rules, so that documents that
//! are added later are treated in the same way. The splitting itself is in `ingest/split.rs`.

use serde::{Deserialize, Serialize};

use crate::error::IndexError;

/// How long passages are. The caller brings the function that counts tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Splitter {
    pub(crate) max_tokens: usize,
    pub(crate) overlap_tokens: usize,
}

impl Default for Splitter {
    /// Passages of 256 tokens with an overlap of 32.
    fn default() -> Self {
        Self {
            max_tokens: 256,
            overlap_tokens: 32,
        }
    }
}

impl Splitter {
    /// Tokens of a passage at most.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Tokens at the end of a passage that the next one begins with, at most.
    pub fn overlap_tokens(&self) -> usize {
        self.overlap_tokens
    }

    /// Passages hold at most `max_tokens` tokens of text, not counting the title. Of these, at most
    /// the first `overlap_tokens` are also the end of the passage before.
    ///
    /// # Errors
    /// The passages would be empty, or would hold nothing new.
    pub fn new(max_tokens: usize, overlap_tokens: usize) -> Result<Self, IndexError> {
        let option = |name, value, allowed| {
            Err(IndexError::Option {
                name,
                value,
                allowed,
            })
        };
        if max_tokens == 0 {
            return option("max_tokens", max_tokens, "at least 1");
        }
        if overlap_tokens >= max_tokens {
            return option("overlap_tokens", overlap_tokens, "less than max_tokens");
        }
        Ok(Self {
            max_tokens,
            overlap_tokens,
        })
    }
}

/// Which texts of a passage get a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VectorsPer {
    /// The passage: one vector.
    #[default]
    Passage,
    /// For each sentence, the text from the passage's beginning to the end of that sentence, as
    /// OneGen's multi-hop models are trained. The best of these vectors finds the passage.
    Sentence,
}

/// How documents become passages and vectors. An index records the rules of its corpus, so that
/// later documents are indexed in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentRules {
    /// Which texts of a passage get a vector.
    pub vectors: VectorsPer,
    /// How long documents become passages.
    pub split: Splitter,
}
