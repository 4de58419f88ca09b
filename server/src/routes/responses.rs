//! OpenAI's Responses API: what was searched and said as items.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use onegen_engine::{ChatMessage, ConversationId, Role, SamplingParams};
use onegen_proto::{
    ErrorEnvelope, FileSearchTool, InputItem, ResponseEvent, ResponseInput, ResponseObject,
    ResponseRequest, RetrievalOptions, ServerSentEvent,
};
use serde_json::Value;

use crate::access::{Caller, Owner};
use crate::app::App;
use crate::errors::ApiError;
use crate::json::{JsonBody, typed};
use crate::messages::{role, text};
use crate::response_writer::{Asked, ResponseWriter};
use crate::retrieval::AskedRetrieval;
use crate::turn::{LiveTurn, TurnRequest};
use crate::unsupported::refuse_unsupported_in_response;

/// What adds the passages that were found.
const RESULTS: &str = "file_search_call.results";

/// Answers, retrieving passages while it writes. Each retrieval is a `file_search_call`.
#[utoipa::path(
    post, path = "/v1/responses", tag = "responses",
    request_body = ResponseRequest,
    responses(
        (status = 200, description = "The response, or with `stream` its events, each of whose `data` is a `ResponseEvent`",
            content((ResponseObject = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 400, description = "The request makes no sense, or is longer than the context", body = ErrorEnvelope),
        (status = 404, description = "There is no such model, collection or conversation", body = ErrorEnvelope),
        (status = 409, description = "The conversation is busy, or has read what is gone", body = ErrorEnvelope),
        (status = 413, description = "The body is too large", body = ErrorEnvelope),
        (status = 415, description = "The body is not declared as JSON", body = ErrorEnvelope),
        (status = 429, description = "Too many requests are waiting", body = ErrorEnvelope),
        (status = 500, description = "The server failed", body = ErrorEnvelope),
        (status = 503, description = "The server is shutting down", body = ErrorEnvelope),
    )
)]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Result<Response, ApiError> {
    let received = Instant::now();
    refuse_unsupported_in_response(&body)?;
    let request: ResponseRequest = typed(body)?;
    app.model.check(&request.model)?;
    let stream = request.stream.unwrap_or(false);
    let include = request.include.iter().flatten();
    let asked = Asked {
        model: app.model.name.clone(),
        results: include.into_iter().any(|one| one == RESULTS),
        temperature: request
            .temperature
            .unwrap_or(SamplingParams::default().temperature),
        top_p: request.top_p.unwrap_or(SamplingParams::default().top_p),
        request: request.clone(),
    };
    let turn = turn_request(request, &app, &caller, received)?;
    let collection = turn.retrieval.collection().name().to_owned();
    let turn = turn.start(&app).await?;
    let writer = ResponseWriter::new(asked, collection, &turn);
    match stream {
        true => Ok(app.streams.response(events(turn, writer))),
        false => Ok(Json(whole(turn, writer).await?).into_response()),
    }
}

fn turn_request(
    request: ResponseRequest,
    app: &App,
    caller: &Caller,
    received: Instant,
) -> Result<TurnRequest, ApiError> {
    let retrieval = retrieval(&request)?;
    let retrieval = AskedRetrieval::of(retrieval, &app.collections, caller)?;
    let conversation = conversation(&request, app, &caller.owner)?;
    let mut messages = input(request.input)?;
    match messages.last() {
        Some(last) if last.role == Role::User => {}
        _ => {
            return Err(ApiError::invalid(
                "input",
                "the last message must be the user's",
            ));
        }
    }
    if let Some(instructions) = request.instructions {
        if conversation.is_some() {
            return Err(ApiError::invalid(
                "instructions",
                "stand at a conversation's beginning; leave them out where it goes on",
            ));
        }
        messages.insert(0, ChatMessage::new(Role::System, instructions));
    }
    let default = SamplingParams::default();
    Ok(TurnRequest {
        caller: caller.clone(),
        conversation,
        messages,
        sampling: SamplingParams {
            max_tokens: request.max_output_tokens,
            temperature: request.temperature.unwrap_or(default.temperature),
            top_p: request.top_p.unwrap_or(default.top_p),
            ..default
        },
        constraint: None,
        retrieval,
        received,
    })
}

fn conversation(
    request: &ResponseRequest,
    app: &App,
    owner: &Owner,
) -> Result<Option<ConversationId>, ApiError> {
    let fault = |message: &str| Err(ApiError::invalid("previous_response_id", message));
    let Some(previous) = &request.previous_response_id else {
        return Ok(request.conversation.as_ref().map(|c| c.id().into()));
    };
    if request.conversation.is_some() {
        return fault("is not allowed with conversation; send one of them");
    }
    let Some((messages, id)) = ResponseWriter::read_id(previous) else {
        return fault("is no response of this server");
    };
    match app.conversations.get(&id, owner) {
        Some(transcript) if transcript.messages.len() == messages => Ok(Some(id)),
        Some(_) => {
            fault("is not the latest response of its conversation; only that can be gone on after")
        }
        None => Err(ApiError::ConversationNotFound(id.to_string())),
    }
}

