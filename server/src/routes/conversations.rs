//! Conversations by their ids: begun, looked at, forked, rebuilt, deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use onegen_engine::{ChatMessage, ConversationError, ConversationId, Role as EngineRole};
use onegen_proto::{
    Conversation, ConversationExtension, ConversationItemList, CreateConversationRequest,
    DeletedConversation, ErrorEnvelope, ListItems, NewItem, RebuiltConversation,
};

use crate::access::{Caller, Owner};
use crate::app::App;
use crate::blocking::blocking;
use crate::conversations::{About, Transcript, new_id};
use crate::errors::ApiError;
use crate::extract::{PathParam, QueryParams};
use crate::items::{Page, items};
use crate::json::{JsonBody, typed};
use crate::messages::{role, text};

/// OpenAI's limits.
const MAX_ITEMS: usize = 20;
const MAX_PAIRS: usize = 16;
const MAX_NAME_CHARACTERS: usize = 64;
const MAX_VALUE_CHARACTERS: usize = 512;

/// Begins a conversation, empty or with what was said before. Its first turn names it.
#[utoipa::path(
    post, path = "/v1/conversations", tag = "conversations",
    request_body = CreateConversationRequest,
    responses(
        (status = 200, description = "The conversation", body = Conversation),
        (status = 400, description = "The request makes no sense", body = ErrorEnvelope),
        (status = 413, description = "The body is too large", body = ErrorEnvelope),
        (status = 415, description = "The body is not declared as JSON", body = ErrorEnvelope),
        (status = 500, description = "The server failed", body = ErrorEnvelope),
    )
)]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Result<Json<Conversation>, ApiError> {
    let request: CreateConversationRequest = typed(body)?;
    let metadata = request.metadata.unwrap_or_default();
    check_metadata(&metadata)?;
    let transcript = Transcript {
        messages: messages(request.items.unwrap_or_default())?,
        log_len: 0,
        owner: caller.owner.clone(),
        named: true,
        retrievals: Vec::new(),
    };
    let id = new_id();
    begin(&app, id.clone(), transcript, About::now(metadata)).await?;
    Ok(Json(shown(&app, &id, &caller.owner).await?))
}

/// A conversation, whether it was begun here or by a chat completion.
#[utoipa::path(
    get, path = "/v1/conversations/{id}", tag = "conversations",
    params(("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")),
    responses(
        (status = 200, description = "The conversation", body = Conversation),
        (status = 404, description = "There is no such conversation", body = ErrorEnvelope),
        (status = 500, description = "The server failed", body = ErrorEnvelope),
    )
)]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
) -> Result<Json<Conversation>, ApiError> {
    Ok(Json(shown(&app, &id.into(), &caller.owner).await?))
}

/// Deletes a conversation: its messages, token log and KV-cache.
#[utoipa::path(
    delete, path = "/v1/conversations/{id}", tag = "conversations",
    params(("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")),
    responses(
        (status = 200, description = "It is gone", body = DeletedConversation),
        (status = 404, description = "There is no such conversation", body = ErrorEnvelope),
        (status = 409, description = "A turn of it is under way", body = ErrorEnvelope),
        (status = 500, description = "The server failed", body = ErrorEnvelope),
    )
)]
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
) -> Result<Json<DeletedConversation>, ApiError> {
    let id = ConversationId::from(id);
    find(&app, &id, &caller.owner)?;
    forget_log(&app, &id).await?;
    let (all, deleted) = (app.clone(), id.clone());
    blocking(move || all.conversations.forget(&deleted)).await?;
    app.streams.forget(&id);
    Ok(Json(DeletedConversation {
        id: id.to_string(),
        object: "conversation.deleted".to_owned(),
        deleted: true,
    }))
}

/// What was said in a conversation, and what was read for it.
#[utoipa::path(
    get, path = "/v1/conversations/{id}/items", tag = "conversations",
    params(("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d"), ListItems),
    responses(
        (status = 200, description = "Some of its items", body = ConversationItemList),
        (status = 400, description = "The query makes no sense", body = ErrorEnvelope),
        (status = 404, description = "There is no such conversation", body = ErrorEnvelope),
        (status = 500, description = "The server failed", body = ErrorEnvelope),
    )
)]
pub(crate) async fn list_items(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
    QueryParams(query): QueryParams<Vec<(String, String)>>,
) -> Result<Json<ConversationItemList>, ApiError> {
    let id = ConversationId::from(id);
    let transcript = find(&app, &id, &caller.owner)?;
    let page = Page::of(query)?;
    let with_texts = page.passage_texts;
    let all = blocking(move || {
        items(&id, &transcript, |retrieval| match with_texts {
            // A passage that cannot be read is shown as one that is gone.
            // A collection may have been taken from the key meanwhile.
            true if !caller.sees(&retrieval.receipt.collection) => None,
            true => retrieval.text(&app.collections).ok().flatten(),
            false => None,
        })
    });
    page.cut(all.await?).map(Json)
}

