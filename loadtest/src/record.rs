//! What is known of a request afterwards.

use onegen_proto::{PassageKv, Receipt};
use serde::{Deserialize, Serialize};

use crate::client::Outcome;

/// A request. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The conversation's number in the plan.
    pub conversation: usize,
    /// The turn's number in its conversation, from 0.
    pub turn: usize,
    /// When it was due, from the run's beginning.
    pub due_ms: f64,
    /// How much later than that it was sent.
    pub late_ms: f64,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// From when it was due to its first text.
    pub ttft_ms: Option<f64>,
    /// From when it was due to its end.
    pub total_ms: f64,
    /// Between two pieces of its text.
    pub gaps_ms: Vec<f64>,
    /// Tokens that were read, by the server's count.
    pub prompt_tokens: usize,
    /// Those of them that were not computed again.
    pub cached_tokens: usize,
    /// Tokens that were written.
    pub completion_tokens: usize,
    /// Its retrievals.
    pub retrievals: Vec<RetrievalTimes>,
}

/// A retrieval of a OneGen server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalTimes {
    /// From the query embedding to the passages.
    pub search_ms: f64,
    /// From the passages until the model could write on.
    pub splice_ms: f64,
    /// Tokens of the passage and its markers.
    pub splice_tokens: usize,
    /// How many of them were forwarded.
    pub splice_forwarded: usize,
    /// Where the passage's keys and values came from.
    pub passage_kv: PassageKv,
}

impl From<&Receipt> for RetrievalTimes {
    fn from(receipt: &Receipt) -> Self {
        Self {
            search_ms: receipt.search_ms,
            splice_ms: receipt.splice_ms,
            splice_tokens: receipt.splice_tokens,
            splice_forwarded: receipt.splice_forwarded,
            passage_kv: receipt.passage_kv,
        }
    }
}
