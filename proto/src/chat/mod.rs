//! `POST /v1/chat/completions`.

mod annotation;
mod chunk;
mod completion;
mod constraint;
mod logprobs;
mod request;
mod role;
mod stream_events;
mod ui_stream;

pub use annotation::{Annotation, AnnotationType, UrlCitation};
pub use chunk::{
    ChatCompletionChunk, ChatCompletionChunkObject, ChunkChoice, ChunkExtension, Delta,
};
pub use completion::{
    ChatCompletion, ChatCompletionObject, Choice, CompletionExtension, FinishReason,
    ResponseMessage,
};
pub use constraint::{JsonSchemaFormat, ResponseFormat, StructuredOutputs};
pub use logprobs::{Logprobs, TokenLogprob, TopLogprob};
pub use request::{
    ChatCompletionRequest, Content, ContentPart, ConversationReference, OnRetrievalError,
    RequestMessage, RetrievalOptions, Stop, StreamOptions,
};
pub use role::Role;
pub use stream_events::StreamEvents;
pub use ui_stream::{
    ChatStreamEvent, OpenWebUiChunk, OpenWebUiEvent, OpenWebUiMetadata, OpenWebUiSource,
    UiMessageMetadata, UiMessagePart,
};
