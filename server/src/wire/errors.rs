//! All errors of the server, and what clients see of them.
//!
//! * A 4xx error says what was found and what would help, and names the field at fault.
//! * A 5xx error says only that the server failed; the details are for the operator and go to the log.
//! * Before the headers an error is a response; after them it is an event of the stream. Both hold
//!   the same envelope.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use onegen_engine::{ConversationError, ConversationId, EngineError, SubmitError, TokensError};
use onegen_index::IndexError;
use onegen_proto::{ErrorBody, ErrorEnvelope};

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The body does not parse. serde_json's message ends with line and column.
    #[error("the body is not valid JSON: {0}")]
    MalformedJson(serde_json::Error),
    #[error("the body holds {values} values, but may hold {most}")]
    TooManyValues { values: usize, most: usize },
    #[error("the body is {0:?}; send application/json")]
    NotJson(String),
    #[error("the body is encoded as {0:?}; send it as it is, or as gzip or zstd")]
    UnknownEncoding(String),
    #[error("the body could not be read: {0}")]
    UnreadableBody(String),
    #[error("the body was not there after {:.1} s, which is all that this server waits for it", .after.as_secs_f64())]
    BodyTimeout { after: Duration },
    #[error("the body is larger than {limit_bytes} bytes")]
    BodyTooLarge { limit_bytes: usize },
    /// A field is missing, has the wrong type, or has an invalid value.
    #[error("{param}: {message}")]
    Invalid { param: String, message: String },
    /// A field of OpenAI's or vLLM's asks for something that this server does not do.
    #[error("{param} is not supported by this server; leave it out")]
    Unsupported { param: String },
    #[error("there is no model {model:?}; this server serves {served:?}")]
    ModelNotFound { model: String, served: String },
    #[error("model: this one links entities and writes no answers; ask POST /v1/entities/link")]
    ModelOnlyLinks,
    /// A model that does not link entities was asked to link.
    #[error("model: {0}")]
    ModelLinksNothing(TokensError),
    #[error("there is no collection {collection:?}; there is {}", if .served.is_empty() { "none".to_owned() } else { .served.join(", ") })]
    CollectionNotFound {
        collection: String,
        /// The request's field with the name.
        param: &'static str,
        /// Names in quotation marks.
        served: Vec<String>,
    },
    #[error("there is no document {document:?} in the collection {collection:?}")]
    DocumentNotFound {
        document: String,
        collection: String,
    },
    #[error(
        "the collection {0:?} is searched only, since its index is open for changes elsewhere or cannot be written; change it there"
    )]
    CollectionReadOnly(String),
    #[error("there is no conversation {0:?}; begin a new one by leaving out the field")]
    ConversationNotFound(String),
    #[error("there is no such item in this conversation: {item:?}")]
    ItemNotFound {
        item: String,
        /// The request's field with the name.
        param: &'static str,
    },
    #[error("there is no response {response:?}, or not any more")]
    ResponseNotFound {
        response: String,
        /// The request's field with the name.
        param: &'static str,
    },
    #[error("conversation {0:?} is busy with another turn; wait for its end")]
    ConversationBusy(String),
    #[error(
        "conversation {conversation:?} has read documents that were deleted or changed since: {}; POST /v1/conversations/{conversation}/rebuild makes it anew without them",
        .documents.join(", ")
    )]
    ConversationHoldsDeletedDocument {
        conversation: String,
        /// Ids in quotation marks.
        documents: Vec<String>,
    },
    #[error(
        "the conversation and its new messages need {needed} tokens, but the model's context holds {available}{}",
        Self::rebuild_advice(.rebuilds)
    )]
    ContextLength {
        needed: usize,
        available: usize,
        /// A conversation that would be shorter without the passages that it has read.
        rebuilds: Option<String>,
        /// The field that is too long.
        param: String,
    },
    #[error("there is no {method} {path}")]
    RouteNotFound { method: String, path: String },
    #[error("{path} does not take {method}")]
    MethodNotAllowed { method: String, path: String },
    #[error("this server asks for an API key; send it as Authorization: Bearer KEY")]
    KeyMissing,
    #[error("Idempotency-Key: it names another request; choose another one")]
    IdempotencyKeyReused,
    #[error(
        "pages of {0} may not change anything here; name this origin in --cors-origins, or ask for API keys"
    )]
    OriginNotAllowed(String),
    #[error(
        "this server is for this machine and was asked as {0:?}; name the proxy in --trusted-proxies, or the page's origin in --cors-origins"
    )]
    OtherHost(String),
    #[error("the API key is not known here")]
    KeyUnknown,
    #[error("the API key was withdrawn while this was being answered")]
    KeyWithdrawn,
    #[error("the API key does not have the scope {scope:?} that this needs")]
    ScopeMissing { scope: &'static str },
    #[error("too many requests are waiting; try again in a moment")]
    Overloaded,
    /// A limit of one client was exceeded.
    #[error(
        "{most} requests of yours are being answered, which is as many as may be; wait for one to end"
    )]
    TooManyAtOnce { most: u32 },
    /// A limit of one client was exceeded.
    #[error("you may send {most} requests a minute; try again in {} s", whole_seconds(.wait))]
    TooManyInAMinute { most: u32, wait: Duration },
    #[error("the answer was not complete after {:.1} s, which is all that this server gives it", .after.as_secs_f64())]
    TimedOut { after: Duration },
    #[error("there is no stream of conversation {0:?} to go on with, or not any more; ask again")]
    StreamNotFound(String),
    #[error("the server is loading its model and collections; try again in a moment")]
    Loading,
    #[error("the server is shutting down")]
    ShuttingDown,
    /// A file could not be written. The detail is for the log.
    #[error(
        "the server's disk did not take what has to be kept, so nothing was changed; try again when it has room"
    )]
    NotStored(String),
    /// A collection could not be searched or read. The detail is for the log.
    #[error("the collection does not answer; try again in a moment")]
    CollectionAway(String),
    /// The store of conversations that servers share did not answer. The detail is for the log.
    #[error(
        "the store of conversations does not answer, so nothing was changed; try again in a moment"
    )]
    ConversationStoreAway(String),
    /// The server failed. The detail is for the log.
    #[error("{0}")]
    Internal(String),
}

