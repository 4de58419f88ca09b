//! The other formats of a streamed answer, for clients that ask for them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ChatCompletionChunk, UrlCitation};
use crate::{ErrorEnvelope, Receipt, Usage};

/// An event between the chunks, as Open WebUI reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OpenWebUiChunk {
    /// What is shown.
    pub event: OpenWebUiEvent,
}

/// What Open WebUI shows beside an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
pub enum OpenWebUiEvent {
    /// A line above the answer.
    Status {
        /// The line.
        description: String,
        /// Always true: it tells what has happened.
        done: bool,
    },
    /// A passage that was read.
    Source {
        /// Where it comes from.
        source: OpenWebUiSource,
        /// Its text, in one piece.
        document: Vec<String>,
        /// Of each piece its id and title.
        metadata: Vec<OpenWebUiMetadata>,
    },
}

/// Where a passage comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenWebUiSource {
    /// Its title, else its id.
    pub name: String,
    /// Its own URL, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// What a passage is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenWebUiMetadata {
    /// Its URL, else `onegen://passage/` and its id.
    pub source: String,
    /// Its title, else its id.
    pub name: String,
}

/// A part of Vercel's UI message stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
pub enum UiMessagePart {
    /// The answer begins.
    Start {
        /// Its name.
        #[serde(rename = "messageId")]
        message_id: String,
    },
    /// Its only step begins.
    StartStep,
    /// A passage with a URL was read.
    SourceUrl {
        /// Its id.
        #[serde(rename = "sourceId")]
        source_id: String,
        /// Its URL.
        url: String,
        /// Its title, else its id.
        title: String,
    },
    /// A passage without a URL was read.
    SourceDocument {
        /// Its id.
        #[serde(rename = "sourceId")]
        source_id: String,
        /// Always `text/plain`.
        #[serde(rename = "mediaType")]
        media_type: String,
        /// Its title, else its id.
        title: String,
    },
    /// The receipt of a retrieval, where it happened.
    DataRetrieval {
        /// The receipt.
        data: Receipt,
    },
    /// The text begins.
    TextStart {
        /// The text's name.
        id: String,
    },
    /// More text.
    TextDelta {
        /// The text's name.
        id: String,
        /// What is new.
        delta: String,
    },
    /// The text has ended.
    TextEnd {
        /// The text's name.
        id: String,
    },
    /// Which parts of the text came from which passages.
    DataCitations {
        /// One for each passage that was read, in order.
        data: Vec<UrlCitation>,
    },
    /// The step has ended.
    FinishStep,
    /// The answer has ended.
    Finish {
        /// How, and how to go on.
        #[serde(rename = "messageMetadata")]
        message_metadata: UiMessageMetadata,
    },
    /// The answer failed.
    Error {
        /// For people.
        #[serde(rename = "errorText")]
        error_text: String,
    },
}

/// How an answer ended, and how to go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UiMessageMetadata {
    /// The id to continue with.
    pub conversation: String,
    /// `stop` or `length`.
    pub finish_reason: super::FinishReason,
    /// What it used, in tokens.
    pub usage: Usage,
}

/// An event of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum ChatStreamEvent {
    /// OpenAI's.
    Chunk(ChatCompletionChunk),
    /// With `events: "open_webui"`, between the chunks.
    OpenWebUi(OpenWebUiChunk),
    /// With `events: "vercel_ui"`, instead of the chunks.
    UiMessage(UiMessagePart),
    /// What went wrong after the headers were sent; the last before `[DONE]`.
    Error(ErrorEnvelope),
}
