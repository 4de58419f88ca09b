//! The log-probabilities of an answer's tokens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// There with `logprobs: true`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Logprobs {
    /// One for each token of `content`. Their bytes put together are `content`, but for white space
    /// that is taken off its start. Of a token that a stop string cuts, the part before it.
    pub content: Vec<TokenLogprob>,
    /// Always null.
    #[schema(value_type = Option<Vec<TokenLogprob>>)]
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// A token of `content`. The logprob is the model's own: before penalties, biases, temperature and
/// any constraint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenLogprob {
    /// Its text, with replacement characters where it holds only part of one.
    #[schema(example = " L")]
    pub token: String,
    /// The natural logarithm of its probability.
    #[schema(example = -0.02)]
    pub logprob: f32,
    /// Its text in UTF-8.
    pub bytes: Option<Vec<u8>>,
    /// The likeliest tokens at its place, the likeliest first, `top_logprobs` of them.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One of the likeliest tokens at a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TopLogprob {
    /// Its text, or a control token's spelling.
    pub token: String,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// Its text in UTF-8; null for a control token, which adds no text.
    pub bytes: Option<Vec<u8>>,
}
