//! Responses that their client may ask for again, or go on after. They are kept with their
//! conversation, and go with it.

use std::ops::Range;
use std::sync::Arc;

use onegen_engine::ConversationId;
use onegen_proto::{FileSearchResult, OutputItem, ResponseObject};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use crate::access::{Caller, Owner};
use crate::app::App;
use crate::blocking::blocking;
use crate::citations::passage_name;
use crate::errors::ApiError;

/// A response, and where in its conversation it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredResponse {
    /// Which of the messages came with its request. The next one is the answer.
    pub(crate) input: Range<usize>,
    /// As its client has seen it, without the texts of passages: they may be deleted.
    pub(crate) response: ResponseObject,
}

/// What the response is called after which a conversation has so many messages.
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

impl App {
    /// Stores a response whose turn is remembered. Before its client hears of the end: what it has seen,
    /// a restart must know.
    pub(crate) async fn store_response(
        self: &Arc<Self>,
        conversation: ConversationId,
        owner: Owner,
        mut stored: StoredResponse,
    ) -> Result<(), ApiError> {
        for item in &mut stored.response.output {
            if let OutputItem::FileSearchCall { results, .. } = item {
                *results = None;
            }
        }
        let app = self.clone();
        let store = move || {
            // Fails only for a conversation that was deleted meanwhile.
            app.conversations.change(&conversation, &owner, |kept| {
                kept.responses.push(stored);
                true
            })
        };
        blocking(store).await.map(|_| ())
    }

    /// The owner's response of this id, with its conversation. `param` is the field that names it.
    ///
    /// # Errors
    /// [`ApiError::ResponseNotFound`].
    pub(crate) fn stored_response(
        &self,
        id: &str,
        owner: &Owner,
        param: &'static str,
    ) -> Result<(ConversationId, StoredResponse), ApiError> {
        let found = conversation_of(id).and_then(|conversation| {
            let stored = self.conversations.response(&conversation, owner, id)?;
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
        self: &Arc<Self>,
        id: String,
        owner: Owner,
    ) -> Result<(), ApiError> {
        let (conversation, _) = self.stored_response(&id, &owner, "id")?;
        let app = self.clone();
        let delete = move || {
            app.conversations.change(&conversation, &owner, |kept| {
                kept.responses.retain(|stored| stored.response.id != id);
                true
            })
        };
        blocking(delete).await.map(|_| ())
    }
}

/// Adds the passages that were found, as their collections hold them now. Reads the index.
pub(crate) fn add_results(response: &mut ResponseObject, app: &App, caller: &Caller) {
    for item in &mut response.output {
        let OutputItem::FileSearchCall {
            results,
            onegen: Some(receipt),
            ..
        } = item
        else {
            continue;
        };
        // A collection may have been taken from the key, or from the server, meanwhile.
        let mut seen = app.collections.iter().filter(|c| caller.sees(c.name()));
        let collection = seen.find(|c| c.name() == receipt.collection);
        let passages = receipt.passages.iter().filter_map(|passage| {
            let stored = collection?.index().get(&passage.id).ok().flatten()?;
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
