//! What follows when documents go: no conversation keeps them in the engine's logs and caches.

use std::sync::Arc;

use futures::executor::block_on;
use onegen_engine::{ConversationError, ConversationId};

use crate::app::App;
use crate::blocking::blocking;
use crate::errors::ApiError;
use crate::past_retrievals::{PastRetrieval, gone};

impl App {
    /// Which documents these retrievals hold that are not what they were.
    ///
    /// # Errors
    /// An index is damaged.
    pub(crate) async fn gone(
        self: &Arc<Self>,
        retrievals: &[PastRetrieval],
    ) -> Result<Vec<String>, ApiError> {
        if !retrievals.iter().any(|retrieval| retrieval.held) {
            return Ok(Vec::new());
        }
        let (app, retrievals) = (self.clone(), retrievals.to_vec());
        let look = move || gone(&retrievals, &app.collections);
        let gone = blocking(look).await?;
        gone.map_err(|error| ApiError::Internal(error.to_string()))
    }

    /// # Errors
    /// [`ApiError::ConversationHoldsDeletedDocument`] if a conversation that has read this holds what
    /// is gone.
    pub(crate) async fn refuse_if_gone(
        self: &Arc<Self>,
        id: &ConversationId,
        retrievals: &[PastRetrieval],
    ) -> Result<(), ApiError> {
        let documents = self.gone(retrievals).await?;
        if documents.is_empty() {
            return Ok(());
        }
        Err(ApiError::ConversationHoldsDeletedDocument {
            conversation: id.to_string(),
            documents: documents.iter().map(|id| format!("{id:?}")).collect(),
        })
    }

    /// After these documents were deleted or replaced: the engine forgets token log, KV-cache and
    /// files of the conversations that hold what is gone. Returns how many there are.
    ///
    /// **Invariant:** no turn that begins after this reads a passage that is gone. A turn that is
    /// under way ends as it began, and its conversation is forgotten then.
    pub(crate) async fn forget_documents(
        self: &Arc<Self>,
        collection: &str,
        documents: &[String],
    ) -> usize {
        let of_them = |retrieval: &PastRetrieval| {
            retrieval.receipt.collection == collection && documents.contains(&retrieval.document)
        };
        self.drop_if_gone(self.conversations.holding(of_them)).await
    }

    /// The same for documents that went while the server was not running. Blocks; needs no async
    /// runtime.
    pub(crate) fn forget_what_is_gone(&self) {
        for (id, retrievals) in self.conversations.holding(|_| true) {
            if gone(&retrievals, &self.collections).is_ok_and(|gone| gone.is_empty()) {
                continue;
            }
            tracing::info!(conversation = %id, "has read documents that are gone");
            // Nothing is under way yet, so it fails only where the engine holds nothing.
            let _ = block_on(self.engine.delete(&id));
        }
    }

    /// Has the engine forget those of these conversations that hold what is gone. Their transcripts
    /// stay, which tell it to those who continue them. Returns how many there are.
    pub(crate) async fn drop_if_gone(
        self: &Arc<Self>,
        conversations: Vec<(ConversationId, Vec<PastRetrieval>)>,
    ) -> usize {
        let mut dropped = 0;
        for (id, retrievals) in conversations {
            match self.gone(&retrievals).await {
                Ok(gone) if gone.is_empty() => continue,
                Ok(_) => {}
                // What cannot be read is not to be answered from either.
                Err(error) => {
                    tracing::error!(%error, conversation = %id, "its passages cannot be read")
                }
            }
            dropped += 1;
            match self.engine.delete(&id).await {
                // Busy: the end of its turn comes here again.
                Ok(()) | Err(ConversationError::Unknown(_) | ConversationError::Busy(_)) => {}
                Err(error) => {
                    tracing::warn!(%error, conversation = %id, "its cache was not dropped")
                }
            }
        }
        dropped
    }
}
