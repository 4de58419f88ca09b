//! Chat completions: OpenAI's API, and the retrievals shown.

mod answer;
mod open_webui;
mod request;
mod stream;
mod vercel_ui;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use onegen_proto::{
    ChatCompletion, ChatCompletionRequest, ErrorEnvelope, OffsetUnit, ServerSentEvent, StreamEvents,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admission::{Caller, Ticket};
use crate::app::App;
use crate::recordings::IDEMPOTENCY_KEY;
use crate::routes::delivery::Delivery;
use crate::routes::errors::TurnErrors;
use crate::routes::sse::{self, ResumableCall};
use crate::wire::errors::ApiError;
use crate::wire::json::JsonBody;
use answer::Answer;
use request::validate;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(complete))
}

/// Answers the last message of a conversation, retrieving passages while it writes.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "chat",
    params(("x-vercel-ai-ui-message-stream" = Option<String>, Header, description = "`v1` asks for Vercel's UI message stream, as `stream` with `stream_options.events: \"vercel_ui\"` does", example = "v1"),
        ("idempotency-key" = Option<String>, Header, description = "A request that comes again with the key of one that was answered gets that answer. With `resumable` it gets the stream from its beginning as long as that is there", example = "a4c1")),
    request_body = ChatCompletionRequest,
    responses(
        TurnErrors,
        (status = 200, description = "The answer, or with `stream` its events, each of whose `data` is a `ChatStreamEvent`, ended by `data: [DONE]`",
            content((ChatCompletion = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 404, description = "There is no such model, collection or conversation", body = ErrorEnvelope),
        (status = 409, description = "The named conversation is busy with another turn", body = ErrorEnvelope),
    )
)]
async fn complete(
    State(app): State<Arc<App>>,
    caller: Caller,
    ticket: Option<Extension<Arc<Ticket>>>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let received = Instant::now();
    let key = headers.get(IDEMPOTENCY_KEY);
    let key = key.and_then(|key| key.to_str().ok());
    let key = key.map(|key| (key, blake3::hash(body.to_string().as_bytes())));
    let (mut request, delivery) = validate(body, &app.model, &app.collections, &caller, received)?;
    let key = match key.filter(|_| delivery.is_resumable()) {
        None => None,
        Some((key, digest)) => match app.recordings.claim(&caller.owner, key, digest).await? {
            Ok(claim) => Some(claim),
            Err(playback) => return Ok(sse::playback(app.streams.heartbeat, playback)),
        },
    };
    let logprobs = request.options.sampling.logprobs.is_some();
    let collection = request.options.retrieval.collection().name().to_owned();
    let asks_for_ui = headers.contains_key(vercel_ui::HEADER)
        || delivery.events() == Some(StreamEvents::VercelUi);
    if asks_for_ui {
        let offsets = &mut request.options.retrieval.offsets;
        offsets.get_or_insert(OffsetUnit::Utf16);
    }
    let turn = request.start(&app).await?;
    let answer = Answer::new(app.model.name.clone(), collection.clone(), logprobs);
    let call = ResumableCall {
        caller,
        ticket: ticket.map(|Extension(ticket)| ticket),
        key,
    };
    match delivery {
        delivery if asks_for_ui => {
            let resumable = delivery.is_resumable();
            Ok(vercel_ui::response(&app, call, turn, collection, resumable))
        }
        Delivery::Whole => {
            let (finished, logprobs) = turn.end().await?;
            Ok(Json(answer.completion(finished, logprobs)).into_response())
        }
        Delivery::Stream(options) => Ok(stream::response(&app, call, turn, answer, options)),
    }
}
