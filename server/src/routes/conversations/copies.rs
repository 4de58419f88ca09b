//! Conversations made of others: forked, rebuilt.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use onegen_engine::ConversationId;
use onegen_proto::{Conversation, ErrorEnvelope, ForkRequest, RebuiltConversation};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admission::Caller;
use crate::app::App;
use crate::conversations::ConversationDetails;
use crate::conversations::items::message_of;
use crate::routes::errors::{BodyErrors, ServerErrors};
use crate::turns::Fork;
use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;
use crate::wire::extract::PathParam;
use crate::wire::json::{OptionalJsonBody, typed};

use super::shared::{begin, conversation, find, forget_log};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(fork))
        .routes(routes!(rebuild))
}

/// Begins a conversation as a copy of another, or of its beginning: messages, token log, and KV-cache,
/// which both share. A copy that ends where no turn did is encoded from there on by its next turn.
#[utoipa::path(
    post, path = "/v1/conversations/{id}/fork", tag = "conversations",
    params(("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")),
    request_body = Option<ForkRequest>,
    responses(
        BodyErrors,
        (status = 200, description = "The new conversation", body = Conversation),
        (status = 404, description = "There is no such conversation, or no such message in it", body = ErrorEnvelope),
        (status = 409, description = "A turn of it is under way, or it has read what is gone", body = ErrorEnvelope),
    )
)]
async fn fork(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
    OptionalJsonBody(body): OptionalJsonBody,
) -> Result<Json<Conversation>, ApiError> {
    let request: Option<ForkRequest> = match body {
        None | Some(Value::Null) => None,
        Some(body) => Some(typed(body)?),
    };
    let id = ConversationId::from(id);
    let mut transcript = find(&app, &id, &caller.owner).await?;
    if let Some(item) = request.and_then(|request| request.after) {
        let at = message_of(&id, &transcript, &item);
        let param = "after";
        let at = at.ok_or(ApiError::ItemNotFound { item, param })?;
        transcript.cut(at + 1);
    }
    app.deleted_documents
        .refuse(&id, &transcript.retrievals, &caller)
        .await?;
    let details = app.conversations.details(&id).unwrap_or_default();
    let details = ConversationDetails::now(details.metadata);
    let fork = Fork::new(&app, &id, &mut transcript).await?;
    transcript.named = true;
    let copy = fork.id().clone();
    let retrievals = transcript.retrievals.clone();
    begin(&app, copy.clone(), transcript, details).await?;
    fork.keep();
    // A document may have gone before the copy was known.
    app.deleted_documents
        .forget_holders(vec![(copy.clone(), retrievals)])
        .await;
    Ok(Json(conversation(&app, &copy, &caller).await?))
}

/// Makes a conversation anew from its visible messages, without the passages that it has read: the
/// way on for one that has read a document which was deleted or changed. Its next turn forwards the
/// messages again.
#[utoipa::path(
    post, path = "/v1/conversations/{id}/rebuild", tag = "conversations",
    params(("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")),
    responses(
        ServerErrors,
        (status = 200, description = "It holds no passage any more", body = RebuiltConversation),
        (status = 404, description = "There is no such conversation", body = ErrorEnvelope),
        (status = 409, description = "A turn of it is under way", body = ErrorEnvelope),
    )
)]
async fn rebuild(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
) -> Result<Json<RebuiltConversation>, ApiError> {
    let id = ConversationId::from(id);
    let (transcript, _hold) = app.conversations.hold(&id, &caller.owner).await?;
    forget_log(&app, &id).await?;
    let (all, again) = (app.clone(), id.clone());
    blocking(move || {
        all.conversations.change(&again, &caller.owner, |stored| {
            let transcript = &mut stored.transcript;
            transcript.begin_again();
            // From now on its client goes by its id.
            transcript.named = true;
            true
        })
    })
    .await??;
    let mut dropped_documents = Vec::new();
    for retrieval in transcript.retrievals.into_iter().filter(|r| r.held) {
        if !dropped_documents.contains(&retrieval.document) {
            dropped_documents.push(retrieval.document);
        }
    }
    Ok(Json(RebuiltConversation {
        id: id.to_string(),
        object: "conversation.rebuilt".to_owned(),
        dropped_documents,
    }))
}
