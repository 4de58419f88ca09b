//! A streamed answer: `data:` lines of server-sent events.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::{Annotation, FinishReason, Logprobs, Role};
use crate::{Receipt, SchemaReport, Usage};

/// One event of a streamed answer. In order: the role, text and retrievals as they come, the
/// annotations if any, the finish reason, the usage if asked for; then `data: [DONE]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletionChunk {
    /// The answer's name, the same in all its chunks.
    #[schema(example = "chatcmpl-0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")]
    pub id: String,
    /// Always `chat.completion.chunk`.
    pub object: ChatCompletionChunkObject,
    /// When the answer was begun, in seconds since 1970.
    pub created: u64,
    /// The model's served name.
    #[schema(example = "onegen")]
    pub model: String,
    /// Exactly one, but none in the chunk that holds the usage.
    pub choices: Vec<ChunkChoice>,
    /// There only with `stream_options.include_usage`: null in every chunk but the last.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "null_is_there"
    )]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
    /// What OpenAI has no name for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onegen: Option<ChunkExtension>,
}

/// The type of a [`ChatCompletionChunk`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ChatCompletionChunkObject {
    /// `chat.completion.chunk`.
    #[default]
    #[serde(rename = "chat.completion.chunk")]
    ChatCompletionChunk,
}

/// One more piece of the answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChunkChoice {
    /// Always 0.
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// How likely the tokens of this chunk's text were; null in chunks without text, and unless
    /// asked for.
    pub logprobs: Option<Logprobs>,
    /// Why the answer ended; null before its end.
    pub finish_reason: Option<FinishReason>,
}

/// What is new in a chunk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Delta {
    /// `assistant`, in the first chunk only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// More text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// All annotations, in one chunk after the text. The last one's end is known only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Vec<Annotation>>,
}

/// What happened, told where it happened.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChunkExtension {
    /// A passage was spliced in before the text that follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Receipt>,
    /// In the chunk with the finish reason: the id to continue with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// In the chunk with the finish reason: all retrievals, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrievals: Option<Vec<Receipt>>,
    /// In the chunk with the finish reason, if the request had a JSON schema: what is known of the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Box<SchemaReport>>,
}

/// Distinguishes `"usage": null` from a missing `usage`.
fn null_is_there<'de, D>(deserializer: D) -> Result<Option<Option<Usage>>, D::Error>
where
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}
