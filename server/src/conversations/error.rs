//! Why a conversation could not be kept or deleted.

use std::io;

use onegen_engine::ConversationId;
use onegen_index::IndexError;

use crate::wire::errors::ApiError;

/// A conversation was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// Another server has changed it, or runs a turn of it.
    #[error("another server goes on with conversation {0}")]
    Elsewhere(ConversationId),
    /// The store that servers share did not answer.
    #[error("{0}")]
    StoreAway(String),
}

impl KeepError {
    /// What the shared store could not do.
    pub(super) fn away(error: IndexError) -> Self {
        Self::StoreAway(error.to_string())
    }
}

impl From<KeepError> for ApiError {
    fn from(error: KeepError) -> Self {
        match error {
            KeepError::Disk(error) => Self::NotStored(error.to_string()),
            KeepError::Elsewhere(id) => Self::ConversationBusy(id.to_string()),
            KeepError::StoreAway(reason) => Self::ConversationStoreAway(reason),
        }
    }
}
