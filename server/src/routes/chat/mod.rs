//! Chat completions: OpenAI's API, and the retrievals shown.

mod answer;
mod open_webui;
mod request;
mod stream;
mod vercel_ui;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::Stream;
use onegen_engine::ConversationId;
use onegen_proto::{
    ChatCompletion, ChatCompletionRequest, ErrorEnvelope, ServerSentEvent, StreamEvents,
};

use crate::access::Caller;
use crate::app::App;
use crate::errors::ApiError;
use crate::json::JsonBody;
use crate::limits::Ticket;

use answer::Answer;
use request::validate;

pub(super) use answer::{finish_reason, usage};
pub(super) use request::{Delivery, delivery, sampling};
pub(super) use stream::{data, done};

/// Answers the last message of a conversation, retrieving passages while it writes.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "chat",
    params(("x-vercel-ai-ui-message-stream" = Option<String>, Header, description = "`v1` asks for Vercel's UI message stream, as `stream` with `stream_options.events: \"vercel_ui\"` does", example = "v1"),
        ("idempotency-key" = Option<String>, Header, description = "With `resumable`: a request that comes again with the key of one whose stream is still there gets that stream from its beginning", example = "a4c1")),
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The answer, or with `stream` its events, each of whose `data` is a `ChatStreamEvent`, ended by `data: [DONE]`",
            content((ChatCompletion = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 400, description = "The request makes no sense, or is longer than the context", body = ErrorEnvelope),
        (status = 404, description = "There is no such model, collection or conversation", body = ErrorEnvelope),
        (status = 409, description = "The named conversation is busy with another turn", body = ErrorEnvelope),
        (status = 413, description = "The body is too large", body = ErrorEnvelope),
        (status = 415, description = "The body is not declared as JSON", body = ErrorEnvelope),
        (status = 429, description = "Too many requests are waiting", body = ErrorEnvelope),
        (status = 504, description = "The answer took longer than the server gives it", body = ErrorEnvelope),
        (status = 500, description = "The server failed", body = ErrorEnvelope),
        (status = 503, description = "The server is shutting down", body = ErrorEnvelope),
    )
)]
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    asked: Asked,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let received = Instant::now();
    let max_tokens = match body["max_completion_tokens"].is_null() {
        true => "max_tokens",
        false => "max_completion_tokens",
    };
    let (request, delivery) =
        validate(body, &app.model, &app.collections, &asked.caller, received)?;
    let again = asked.key.as_deref().filter(|_| delivery.is_resumable());
    let again = again.and_then(|key| app.streams.repeated(key, &asked.caller.owner));
    if let Some(again) = again {
        return Ok(again);
    }
    let logprobs = request.sampling.logprobs.is_some();
    let collection = request.retrieval.collection().name().to_owned();
    let asks_for_ui = headers.contains_key(vercel_ui::HEADER);
    let turn = request.start(&app).await;
    let turn = turn.map_err(|error| error.of_fields(max_tokens, "messages"))?;
    let answer = Answer::new(app.model.name.clone(), collection.clone(), logprobs);
    match delivery {
        delivery if asks_for_ui || delivery.events() == Some(StreamEvents::VercelUi) => {
            let resumable = delivery.is_resumable();
            let response = vercel_ui::response(&app, asked, turn, collection, resumable);
            Ok(response)
        }
        Delivery::Whole => {
            let (finished, logprobs) = turn.end().await?;
            Ok(Json(answer.completion(finished, logprobs)).into_response())
        }
        Delivery::Stream(options) => Ok(stream::response(&app, asked, turn, answer, options)),
    }
}

/// Names a request, so that one that comes twice is answered once.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Who asks, and as what the request is counted.
pub(crate) struct Asked {
    caller: Caller,
    ticket: Option<Arc<Ticket>>,
    /// What the client calls the request.
    key: Option<String>,
}

impl Asked {
    /// Streams a turn that goes on when its client is gone.
    fn resumable(
        self,
        app: &App,
        conversation: ConversationId,
        headers: HeaderMap,
        events: impl Stream<Item = Result<Event, axum::Error>> + Send + 'static,
    ) -> Response {
        let Self {
            caller,
            ticket,
            key,
        } = self;
        app.streams
            .resumable(conversation, caller.owner, key, ticket, headers, events)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let key = parts.headers.get(IDEMPOTENCY_KEY);
        Ok(Self {
            ticket: parts.extensions.get().cloned(),
            key: key.and_then(|key| key.to_str().ok()).map(str::to_owned),
            caller: Caller::from_request_parts(parts, state).await?,
        })
    }
}
