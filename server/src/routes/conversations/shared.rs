//! What the routes of conversations share: to find one, begin one, show one, and read its new items.

use std::sync::Arc;

use onegen_engine::{ChatMessage, ConversationError, ConversationId, Role as EngineRole};
use onegen_proto::{Conversation, ConversationExtension, NewItem};
use serde_json::Value;

use crate::admission::{Caller, Owner};
use crate::app::App;
use crate::conversations::{ConversationDetails, Transcript};
use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;
use crate::wire::messages::{role, text};
use crate::wire::unsupported::write_answers_as_text;

/// OpenAI's limit.
const MAX_ITEMS: usize = 20;
/// Bytes of all messages of a conversation that are put in without a turn. All are read again at its next turn.
const MAX_BYTES: usize = 4 << 20;

/// The caller's conversation: to others there is none.
pub(super) async fn find(
    app: &App,
    id: &ConversationId,
    owner: &Owner,
) -> Result<Transcript, ApiError> {
    app.conversations.refresh(id).await?;
    let found = app.conversations.get(id, owner);
    found.ok_or_else(|| ApiError::ConversationNotFound(id.to_string()))
}

/// Stores a new conversation.
pub(super) async fn begin(
    app: &Arc<App>,
    id: ConversationId,
    transcript: Transcript,
    details: ConversationDetails,
) -> Result<(), ApiError> {
    let app = app.clone();
    blocking(move || app.conversations.begin(id, transcript, details)).await??;
    Ok(())
}

/// A conversation as its routes show it.
pub(super) async fn conversation(
    app: &Arc<App>,
    id: &ConversationId,
    caller: &Caller,
) -> Result<Conversation, ApiError> {
    let transcript = find(app, id, &caller.owner).await?;
    let details = app.conversations.details(id).unwrap_or_default();
    let gone = app.deleted_documents.among(&transcript.retrievals, caller);
    Ok(Conversation {
        id: id.to_string(),
        object: "conversation".to_owned(),
        created_at: details.created,
        metadata: details.metadata,
        onegen: ConversationExtension {
            messages: transcript.messages.len(),
            gone_documents: gone.await?,
        },
    })
}

/// Has the engine forget a conversation's log and cache, if it holds them.
pub(super) async fn forget_log(app: &App, id: &ConversationId) -> Result<(), ApiError> {
    match app.engine.delete(id).await {
        Ok(()) | Err(ConversationError::Unknown(_)) => Ok(()),
        Err(ConversationError::Busy(_)) => Err(ApiError::ConversationBusy(id.to_string())),
        Err(ConversationError::Stopped) => Err(ApiError::ShuttingDown),
        Err(ConversationError::Store(reason)) => Err(ApiError::NotStored(reason)),
        Err(other) => Err(ApiError::Internal(other.to_string())),
    }
}

/// # Errors
/// [`ApiError::Invalid`] if a conversation's messages, to which a field of the request adds, are too large.
pub(super) fn check_size(messages: &[ChatMessage], field: &'static str) -> Result<(), ApiError> {
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    let message = format!(
        "makes the conversation {bytes} bytes long, but it may hold {MAX_BYTES}; begin another one"
    );
    Err(ApiError::invalid(field, message))
}

/// Leaves out of a body's items what an earlier response gave out beside its messages: clients put all of it in. What
/// was read then is not read again. Answers without a text are written with one.
pub(super) fn leave_out_given(body: &mut Value) {
    write_answers_as_text(body.get_mut("items"));
    if let Some(items) = body.get_mut("items").and_then(Value::as_array_mut) {
        items.retain(|item| {
            item.get("type")
                .is_none_or(|kind| kind != "file_search_call")
        });
    }
}

/// The messages that new items hold.
pub(super) fn messages(items: Vec<NewItem>) -> Result<Vec<ChatMessage>, ApiError> {
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
        let text = text(item.content, &format!("items[{at}].content"))?;
        Ok(ChatMessage::new(role, text))
    });
    each.collect()
}
