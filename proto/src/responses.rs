//! `POST /v1/responses`: OpenAI's Responses API, as far as a model that retrieves by itself has use
//! for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    ConversationReference, ErrorBody, InputItem, ItemAnnotation, RankingOptions, Receipt,
    ResponseText, RetrievalOptions, SchemaReport,
};

/// A response to create. Fields that nobody knows are ignored; a field of OpenAI's that is not listed
/// here is refused with an error that names it, unless its value asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "model": "onegen", "input": "What is the capital of Peru?",
    "tools": [{"type": "file_search", "vector_store_ids": ["default"]}],
    "include": ["file_search_call.results"]
}))]
pub struct ResponseRequest {
    /// The model's served name, or the name of its directory.
    pub model: String,
    /// What is asked: a text, or messages of which the last is the user's.
    pub input: ResponseInput,
    /// What the system says first, for this response only. Where they differ from those before, the
    /// conversation is read again from what was said, without the passages that it had read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The conversation to continue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ConversationReference>,
    /// The stored response to go on after. Where its conversation has gone on meanwhile, this makes a
    /// new one, a copy up to there. Not with `conversation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_response_id: Option<String>,
    /// Nothing, or one `file_search`: it says what is searched. Whether to search is the model's to
    /// choose, with or without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 1)]
    pub tools: Option<Vec<FileSearchTool>>,
    /// `auto`, `none` (no retrieval), or `required` or `{"type": "file_search"}` (the answer begins with
    /// one). `retrieval` goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::texts::tool_choices)]
    pub tool_choice: Option<Value>,
    /// What `file_search` cannot say, in this server's own words; goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalOptions>,
    /// Whether tokens that are likely to come next, because the same tokens were read or written before, are computed
    /// together with the last one. The text is the same with it, and comes sooner where it quotes. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drafting: Option<bool>,
    /// `file_search_call.results` adds the passages that were found; other values change nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include: Option<Vec<String>>,
    /// Whether the response comes as server-sent events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// How many tokens may be sampled. Default: as many as the context holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<usize>,
    /// 0 takes the likeliest token. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Keep the likeliest tokens whose probabilities reach this sum. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// What the text must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<ResponseText>,
    /// Whether the response can be asked for again, and gone on after. Default true; false leaves
    /// nothing behind, but in a `conversation` that is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<bool>,
    /// Given back as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or an array of messages")]
pub enum ResponseInput {
    /// The user's message.
    Text(String),
    /// Messages; items that were read or found (`file_search_call`) are left out.
    Items(Vec<InputItem>),
}

impl Default for ResponseInput {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// What is searched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FileSearchTool {
    /// `file_search`; nothing else is supported.
    #[serde(rename = "type")]
    #[schema(schema_with = crate::texts::file_search)]
    pub kind: String,
    /// The collection, by its name: exactly one.
    #[serde(default)]
    #[schema(required, min_items = 1, max_items = 1, example = json!(["default"]))]
    pub vector_store_ids: Vec<String>,
    /// What the metadata of passages must be, as in `retrieval.filter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::MetadataFilter>)]
    pub filters: Option<Value>,
    /// How many passages are reported; the first is read. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub max_num_results: Option<usize>,
    /// Which passages are good enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranking_options: Option<RankingOptions>,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ResponseObject {
    /// Its id, for `previous_response_id`.
    #[schema(example = "resp_2_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")]
    pub id: String,
    /// Always `response`.
    #[schema(example = "response")]
    pub object: String,
    /// When it was begun, in seconds since 1970.
    pub created_at: u64,
    /// How far it is.
    pub status: ResponseStatus,
    /// What went wrong.
    pub error: Option<ResponseError>,
    /// Why it is incomplete.
    pub incomplete_details: Option<IncompleteDetails>,
    /// As it was asked.
    pub instructions: Option<String>,
    /// As it was asked.
    pub max_output_tokens: Option<usize>,
    /// The model's served name.
    #[schema(example = "onegen")]
    pub model: String,
    /// What was searched and said, in order.
    pub output: Vec<OutputItem>,
    /// Always true: the model may search as often as it wants to.
    pub parallel_tool_calls: bool,
    /// As it was asked.
    pub previous_response_id: Option<String>,
    /// Its conversation. None before the response is complete.
    pub conversation: Option<ResponseConversation>,
    /// As it was asked, or the default.
    pub temperature: f32,
    /// As it was asked, or the default.
    pub top_p: f32,
    /// As it was asked, or `auto`.
    #[schema(schema_with = crate::texts::tool_choices)]
    pub tool_choice: Value,
    /// As it was asked.
    pub tools: Vec<FileSearchTool>,
    /// As it was asked, or a text of any form.
    #[serde(default)]
    pub text: ResponseText,
    /// Whether it can be asked for again.
    pub store: bool,
    /// As it was asked.
    pub metadata: BTreeMap<String, String>,
    /// What it used, in tokens. None before it is complete.
    pub usage: Option<ResponseUsage>,
    /// What OpenAI's have not. Left out where there is nothing to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onegen: Option<ResponseExtension>,
}

/// What is told of a response beside what OpenAI's API tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseExtension {
    /// What is known of the text, since the request had a JSON schema.
    pub schema: SchemaReport,
}

/// How far a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResponseStatus {
    /// It is written.
    InProgress,
    /// It came to its end.
    Completed,
    /// It was cut off: see `incomplete_details`.
    Incomplete,
    /// It failed: see `error`.
    Failed,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseError {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
}

