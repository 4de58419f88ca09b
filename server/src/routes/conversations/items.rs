//! The items of a conversation.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use onegen_engine::ConversationId;
use onegen_proto::{
    Conversation, ConversationItem, ConversationItemList, CreateItemsRequest, ErrorEnvelope,
    ListItems,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admission::Caller;
use crate::app::App;
use crate::conversations::Transcript;
use crate::conversations::items::{PASSAGE_TEXT, input_items, items, list as listed, message_of};
use crate::routes::errors::{BodyErrors, ServerErrors};
use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;
use crate::wire::extract::{PathParam, PathParams, QueryParams};
use crate::wire::json::{JsonBody, typed};
use crate::wire::page::{Page, PageQuery, is_included};

use super::shared::{check_size, conversation, find, forget_log, leave_out_given, messages};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, delete))
}

/// What was said in a conversation, and what was read for it.
#[utoipa::path(
    get, path = "/v1/conversations/{id}/items", tag = "conversations",
    params(("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d"), ListItems),
    responses(
        ServerErrors,
        (status = 200, description = "Some of its items", body = ConversationItemList),
        (status = 400, description = "The query makes no sense", body = ErrorEnvelope),
        (status = 404, description = "There is no such conversation", body = ErrorEnvelope),
    )
)]
async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
    QueryParams(query): QueryParams<Vec<(String, String)>>,
) -> Result<Json<ConversationItemList>, ApiError> {
    let id = ConversationId::from(id);
    let transcript = find(&app, &id, &caller.owner).await?;
    let with_texts = is_included(&query, PASSAGE_TEXT);
    let page = PageQuery::new(query)?;
    let all = all_items(app, caller, id, transcript, with_texts).await?;
    let Page { entries, has_more } = page.cut(all, ConversationItem::id)?;
    Ok(Json(listed(entries, has_more)))
}

/// An item of a conversation.
#[utoipa::path(
    get, path = "/v1/conversations/{id}/items/{item}", tag = "conversations",
    params(
        ("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d"),
        ("item" = String, Path, description = "The item's id", example = "msg_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d_1"),
        ("include" = Option<String>, Query, description = "As of all items"),
    ),
    responses(
        ServerErrors,
        (status = 200, description = "The item", body = ConversationItem),
        (status = 400, description = "The query makes no sense", body = ErrorEnvelope),
        (status = 404, description = "There is no such conversation, or no such item in it", body = ErrorEnvelope),
    )
)]
async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams((id, item)): PathParams<(String, String)>,
    QueryParams(query): QueryParams<Vec<(String, String)>>,
) -> Result<Json<ConversationItem>, ApiError> {
    let id = ConversationId::from(id);
    let transcript = find(&app, &id, &caller.owner).await?;
    let with_texts = is_included(&query, PASSAGE_TEXT);
    let mut all = all_items(app, caller, id, transcript, with_texts)
        .await?
        .into_iter();
    let found = all.find(|one| one.id() == item);
    let param = "item";
    found
        .map(Json)
        .ok_or(ApiError::ItemNotFound { item, param })
}

/// Puts messages into a conversation, behind those that it has. Nothing is forwarded before its next turn.
#[utoipa::path(
    post, path = "/v1/conversations/{id}/items", tag = "conversations",
    params(("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d")),
    request_body = CreateItemsRequest,
    responses(
        BodyErrors,
        (status = 200, description = "The items that were put in", body = ConversationItemList),
        (status = 404, description = "There is no such conversation", body = ErrorEnvelope),
        (status = 409, description = "A turn of it is under way", body = ErrorEnvelope),
    )
)]
async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParam(id): PathParam,
    JsonBody(mut body): JsonBody,
) -> Result<Json<ConversationItemList>, ApiError> {
    leave_out_given(&mut body);
    let request: CreateItemsRequest = typed(body)?;
    let new = messages(request.items)?;
    if new.is_empty() {
        return Err(ApiError::invalid("items", "must hold at least one message"));
    }
    let id = ConversationId::from(id);
    // Held, since a turn that is under way would end without knowing of them.
    let (mut transcript, hold) = app.conversations.hold(&id, &caller.owner).await?;
    let before = transcript.messages.len();
    transcript.messages.extend(new.iter().cloned());
    check_size(&transcript.messages, "items")?;
    let (all, of, owner) = (app.clone(), id.clone(), caller.owner);
    let put_in = move || {
        let _hold = hold;
        all.conversations.change(&of, &owner, |stored| {
            stored.transcript.messages.extend(new);
            // From now on its client goes by its id.
            stored.transcript.named = true;
            true
        })
    };
    blocking(put_in).await??;
    let range = before..transcript.messages.len();
    Ok(Json(listed(input_items(&id, &transcript, range), false)))
}

/// Deletes a message with what was read for it, and forgets the conversation's token log and KV-cache, which
/// hold it too. The next turn reads the other messages again.
#[utoipa::path(
    delete, path = "/v1/conversations/{id}/items/{item}", tag = "conversations",
    params(
        ("id" = String, Path, description = "The conversation's id", example = "conv_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d"),
        ("item" = String, Path, description = "The id of a message", example = "msg_0197f1c2b5f37c3e9d0a8a3e5c1f6b2d_1"),
    ),
    responses(
        ServerErrors,
        (status = 200, description = "The conversation without it", body = Conversation),
        (status = 404, description = "There is no such conversation, or no such message in it", body = ErrorEnvelope),
        (status = 409, description = "A turn of it is under way", body = ErrorEnvelope),
    )
)]
async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams((id, item)): PathParams<(String, String)>,
) -> Result<Json<Conversation>, ApiError> {
    let id = ConversationId::from(id);
    let (transcript, hold) = app.conversations.hold(&id, &caller.owner).await?;
    let place = message_of(&id, &transcript, &item);
    let place = place.ok_or(ApiError::ItemNotFound {
        item,
        param: "item",
    })?;
    forget_log(&app, &id).await?;
    app.recordings.forget(&id);
    let (all, of, owner) = (app.clone(), id.clone(), caller.owner.clone());
    let delete = move || {
        let _hold = hold;
        all.conversations.change(&of, &owner, |stored| {
            stored.delete_message(place);
            // From now on its client goes by its id.
            stored.transcript.named = true;
            true
        })
    };
    blocking(delete).await??;
    Ok(Json(conversation(&app, &id, &caller).await?))
}

/// All items, the first first.
async fn all_items(
    app: Arc<App>,
    caller: Caller,
    id: ConversationId,
    transcript: Transcript,
    with_texts: bool,
) -> Result<Vec<ConversationItem>, ApiError> {
    let mut transcript = transcript;
    // A collection may have been taken from the key meanwhile.
    let retrievals = &mut transcript.retrievals;
    retrievals.retain(|retrieval| caller.sees(&retrieval.receipt.collection));
    let all = move || {
        items(&id, &transcript, |retrieval| match with_texts {
            // A passage that cannot be read is shown as one that is gone.
            true => retrieval.text(&app.collections).ok().flatten(),
            false => None,
        })
    };
    blocking(all).await
}
