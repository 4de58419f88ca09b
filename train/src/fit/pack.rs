//! Packs, the units of training: segments of tokens that see each other in the same way as in
//! serving.

use std::ops::Range;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// A run of tokens with causal attention among themselves, which also see some earlier segments
/// completely.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The tokens
    pub ids: Vec<u32>,
    /// The position of the first one
    pub position: usize,
    /// The earlier segments that they see
    pub sees: Vec<VisibleSegment>,
}

/// An earlier segment as a later one sees it. A shared passage may be at a different position for each
/// reader, which only changes the rotation of its keys.
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

/// A query token and the passages that it should find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The place of `[RQ]`
    pub at: TokenPosition,
    /// Keys of the right passages. The first is the target; the others do not count as negatives
    pub positives: Vec<u32>,
    /// Keys of wrong passages, for losses that use only a query's own negatives
    #[serde(default)]
    pub negatives: Vec<u32>,
}

/// A passage token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassageToken {
    /// The place of `[RD]`
    pub at: TokenPosition,
    /// The passage's key: its number in the training data
    pub key: u32,
}

/// Segments that may see each other, but no segment of another pack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// The segments; each sees only earlier ones
    pub segments: Vec<Segment>,
    /// The tokens that the model is trained to write
    pub predict: Vec<Target>,
    /// The queries that it is trained to search with
    pub queries: Vec<Query>,
    /// The passages that can be found
    pub passages: Vec<PassageToken>,
}

impl Pack {
    /// Adds a segment and returns its number.
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

    /// The range of each segment's tokens if all segments are concatenated.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        let mut end = 0;
        let ranges = self.segments.iter().map(|segment| {
            let start = end;
            end += segment.ids.len();
            start..end
        });
        ranges.collect()
    }

    /// Checks the conditions that all other code relies on.
    ///
    /// # Errors
    /// A segment is empty or sees a later one, or a named token does not exist.
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
