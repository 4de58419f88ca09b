//! An answer without streaming.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Annotation, Logprobs, Role};
use crate::{Receipt, SchemaReport, Usage};

/// The answer to a request without `stream`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletion {
    /// The answer's name.
    #[schema(example = "chatcmpl-0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")]
    pub id: String,
    /// Always `chat.completion`.
    pub object: ChatCompletionObject,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The model's served name.
    #[schema(example = "onegen")]
    pub model: String,
    /// Exactly one.
    pub choices: Vec<Choice>,
    /// What it used, in tokens.
    pub usage: Usage,
    /// What OpenAI has no name for.
    pub onegen: CompletionExtension,
}

/// The type of a [`ChatCompletion`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ChatCompletionObject {
    /// `chat.completion`.
    #[default]
    #[serde(rename = "chat.completion")]
    ChatCompletion,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Choice {
    /// Always 0.
    pub index: u32,
    /// What the model said.
    pub message: ResponseMessage,
    /// How likely the text's tokens were; null unless asked for.
    pub logprobs: Option<Logprobs>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// What the model said. Passage text and control tokens are never in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseMessage {
    /// Always `assistant`.
    pub role: Role,
    /// The text.
    #[schema(example = "Lima.")]
    pub content: String,
    /// Always null.
    pub refusal: Option<String>,
    /// One for each passage that was read, in order.
    pub annotations: Vec<Annotation>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop string came.
    Stop,
    /// `max_tokens` was reached or the context is full.
    Length,
}

/// The conversation, and a receipt for every retrieval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionExtension {
    /// The id to continue with: put it into the next request's `conversation`.
    #[schema(example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")]
    pub conversation: String,
    /// The retrievals, in order.
    pub retrievals: Vec<Receipt>,
    /// What is known of the text, if the request had a JSON schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaReport>,
}