/// Whether a client should send the request again, whatever the status is: a header of OpenAI's.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The code of an error, attached to the response for the outer layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorCode(pub(crate) &'static str);

/// Rounds up, so that a client that waits this long has waited long enough.
fn whole_seconds(wait: &Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// The parts of an error besides its message.
struct ErrorDescription<'a> {
    status: StatusCode,
    code: &'static str,
    param: Option<&'a str>,
}

impl ApiError {
    /// The error for an invalid value of a field.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            param: param.into(),
            message: message.into(),
        }
    }

    /// This error, with the advice to rebuild a conversation if that makes room in the context.
    pub(crate) fn with_rebuild(mut self, conversation: &ConversationId) -> Self {
        if let Self::ContextLength { rebuilds, .. } = &mut self {
            *rebuilds = Some(conversation.to_string());
        }
        self
    }

    /// This error, with `exact` in place of the name of a list that holds what is at fault.
    pub(crate) fn within(mut self, list: &str, exact: String) -> Self {
        if let Self::ContextLength { param, .. } | Self::Invalid { param, .. } = &mut self
            && param == list
        {
            *param = exact;
        }
        self
    }

    fn rebuild_advice(conversation: &Option<String>) -> String {
        conversation.as_ref().map_or_else(String::new, |id| {
            format!(
                "; POST /v1/conversations/{id}/rebuild leaves out the passages that it has read"
            )
        })
    }

    /// The error for a file that could not be written.
    pub(crate) fn not_stored(error: io::Error) -> Self {
        Self::NotStored(error.to_string())
    }

    /// Status, type, code and field of each error. Nothing else decides statuses.
    fn description(&self) -> ErrorDescription<'_> {
        let plain = |status, code| ErrorDescription {
            status,
            code,
            param: None,
        };
        match self {
            Self::MalformedJson(_) => plain(StatusCode::BAD_REQUEST, "invalid_json"),
            Self::TooManyValues { .. } => plain(StatusCode::BAD_REQUEST, "too_many_values"),
            Self::NotJson(_) => plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_content_type"),
            Self::UnknownEncoding(_) => plain(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unknown_content_encoding",
            ),
            Self::UnreadableBody(_) => plain(StatusCode::BAD_REQUEST, "unreadable_body"),
            Self::BodyTimeout { .. } => plain(StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::BodyTooLarge { .. } => plain(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::Invalid { param, .. } => ErrorDescription {
                param: Some(param),
                ..plain(StatusCode::BAD_REQUEST, "invalid_value")
            },
            Self::Unsupported { param } => ErrorDescription {
                param: Some(param),
                ..plain(StatusCode::BAD_REQUEST, "unsupported_parameter")
            },
            Self::ModelNotFound { .. } => ErrorDescription {
                param: Some("model"),
                ..plain(StatusCode::NOT_FOUND, "model_not_found")
            },
            Self::ModelOnlyLinks => ErrorDescription {
                param: Some("model"),
                ..plain(StatusCode::BAD_REQUEST, "model_only_links")
            },
            Self::ModelLinksNothing(_) => ErrorDescription {
                param: Some("model"),
                ..plain(StatusCode::BAD_REQUEST, "model_links_no_entities")
            },
            Self::CollectionNotFound { param, .. } => ErrorDescription {
                param: Some(param),
                ..plain(StatusCode::NOT_FOUND, "collection_not_found")
            },
            Self::DocumentNotFound { .. } => ErrorDescription {
                param: Some("id"),
                ..plain(StatusCode::NOT_FOUND, "document_not_found")
            },
            Self::CollectionReadOnly(_) => ErrorDescription {
                param: Some("collection"),
                ..plain(StatusCode::CONFLICT, "collection_read_only")
            },
            Self::ConversationNotFound(_) => ErrorDescription {
                param: Some("conversation"),
                ..plain(StatusCode::NOT_FOUND, "conversation_not_found")
            },
            Self::ItemNotFound { param, .. } => ErrorDescription {
                param: Some(param),
                ..plain(StatusCode::NOT_FOUND, "item_not_found")
            },
            Self::ResponseNotFound { param, .. } => ErrorDescription {
                param: Some(param),
                ..plain(StatusCode::NOT_FOUND, "response_not_found")
            },
            Self::ConversationBusy(_) => ErrorDescription {
                param: Some("conversation"),
                ..plain(StatusCode::CONFLICT, "conversation_busy")
            },
            Self::ConversationHoldsDeletedDocument { .. } => ErrorDescription {
                param: Some("conversation"),
                ..plain(StatusCode::CONFLICT, "conversation_holds_deleted_document")
            },
            Self::ContextLength { param, .. } => ErrorDescription {
                param: Some(param),
                ..plain(StatusCode::BAD_REQUEST, "context_length_exceeded")
            },
            Self::RouteNotFound { .. } => plain(StatusCode::NOT_FOUND, "route_not_found"),
            Self::MethodNotAllowed { .. } => {
                plain(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
            }
            Self::IdempotencyKeyReused => plain(StatusCode::BAD_REQUEST, "idempotency_key_reused"),
            Self::OriginNotAllowed(_) => plain(StatusCode::FORBIDDEN, "origin_not_allowed"),
            Self::OtherHost(_) => plain(StatusCode::FORBIDDEN, "other_host"),
            Self::KeyMissing => plain(StatusCode::UNAUTHORIZED, "missing_api_key"),
            Self::KeyUnknown => plain(StatusCode::UNAUTHORIZED, "invalid_api_key"),
            Self::KeyWithdrawn => plain(StatusCode::UNAUTHORIZED, "withdrawn_api_key"),
            Self::ScopeMissing { .. } => plain(StatusCode::FORBIDDEN, "insufficient_scope"),
            Self::Overloaded => plain(StatusCode::TOO_MANY_REQUESTS, "overloaded"),
            Self::TooManyAtOnce { .. } => plain(StatusCode::TOO_MANY_REQUESTS, "too_many_at_once"),
            Self::TooManyInAMinute { .. } => {
                plain(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded")
            }
            Self::TimedOut { .. } => plain(StatusCode::GATEWAY_TIMEOUT, "request_timeout"),
            Self::StreamNotFound(_) => ErrorDescription {
                param: Some("conv_id"),
                ..plain(StatusCode::NOT_FOUND, "stream_not_found")
            },
            Self::Loading => plain(StatusCode::SERVICE_UNAVAILABLE, "loading"),
            Self::ShuttingDown => plain(StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
            Self::NotStored(_) => plain(StatusCode::INSUFFICIENT_STORAGE, "not_stored"),
            Self::CollectionAway(_) => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "collection_unreachable")
            }
            Self::ConversationStoreAway(_) => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "conversation_store_unreachable",
            ),
            Self::Internal(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        }
    }

    /// The code by which clients distinguish errors.
    pub(crate) fn code(&self) -> &'static str {
        self.description().code
    }

    /// The header that says what the client can do; the challenges are those of RFC 6750.
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let challenge = match self {
            Self::Overloaded | Self::TooManyAtOnce { .. } => {
                return Some((header::RETRY_AFTER, HeaderValue::from_static("1")));
            }
            Self::TooManyInAMinute { wait, .. } => {
                return Some((header::RETRY_AFTER, whole_seconds(wait).into()));
            }
            Self::Loading | Self::CollectionAway(_) | Self::ConversationStoreAway(_) => {
                return Some((header::RETRY_AFTER, HeaderValue::from_static("2")));
            }
            Self::NotStored(_) => {
                return Some((header::RETRY_AFTER, HeaderValue::from_static("10")));
            }
            // OpenAI's clients try a 409 again unless they are told that it does not help.
            Self::ConversationHoldsDeletedDocument { .. } | Self::CollectionReadOnly(_) => {
                return Some((SHOULD_RETRY, HeaderValue::from_static("false")));
            }
            Self::KeyMissing => "Bearer realm=\"onegen\"".to_owned(),
            Self::KeyUnknown | Self::KeyWithdrawn => {
                "Bearer realm=\"onegen\", error=\"invalid_token\"".to_owned()
            }
            Self::ScopeMissing { scope } => {
                format!("Bearer realm=\"onegen\", error=\"insufficient_scope\", scope=\"{scope}\"")
            }
            _ => return None,
        };
        let challenge = HeaderValue::try_from(challenge).ok()?;
        Some((header::WWW_AUTHENTICATE, challenge))
    }

    /// The body that the client gets. If the error is the server's, this also writes the log line.
    pub(crate) fn envelope(&self) -> ErrorEnvelope {
        let ErrorDescription {
            status,
            code,
            param,
        } = self.description();
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let message = match self {
            Self::Internal(detail) => {
                tracing::error!(detail, "a request failed");
                "the server failed to answer".to_owned()
            }
            Self::CollectionAway(detail) => {
                tracing::error!(detail, "a collection does not answer");
                self.to_string()
            }
            Self::ConversationStoreAway(detail) => {
                tracing::error!(detail, "the store of conversations does not answer");
                self.to_string()
            }
            Self::NotStored(detail) => {
                tracing::error!(detail, "the disk does not take what has to be kept");
                self.to_string()
            }
            other => other.to_string(),
        };
        ErrorEnvelope {
            error: ErrorBody {
                message,
                kind: kind.to_owned(),
                param: param.map(str::to_owned),
                code: Some(code.to_owned()),
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.description().status;
        let mut response = (status, Json(self.envelope())).into_response();
        if let Some((name, value)) = self.header() {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(ErrorCode(self.code()));
        response
    }
}

/// A route's names of the fields that the tokenizer and the engine can reject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FieldNames {
    /// The field that limits the length of the answer.
    pub(crate) max_tokens: &'static str,
    /// The field that the prompt is made from.
    pub(crate) prompt: &'static str,
}

impl FieldNames {
    /// Why a prompt could not be encoded.
    pub(crate) fn tokens_error(self, error: TokensError) -> ApiError {
        match error {
            TokensError::Template(_)
            | TokensError::MissingMessage(_)
            | TokensError::MessageLeftOut(_) => ApiError::invalid(self.prompt, error.to_string()),
            TokensError::NoLinking { .. } => ApiError::ModelLinksNothing(error),
            TokensError::TooLong { needed, available } => ApiError::ContextLength {
                needed,
                available,
                rebuilds: None,
                param: self.prompt.to_owned(),
            },
            other => ApiError::Internal(other.to_string()),
        }
    }

    /// Why the engine did not accept a turn.
    pub(crate) fn submit_error(self, error: SubmitError) -> ApiError {
        match error {
            SubmitError::UnknownConversation(id) => ApiError::ConversationNotFound(id.to_string()),
            // If another turn has just continued the conversation, the client gets the same error
            // as if that turn were still running.
            SubmitError::Busy(conversation) | SubmitError::LogLength { conversation, .. } => {
                ApiError::ConversationBusy(conversation.to_string())
            }
            SubmitError::ContextLength { needed, available } => ApiError::ContextLength {
                needed,
                available,
                rebuilds: None,
                param: self.prompt.to_owned(),
            },
            SubmitError::OutOfRange {
                field,
                value,
                range,
            } => {
                let param = if field == "max_tokens" {
                    self.max_tokens
                } else {
                    field
                };
                ApiError::invalid(param, format!("is {value}, but must be {range}"))
            }
            // A prompt holds the tokenizer's own ids, so only ids in `stop_token_ids` can be unknown.
            SubmitError::UnknownId { id, vocabulary } => ApiError::invalid(
                "stop_token_ids",
                format!("holds {id}, but the model's vocabulary ends at {vocabulary}"),
            ),
            SubmitError::Copy(ConversationError::Unknown(id) | ConversationError::Busy(id)) => {
                ApiError::ConversationBusy(id.to_string())
            }
            SubmitError::EmptyPrompt => ApiError::invalid(
                self.prompt,
                "holds no characters for which the model's vocabulary has tokens",
            ),
            SubmitError::OnlyLinks => ApiError::ModelOnlyLinks,
            SubmitError::Overloaded { .. } => ApiError::Overloaded,
            SubmitError::Stopped => ApiError::ShuttingDown,
            other => ApiError::Internal(other.to_string()),
        }
    }
}

impl From<IndexError> for ApiError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Unreachable { .. } => Self::CollectionAway(error.to_string()),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Stopped => Self::ShuttingDown,
            EngineError::NotStored(reason) => Self::NotStored(reason),
            EngineError::Retrieval(reason) => Self::CollectionAway(reason),
            other => Self::Internal(other.to_string()),
        }
    }
}
