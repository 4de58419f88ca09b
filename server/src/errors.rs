//! Every way in which the server says no, and what the client sees of it.
//!
//! * A 4xx says what was found and what would help, and names the field at fault.
//! * A 5xx says only that; the detail goes to the log line, since it is the operator's.
//! * Before the headers an error is a response; after them it is an event of the stream. Both hold
//!   the same envelope.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use onegen_engine::{EngineError, SubmitError, TokensError};
use onegen_proto::{ErrorBody, ErrorEnvelope};

use crate::access::Scope;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The body does not parse. serde_json's message ends with line and column.
    #[error("the body is not valid JSON: {0}")]
    MalformedJson(serde_json::Error),
    #[error("the body is {0:?}; send application/json")]
    NotJson(String),
    #[error("the body could not be read: {0}")]
    UnreadableBody(String),
    #[error("the body is larger than {limit_bytes} bytes")]
    BodyTooLarge { limit_bytes: usize },
    /// A field is missing, of the wrong type, or has a value that makes no sense.
    #[error("{param}: {message}")]
    Invalid { param: String, message: String },
    /// The messages cannot be put into the model's chat template.
    #[error("messages: {0}")]
    Messages(TokensError),
    /// A field of OpenAI's or vLLM's that asks for something that is not done here.
    #[error("{param} is not supported by this server; leave it out")]
    Unsupported { param: String },
    #[error("there is no model {model:?}; this server serves {served:?}")]
    ModelNotFound { model: String, served: String },
    #[error("model: this one links entities and writes no answers; ask POST /v1/entities/link")]
    ModelOnlyLinks,
    /// Another kind of model was asked to link.
    #[error("model: {0}")]
    ModelLinksNothing(TokensError),
    #[error("there is no collection {collection:?}; there is {}", if .served.is_empty() { "none".to_owned() } else { .served.join(", ") })]
    CollectionNotFound {
        collection: String,
        /// The field that names it.
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
        /// The field that names it.
        param: &'static str,
    },
    #[error("there is no response {response:?}, or not any more")]
    ResponseNotFound {
        response: String,
        /// The field that names it.
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
        "the conversation and its new messages need {needed} tokens, but the model's context holds {available}"
    )]
    ContextLength {
        needed: usize,
        available: usize,
        /// The field that is too long.
        param: &'static str,
    },
    #[error("there is no {method} {path}")]
    RouteNotFound { method: String, path: String },
    #[error("{path} does not take {method}")]
    MethodNotAllowed { method: String, path: String },
    #[error("this server asks for an API key; send it as Authorization: Bearer KEY")]
    KeyMissing,
    #[error("the API key is not known here")]
    KeyUnknown,
    #[error("the API key was withdrawn while this was being answered")]
    KeyWithdrawn,
    #[error("the API key does not have the scope {scope:?} that this needs", scope = .scope.to_string())]
    ScopeMissing { scope: Scope },
    #[error("too many requests are waiting; try again in a moment")]
    Overloaded,
    /// Of one client.
    #[error(
        "{most} requests of yours are being answered, which is as many as may be; wait for one to end"
    )]
    TooManyAtOnce { most: u32 },
    /// Of one client.
    #[error("you may send {most} requests a minute; try again in {} s", whole_seconds(.wait))]
    TooManyInAMinute { most: u32, wait: Duration },
    #[error("the answer was not complete after {:.1} s, which is all that this server gives it", .after.as_secs_f64())]
    TimedOut { after: Duration },
    #[error("there is no stream of conversation {0:?} to go on with, or not any more; ask again")]
    StreamNotFound(String),
    #[error("the server is shutting down")]
    ShuttingDown,
    /// Not the client's fault; the detail is for the log.
    #[error("{0}")]
    Internal(String),
}

/// The code of an error, beside the response that tells it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorCode(pub(crate) &'static str);

/// Rounded up: who waits so long has waited long enough.
fn whole_seconds(wait: &Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// What a client is told beside the message.
struct Told<'a> {
    status: StatusCode,
    code: &'static str,
    param: Option<&'a str>,
}

