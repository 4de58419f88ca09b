//! What is searched for, and what is found.

use crate::filter::Filter;
use crate::segment::passages::Passage;

/// What is searched for, besides the query embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchOptions {
    /// Passages wanted.
    pub k: usize,
    /// What their metadata must be.
    pub filter: Option<Filter>,
    /// Cosine that they must have at least.
    pub min_score: Option<f32>,
    /// Compare every vector: what a search through graphs is judged by.
    pub exact: bool,
}

impl SearchOptions {
    /// The nearest `k` passages.
    pub fn new(k: usize) -> Self {
        Self {
            k,
            filter: None,
            min_score: None,
            exact: false,
        }
    }
}

/// A passage that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Cosine of the query and the passage's best vector, in f32.
    pub score: f32,
    /// Which of the passage's vectors that is, from 0.
    pub part: u32,
    /// The passage.
    pub passage: Passage,
}