impl From<ErrorBody> for ResponseError {
    fn from(error: ErrorBody) -> Self {
        Self {
            code: error.code.unwrap_or_default(),
            message: error.message,
        }
    }
}

/// Why a response is incomplete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncompleteDetails {
    /// Always `max_output_tokens`: those asked for, or those that the context holds.
    #[schema(example = "max_output_tokens")]
    pub reason: String,
}

/// A response's conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseConversation {
    /// Its id.
    #[schema(example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")]
    pub id: String,
}

/// What was searched or said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// The model retrieved, and read the best passage.
    FileSearchCall {
        /// The item's id.
        id: String,
        /// `searching` where it is first told of in a stream, then `completed`.
        status: String,
        /// Always empty: the query is a hidden state, not a text.
        queries: Vec<String>,
        /// What was found, best first. Null unless it was asked for.
        results: Option<Vec<FileSearchResult>>,
        /// What OpenAI has no name for: the receipt. None before it is completed.
        onegen: Option<Receipt>,
    },
    /// The model's text.
    Message {
        /// The item's id.
        id: String,
        /// `in_progress` or `completed`, or `incomplete`.
        status: String,
        /// Always `assistant`.
        role: String,
        /// The text, in one piece; empty before it begins.
        content: Vec<OutputText>,
    },
}

/// A passage that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FileSearchResult {
    /// The passage's id.
    pub file_id: String,
    /// Its title, else its id.
    pub filename: String,
    /// Cosine of the query embedding and its own.
    pub score: f32,
    /// Its text.
    pub text: String,
    /// Always empty: see `GET /v1/documents/{id}`.
    #[schema(value_type = Object)]
    pub attributes: Map<String, Value>,
}

/// A text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputText {
    /// Always `output_text`.
    #[serde(rename = "type")]
    #[schema(example = "output_text")]
    pub kind: String,
    /// The text.
    pub text: String,
    /// Which part of it came from which passage.
    pub annotations: Vec<ItemAnnotation>,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    pub logprobs: Vec<()>,
}

/// What a response used, in tokens: see [`crate::Usage`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseUsage {
    /// Tokens read, passages included.
    pub input_tokens: usize,
    /// Parts of them.
    pub input_tokens_details: InputTokensDetails,
    /// Tokens sampled.
    pub output_tokens: usize,
    /// Parts of them.
    pub output_tokens_details: OutputTokensDetails,
    /// The sum of both.
    pub total_tokens: usize,
}

/// Parts of [`ResponseUsage::input_tokens`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InputTokensDetails {
    /// Those that were not forwarded again.
    pub cached_tokens: usize,
    /// Those of passages that were read.
    pub passage_tokens: usize,
}

/// Parts of [`ResponseUsage::output_tokens`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputTokensDetails {
    /// Always 0.
    pub reasoning_tokens: usize,
}

/// An event of a streamed response. Its `event:` line is its type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ResponseEvent {
    /// Which event it is, from 0.
    pub sequence_number: usize,
    /// What happened.
    #[serde(flatten)]
    pub happened: ResponseEventKind,
}

/// What happens while a response is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type")]
#[expect(missing_docs, reason = "the names are OpenAI's and say it all")]
pub enum ResponseEventKind {
    #[serde(rename = "response.created")]
    Created { response: ResponseObject },
    #[serde(rename = "response.in_progress")]
    InProgress { response: ResponseObject },
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        output_index: usize,
        item: OutputItem,
    },
    #[serde(rename = "response.file_search_call.in_progress")]
    SearchInProgress {
        output_index: usize,
        item_id: String,
    },
    #[serde(rename = "response.file_search_call.searching")]
    Searching {
        output_index: usize,
        item_id: String,
    },
    #[serde(rename = "response.file_search_call.completed")]
    SearchCompleted {
        output_index: usize,
        item_id: String,
    },
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        output_index: usize,
        item_id: String,
        content_index: usize,
        part: OutputText,
    },
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        output_index: usize,
        item_id: String,
        content_index: usize,
        delta: String,
        #[schema(value_type = Vec<Object>)]
        logprobs: Vec<()>,
    },
    #[serde(rename = "response.output_text.annotation.added")]
    AnnotationAdded {
        output_index: usize,
        item_id: String,
        content_index: usize,
        annotation_index: usize,
        annotation: ItemAnnotation,
    },
    #[serde(rename = "response.output_text.done")]
    TextDone {
        output_index: usize,
        item_id: String,
        content_index: usize,
        text: String,
        #[schema(value_type = Vec<Object>)]
        logprobs: Vec<()>,
    },
    #[serde(rename = "response.content_part.done")]
    PartDone {
        output_index: usize,
        item_id: String,
        content_index: usize,
        part: OutputText,
    },
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        output_index: usize,
        item: OutputItem,
    },
    #[serde(rename = "response.completed")]
    Completed { response: ResponseObject },
    #[serde(rename = "response.incomplete")]
    Incomplete { response: ResponseObject },
    #[serde(rename = "response.failed")]
    Failed { response: ResponseObject },
}

impl ResponseEventKind {
    /// The event's name, which is its `type` too.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::InProgress { .. } => "response.in_progress",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::SearchInProgress { .. } => "response.file_search_call.in_progress",
            Self::Searching { .. } => "response.file_search_call.searching",
            Self::SearchCompleted { .. } => "response.file_search_call.completed",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::AnnotationAdded { .. } => "response.output_text.annotation.added",
            Self::TextDone { .. } => "response.output_text.done",
            Self::PartDone { .. } => "response.content_part.done",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
        }
    }
}