/// Begins a conversation as a copy of another: messages, token log, and KV-cache, which both share.
#[utoipa::path(
    post, path = "/v1/conversations/{id}/fork", tag = "conversations",
    params(("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")),
    responses(
        (status = 200, description = "The new conversation", body = Conversation),
        (status = 404, description = "There is no such conversation", body = ErrorEnvelope),
        (status = 409, description = "A turn of it is under way, or it has read what is gone", body = ErrorEnvelope),
        (status = 500, description = "The server failed", body = ErrorEnvelope),
    )
)]
pub(crate) async fn fork(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
) -> Result<Json<Conversation>, ApiError> {
    let id = ConversationId::from(id);
    let mut transcript = find(&app, &id, &caller.owner)?;
    app.refuse_if_gone(&id, &transcript.retrievals).await?;
    let about = app.conversations.about(&id).unwrap_or_default();
    let copy = new_id();
    let len = transcript.log_len;
    let forked = match len {
        0 => Err(ConversationError::Unknown(id.clone())),
        len => app.engine.fork(&id, &copy, Some(len)).await,
    };
    match forked {
        Ok(()) => {}
        Err(ConversationError::Busy(_)) => return Err(ApiError::ConversationBusy(id.to_string())),
        Err(ConversationError::Stopped) => return Err(ApiError::ShuttingDown),
        // The engine has no such log: the copy begins again from what was said.
        Err(_) => transcript.begin_again(),
    }
    transcript.named = true;
    let retrievals = transcript.retrievals.clone();
    let about = About::now(about.metadata);
    begin(&app, copy.clone(), transcript, about).await?;
    // A document may have gone before the copy was known.
    app.drop_if_gone(vec![(copy.clone(), retrievals)]).await;
    Ok(Json(shown(&app, &copy, &caller.owner).await?))
}

/// Makes a conversation anew from its visible messages, without the passages that it has read: the
/// way on for one that has read a document which was deleted or changed. Its next turn forwards the
/// messages again.
#[utoipa::path(
    post, path = "/v1/conversations/{id}/rebuild", tag = "conversations",
    params(("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")),
    responses(
        (status = 200, description = "It holds no passage any more", body = RebuiltConversation),
        (status = 404, description = "There is no such conversation", body = ErrorEnvelope),
        (status = 409, description = "A turn of it is under way", body = ErrorEnvelope),
        (status = 500, description = "The server failed", body = ErrorEnvelope),
    )
)]
pub(crate) async fn rebuild(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
) -> Result<Json<RebuiltConversation>, ApiError> {
    let id = ConversationId::from(id);
    let transcript = find(&app, &id, &caller.owner)?;
    forget_log(&app, &id).await?;
    let (all, again, messages) = (app.clone(), id.clone(), transcript.messages.len());
    if !blocking(move || {
        all.conversations
            .begin_again(&again, &caller.owner, messages)
    })
    .await?
    {
        return Err(ApiError::ConversationBusy(id.to_string()));
    }
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

/// The caller's conversation: to others there is none.
fn find(app: &App, id: &ConversationId, owner: &Owner) -> Result<Transcript, ApiError> {
    let found = app.conversations.get(id, owner);
    found.ok_or_else(|| ApiError::ConversationNotFound(id.to_string()))
}

async fn begin(
    app: &Arc<App>,
    id: ConversationId,
    transcript: Transcript,
    about: About,
) -> Result<(), ApiError> {
    let app = app.clone();
    blocking(move || app.conversations.begin(id, transcript, about)).await
}

/// Has the engine forget a conversation's log and cache, if it holds them.
async fn forget_log(app: &App, id: &ConversationId) -> Result<(), ApiError> {
    match app.engine.delete(id).await {
        Ok(()) | Err(ConversationError::Unknown(_)) => Ok(()),
        Err(ConversationError::Busy(_)) => Err(ApiError::ConversationBusy(id.to_string())),
        Err(ConversationError::Stopped) => Err(ApiError::ShuttingDown),
        Err(other) => Err(ApiError::Internal(other.to_string())),
    }
}

async fn shown(
    app: &Arc<App>,
    id: &ConversationId,
    owner: &Owner,
) -> Result<Conversation, ApiError> {
    let transcript = find(app, id, owner)?;
    let about = app.conversations.about(id).unwrap_or_default();
    Ok(Conversation {
        id: id.to_string(),
        object: "conversation".to_owned(),
        created_at: about.created,
        metadata: about.metadata,
        onegen: ConversationExtension {
            messages: transcript.messages.len(),
            gone_documents: app.gone(&transcript.retrievals).await?,
        },
    })
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

fn messages(items: Vec<NewItem>) -> Result<Vec<ChatMessage>, ApiError> {
    if items.len() > MAX_ITEMS {
        let message = format!("holds {} items, but may hold {MAX_ITEMS}", items.len());
        return Err(ApiError::invalid("items", message));
    }
    let each = items.into_iter().enumerate().map(|(at, item)| {
        if let Some(kind) = item.kind.filter(|kind| kind != "message") {
            let param = format!("items[{at}].type {kind:?}");
            return Err(ApiError::Unsupported { param });
        }
        let role: EngineRole = role(item.role);
        let kinds = ["text", "input_text", "output_text"];
        let text = text(item.content, &kinds, &format!("items[{at}].content"))?;
        Ok(ChatMessage::new(role, text))
    });
    each.collect()
}
