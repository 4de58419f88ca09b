//! What a retrieval found and what it cost.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One retrieval: where it happened, what it found, what it cost. Everything is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// Which retrieval of this answer, from 0.
    pub index: usize,
    /// Where the retrieval token stood among the answer's sampled tokens, from 0.
    pub at_token: usize,
    /// The collection that was searched.
    #[schema(example = "default")]
    pub collection: String,
    /// What was found, best first. The first was read. None was if there is none.
    pub passages: Vec<ReceiptPassage>,
    /// How many better ones were found and left out, since the context had no room for them and an answer.
    #[serde(default)]
    #[schema(example = 0)]
    pub too_long: usize,
    /// Positions of the question that were forwarded once more for the search, as the engine counted
    /// them.
    #[schema(example = 0)]
    pub query_tokens_reencoded: u64,
    /// Milliseconds from the query embedding to the passages.
    pub search_ms: f64,
    /// Tokens appended to the KV-cache: the passage and its markers.
    pub splice_tokens: usize,
    /// How many of them were forwarded: all, or one where the passage's keys and values were kept.
    #[serde(default)]
    #[schema(example = 1)]
    pub splice_forwarded: usize,
    /// Where the passage's keys and values came from.
    #[serde(default)]
    pub passage_kv: PassageKv,
    /// Milliseconds from the passages until the model could write on.
    pub splice_ms: f64,
}

/// Where the keys and values of a passage came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PassageKv {
    /// They were computed for this answer.
    #[default]
    Computed,
    /// They were kept in memory since an earlier answer.
    Memory,
    /// They were kept on the disk.
    Disk,
}

/// A passage that was found. Its text is not repeated here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptPassage {
    /// Its id in the collection.
    #[schema(example = "country-peru")]
    pub id: String,
    /// Its title; may be empty.
    #[schema(example = "Peru")]
    pub title: String,
    /// Where it comes from, if the corpus says.
    pub url: Option<String>,
    /// Cosine of its embedding and the query embedding.
    #[schema(example = 0.87)]
    pub score: f32,
}