impl ApiError {
    /// A field's value makes no sense.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            param: param.into(),
            message: message.into(),
        }
    }

    /// The same for a route that calls `max_tokens` and `messages` otherwise.
    pub(crate) fn of_fields(self, max_tokens: &str, messages: &'static str) -> Self {
        match self {
            Self::Invalid { param, message } if param == "max_tokens" => {
                Self::invalid(max_tokens, message)
            }
            Self::Messages(error) => Self::invalid(messages, error.to_string()),
            Self::ContextLength {
                needed, available, ..
            } => Self::ContextLength {
                needed,
                available,
                param: messages,
            },
            other => other,
        }
    }

    /// The one place where an error gets its status.
    fn told(&self) -> Told<'_> {
        let told = |status, code| Told {
            status,
            code,
            param: None,
        };
        match self {
            Self::MalformedJson(_) => told(StatusCode::BAD_REQUEST, "invalid_json"),
            Self::NotJson(_) => told(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_content_type"),
            Self::UnreadableBody(_) => told(StatusCode::BAD_REQUEST, "unreadable_body"),
            Self::BodyTooLarge { .. } => told(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::Invalid { param, .. } => Told {
                param: Some(param),
                ..told(StatusCode::BAD_REQUEST, "invalid_value")
            },
            Self::Messages(_) => Told {
                param: Some("messages"),
                ..told(StatusCode::BAD_REQUEST, "invalid_value")
            },
            Self::Unsupported { param } => Told {
                param: Some(param),
                ..told(StatusCode::BAD_REQUEST, "unsupported_parameter")
            },
            Self::ModelNotFound { .. } => Told {
                param: Some("model"),
                ..told(StatusCode::NOT_FOUND, "model_not_found")
            },
            Self::ModelOnlyLinks => Told {
                param: Some("model"),
                ..told(StatusCode::BAD_REQUEST, "model_only_links")
            },
            Self::ModelLinksNothing(_) => Told {
                param: Some("model"),
                ..told(StatusCode::BAD_REQUEST, "model_links_no_entities")
            },
            Self::CollectionNotFound { param, .. } => Told {
                param: Some(param),
                ..told(StatusCode::NOT_FOUND, "collection_not_found")
            },
            Self::DocumentNotFound { .. } => Told {
                param: Some("id"),
                ..told(StatusCode::NOT_FOUND, "document_not_found")
            },
            Self::CollectionReadOnly(_) => Told {
                param: Some("collection"),
                ..told(StatusCode::CONFLICT, "collection_read_only")
            },
            Self::ConversationNotFound(_) => Told {
                param: Some("conversation"),
                ..told(StatusCode::NOT_FOUND, "conversation_not_found")
            },
            Self::ItemNotFound { param, .. } => Told {
                param: Some(param),
                ..told(StatusCode::NOT_FOUND, "item_not_found")
            },
            Self::ResponseNotFound { param, .. } => Told {
                param: Some(param),
                ..told(StatusCode::NOT_FOUND, "response_not_found")
            },
            Self::ConversationBusy(_) => Told {
                param: Some("conversation"),
                ..told(StatusCode::CONFLICT, "conversation_busy")
            },
            Self::ConversationHoldsDeletedDocument { .. } => Told {
                param: Some("conversation"),
                ..told(StatusCode::CONFLICT, "conversation_holds_deleted_document")
            },
            Self::ContextLength { param, .. } => Told {
                param: Some(param),
                ..told(StatusCode::BAD_REQUEST, "context_length_exceeded")
            },
            Self::RouteNotFound { .. } => told(StatusCode::NOT_FOUND, "route_not_found"),
            Self::MethodNotAllowed { .. } => {
                told(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
            }
            Self::KeyMissing => told(StatusCode::UNAUTHORIZED, "missing_api_key"),
            Self::KeyUnknown => told(StatusCode::UNAUTHORIZED, "invalid_api_key"),
            Self::KeyWithdrawn => told(StatusCode::UNAUTHORIZED, "withdrawn_api_key"),
            Self::ScopeMissing { .. } => told(StatusCode::FORBIDDEN, "insufficient_scope"),
            Self::Overloaded => told(StatusCode::TOO_MANY_REQUESTS, "overloaded"),
            Self::TooManyAtOnce { .. } => told(StatusCode::TOO_MANY_REQUESTS, "too_many_at_once"),
            Self::TooManyInAMinute { .. } => {
                told(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded")
            }
            Self::TimedOut { .. } => told(StatusCode::GATEWAY_TIMEOUT, "request_timeout"),
            Self::StreamNotFound(_) => Told {
                param: Some("conv_id"),
                ..told(StatusCode::NOT_FOUND, "stream_not_found")
            },
            Self::ShuttingDown => told(StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
            Self::Internal(_) => told(StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        }
    }

    /// What clients tell errors apart by.
    pub(crate) fn code(&self) -> &'static str {
        self.told().code
    }

    /// What the client is to do, as HTTP has it; the challenges are those of RFC 6750.
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let challenge = match self {
            Self::Overloaded | Self::TooManyAtOnce { .. } => {
                return Some((header::RETRY_AFTER, HeaderValue::from_static("1")));
            }
            Self::TooManyInAMinute { wait, .. } => {
                return Some((header::RETRY_AFTER, whole_seconds(wait).into()));
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

    /// What the client reads. Writes the log line of an error that is the server's.
    pub(crate) fn envelope(&self) -> ErrorEnvelope {
        let Told {
            status,
            code,
            param,
        } = self.told();
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
        let status = self.told().status;
        let mut response = (status, Json(self.envelope())).into_response();
        if let Some((name, value)) = self.header() {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(ErrorCode(self.code()));
        response
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::UnknownConversation(id) => Self::ConversationNotFound(id.to_string()),
            // Somebody has just continued it: for the client the same as still continuing it.
            SubmitError::Busy(conversation) | SubmitError::LogLength { conversation, .. } => {
                Self::ConversationBusy(conversation.to_string())
            }
            SubmitError::ContextLength { needed, available } => Self::ContextLength {
                needed,
                available,
                param: "messages",
            },
            SubmitError::OutOfRange {
                field,
                value,
                range,
            } => Self::invalid(field, format!("is {value}, but must be {range}")),
            // Prompts hold the model's own ids.
            SubmitError::UnknownId { id, vocabulary } => Self::invalid(
                "stop_token_ids",
                format!("holds {id}, but the model's vocabulary ends at {vocabulary}"),
            ),
            SubmitError::OnlyLinks => Self::ModelOnlyLinks,
            SubmitError::Overloaded { .. } => Self::Overloaded,
            SubmitError::Stopped => Self::ShuttingDown,
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<TokensError> for ApiError {
    fn from(error: TokensError) -> Self {
        match error {
            TokensError::Template(_)
            | TokensError::MissingMessage(_)
            | TokensError::MessageLeftOut(_) => Self::Messages(error),
            TokensError::NoLinking { .. } => Self::ModelLinksNothing(error),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Stopped => Self::ShuttingDown,
            other => Self::Internal(other.to_string()),
        }
    }
}