fn input(input: ResponseInput) -> Result<Vec<ChatMessage>, ApiError> {
    let items = match input {
        ResponseInput::Text(text) => return Ok(vec![ChatMessage::new(Role::User, text)]),
        ResponseInput::Items(items) => items,
    };
    let mut messages = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        let unsupported = |kind: &str| ApiError::Unsupported {
            param: format!("input[{at}].type {kind:?}"),
        };
        match item {
            InputItem::Message(item) => {
                if let Some(kind) = item.kind.filter(|kind| kind != "message") {
                    return Err(unsupported(&kind));
                }
                let kinds = ["input_text", "output_text", "text"];
                let text = text(item.content, &kinds, &format!("input[{at}].content"))?;
                messages.push(ChatMessage::new(role(item.role), text));
            }
            // What was read stands in the conversation's own log.
            InputItem::Other { kind } if kind == "file_search_call" => {}
            InputItem::Other { kind } => return Err(unsupported(&kind)),
        }
    }
    Ok(messages)
}

/// What the tool says, unless the server's own words say it.
fn retrieval(request: &ResponseRequest) -> Result<RetrievalOptions, ApiError> {
    let mut options = request.retrieval.clone().unwrap_or_default();
    match request.tool_choice.as_ref() {
        None | Some(Value::Null) => {}
        Some(Value::String(choice)) if choice == "auto" => {}
        Some(Value::String(choice)) if choice == "none" => _ = options.enabled.get_or_insert(false),
        Some(Value::String(choice)) if choice == "required" => {
            options.forced.get_or_insert(true);
        }
        Some(choice) if choice["type"] == "file_search" => _ = options.forced.get_or_insert(true),
        Some(_) => {
            return Err(ApiError::invalid(
                "tool_choice",
                "must be auto, none, required or {\"type\": \"file_search\"}",
            ));
        }
    }
    match request.tools.as_deref().unwrap_or_default() {
        [] => {}
        [tool] => of_tool(tool, &mut options)?,
        [_, ..] => {
            let message = "may hold one file_search; collections are not searched together";
            return Err(ApiError::invalid("tools", message));
        }
    }
    Ok(options)
}

fn of_tool(tool: &FileSearchTool, options: &mut RetrievalOptions) -> Result<(), ApiError> {
    let unsupported = |param: String| Err(ApiError::Unsupported { param });
    if tool.kind != "file_search" {
        return unsupported(format!("tools[0].type {:?}", tool.kind));
    }
    let [collection] = tool.vector_store_ids.as_slice() else {
        let message = "must hold the name of one collection";
        return Err(ApiError::invalid("tools[0].vector_store_ids", message));
    };
    options.collection.get_or_insert_with(|| collection.clone());
    options.k = options.k.or(tool.max_num_results);
    if options.filter.is_none() {
        options.filter = tool.filters.clone().filter(|filter| !filter.is_null());
    }
    let Some(ranking) = &tool.ranking_options else {
        return Ok(());
    };
    if let Some(ranker) = ranking
        .ranker
        .as_ref()
        .filter(|one| !matches!(&***one, "auto" | "none"))
    {
        return unsupported(format!("tools[0].ranking_options.ranker {ranker:?}"));
    }
    options.min_score = options.min_score.or(ranking.score_threshold);
    Ok(())
}

async fn whole(mut turn: LiveTurn, mut writer: ResponseWriter) -> Result<ResponseObject, ApiError> {
    while let Some(event) = turn.next().await {
        writer.on(event)?;
    }
    Ok(writer.response())
}

/// The events of a response. None is `[DONE]`: the last one's type tells.
fn events(
    turn: LiveTurn,
    mut writer: ResponseWriter,
) -> impl Stream<Item = Result<Event, axum::Error>> {
    let begin = writer.begin();
    let rest = stream::unfold(Some((turn, writer)), |state| async move {
        let (mut turn, mut writer) = state?;
        match writer.on(turn.next().await?) {
            Ok(events) => Some((events, Some((turn, writer)))),
            Err(error) => Some((writer.fail(&error), None)),
        }
    });
    let all = stream::once(async { begin }).chain(rest);
    let named = |event: ResponseEvent| {
        let value = serde_json::to_value(&event).map_err(axum::Error::new)?;
        let name = value["type"].as_str().unwrap_or_default();
        Event::default().event(name).json_data(&value)
    };
    all.map(move |events| stream::iter(events).map(named))
        .flatten()
}
