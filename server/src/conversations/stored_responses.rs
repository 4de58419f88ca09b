//! Responses that their client may fetch again or continue. They are stored with their conversation
//! and deleted with it.

use std::sync::Arc;

use onegen_engine::ConversationId;
use onegen_proto::{FileSearchResult, OutputItem, ResponseObject};
use serde_json::Map;

use crate::admission::{Caller, Owner};
use crate::collections::Collections;
use crate::conversations::Conversations;
use crate::conversations::transcript::StoredResponse;
use crate::wire::blocking::blocking;
use crate::wire::citations::passage_name;
use crate::wire::errors::ApiError;

/// The id of the response after which its conversation has had `messages` messages.
pub(crate) fn response_id(conversation: &ConversationId, messages: usize) -> String {
    let name = conversation.as_str();
    let name = name.strip_prefix("conv_").unwrap_or(name);
    format!("resp_{messages}_{name}")
}

/// The conversation of a response.
fn conversation_of(response: &str) -> Option<ConversationId> {
    let (_, name) = response.strip_prefix("resp_")?.split_once('_')?;
    Some(format!("conv_{name}").into())
}

/// Stores a response after its turn was remembered and before its client reads the end, because a
/// restarted server must know everything that clients have seen.
pub(crate) async fn store_response(
    conversations: &Arc<Conversations>,
    conversation: ConversationId,
    owner: Owner,
    mut stored: StoredResponse,
) -> Result<(), ApiError> {
    for item in &mut stored.response.output {
        if let OutputItem::FileSearchCall { results, .. } = item {
            *results = None;
        }
    }
    let conversations = conversations.clone();
    let store = move || {
        // This fails only for a conversation that was deleted meanwhile.
        conversations.change(&conversation, &owner, |stored_conversation| {
            stored_conversation.responses.push(stored);
            true
        })
    };
    blocking(store).await??;
    Ok(())
}

/// The owner's response with this id, and its conversation. `param` is the request's field with the
/// id.
///
/// # Errors
/// [`ApiError::ResponseNotFound`].
pub(crate) async fn stored_response(
    conversations: &Arc<Conversations>,
    id: &str,
    owner: &Owner,
    param: &'static str,
) -> Result<(ConversationId, StoredResponse), ApiError> {
    let conversation = conversation_of(id);
    if let Some(conversation) = &conversation {
        conversations.refresh(conversation).await?;
    }
    let found = conversation.and_then(|conversation| {
        let stored = conversations.response(&conversation, owner, id)?;
        Some((conversation, stored))
    });
    found.ok_or_else(|| ApiError::ResponseNotFound {
        response: id.to_owned(),
        param,
    })
}

/// Deletes a response; its conversation stays.
///
/// # Errors
/// [`ApiError::ResponseNotFound`].
pub(crate) async fn delete_response(
    conversations: &Arc<Conversations>,
    id: String,
    owner: Owner,
) -> Result<(), ApiError> {
    let (conversation, _) = stored_response(conversations, &id, &owner, "id").await?;
    let conversations = conversations.clone();
    let delete = move || {
        conversations.change(&conversation, &owner, |stored_conversation| {
            let responses = &mut stored_conversation.responses;
            responses.retain(|stored| stored.response.id != id);
            true
        })
    };
    blocking(delete).await??;
    Ok(())
}

/// Leaves out what was found in collections that the caller does not see any more.
pub(crate) fn leave_out_unseen(response: &mut ResponseObject, caller: &Caller) {
    let unseen = |item: &OutputItem| match item {
        OutputItem::FileSearchCall { onegen, .. } => {
            let receipt = onegen.as_ref();
            receipt.is_some_and(|receipt| !caller.sees(&receipt.collection))
        }
        OutputItem::Message { .. } => false,
    };
    // A response searches one collection, so all its citations are of that one.
    if response.output.iter().any(unseen) {
        for item in &mut response.output {
            match item {
                OutputItem::FileSearchCall { onegen, .. } => *onegen = None,
                OutputItem::Message { content, .. } => {
                    content.iter_mut().for_each(|text| text.annotations.clear());
                }
            }
        }
    }
}

/// Adds the passages that were found, with the texts that their collections hold now. Reads the
/// index.
pub(crate) fn add_results(
    response: &mut ResponseObject,
    collections: &Collections,
    caller: &Caller,
) {
    for item in &mut response.output {
        let OutputItem::FileSearchCall {
            results,
            onegen: Some(receipt),
            ..
        } = item
        else {
            continue;
        };
        // Meanwhile the key may have lost its right to a collection, or the server the collection.
        let mut seen = collections.iter().filter(|c| caller.sees(c.name()));
        let collection = seen.find(|c| c.name() == receipt.collection);
        let passages = receipt.passages.iter().filter_map(|passage| {
            let stored = collection?.store().get(&passage.id).ok().flatten()?;
            Some(FileSearchResult {
                file_id: passage.id.clone(),
                filename: passage_name(&passage.id, &passage.title).to_owned(),
                score: passage.score,
                text: stored.text,
                attributes: Map::new(),
            })
        });
        *results = Some(passages.collect());
    }
}
