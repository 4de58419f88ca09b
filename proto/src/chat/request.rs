//! The request of a chat completion.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{ResponseFormat, Role, StreamEvents, StructuredOutputs};

/// A chat completion request. Fields that nobody knows are ignored; a field of OpenAI's or vLLM's
/// that is not listed here is refused with an error that names it, unless its value asks for
/// nothing (null, `n: 1`, an empty list of tools).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "model": "onegen", "stream": true,
    "messages": [{"role": "user", "content": "What is the capital of Peru?"}]
}))]
pub struct ChatCompletionRequest {
    /// The model's served name, or the name of its directory.
    pub model: String,
    /// The messages so far, the user's last. With `conversation` only the new ones.
    #[schema(min_items = 1)]
    pub messages: Vec<RequestMessage>,
    /// The conversation to continue, from an earlier answer's `onegen.conversation`. Without it, a
    /// conversation is recognised by its messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ConversationReference>,
    /// Whether the conversation can be continued. Default true; false leaves nothing behind, but in a
    /// `conversation` that is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<bool>,
    /// Whether and how the model may retrieve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalOptions>,
    /// Whether tokens that are likely to come next, because the same tokens were read or written before, are computed
    /// together with the last one. The text is the same with it, and comes sooner where it quotes. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drafting: Option<bool>,
    /// Whether the answer comes as server-sent events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Whether a streamed answer goes on when its client is gone, to be read again from any event on
    /// with `GET /v1/stream?conv_id=…&from=N`. Its conversation is told in the header
    /// `onegen-conversation`, and each event has its number as `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumable: Option<bool>,
    /// Only with `stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// How many tokens may be sampled. Default: as many as the context holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<usize>,
    /// The older name of `max_completion_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_tokens: Option<usize>,
    /// 0 takes the likeliest token. Default 0: answers come from passages, not from chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Keep the likeliest tokens whose probabilities reach this sum. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Keep this many of the likeliest tokens. 0 and -1 keep all, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Drop tokens less likely than this share of the likeliest one. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Makes tokens that the conversation holds less likely when above 1; passages are not counted.
    /// Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0)]
    pub repetition_penalty: Option<f32>,
    /// Taken off the logits of tokens that the answer holds already. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f32>,
    /// The same, once for each time that the answer holds the token. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f32>,
    /// The same seed, parameters and context give the same answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// How many tokens must be sampled before one may end the answer. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<usize>,
    /// Token ids that end the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_token_ids: Option<Vec<u32>>,
    /// Texts that end the answer; the first that appears is cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::texts::stops)]
    pub stop: Option<Stop>,
    /// Added to the logits of these token ids, each in -100..=100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::texts::biases)]
    pub logit_bias: Option<BTreeMap<u32, f32>>,
    /// Whether the answer tells how likely its tokens were, before penalties, biases, temperature
    /// and constraints. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// How many of the likeliest tokens it tells at each place; only with `logprobs`. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<usize>,
    /// What the answer must be. Retrievals come before its text; white space that it must start
    /// with is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// The same in vLLM's words, which know more than JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structured_outputs: Option<StructuredOutputs>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestMessage {
    /// Who said it.
    pub role: Role,
    /// What was said. Text that spells a control token stays text.
    pub content: Content,
}

/// A message's text, whole or in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a string or an array of objects with a type"
)]
pub enum Content {
    /// The text.
    Text(String),
    /// Its parts, put together without anything between them.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContentPart {
    /// `text`, or OpenAI's other names for it; nothing else is supported.
    #[serde(rename = "type")]
    #[schema(schema_with = crate::texts::parts)]
    pub kind: String,
    /// The text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required)]
    pub text: Option<String>,
}

/// The conversation to continue: its id, or an object with its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a conversation's id, or an object with its id"
)]
pub enum ConversationReference {
    /// The id.
    Id(String),
    /// An object with the id.
    Object {
        /// The id.
        id: String,
    },
}

impl ConversationReference {
    /// The id, in either form.
    pub fn id(&self) -> &str {
        match self {
            Self::Id(id) | Self::Object { id } => id,
        }
    }
}

/// Whether, where and how the model may retrieve. It holds for this answer only: passages that the
/// conversation has read before stay in it, whatever collection they came from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "collection": "default", "k": 3, "min_score": 0.3,
    "filter": {"type": "and", "filters": [
        {"type": "eq", "key": "kind", "value": "country"},
        {"type": "gte", "key": "year", "value": 1821}
    ]}
}))]
pub struct RetrievalOptions {
    /// False keeps the model from retrieving. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// True makes the answer begin with a retrieval, whether or not the model would. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<bool>,
    /// The collection to retrieve from, by name. Default: the server's default collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "default")]
    pub collection: Option<String>,
    /// What the metadata of passages must be, as OpenAI's vector stores take it. Default: every
    /// passage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::MetadataFilter>)]
    pub filter: Option<Value>,
    /// The cosine that passages must have at least. Default: none. Where nothing is found, the model
    /// goes on without a passage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1, maximum = 1)]
    pub min_score: Option<f32>,
    /// How many passages a retrieval returns; all are in the receipt, the first is read. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub k: Option<usize>,
    /// How many retrievals one answer may do. Default: the model's own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retrievals: Option<usize>,
    /// What happens where the collection does not answer: `fail`, the default, ends the turn with the error
    /// `collection_unreachable`; with `continue` the model goes on without a passage, as where nothing is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnRetrievalError>,
    /// In what the offsets of citations are counted. Default `characters`; `utf16` in Vercel's stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<crate::OffsetUnit>,
}

/// What happens where a collection does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnRetrievalError {
    /// The turn fails.
    #[default]
    Fail,
    /// The model goes on without a passage.
    Continue,
}

/// What a stream holds beside the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// A last chunk with the usage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_usage: Option<bool>,
    /// Other events than OpenAI's. Default: OpenAI's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<StreamEvents>,
}

/// One text that ends the answer, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub enum Stop {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Stop {
    /// All texts, in either form.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}
