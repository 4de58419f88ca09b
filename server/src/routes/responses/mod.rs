//! OpenAI's Responses API: what was searched and said as items.

mod request;
mod writer;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use onegen_proto::{
    ConversationItem, ConversationItemList, DeletedResponse, ErrorEnvelope, GetResponse,
    InputTokens, ListItems, ResponseEvent, ResponseObject, ResponseRequest, ServerSentEvent,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admission::{Caller, Owner};
use crate::app::App;
use crate::conversations::StoredResponse;
use crate::conversations::items::{input_items, list};
use crate::conversations::stored_responses::{
    add_results, delete_response, leave_out_unseen, store_response, stored_response,
};
use crate::recordings::EventResult;
use crate::routes::errors::{BodyErrors, ServerErrors, TurnErrors};
use crate::routes::sse;
use crate::turns::{LiveTurn, TurnEvent};
use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;
use crate::wire::extract::{PathParam, QueryParams};
use crate::wire::json::{JsonBody, typed};
use crate::wire::page::{Page, PageQuery, is_included};
use crate::wire::unsupported::{leave_out_neutral_in_response, refuse_unsupported_in_response};

use request::turn_request;
use writer::{ResponseSettings, ResponseWriter};

/// What adds the passages that were found.
const RESULTS: &str = "file_search_call.results";

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(get, delete))
        .routes(routes!(list_input_items))
        .routes(routes!(count_input_tokens))
        .routes(routes!(cancel))
}

/// Answers, retrieving passages while it writes. Each retrieval is a `file_search_call`.
#[utoipa::path(
    post, path = "/v1/responses", tag = "responses",
    request_body = ResponseRequest,
    responses(
        TurnErrors,
        (status = 200, description = "The response, or with `stream` its events, each of whose `data` is a `ResponseEvent`",
            content((ResponseObject = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 404, description = "There is no such model, collection, conversation or response", body = ErrorEnvelope),
        (status = 409, description = "The conversation is busy, or has read what is gone", body = ErrorEnvelope),
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut body): JsonBody,
) -> Result<Response, ApiError> {
    let received = Instant::now();
    leave_out_neutral_in_response(&mut body);
    refuse_unsupported_in_response(&body)?;
    let request: ResponseRequest = typed(body)?;
    app.model.check(&request.model)?;
    let turn = turn_request(request.clone(), &app, &caller, received).await?;
    let stream = request.stream.unwrap_or(false);
    let settings = ResponseSettings {
        model: app.model.name.clone(),
        results: request.include.iter().flatten().any(|one| one == RESULTS),
        store: request.store.unwrap_or(true),
        kept: turn.kept,
        temperature: turn.options.sampling.temperature,
        top_p: turn.options.sampling.top_p,
        request,
    };
    let collection = turn.options.retrieval.collection().name().to_owned();
    let turn = turn.start(&app).await?;
    let writing = RunningResponse {
        input: turn.messages_before()..turn.messages(),
        store: settings.store,
        writer: ResponseWriter::new(settings, collection, &turn),
        owner: caller.owner,
        app: app.clone(),
        turn,
    };
    if stream {
        Ok(sse::response(app.streams.heartbeat, events(writing)))
    } else {
        Ok(Json(writing.whole().await?).into_response())
    }
}

/// A stored response.
#[utoipa::path(
    get, path = "/v1/responses/{id}", tag = "responses",
    params(("id" = String, Path, description = "The response's id", example = "resp_2_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d"), GetResponse),
    responses(
        ServerErrors,
        (status = 200, description = "The response", body = ResponseObject),
        (status = 400, description = "The query makes no sense", body = ErrorEnvelope),
        (status = 404, description = "There is no such response", body = ErrorEnvelope),
    )
)]
async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
    QueryParams(query): QueryParams<Vec<(String, String)>>,
) -> Result<Json<ResponseObject>, ApiError> {
    if query
        .iter()
        .any(|(name, on)| name == "stream" && on != "false")
    {
        let param = "stream".to_owned();
        return Err(ApiError::Unsupported { param });
    }
    let (_, stored) = stored_response(&app.conversations, &id, &caller.owner, "id").await?;
    let mut response = stored.response;
    leave_out_unseen(&mut response, &caller);
    if is_included(&query, RESULTS) {
        let with_results = move || {
            add_results(&mut response, &app.collections, &caller);
            response
        };
        response = blocking(with_results).await?;
    }
    Ok(Json(response))
}

/// Deletes a stored response. What was said stays in its conversation.
#[utoipa::path(
    delete, path = "/v1/responses/{id}", tag = "responses",
    params(("id" = String, Path, description = "The response's id", example = "resp_2_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")),
    responses(
        ServerErrors,
        (status = 200, description = "It is gone", body = DeletedResponse),
        (status = 404, description = "There is no such response", body = ErrorEnvelope),
    )
)]
async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
) -> Result<Json<DeletedResponse>, ApiError> {
    delete_response(&app.conversations, id.clone(), caller.owner).await?;
    Ok(Json(DeletedResponse {
        id,
        object: "response".to_owned(),
        deleted: true,
    }))
}

