//! What is learnt in one step: segments of tokens that see each other as the model will see them.

use std::ops::Range;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Tokens that see themselves causally and some earlier segments whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The tokens
    pub ids: Vec<u32>,
    /// The position of the first one
    pub position: usize,
    /// The earlier segments that they see
    pub sees: Vec<VisibleSegment>,
}

/// An earlier segment as a later one sees it: a passage that is shared may land at another position for
/// each of those who read it, which only turns its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisibleSegment {
    /// Which segment of the pack
    pub segment: usize,
    /// The position of its first token
    pub position: usize,
}

/// A token of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPosition {
    /// Which segment of the pack
    pub segment: usize,
    /// Which of its tokens
    pub offset: usize,
}

/// A token that the model learns to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The token before it
    pub at: TokenPosition,
    /// What is to be written
    pub id: u32,
}

/// A query token, and what it is to find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Where `[RQ]` stands
    pub at: TokenPosition,
    /// Keys of the passages that are right: the first one is searched for, no other one counts against it
    pub positives: Vec<u32>,
    /// Keys of passages that are wrong, for losses that compare with a query's own negatives only
    #[serde(default)]
    pub negatives: Vec<u32>,
}

/// A passage token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassageToken {
    /// Where `[RD]` stands
    pub at: TokenPosition,
    /// The passage's key: its number in the training data
    pub key: u32,
}

/// Segments that see each other and no other pack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// The segments; each sees earlier ones only
    pub segments: Vec<Segment>,
    /// What the model learns to write
    pub predict: Vec<Target>,
    /// What it learns to search for
    pub queries: Vec<Query>,
    /// What can be found
    pub passages: Vec<PassageToken>,
}

impl Pack {
    /// Adds a segment and gives its number.
    pub fn push(&mut self, ids: Vec<u32>, position: usize, sees: Vec<VisibleSegment>) -> usize {
        self.segments.push(Segment {
            ids,
            position,
            sees,
        });
        self.segments.len() - 1
    }

    /// How many tokens are forwarded.
    pub fn tokens(&self) -> usize {
        self.segments.iter().map(|segment| segment.ids.len()).sum()
    }

    /// Where each segment's tokens are when all stand one after the other.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        let mut end = 0;
        let ranges = self.segments.iter().map(|segment| {
            let start = end;
            end += segment.ids.len();
            start..end
        });
        ranges.collect()
    }

    /// Checks what everybody relies on.
    ///
    /// # Errors
    /// A segment is empty or sees a later one, or a token that is named is not there.
    pub fn check(&self) -> Result<()> {
        for (number, segment) in self.segments.iter().enumerate() {
            ensure!(!segment.ids.is_empty(), "segment {number} is empty");
            let backwards = segment.sees.iter().all(|seen| seen.segment < number);
            ensure!(backwards, "segment {number} sees a later one");
        }
        let there = |at: &TokenPosition| {
            let segment = self.segments.get(at.segment);
            segment.is_some_and(|segment| at.offset < segment.ids.len())
        };
        let named = self.predict.iter().map(|target| &target.at);
        let named = named.chain(self.queries.iter().map(|query| &query.at));
        for at in named.chain(self.passages.iter().map(|passage| &passage.at)) {
            ensure!(
                there(at),
                "there is no token {} in segment {}",
                at.offset,
                at.segment
            );
        }
        Ok(())
    }
}
