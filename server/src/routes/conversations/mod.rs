//! Conversations by their ids: begun, looked at, described, deleted.

mod copies;
mod items;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use onegen_engine::ConversationId;
use onegen_proto::{
    Conversation, CreateConversationRequest, DeletedConversation, ErrorEnvelope,
    UpdateConversationRequest,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admission::Caller;
use crate::app::App;
use crate::conversations::{ConversationDetails, Transcript, new_id};
use crate::routes::errors::{BodyErrors, ServerErrors};
use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;
use crate::wire::extract::PathParam;
use crate::wire::json::{JsonBody, typed};

use shared::{begin, check_size, conversation, forget_log, leave_out_given, messages};

/// OpenAI's limits.
const MAX_PAIRS: usize = 16;
const MAX_NAME_CHARACTERS: usize = 64;
const MAX_VALUE_CHARACTERS: usize = 512;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(get, update, delete))
        .merge(items::routes())
        .merge(copies::routes())
}

/// Begins a conversation, empty or with what was said before. Its first turn names it.
#[utoipa::path(
    post, path = "/v1/conversations", tag = "conversations",
    request_body = CreateConversationRequest,
    responses(
        BodyErrors,
        (status = 200, description = "The conversation", body = Conversation),
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut body): JsonBody,
) -> Result<Json<Conversation>, ApiError> {
    leave_out_given(&mut body);
    let request: CreateConversationRequest = typed(body)?;
    let metadata = request.metadata.unwrap_or_default();
    check_metadata(&metadata)?;
    let transcript = Transcript {
        messages: messages(request.items.unwrap_or_default())?,
        named: true,
        ..Transcript::new(caller.owner.clone())
    };
    check_size(&transcript.messages, "items")?;
    let id = new_id();
    begin(
        &app,
        id.clone(),
        transcript,
        ConversationDetails::now(metadata),
    )
    .await?;
    Ok(Json(conversation(&app, &id, &caller).await?))
}

/// A conversation, whether it was begun here or by a chat completion.
#[utoipa::path(
    get, path = "/v1/conversations/{id}", tag = "conversations",
    params(("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")),
    responses(
        ServerErrors,
        (status = 200, description = "The conversation", body = Conversation),
        (status = 404, description = "There is no such conversation", body = ErrorEnvelope),
    )
)]
async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
) -> Result<Json<Conversation>, ApiError> {
    Ok(Json(conversation(&app, &id.into(), &caller).await?))
}

/// Changes what the client wants to remember of a conversation.
#[utoipa::path(
    post, path = "/v1/conversations/{id}", tag = "conversations",
    params(("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")),
    request_body = UpdateConversationRequest,
    responses(
        BodyErrors,
        (status = 200, description = "The conversation", body = Conversation),
        (status = 404, description = "There is no such conversation", body = ErrorEnvelope),
    )
)]
async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
    JsonBody(body): JsonBody,
) -> Result<Json<Conversation>, ApiError> {
    let UpdateConversationRequest { metadata } = typed(body)?;
    check_metadata(&metadata)?;
    let id = ConversationId::from(id);
    app.conversations.refresh(&id).await?;
    let (all, of, owner) = (app.clone(), id.clone(), caller.owner.clone());
    let describe = move || {
        all.conversations.change(&of, &owner, |stored| {
            stored.details.metadata = metadata;
            true
        })
    };
    blocking(describe).await??;
    Ok(Json(conversation(&app, &id, &caller).await?))
}

/// Deletes a conversation: its messages, token log and KV-cache.
#[utoipa::path(
    delete, path = "/v1/conversations/{id}", tag = "conversations",
    params(("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")),
    responses(
        ServerErrors,
        (status = 200, description = "It is gone", body = DeletedConversation),
        (status = 404, description = "There is no such conversation", body = ErrorEnvelope),
        (status = 409, description = "A turn of it is under way", body = ErrorEnvelope),
    )
)]
async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
) -> Result<Json<DeletedConversation>, ApiError> {
    let id = ConversationId::from(id);
    let (_, _hold) = app.conversations.hold(&id, &caller.owner).await?;
    forget_log(&app, &id).await?;
    let (all, deleted) = (app.clone(), id.clone());
    blocking(move || all.conversations.forget(&deleted)).await??;
    app.recordings.forget(&id);
    Ok(Json(DeletedConversation {
        id: id.to_string(),
        object: "conversation.deleted".to_owned(),
        deleted: true,
    }))
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if metadata.len() > MAX_PAIRS {
        let message = format!("holds {} pairs, but may hold {MAX_PAIRS}", metadata.len());
        return Err(ApiError::invalid("metadata", message));
    }
    let too_long = |(name, value): &(&String, &String)| {
        name.chars().count() > MAX_NAME_CHARACTERS || value.chars().count() > MAX_VALUE_CHARACTERS
    };
    match metadata.iter().find(too_long) {
        None => Ok(()),
        Some((name, _)) => Err(ApiError::invalid(
            format!("metadata.{name}"),
            format!(
                "is longer than {MAX_NAME_CHARACTERS} characters in its name or {MAX_VALUE_CHARACTERS} in its value"
            ),
        )),
    }
}
