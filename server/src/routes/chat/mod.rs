//! Chat completions: OpenAI's API, and the retrievals shown.

mod answer;
mod request;
mod stream;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use onegen_proto::{ChatCompletion, ChatCompletionChunk, ChatCompletionRequest, ErrorEnvelope};

use crate::app::App;
use crate::errors::ApiError;
use crate::json::JsonBody;
use crate::turn::{LiveTurn, TurnEvent};

use answer::Answer;
use request::validate;

pub(super) use answer::{finish_reason, usage};
pub(super) use request::{Delivery, delivery, sampling};
pub(super) use stream::{data, done, event_stream};

/// Answers the last message of a conversation, retrieving passages while it writes.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "chat",
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The answer, or with `stream` its chunks as server-sent events, ended by `data: [DONE]`",
            content((ChatCompletion = "application/json"), (ChatCompletionChunk = "text/event-stream"))),
        (status = 400, description = "The request makes no sense, or is longer than the context", body = ErrorEnvelope),
        (status = 404, description = "There is no such model, collection or conversation", body = ErrorEnvelope),
        (status = 409, description = "The named conversation is busy with another turn", body = ErrorEnvelope),
        (status = 413, description = "The body is too large", body = ErrorEnvelope),
        (status = 415, description = "The body is not declared as JSON", body = ErrorEnvelope),
        (status = 429, description = "Too many requests are waiting", body = ErrorEnvelope),
        (status = 500, description = "The server failed", body = ErrorEnvelope),
        (status = 503, description = "The server is shutting down", body = ErrorEnvelope),
    )
)]
pub(crate) async fn complete(
    State(app): State<Arc<App>>,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let received = Instant::now();
    let (request, delivery) = validate(body, &app.model, &app.collections, received)?;
    let logprobs = request.sampling.logprobs.is_some();
    let collection = request.retrieval.collection().name().to_owned();
    let turn = request.start(&app).await?;
    let answer = Answer::new(app.model.name.clone(), collection, logprobs);
    match delivery {
        Delivery::Whole => Ok(Json(whole(turn, &answer).await?).into_response()),
        Delivery::Stream(options) => Ok(stream::response(turn, answer, options)),
    }
}

/// Waits for the end of a turn.
async fn whole(mut turn: LiveTurn, answer: &Answer) -> Result<ChatCompletion, ApiError> {
    let mut logprobs = Vec::new();
    while let Some(event) = turn.next().await {
        match event {
            TurnEvent::Text(text) => logprobs.extend(text.logprobs),
            TurnEvent::Retrieval(_) => {}
            TurnEvent::Finished(finished) => return Ok(answer.completion(finished, logprobs)),
            TurnEvent::Failed(error) => return Err(error),
        }
    }
    Err(ApiError::Internal(
        "the turn ended without an end".to_owned(),
    ))
}