/// The messages that a stored response was asked with.
#[utoipa::path(
    get, path = "/v1/responses/{id}/input_items", tag = "responses",
    params(("id" = String, Path, description = "The response's id", example = "resp_2_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d"), ListItems),
    responses(
        ServerErrors,
        (status = 200, description = "Some of them", body = ConversationItemList),
        (status = 400, description = "The query makes no sense", body = ErrorEnvelope),
        (status = 404, description = "There is no such response", body = ErrorEnvelope),
    )
)]
async fn list_input_items(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
    QueryParams(query): QueryParams<Vec<(String, String)>>,
) -> Result<Json<ConversationItemList>, ApiError> {
    let page = PageQuery::new(query)?;
    let (conversation, stored) =
        stored_response(&app.conversations, &id, &caller.owner, "id").await?;
    let transcript = app.conversations.get(&conversation, &caller.owner);
    let transcript = transcript.ok_or(ApiError::ResponseNotFound {
        response: id,
        param: "id",
    })?;
    let items = input_items(&conversation, &transcript, stored.input);
    let Page { entries, has_more } = page.cut(items, ConversationItem::id)?;
    Ok(Json(list(entries, has_more)))
}

/// How many tokens the model would read for a response before it answers, those of the conversation so far
/// included. Passages come on top of them.
#[utoipa::path(
    post, path = "/v1/responses/input_tokens", tag = "responses",
    request_body = ResponseRequest,
    responses(
        BodyErrors,
        (status = 200, description = "The number", body = InputTokens),
        (status = 404, description = "There is no such model, collection, conversation or response", body = ErrorEnvelope),
        (status = 409, description = "The conversation has read what is gone", body = ErrorEnvelope),
    )
)]
async fn count_input_tokens(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut body): JsonBody,
) -> Result<Json<InputTokens>, ApiError> {
    // OpenAI's clients may leave it out here.
    if let Some(fields) = body.as_object_mut() {
        let model = fields.entry("model");
        model.or_insert_with(|| app.model.name.clone().into());
    }
    leave_out_neutral_in_response(&mut body);
    refuse_unsupported_in_response(&body)?;
    let request: ResponseRequest = typed(body)?;
    app.model.check(&request.model)?;
    let turn = turn_request(request, &app, &caller, Instant::now()).await?;
    Ok(Json(InputTokens {
        object: "response.input_tokens".to_owned(),
        input_tokens: turn.count_prompt(&app).await?,
    }))
}

/// Says that a stored response cannot be cancelled: it is complete, and none is written in the background. A
/// client that does not want the rest of a stream closes it.
#[utoipa::path(
    post, path = "/v1/responses/{id}/cancel", tag = "responses",
    params(("id" = String, Path, description = "The response's id", example = "resp_2_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")),
    responses(
        ServerErrors,
        (status = 400, description = "It is complete", body = ErrorEnvelope),
        (status = 404, description = "There is no such response", body = ErrorEnvelope),
    )
)]
async fn cancel(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
) -> Result<Json<ResponseObject>, ApiError> {
    stored_response(&app.conversations, &id, &caller.owner, "id").await?;
    Err(ApiError::invalid(
        "id",
        "is the id of a complete response; only one that is written in the background can be cancelled, and none is here",
    ))
}

/// A response under way.
struct RunningResponse {
    app: Arc<App>,
    owner: Owner,
    turn: LiveTurn,
    writer: ResponseWriter,
    store: bool,
    /// Which of the conversation's messages came with the request.
    input: Range<usize>,
}

impl RunningResponse {
    /// The events of what happens next, or `None` after the end.
    async fn next(&mut self) -> Option<Result<Vec<ResponseEvent>, ApiError>> {
        let happened = self.turn.next().await?;
        let ended = matches!(happened, TurnEvent::Finished(_));
        let mut events = self.writer.on(happened);
        if ended && self.store {
            events = match (events, self.stored().await) {
                (Ok(_), Err(error)) => Err(error),
                (events, _) => events,
            };
        }
        Some(events)
    }

    async fn stored(&self) -> Result<(), ApiError> {
        let conversation = self.turn.conversation().clone();
        let stored = StoredResponse {
            input: self.input.clone(),
            response: self.writer.response().clone(),
        };
        let owner = self.owner.clone();
        store_response(&self.app.conversations, conversation, owner, stored).await
    }

    async fn whole(mut self) -> Result<ResponseObject, ApiError> {
        while let Some(events) = self.next().await {
            events?;
        }
        Ok(self.writer.response().clone())
    }
}

/// The events of a response. None is `[DONE]`: the last one's type tells.
fn events(mut writing: RunningResponse) -> impl Stream<Item = EventResult> {
    let begin = writing.writer.begin();
    let rest = stream::unfold(Some(writing), |writing| async move {
        let mut writing = writing?;
        match writing.next().await? {
            Ok(events) => Some((events, Some(writing))),
            Err(error) => Some((writing.writer.fail(&error), None)),
        }
    });
    let all = stream::once(async { begin }).chain(rest);
    let named = |event: ResponseEvent| {
        Event::default()
            .event(event.happened.name())
            .json_data(&event)
    };
    all.map(move |events| stream::iter(events).map(named))
        .flatten()
}
