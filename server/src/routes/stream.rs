//! Going on with a stream that was lost: llama.cpp's `GET /v1/stream?conv_id=…&from=N`.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use onegen_proto::ErrorEnvelope;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admission::Caller;
use crate::app::App;
use crate::routes::sse;
use crate::wire::errors::ApiError;

/// Which stream, and where.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct StreamQuery {
    /// The conversation, as the header `onegen-conversation` of the lost stream told it.
    #[param(example = "conv_0123456789abcdef0123456789abcdef")]
    conv_id: String,
    /// The first event that is wanted, counted from 0: one more than the last `id` that arrived.
    /// Default: after the header `Last-Event-ID`, else from the beginning.
    #[param(example = 0)]
    from: Option<usize>,
}

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(resume, stop))
}

/// Gives the events of a conversation's running or last turn, if that was asked for as `resumable`.
#[utoipa::path(
    get, path = "/v1/stream", tag = "chat",
    params(StreamQuery),
    responses(
        (status = 200, description = "The same events as of the stream that was lost, from `from` on", content_type = "text/event-stream", body = String),
        (status = 400, description = "`conv_id` is missing or `from` no number", body = ErrorEnvelope),
        (status = 404, description = "There is no such stream, or not any more", body = ErrorEnvelope),
    )
)]
async fn resume(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    lost: Result<Query<StreamQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let lost = query(lost)?;
    let last = headers.get("last-event-id");
    let last = last.and_then(|last| last.to_str().ok()?.parse::<usize>().ok());
    let from = lost.from.or(last.map(|last| last.saturating_add(1)));
    let conversation = lost.conv_id.as_str().into();
    let resumed = app
        .recordings
        .resume(&conversation, &caller.owner, from.unwrap_or(0));
    match resumed {
        Some(playback) => Ok(sse::playback(app.streams.heartbeat, playback)),
        None => Err(ApiError::StreamNotFound(lost.conv_id)),
    }
}

/// Stops a turn that goes on without its client. The conversation is as it was before it.
#[utoipa::path(
    delete, path = "/v1/stream", tag = "chat",
    params(StreamQuery),
    responses(
        (status = 204, description = "It is stopped"),
        (status = 400, description = "`conv_id` is missing", body = ErrorEnvelope),
        (status = 404, description = "There is no such stream, or it has ended", body = ErrorEnvelope),
    )
)]
async fn stop(
    State(app): State<Arc<App>>,
    caller: Caller,
    lost: Result<Query<StreamQuery>, QueryRejection>,
) -> Result<StatusCode, ApiError> {
    let lost = query(lost)?;
    let conversation = lost.conv_id.as_str().into();
    if app.recordings.stop(&conversation, &caller.owner) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::StreamNotFound(lost.conv_id))
    }
}

fn query(lost: Result<Query<StreamQuery>, QueryRejection>) -> Result<StreamQuery, ApiError> {
    match lost {
        Ok(Query(lost)) => Ok(lost),
        Err(rejection) => Err(ApiError::invalid("query", rejection.body_text())),
    }
}
