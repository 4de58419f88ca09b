//! After documents were deleted, removes them from the engine's logs and caches of all conversations.

use std::sync::Arc;

use futures::executor::block_on;
use onegen_engine::{ConversationError, ConversationId, Engine, passage_digest};
use onegen_index::IndexError;

use crate::admission::Caller;
use crate::collections::Collections;
use crate::conversations::Conversations;
use crate::conversations::past_retrievals::{PastRetrieval, gone};
use crate::wire::blocking::blocking;
use crate::wire::errors::ApiError;

/// Finds the conversations that hold deleted or changed documents, and has the engine forget them.
#[derive(Clone)]
pub(crate) struct DeletedDocuments {
    engine: Engine,
    collections: Arc<Collections>,
    conversations: Arc<Conversations>,
}

impl DeletedDocuments {
    pub(crate) fn new(
        engine: Engine,
        collections: Arc<Collections>,
        conversations: Arc<Conversations>,
    ) -> Self {
        Self {
            engine,
            collections,
            conversations,
        }
    }

    /// The documents of these retrievals that were deleted or changed afterwards, or that the caller may
    /// not read any more.
    ///
    /// # Errors
    /// An index is damaged.
    pub(crate) async fn among(
        &self,
        retrievals: &[PastRetrieval],
        caller: &Caller,
    ) -> Result<Vec<String>, ApiError> {
        if !retrievals.iter().any(|retrieval| retrieval.held) {
            return Ok(Vec::new());
        }
        let (collections, retrievals) = (self.collections.clone(), retrievals.to_vec());
        let caller = caller.clone();
        let gone = move || gone(&retrievals, &collections, |name| caller.sees(name));
        Ok(blocking(gone).await??)
    }

    /// # Errors
    /// [`ApiError::ConversationHoldsDeletedDocument`] if a conversation with these retrievals holds a
    /// document that was deleted or changed, or that the caller may not read any more.
    pub(crate) async fn refuse(
        &self,
        id: &ConversationId,
        retrievals: &[PastRetrieval],
        caller: &Caller,
    ) -> Result<(), ApiError> {
        let documents = self.among(retrievals, caller).await?;
        if documents.is_empty() {
            return Ok(());
        }
        Err(ApiError::ConversationHoldsDeletedDocument {
            conversation: id.to_string(),
            documents: documents.iter().map(|id| format!("{id:?}")).collect(),
        })
    }

    /// To be called after these documents were deleted or replaced. The engine forgets token log,
    /// KV-cache and files of the conversations that hold them. Returns the number of these
    /// conversations.
    ///
    /// **Invariant:** no turn that begins after this reads a deleted passage. A turn that is under
    /// way may finish, and its conversation is forgotten then.
    pub(crate) async fn forget(&self, collection: &str, documents: &[String]) -> usize {
        self.forget_kept_passages(documents).await;
        let shared = self.conversations.clone();
        let (of, names) = (collection.to_owned(), documents.to_vec());
        if let Err(error) = blocking(move || shared.forget_shared_logs(&of, &names)).await {
            tracing::error!(%error, "shared token logs may still hold deleted documents");
        }
        let of_them = |retrieval: &PastRetrieval| {
            retrieval.receipt.collection == collection && documents.contains(&retrieval.document)
        };
        self.forget_holders(self.conversations.holding(of_them))
            .await
    }

    /// Has the engine delete the kept keys and values of all passages that no collection holds any more. Blocks.
    pub(crate) fn forget_kept_passages_that_are_gone(&self) {
        let collections = &self.collections;
        self.engine
            .forget_passages_unless(|id, text| holds(collections, id, text));
    }

    /// Has the engine delete the kept keys and values of these documents' passages, unless a collection holds them.
    async fn forget_kept_passages(&self, documents: &[String]) {
        let (engine, collections) = (self.engine.clone(), self.collections.clone());
        let documents = documents.to_vec();
        let forget =
            move || engine.forget_passages(&documents, |id, text| holds(&collections, id, text));
        if let Err(error) = blocking(forget).await {
            tracing::error!(%error, "kept passages of changed documents may still be there");
        }
    }

    /// Has the engine forget the conversations and kept passages whose documents were deleted while the server was not
    /// running. Blocks; needs no async runtime.
    pub(crate) fn forget_since_last_run(&self) {
        self.forget_kept_passages_that_are_gone();
        for (id, retrievals) in self.conversations.holding(|_| true) {
            match gone(&retrievals, &self.collections, |_| true) {
                Ok(gone) if gone.is_empty() => continue,
                // Each turn looks again, and fails while the collection does not answer.
                Err(IndexError::Unreachable { .. }) => continue,
                _ => {}
            }
            tracing::info!(conversation = %id, "has read documents that are gone");
            // No turn is under way yet, so this fails only if the engine does not hold the
            // conversation.
            let _ = block_on(self.engine.delete(&id));
        }
    }

    /// The engine forgets those of these conversations that hold deleted documents. Their transcripts
    /// stay, so that clients who continue them learn the reason. Returns how many were forgotten.
    pub(crate) async fn forget_holders(
        &self,
        conversations: Vec<(ConversationId, Vec<PastRetrieval>)>,
    ) -> usize {
        let mut forgotten = 0;
        for (id, retrievals) in conversations {
            match self.among(&retrievals, &Caller::anybody()).await {
                Ok(gone) if gone.is_empty() => continue,
                Ok(_) => {}
                Err(ApiError::CollectionAway(_)) => continue,
                // A passage that cannot be read must not be used for answers either.
                Err(error) => {
                    tracing::error!(%error, conversation = %id, "its passages cannot be read")
                }
            }
            forgotten += 1;
            match self.engine.delete(&id).await {
                // A turn that is under way calls this function again at its end.
                Ok(()) | Err(ConversationError::Unknown(_) | ConversationError::Busy(_)) => {}
                Err(error) => {
                    tracing::warn!(%error, conversation = %id, "its cache was not dropped")
                }
            }
        }
        forgotten
    }
}

/// Whether a collection holds this very text under a passage's id. One that cannot be read holds nothing.
fn holds(collections: &Collections, id: &str, text: &blake3::Hash) -> bool {
    collections.iter().any(|collection| {
        let stored = collection.store().get(id).ok().flatten();
        stored.is_some_and(|stored| passage_digest(&stored.title, &stored.text) == *text)
    })
}
