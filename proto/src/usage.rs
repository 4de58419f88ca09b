//! What an answer used, in tokens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an answer used, in tokens.
///
/// Passages count as prompt: they are read, not written. So `prompt_tokens` is the conversation so
/// far (its earlier passages included), the new messages, and the passages of this answer;
/// `total_tokens` is how long the conversation is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Tokens read.
    pub prompt_tokens: usize,
    /// Tokens sampled, those of retrievals and of the answer's end included.
    pub completion_tokens: usize,
    /// The sum of both.
    pub total_tokens: usize,
    /// Parts of `prompt_tokens`.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// Parts of [`Usage::prompt_tokens`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Those whose KV was there already, so that they were not forwarded again.
    pub cached_tokens: usize,
    /// Those of passages that were spliced in during this answer, markers included.
    pub passage_tokens: usize,
}
